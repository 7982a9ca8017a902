"""Who trains, who chooses the epoch, who is reported: made from a seed, or read from files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from milsurv.cohort.cases import Cohort, Split
from milsurv.cohort.folds import Groups, Strata, check_groups, draw_folds, groups_of, take
from milsurv.cohort.ids import shorten
from milsurv.cohort.split_files import AssignedFold, read_split_files
from milsurv.config.run import Splits
from milsurv.errors import CohortError
from milsurv.storage.checksums import write_checked

SHOWN_LEAKS = 5
FEW_EVENTS = 10
"""Fewer reported events than this leave a fold's metrics to chance."""


def make_splits(cohort: Cohort, config: Splits, case_pattern: str | None) -> tuple[list[Split], list[str]]:
    """The folds of a cohort, and warnings about them.

    Without ``config.files``: folds drawn from ``config.seed`` and the cases alone, whatever the order of the table's
    rows (see `draw_folds`). With files, their folds (see `read_split_files`). Folds without validation cases get a
    share of their training cases. Raises `CohortError` when a case, or a group of cases that is to stay together,
    stands on two sides of a split, when the files leave out cases of the cohort, or when there are too few cases.
    """
    strata = Strata(cohort.cases, config.stratify)
    events = strata.events
    warnings: list[str] = []
    groups = groups_of(events, config.group_by)
    if config.files is None:
        folds = draw_folds(strata, groups, config)
    else:
        folds, warnings = read_split_files(config.files, events, case_pattern)
    splits = [_with_validation(fold, strata, groups, config) for fold in folds]
    check_no_leak(splits)
    check_groups(splits, groups)
    several = config.files is None and (config.scheme == "monte_carlo" or config.repeats > 1)
    return splits, [
        *warnings,
        *([] if several else _test_counts(splits, events)),
        *_sides_without_event(splits, events),
        *_few_events(splits, events),
    ]


def check_no_leak(splits: Iterable[Split]) -> None:
    """Raise `CohortError` when a case stands on two sides of a split, or twice on one."""
    leaks = []
    for split in splits:
        stands = [(case_id, side) for side, case_ids in split.sides.items() for case_id in case_ids]
        counts = Counter(case_id for case_id, _ in stands)
        for case_id in sorted(case_id for case_id, count in counts.items() if count > 1):
            where = " and ".join(side for found, side in stands if found == case_id)
            leaks.append(
                f"fold {split.fold}: case {case_id} stands in {where}; "
                "a case may stand once in each fold; correct the splits"
            )
    if leaks:
        more = len(leaks) - SHOWN_LEAKS
        raise CohortError(leaks[:SHOWN_LEAKS] + ([f"and {more} more such cases"] if more > 0 else []))


def write_splits(splits: Iterable[Split], path: Path) -> None:
    """Write ``case_id,fold,role`` (role: train, validation, test), whole or not at all.

    `make_splits` with ``files`` set to it gives the same splits back.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case_id", "fold", "role"))
    for split in splits:
        for role, case_ids in split.sides.items():
            writer.writerows((case_id, split.fold, role) for case_id in case_ids)
    write_checked(path, text.getvalue())


def _with_validation(fold: AssignedFold, strata: Strata, groups: Groups | None, config: Splits) -> Split:
    """The fold with validation cases: the given ones, else a share of the training cases (at least 1)."""
    train, validation = fold.train, fold.validation
    if not validation:
        if len(fold.train) < 2:
            raise CohortError(
                [
                    f"fold {fold.fold} has {len(fold.train)} training cases; at least 2 are needed, one of "
                    "them to choose the epoch; give more cases or other splits"
                ]
            )
        rng = np.random.default_rng([config.seed, fold.fold + 1])  # [seed, 0] draws the same as seed alone
        count = max(1, round(config.validation * len(fold.train)))
        validation = take(strata, groups, train, count, rng)
        train -= validation
    return Split(
        fold=fold.fold,
        train=tuple(sorted(train)),
        validation=tuple(sorted(validation)),
        test=tuple(sorted(fold.test)),
    )


def _test_counts(splits: Sequence[Split], events: dict[str, int]) -> list[str]:
    tested = Counter(case_id for split in splits for case_id in split.test)
    never = [case_id for case_id in events if not tested[case_id]]
    often = [case_id for case_id, count in tested.items() if count > 1]
    warnings = []
    if never:
        warnings.append(f"{len(never)} of {len(events)} cases are tested in no fold: {shorten(never)}")
    if often:
        warnings.append(
            f"{len(often)} of {len(events)} cases are tested in several folds, and count as often in pooled "
            f"figures: {shorten(often)}"
        )
    return warnings


def _sides_without_event(splits: Iterable[Split], events: dict[str, int]) -> list[str]:
    consequence = {
        "train": "nothing can be learned from them",
        "validation": "a Cox loss cannot choose the epoch by them",
        "test": "its metrics will be null",
    }
    return [
        f"fold {split.fold}: none of the {len(case_ids)} {side} cases has an event; {consequence[side]}"
        for split in splits
        for side, case_ids in split.sides.items()
        if case_ids and not any(events[case_id] for case_id in case_ids)
    ]


def _few_events(splits: Iterable[Split], events: dict[str, int]) -> list[str]:
    counts = {split.fold: sum(events[case_id] for case_id in split.test) for split in splits}
    few = {fold: count for fold, count in counts.items() if 0 < count < FEW_EVENTS}
    if not few:
        return []
    told = shorten([f"fold {fold}: {count}" for fold, count in few.items()], 10)
    return [
        f"fewer than {FEW_EVENTS} events among the reported cases of {len(few)} of {len(counts)} folds ({told}); their "
        "metrics will vary widely"
    ]
