from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index

from milsurv.evaluation.ensemble import ensemble
from tests.evaluation.conftest import Study


@pytest.fixture
def two_seeds(study: Callable[..., Study]) -> Study:
    one = study(folds=3, cases=90, ties=False)
    rng = np.random.default_rng(2)
    other = one.predictions.assign(
        seed=8,
        standardized_risk=one.predictions["standardized_risk"] + rng.normal(size=90),
        **{
            column: one.predictions[column] ** 1.5
            for column in one.predictions.columns
            if column.startswith("survival_at_")
        },
    )
    other = other.assign(risk=3 * other["standardized_risk"] + 5).sample(frac=1, random_state=0)
    return replace(one, predictions=pd.concat([one.predictions, other], ignore_index=True))


def test_the_ensemble_is_the_mean_over_seeds_case_by_case(two_seeds: Study) -> None:
    together = ensemble(two_seeds.predictions)
    assert len(together) == 90
    survival = [column for column in together.columns if column.startswith("survival_at_")]
    assert survival
    for _, row in together.iterrows():
        rows = two_seeds.predictions[two_seeds.predictions["case_id"] == row["case_id"]]
        assert len(rows) == 2
        assert row["risk"] == pytest.approx(rows["standardized_risk"].mean())
        assert row["high_risk"] == int(rows["standardized_risk"].mean() > 0)
        np.testing.assert_allclose(row[survival].astype(float), rows[survival].mean())
        assert (row["time"], row["event"]) == (rows["time"].iloc[0], rows["event"].iloc[0])


def test_its_c_index_is_that_of_lifelines_within_folds(two_seeds: Study) -> None:
    found = two_seeds.evaluated()["ensemble"]
    right = pairs = 0.0
    for _, fold in ensemble(two_seeds.predictions).groupby("fold"):
        c = concordance_index(fold["time"], -fold["risk"], fold["event"])
        comparable = _comparable_pairs(fold)
        right, pairs = right + c * comparable, pairs + comparable
    assert found["metrics"]["harrell_c_index"]["value"] == pytest.approx(right / pairs)
    assert found["cases"] == 90


def _comparable_pairs(fold: pd.DataFrame) -> int:
    """Pairs of which the earlier has an event; no two times are equal."""
    time, event = fold["time"].to_numpy(), fold["event"].to_numpy()
    return int(((time[:, None] < time[None]) & (event[:, None] == 1)).sum())


def test_one_seed_has_no_ensemble(study: Callable[..., Study]) -> None:
    assert study().evaluated()["ensemble"] is None
