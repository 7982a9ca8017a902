from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from scipy.optimize import minimize
from scipy.stats import chi2
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored

from milsurv.cohort.cases import Case, Cohort, Split
from milsurv.config.run import Evaluation
from milsurv.errors import MilsurvError
from milsurv.evaluation import clinical as tested_clinical
from milsurv.evaluation.clinical import ClinicalData, variables
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import evaluation_times

added_by_image: Any = tested_clinical.added_by_image
compare_with_clinical: Any = tested_clinical.compare_with_clinical
"""Typed loosely, to index what may be None."""


class Made:
    """Two folds of one cohort, each tested with the other; age, stage and the image each tell something."""

    def __init__(self, seed: int = 0, cases: int = 160, bootstraps: int = 0):
        rng = np.random.default_rng(seed)
        age, stage, image = rng.normal(60, 10, cases), rng.integers(0, 3, cases), rng.normal(size=cases)
        death = rng.exponential(20 / np.exp(0.05 * (age - 60) + 0.5 * stage + 0.7 * image))
        censoring = rng.exponential(20, cases)
        self.settings = Evaluation(bootstraps=bootstraps)
        ids = [f"C{i:03d}" for i in range(cases)]
        self.rows = pd.DataFrame(
            {
                "case_id": ids,
                "fold": np.arange(cases) % 2,
                "seed": 1,
                "time": np.minimum(death, censoring),
                "event": (death <= censoring).astype(int),
                "risk": image + 0.3 * rng.normal(size=cases),
                "high_risk": (image > 0).astype(int),
            }
        )
        self.texts = pd.DataFrame(
            {"age": [f"{a:.1f}" for a in age], "stage": [("I", "II", "III")[s] for s in stage]}
        )
        self.risks = {
            (1, fold): self.rows.loc[self.rows["fold"] != fold, ["case_id", "risk"]] for fold in (0, 1)
        }

    @property
    def training(self) -> dict[int, TrainingFollowUp]:
        others = {fold: self.rows[self.rows["fold"] != fold] for fold in (0, 1)}
        return {f: TrainingFollowUp(r["time"].to_numpy(), r["event"].to_numpy()) for f, r in others.items()}

    @property
    def data(self) -> ClinicalData:
        columns = tuple(map(str, self.texts.columns))
        cases = tuple(
            Case(row["case_id"], row["time"], row["event"], (), None, dict(zip(columns, texts, strict=True)))
            for row, texts in zip(self.rows.to_dict("records"), self.texts.to_numpy().tolist(), strict=True)
        )
        ids = {fold: tuple(self.rows["case_id"][self.rows["fold"] == fold]) for fold in (0, 1)}
        splits = [Split(fold, ids[1 - fold][:60], ids[1 - fold][60:], ids[fold]) for fold in (0, 1)]
        return ClinicalData.of(Cohort(cases, "months", "OS"), splits, columns, self.risks)

    def compared(self) -> Any:
        return compare_with_clinical(self.rows, self.training, self.data, self.settings)

    def covariates(self) -> pd.DataFrame:
        stage = self.texts["stage"]
        return pd.DataFrame(
            {"age": self.texts["age"].astype(float), "II": stage == "II", "III": stage == "III"}
        )


def c_by_scikit_survival(made: Made, structured: Callable[..., Any], covariates: pd.DataFrame) -> float:
    """Harrell's C of Cox models fitted on the other fold, its pairs summed over folds."""
    concordant = compared = 0.0
    for fold in (0, 1):
        train, test = (made.rows["fold"] != fold).to_numpy(), (made.rows["fold"] == fold).to_numpy()
        matrix, rows = covariates.to_numpy(float), made.rows
        model = CoxPHSurvivalAnalysis(ties="efron", n_iter=200, tol=1e-12)
        model.fit(matrix[train], structured(rows["event"][train], rows["time"][train]))
        _, right, wrong, tied, _ = concordance_index_censored(
            rows["event"][test] == 1, rows["time"][test], model.predict(matrix[test])
        )
        concordant, compared = concordant + right + tied / 2, compared + right + wrong + tied
    return concordant / compared


