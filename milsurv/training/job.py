"""One fold with one seed: who trains, who chooses, who is reported, and the files that it leaves."""

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
    REFIT_STATE,
    STATE,
    TRAINING_RISKS,
)
from milsurv.training.data import FoldId, TrainingCase, files_of, rows_of

COLUMN_OF = {"inner_validation": "validation", "reported_fold": "reported"}
"""Who chooses -> how the history's columns of their loss and C-index begin."""


@dataclass(frozen=True)
class FoldJob:
    """All that one fold with one seed needs to know."""

    config: RunConfig
    seed: int
    fold: int
    folder: Path
    train: tuple[TrainingCase, ...]
    validation: tuple[TrainingCase, ...]
    """Cases that choose the epoch; empty when the last is kept, or when the reported cases alone choose."""
    test: tuple[TrainingCase, ...]
    times: tuple[float, ...]
    """Times at which survival is predicted."""
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    """Kind and name of the plugins that it uses -> the fingerprint of their source."""

    @property
    def id(self) -> FoldId:
        """Names it in messages."""
        return FoldId(self.seed, self.fold)

    @property
    def files(self) -> list[Path]:
        """Feature files of all its cases."""
        return files_of(self.train + self.validation + self.test)

    @property
    def finished(self) -> bool:
        """Predictions are written last."""
        return self.trained and (self.folder / PREDICTIONS).is_file()

    @property
    def trained(self) -> bool:
        """Whether predictions are all that can be missing: the model is written last of what training leaves.

        Folds of an older milsurv, which kept no checksums, are trained anew.
        """
        return _is_trained(self.folder)

    @property
    def prefixes(self) -> dict[str, str]:
        """Who chooses an epoch -> how the names of its model and predictions begin; the honest choice comes first."""
        selection = self.config.training.selection
        return (
            {"inner_validation": "", "reported_fold": OPTIMISTIC} if selection == "both" else {selection: ""}
        )

    @property
    def rows(self) -> tuple[TrainingCase, ...]:
        """What an epoch goes through."""
        return rows_of(self.train, self.config.training.rows)

    @property
    def choosers(self) -> dict[str, tuple[TrainingCase, ...]]:
        """Who chooses an epoch, and by which rows; none when the last is kept."""
        of = {
            "inner_validation": {"inner_validation": self.validation},
            "last_epoch": {},
            "reported_fold": {"reported_fold": self.test},
            "both": {"inner_validation": self.validation, "reported_fold": self.test},
        }[self.config.training.selection]
        return {chooser: rows_of(cases, self.config.training.rows) for chooser, cases in of.items()}

    def take_over(self, others: Sequence[Path]) -> Path | None:
        """Take what one of the ``others``, this fold's folders in other runs of the same training, has of it.

        That is the trained models, with their predictions when these are of the same times; else, where no fold is
        trained, the state that was saved last. Gives the folder that it was taken from, if there was one.
        """
        trained = [other for other in others if _is_trained(other)]
        if trained:
            names = [
                f"{prefix}{name}"
                for prefix in reversed(self.prefixes.values())
                for name in (TRAINING_RISKS, MODEL)
            ]
            columns = [survival_column(t) for t in self.times]
            same = [other for other in trained if _survival_columns(other / PREDICTIONS) == columns]
            if same:
                names = [f"{OPTIMISTIC}{PREDICTIONS}", *names, PREDICTIONS]
            return self._take((same or trained)[0], [HISTORY, *names])
        latest = max((self.folder, *others), key=_saved_at)
        if latest == self.folder:
            return None
        self.remove_states()
        return self._take(latest, [REFIT_STATE, STATE])

    def _take(self, other: Path, names: Sequence[str]) -> Path:
        for name in names:
            source, target = other / name, self.folder / name
            if name.endswith(".safetensors"):
                with suppress(FileNotFoundError):
                    link_or_copy(source, target)
            elif source.is_file():
                write_checked(target, read_checked(source))
        return other

    def remove_states(self) -> None:
        """Remove the states of a training that is finished."""
        for state in (STATE, REFIT_STATE):
            (self.folder / state).unlink(missing_ok=True)

    def refit(self) -> FoldJob:
        """The same fold, with all of its training cases training, and none choosing."""
        settings = self.config.training.model_copy(update={"selection": "last_epoch"})
        config = self.config.model_copy(update={"training": settings})
        return replace(self, config=config, train=self.train + self.validation, validation=())


def _is_trained(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (MODEL, CHECKSUMS))


def _survival_columns(predictions: Path) -> list[str] | None:
    """Names of a table's columns of survival; None when there is no table."""
    if not predictions.is_file():
        return None
    with predictions.open(newline="", encoding="utf-8") as file:
        return [column for column in next(csv.reader(file), []) if column.startswith(SURVIVAL)]


def _saved_at(folder: Path) -> int:
    """When a fold's state was saved last, in nanoseconds; 0 when there is none."""
    try:
        return (folder / STATE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
