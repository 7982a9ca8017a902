"""How good the predictions are: metrics with intervals, or with the reason why there is none.

Follow-up and predictions come in as numpy arrays and pandas tables; plain dictionaries go out.
"""