@pytest.mark.parametrize("seed", range(4))
def test_each_models_c_index_agrees_with_scikit_survival(structured: Callable[..., Any], seed: int) -> None:
    made = Made(seed)
    result = made.compared()
    clinical = made.covariates()
    c = {name: metric["value"] for name, metric in result["harrell_c_index"].items()}
    assert c["clinical"] == pytest.approx(c_by_scikit_survival(made, structured, clinical), abs=1e-9)
    both = clinical.assign(image=made.rows["risk"])
    assert c["both"] == pytest.approx(c_by_scikit_survival(made, structured, both), abs=1e-9)
    by_lifelines = [
        concordance_index(r["time"], -r["risk"], r["event"]) for _, r in made.rows.groupby("fold")
    ]
    assert min(by_lifelines) <= c["image"] <= max(by_lifelines)
    for name, metric in result["differences"].items():
        one, other = name.split("_less_")
        assert metric["value"] == pytest.approx(c[one] - c[other], abs=1e-12)
    assert (result["cases"], result["events"], result["excluded"]) == (160, made.rows["event"].sum(), 0)
    assert c["both"] > max(c["clinical"], c["image"])


def test_differences_are_paired_over_resamples() -> None:
    result = Made(1, bootstraps=200).compared()
    widths = {
        name: np.ptp(m["interval"]) for name, m in (result["harrell_c_index"] | result["differences"]).items()
    }
    assert widths["both_less_clinical"] < widths["both"]
    same = Made(1, bootstraps=200)
    same.risks = {}
    assert (
        same.compared()["differences"]["image_less_clinical"] == result["differences"]["image_less_clinical"]
    )


def minus_log_likelihood(beta: np.ndarray, rows: pd.DataFrame, x: np.ndarray) -> float:
    """The partial likelihood stratified by fold, death by death; without ties."""
    total, score = 0.0, x @ beta
    for fold in (0, 1):
        inside = (rows["fold"] == fold).to_numpy()
        time = rows["time"].to_numpy()
        for i in np.flatnonzero(inside & (rows["event"] == 1).to_numpy()):
            total += np.log(np.exp(score[inside & (time >= time[i])]).sum()) - score[i]
    return total


@pytest.mark.parametrize("seed", range(2))
def test_likelihood_ratio_of_the_image_on_test_cases(seed: int) -> None:
    made = Made(seed, cases=100)
    clinical = made.covariates().to_numpy(float)
    image = made.rows.groupby("fold")["risk"].transform(lambda r: (r - r.mean()) / r.std(ddof=0))
    clinical[:, 0] = (clinical[:, 0] - 60) / 10
    full = np.column_stack([clinical, image])
    fits = [minimize(minus_log_likelihood, np.zeros(x.shape[1]), (made.rows, x)) for x in (clinical, full)]
    statistic = 2 * (fits[0].fun - fits[1].fun)
    result = added_by_image(made.rows, made.data.variables)
    assert result["likelihood_ratio_p_value"]["statistic"] == pytest.approx(statistic, rel=1e-4)
    assert result["likelihood_ratio_p_value"]["value"] == pytest.approx(chi2.sf(statistic, 1), rel=1e-3)
    assert np.log(result["hazard_ratio"]["value"]) == pytest.approx(fits[1].x[-1], abs=1e-3)
    low, high = result["hazard_ratio"]["interval"]
    assert low < result["hazard_ratio"]["value"] < high


def test_a_model_of_both_needs_the_risks_of_training_cases() -> None:
    made = Made(0, bootstraps=10)
    del made.risks[1, 1]
    result = made.compared()
    for metric in (result["harrell_c_index"]["both"], result["differences"]["both_less_clinical"]):
        assert metric["value"] is None
        assert metric["reason"] == "fold 1: the run has no image risk of its training cases"
    assert result["harrell_c_index"]["clinical"]["value"] is not None
    assert result["likelihood_ratio_p_value"]["value"] is not None


