"""Metrics of predictions, with intervals or the reasons for missing values, as typed dictionaries for JSON."""
