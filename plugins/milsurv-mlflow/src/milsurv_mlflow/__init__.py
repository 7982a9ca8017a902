"""milsurv's runs in an MLflow store."""