def test_cases_with_an_empty_cell_are_left_out_of_every_model() -> None:
    made = Made(0)
    made.texts.loc[[3, 4, 9], "age"] = ""
    result = made.compared()
    assert (result["cases"], result["excluded"]) == (157, 3)
    rows = made.rows.drop(index=[3, 4, 9])
    whole = Made(0)
    whole.rows, whole.texts = rows.reset_index(drop=True), whole.texts.drop(index=[3, 4, 9])
    assert whole.compared()["harrell_c_index"] == result["harrell_c_index"]


def test_words_become_columns_against_the_most_frequent_and_numbers_stay() -> None:
    texts = pd.DataFrame(
        {"event": ["1", "2", "2.5", "4"], "sex": ["M", "F", "M", ""], "one": ["x"] * 4}, list("abcd")
    )
    made = variables(texts)
    expected = pd.DataFrame({"event (number)": [1.0, 2.0, 2.5], "sex: F": [0.0, 1.0, 0.0]}, list("abc"))
    pd.testing.assert_frame_equal(made, expected)
    many = pd.DataFrame({"word": [*"abcdefghijk"]})
    with pytest.raises(MilsurvError, match="column 'word' has 11 distinct values that are not numbers"):
        variables(many)


def no_events(made: Made) -> None:
    made.rows["event"] = 0


def two_events(made: Made) -> None:
    made.rows["event"] = [1, 1, *158 * [0]]


def constant_risk(made: Made) -> None:
    made.rows["risk"] = 1.0


def nothing_known(made: Made) -> None:
    made.texts["age"] = ""


def constant_variables(made: Made) -> None:
    made.texts["age"], made.texts["stage"] = "60", "II"


def said_twice(made: Made) -> None:
    made.texts["again"] = made.texts["age"]


@pytest.mark.parametrize(
    ("spoil", "where", "reason"),
    [
        (no_events, "clinical", "fold 0: too few events: 0, at least 15 required for 3 coefficients"),
        (no_events, "image", "no events"),
        (no_events, "added", "too few events: 0, at least 20 required for 4 coefficients"),
        (two_events, "clinical", "fold 0: too few events: 1"),
        (two_events, "added", "too few events: 2, at least 20 required for 4 coefficients"),
        (constant_risk, "added", "the image risk is the same for all cases of each fold"),
        (nothing_known, "clinical", "no test case has all clinical variables"),
        (nothing_known, "image", "no test case has all clinical variables"),
        (constant_variables, "clinical", "fold 0: no clinical variable differs among the training cases"),
        (said_twice, "clinical", "fold 0: the Cox model does not converge"),
        (said_twice, "added", "the Cox model does not converge"),
    ],
)
def test_null_with_a_reason(spoil: Callable[[Made], None], where: str, reason: str) -> None:
    made = Made(0, bootstraps=5)
    spoil(made)
    result = made.compared()
    metric = result["likelihood_ratio_p_value"] if where == "added" else result["harrell_c_index"][where]
    assert metric["value"] is None
    assert reason in metric["reason"]
    json.dumps(result, allow_nan=False)


def test_a_value_of_which_nobody_dies_is_no_obstacle() -> None:
    made = Made(0)
    made.texts.loc[made.rows["event"].eq(0) & (made.rows.index < 60), "stage"] = "0"
    result = made.compared()
    assert result["harrell_c_index"]["clinical"]["value"] > 0.5
    assert result["likelihood_ratio_p_value"]["value"] < 0.05


def test_it_stands_in_the_account_for_each_seed() -> None:
    made = Made(0, bootstraps=5)
    both = pd.concat([made.rows, made.rows.assign(seed=2, risk=-made.rows["risk"])], ignore_index=True)
    both["standardized_risk"] = both["risk"]
    times = evaluation_times([], [], made.settings)
    result: Any = evaluate(both, made.training, times, made.settings, clinical=made.data)
    assert [entry["seed"] for entry in result["clinical"]] == [1, 2]
    assert result["clinical"][0] == made.compared()
    assert "no image risk" in result["clinical"][1]["harrell_c_index"]["both"]["reason"]
    assert evaluate(both, made.training, times, made.settings)["clinical"] == []
