"""Where there is nothing to find, a run finds nothing: features of noise, many times over.

Epochs chosen by inner validation give a C-index of one half; chosen by the reported cases, they give more. Predicted
survival is about as good as the Kaplan-Meier curve.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milsurv.cohort.cases import Case, Cohort
from milsurv.cohort.splits import make_splits
from milsurv.config.loading import load_config
from milsurv.config.run import Evaluation, RunConfig, Splits
from milsurv.evaluation.compare import compare
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import EvaluationTimes, evaluation_times
from milsurv.executors.base import Context, Event, Unit
from milsurv.executors.local import LocalConfig, LocalExecutor
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.storage.run_files import OPTIMISTIC, PREDICTIONS
from milsurv.training.data import TrainingCase
from milsurv.training.fold import train_fold
from milsurv.training.job import FoldJob
from milsurv.training.results import read_predictions

pytestmark = pytest.mark.acceptance
SEEDS = tuple(range(1, 21))
CASES, EVENTS = 373, 169
"""As many as TCGA-BLCA has."""
PATCHES, DIM = 2, 12
MODEL = """\
cohort: {source: synthetic}
backbone: {name: efficientnet_lite0}
aggregator: {name: abmil, hidden_dim: 16, attention_dim: 4, gated: false}
"""
RUN = f"""\
{MODEL}loss: {{name: nll, bins: 4}}
training: {{epochs: 7, batch_cases: 16, learning_rate: 0.03, selection: both, select_by: c_index}}
"""


def test_noise_is_worth_one_half_when_inner_validation_chooses(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    config = load_config(str(tmp_path / "run.yaml"), [])[0]
    units = [
        Unit(
            f"seed {seed}",
            c_indices_on_noise,
            {"config": config, "seed": seed, "folder": tmp_path / str(seed)},
        )
        for seed in SEEDS
    ]
    started = time.monotonic()
    with LocalExecutor(LocalConfig(workers=2), "cpu") as executor:
        found = np.array(executor.run(units, _pass_over))
    honest = found[:, 0].mean()
    for name, values in zip(("honest", "optimistic"), found.T, strict=True):
        print(f"{name}: {values.mean():.4f}, SD {values.std(ddof=1):.4f} over {len(SEEDS)} seeds")
    print(f"{time.monotonic() - started:.0f} s")
    assert honest == pytest.approx(0.5, abs=0.02)
    gain = found[:, 1] - found[:, 0]
    assert gain.mean() > 2 * gain.std(ddof=1) / len(SEEDS) ** 0.5


@pytest.mark.parametrize("training", ["select_by: c_index", "selection: last_epoch"])
@pytest.mark.parametrize("loss", ["nll", "ce", "cox"])
def test_recalibrated_survival_of_noise_is_hardly_worse_than_kaplan_meier(
    loss: str, training: str, tmp_path: Path
) -> None:
    """Where the features tell nothing, the integrated index of prediction accuracy is about that of Kaplan-Meier, 0."""
    settings = f"{{epochs: 7, batch_cases: 16, learning_rate: 0.03, {training}}}"
    (tmp_path / "run.yaml").write_text(f"{MODEL}loss: {{name: {loss}}}\ntraining: {settings}\n")
    config = load_config(str(tmp_path / "run.yaml"), [])[0]
    units = [
        Unit(
            f"seed {seed}",
            accuracy_on_noise,
            {"config": config, "seed": seed, "folder": tmp_path / str(seed)},
        )
        for seed in SEEDS[:10]
    ]
    with LocalExecutor(LocalConfig(workers=2), "cpu") as executor:
        found = np.array(executor.run(units, _pass_over))
    print(f"{loss}, {training}: IPA {found.mean():.4f}, SD {found.std(ddof=1):.4f}, lowest {found.min():.4f}")
    assert found.mean() >= -0.02


def _pass_over(_unit: Unit, _event: Event) -> None:
    """Nobody watches."""


def c_indices_on_noise(context: Context, config: RunConfig, seed: int, folder: Path) -> tuple[float, float]:
    """Unit of work: Harrell's C, pooled within folds, of the epochs that both choose, on noise of its own."""
    jobs = _trained(context, config, seed, folder)
    predictions = {
        prefix: pd.concat([read_predictions(job.folder / f"{prefix}{PREDICTIONS}") for job in jobs])
        for prefix in ("", OPTIMISTIC)
    }
    honest, optimistic = (run["harrell_c_index"]["value"] for run in compare(predictions, 1, 1)["runs"])
    return honest, optimistic


def accuracy_on_noise(context: Context, config: RunConfig, seed: int, folder: Path) -> float:
    """Unit of work: integrated index of prediction accuracy, pooled over folds, on noise of its own."""
    jobs = _trained(context, config, seed, folder)
    predictions = pd.concat([read_predictions(job.folder / PREDICTIONS) for job in jobs], ignore_index=True)
    training = {}
    for job in jobs:
        rows = [(case.time, case.event) for case in job.train + job.validation]
        training[job.fold] = TrainingFollowUp(*(np.array(column) for column in zip(*rows, strict=True)))
    found = evaluate(predictions, training, _times(), Evaluation(bootstraps=0))
    value = found["pooled"][0]["metrics"]["integrated_index_of_prediction_accuracy"]["value"]
    assert value is not None
    return value


def _trained(context: Context, config: RunConfig, seed: int, folder: Path) -> list[FoldJob]:
    """The trained folds of a run on noise."""
    cohort = _follow_up()
    by_id = _cases_with_noise(cohort, seed, folder / "features")
    splits, _ = make_splits(cohort, Splits(seed=seed), None)
    if config.training.selection == "last_epoch":
        splits = [replace(split, train=split.train + split.validation, validation=()) for split in splits]

    def chosen(ids: Sequence[str]) -> tuple[TrainingCase, ...]:
        return tuple(by_id[case_id] for case_id in ids)

    jobs = [
        FoldJob(
            config=config,
            seed=seed,
            fold=split.fold,
            folder=folder / f"fold_{split.fold}",
            train=chosen(split.train),
            validation=chosen(split.validation),
            test=chosen(split.test),
            times=_times().all,
        )
        for split in splits
    ]
    for job in jobs:
        train_fold(context, job)
    return jobs


def _times() -> EvaluationTimes:
    cases = _follow_up().cases
    return evaluation_times([case.time for case in cases], [case.event for case in cases], Evaluation())


def _follow_up() -> Cohort:
    """The same for every seed: months that have nothing to do with anything."""
    rng = np.random.default_rng(0)
    event = rng.permutation(np.arange(CASES) < EVENTS)
    months = rng.exponential(np.where(event, 20.0, 30.0)) + 0.1
    cases = [
        Case(f"case-{i:03d}", round(float(t), 2), int(e), ())
        for i, (t, e) in enumerate(zip(months, event, strict=True))
    ]
    return Cohort(tuple(cases), "months", "OS")


def _cases_with_noise(cohort: Cohort, seed: int, folder: Path) -> dict[str, TrainingCase]:
    rng = np.random.default_rng(seed)
    made = {}
    for case in cohort.cases:
        path = folder / f"{case.case_id}.h5"
        noise = rng.normal(size=(PATCHES, DIM)).astype(np.float32)
        write_features(path, {20: MagnificationFeatures(noise)}, {})
        made[case.case_id] = TrainingCase(case.case_id, case.time, case.event, ((case.case_id, path),))
    return made
