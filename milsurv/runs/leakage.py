"""Digests of a run's training cases, stored with its models, so that no model predicts cases it was trained on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from milsurv.cohort.cases import Cohort, Split
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.storage.atomic import fingerprint
from milsurv.storage.checksums import read_checked, write_checked
from milsurv.storage.run_files import TRAINING_FOLLOW_UP, TRAINING_SLIDES

_ENDS = re.compile(r"(?<=[A-Za-z0-9])(?=[^A-Za-z0-9])")


@dataclass(frozen=True)
class TrainingOverlap:
    """Overlap of a slide with the cases that trained a run's models."""

    folds: tuple[int, ...]
    """Folds whose models were not trained on its case."""
    reason: str | None = None
    """Why it counts as a training case; None when it does not, and every fold may be used."""

    @property
    def note(self) -> str | None:
        """The overlap as text; None without overlap."""
        if self.reason is None:
            return None
        if not self.folds:
            return f"{self.reason}, in every fold: no unbiased prediction is possible"
        folds = ", ".join(map(str, self.folds))
        return f"{self.reason}: predicted only by the models of fold {folds}, which were not trained on it"


@dataclass(frozen=True)
class TrainingCases:
    """The slides that a run trained on, and the follow-up of their cases."""

    slides: pd.DataFrame
    """A row per slide: digests of its ``case`` and ``slide`` ids, a hash of its ``content``, and ``unseen_by``, the
    folds whose models were not trained on its case."""
    follow_up: TrainingFollowUp
    """Of all cases, sorted by time, so that cases cannot be identified by their position."""

    @classmethod
    def of(cls, cohort: Cohort, made_from: Mapping[str, Any], splits: Sequence[Split]) -> TrainingCases:
        """``made_from``: slide id -> hashes of the files that its features were made from."""
        trained_on = {split.fold: {*split.train, *split.validation} for split in splits}
        rows = []
        for case in cohort.cases:
            unseen = " ".join(str(fold) for fold, cases in trained_on.items() if case.case_id not in cases)
            rows += [
                {
                    "case": digest(case.case_id),
                    "slide": digest(slide.slide_id),
                    "content": content_of(made_from[slide.slide_id]),
                    "unseen_by": unseen,
                }
                for slide in case.slides
            ]
        follow_up = sorted((case.time, case.event) for case in cohort.cases)
        return cls(
            pd.DataFrame(rows).sort_values("slide", ignore_index=True),
            TrainingFollowUp(np.array([t for t, _ in follow_up]), np.array([e for _, e in follow_up])),
        )

    @classmethod
    def read(cls, folder: Path) -> TrainingCases:
        """Read the tables that :meth:`write` wrote."""
        follow_up = pd.read_csv(
            StringIO(read_checked(folder / TRAINING_FOLLOW_UP)), float_precision="round_trip"
        )
        return cls(
            pd.read_csv(StringIO(read_checked(folder / TRAINING_SLIDES)), dtype=str, keep_default_na=False),
            TrainingFollowUp(follow_up["time"].to_numpy(), follow_up["event"].to_numpy()),
        )

    def write(self, folder: Path) -> None:
        """Write both tables into ``folder``."""
        write_checked(folder / TRAINING_SLIDES, self.slides.to_csv(index=False))
        table = pd.DataFrame({"time": self.follow_up.time, "event": self.follow_up.event})
        write_checked(folder / TRAINING_FOLLOW_UP, table.to_csv(index=False))

    def overlap(
        self, slide_id: str, made_from: Any, case_ids: Sequence[str], folds: Sequence[int]
    ) -> TrainingOverlap:
        """The overlap of a slide with the training cases of ``folds``.

        Its case may be that of its file, that of its id, or any of ``case_ids``; a fold trained on one of them is not
        used.
        """
        known = {
            "the same file was used in training": ("content", [content_of(made_from)]),
            "a slide of this id was used in training": ("slide", [digest(slide_id)]),
            "its case was used in training": ("case", [digest(name) for name in case_ids]),
        }
        found = {
            reason: {case for value in values for case in self._cases_by[column].get(value, ())}
            for reason, (column, values) in known.items()
        }
        reasons = [reason for reason, cases in found.items() if cases]
        if not reasons:
            return TrainingOverlap(tuple(folds))
        allowed = set.intersection(*(self._unseen_by[case] for cases in found.values() for case in cases))
        return TrainingOverlap(tuple(fold for fold in folds if fold in allowed), reasons[0])

    @cached_property
    def _cases_by(self) -> dict[str, dict[str, set[str]]]:
        """Column -> its value -> digests of the cases of its slides."""
        return {
            column: {str(value): set(cases) for value, cases in self.slides.groupby(column)["case"]}
            for column in ("content", "slide", "case")
        }

    @cached_property
    def _unseen_by(self) -> dict[str, set[int]]:
        """Digest of a case -> folds that were not trained on it."""
        rows = zip(self.slides["case"], self.slides["unseen_by"], strict=True)
        return {case: set(map(int, folds.split())) for case, folds in rows}


def name_prefixes(name: str) -> list[str]:
    """Possible case ids: the name, and its prefixes before each character that is not a letter or digit."""
    return [name, *(name[: end.start()] for end in _ENDS.finditer(name))]


def digest(identifier: str) -> str:
    """A hash of an id, 16 hexadecimal digits, which identifies the id without revealing it."""
    return hashlib.sha256(identifier.encode()).hexdigest()[:16]


def content_of(made_from: Any) -> str:
    """Fingerprint of the content of a slide's files, from their quick hashes, without the source of its tissue."""
    return fingerprint(made_from[0] if isinstance(made_from, list) else made_from)
