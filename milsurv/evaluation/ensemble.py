"""The ensemble of the models of several seeds."""

from __future__ import annotations

import pandas as pd


def ensemble(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row per fold and case from a row per seed, fold and case.

    Risk is the mean of the standardised risks, which are 0 at the median of each model's training cases; above 0 a case
    is at high risk. Survival is the mean of the models' probabilities.
    """
    keys = ["fold", "case_id"]
    survival = [column for column in predictions.columns if column.startswith("survival_at_")]
    mean = predictions.groupby(keys)[["standardized_risk", *survival]].mean().reset_index()
    first = predictions.drop_duplicates(keys).drop(
        columns=["seed", "risk", "high_risk", "standardized_risk", *survival]
    )
    together = first.merge(mean, on=keys, validate="one_to_one")
    together["risk"] = together["standardized_risk"]
    together["high_risk"] = (together["risk"] > 0).astype(int)
    return together
