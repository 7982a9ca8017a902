"""The training of one fold with one seed: its cases, and its files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from milsurv.config.run import RunConfig
from milsurv.evaluation.times import SURVIVAL, survival_column
from milsurv.storage.atomic import link_or_copy
from milsurv.storage.checksums import CHECKSUMS, read_checked, write_checked
from milsurv.storage.run_files import (
    HISTORY,
    MODEL,
    OPTIMISTIC,
    PREDICTIONS,
    PROBABILITIES,
    REFIT_STATE,
    STATE,
    TRAINING_RISKS,
    inner_state,
)
from milsurv.training.data import FoldId, TrainingCase, files_of, rows_of

COLUMN_PREFIX = {"inner_validation": "validation", "reported_fold": "reported"}
"""Selection set -> prefix of its columns in the history."""
INNER_FOLDS = 3
"""Number of inner folds of :func:`milsurv.training.cross_fitting.cross_fit`."""
STATES = (REFIT_STATE, *map(inner_state, range(INNER_FOLDS)), STATE)
"""Checkpoints of a fold in training, the first training's last."""


@dataclass(frozen=True)
class FoldJob:
    """Everything that the training of one fold with one seed needs."""

    config: RunConfig
    seed: int
    fold: int
    folder: Path
    train: tuple[TrainingCase, ...]
    validation: tuple[TrainingCase, ...]
    """Inner validation cases; empty if they do not select the epoch."""
    test: tuple[TrainingCase, ...]
    times: tuple[float, ...]
    """Times of the predicted survival probabilities."""
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    """Kind and name of each plugin used -> fingerprint of its source."""

    @property
    def id(self) -> FoldId:
        """Seed and fold, for messages."""
        return FoldId(self.seed, self.fold)

    @property
    def files(self) -> list[Path]:
        """Feature files of all cases."""
        return files_of(self.train + self.validation + self.test)

    @property
    def finished(self) -> bool:
        """Whether the predictions, which are written last, exist."""
        return self.trained and (self.folder / PREDICTIONS).is_file()

    @property
    def trained(self) -> bool:
        """Whether the model, which is written last before the predictions, exists.

        Folds of older versions without checksums are trained again.
        """
        return _is_trained(self.folder)

    @property
    def prefixes(self) -> dict[str, str]:
        """Selection -> prefix of the file names of its model and predictions; inner validation first."""
        selection = self.config.training.selection
        return (
            {"inner_validation": "", "reported_fold": OPTIMISTIC} if selection == "both" else {selection: ""}
        )

    @property
    def rows(self) -> tuple[TrainingCase, ...]:
        """Rows of an epoch."""
        return rows_of(self.train, self.config.training.rows)

    @property
    def training_rows(self) -> int:
        """Rows of all epochs, those of the inner folds included, for the display of progress."""
        settings = self.config.training
        trainings = INNER_FOLDS if settings.recalibrate and not self.validation else 1
        return trainings * len(self.rows) * settings.epochs

    @property
    def selection_sets(self) -> dict[str, tuple[TrainingCase, ...]]:
        """Name -> rows by which an epoch is selected; empty if the last epoch is used."""
        of = {
            "inner_validation": {"inner_validation": self.validation},
            "last_epoch": {},
            "reported_fold": {"reported_fold": self.test},
            "both": {"inner_validation": self.validation, "reported_fold": self.test},
        }[self.config.training.selection]
        return {name: rows_of(cases, self.config.training.rows) for name, cases in of.items()}

    def reuse(self, others: Sequence[Path]) -> Path | None:
        """Copy the results of this fold from one of ``others``, its folders in other runs of the same training.

        These are the trained models, with their predictions if they are for the same times; or, if none is trained,
        the state that was saved last. Returns the folder that was copied from, or None.
        """
        trained = [other for other in others if _is_trained(other)]
        if trained:
            names = [
                f"{prefix}{name}"
                for prefix in reversed(self.prefixes.values())
                for name in (TRAINING_RISKS, PROBABILITIES, MODEL)
            ]
            columns = [survival_column(t) for t in self.times]
            same = [other for other in trained if _survival_columns(other / PREDICTIONS) == columns]
            if same:
                names = [f"{OPTIMISTIC}{PREDICTIONS}", *names, PREDICTIONS]
            return self._copy((same or trained)[0], [HISTORY, *names])
        latest = max((self.folder, *others), key=_saved_at)
        if latest == self.folder:
            return None
        self.remove_states()
        return self._copy(latest, STATES)

    def _copy(self, other: Path, names: Sequence[str]) -> Path:
        for name in names:
            source, target = other / name, self.folder / name
            if name.endswith(".safetensors"):
                with suppress(FileNotFoundError):
                    link_or_copy(source, target)
            elif source.is_file():
                write_checked(target, read_checked(source))
        return other

    def remove_states(self) -> None:
        """Remove the checkpoints of a finished training."""
        for state in STATES:
            (self.folder / state).unlink(missing_ok=True)

    def refit(self) -> FoldJob:
        """The same fold, trained on training and inner validation cases, without selection."""
        settings = self.config.training.model_copy(update={"selection": "last_epoch"})
        config = self.config.model_copy(update={"training": settings})
        return replace(self, config=config, train=self.train + self.validation, validation=())


def _is_trained(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (MODEL, CHECKSUMS))


def _survival_columns(predictions: Path) -> list[str] | None:
    """Names of a table's survival columns; None if there is no table."""
    if not predictions.is_file():
        return None
    with predictions.open(newline="", encoding="utf-8") as file:
        return [column for column in next(csv.reader(file), []) if column.startswith(SURVIVAL)]


def _saved_at(folder: Path) -> int:
    """Time of a fold's last checkpoint in nanoseconds; 0 if there is none."""
    try:
        return (folder / STATE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
