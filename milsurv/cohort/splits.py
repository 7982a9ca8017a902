"""Splits into training, validation and test cases: k-fold or Monte Carlo from a seed, or read from files."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from milsurv.cohort.cases import Case, Cohort, Split
from milsurv.cohort.ids import IdError, extract_id, first_few, shorten
from milsurv.cohort.split_files import read_split_files
from milsurv.config.run import Splits
from milsurv.errors import CohortError
from milsurv.storage.checksums import write_checked

MAX_PROBLEMS = 5
"""Problems that are listed; the rest are counted."""
FEW_EVENTS = 10
"""With fewer test events, the metrics of a fold vary widely."""
SITE = r"^TCGA-(\w{2})-\w{4}"
"""Tissue source site of a TCGA barcode."""
TIME_BINS = 4
MONTE_CARLO_TEST = 0.2

Groups = Mapping[str, str]
"""Case id -> its group; cases of a group stay together."""


def make_splits(cohort: Cohort, config: Splits, case_pattern: str | None) -> tuple[list[Split], list[str]]:
    """The splits of a cohort, and warnings about them.

    Without ``config.files``, folds are drawn from ``config.seed`` and the cases, independently of the order of the
    table's rows. With files, their folds are read (see `read_split_files`). Folds without validation cases get a share
    of their training cases. Raises `CohortError` if a case, or a group of cases that is to stay together, is in
    several roles of a split, if the files do not include all cases, or if there are too few cases.
    """
    strata = Strata(cohort.cases, config.stratify)
    events = strata.events
    warnings: list[str] = []
    groups = group_cases(events, config.group_by)
    if config.files is None:
        folds = draw_folds(strata, groups, config)
    else:
        folds, warnings = read_split_files(config.files, events, case_pattern)
    splits = [_with_validation(fold, strata, groups, config) for fold in folds]
    check_no_leak(splits)
    check_groups(splits, groups)
    repeated = config.files is None and (config.scheme == "monte_carlo" or config.repeats > 1)
    return splits, [
        *warnings,
        *([] if repeated else _check_test_counts(splits, events)),
        *_check_events(splits, events),
    ]


class Strata:
    """Draws cases balanced by event and, if wanted, by the quarter of the event times in which follow-up ends."""

    def __init__(self, cases: Collection[Case], by: str):
        self.events = {case.case_id: case.event for case in cases}
        event_times = [case.time for case in cases if case.event]
        edges = np.quantile(event_times or [0.0], np.arange(1, TIME_BINS) / TIME_BINS)
        by_time = by == "event_and_time"
        self._bin = {
            case.case_id: int(np.searchsorted(edges, case.time, side="right")) if by_time else 0
            for case in cases
        }

    def shuffled(self, case_ids: Iterable[str], event: int, rng: np.random.Generator) -> list[str]:
        """The cases with or without an event in random order within each quarter, earlier quarters first."""
        ordered = sorted(case_id for case_id in case_ids if bool(self.events[case_id]) == bool(event))
        return sorted(rng.permutation(ordered).tolist(), key=self._bin.__getitem__)

    def interleaved(self, case_ids: Iterable[str], event: int, rng: np.random.Generator) -> list[str]:
        """The same cases in an order such that each prefix has its share of every quarter."""
        shuffled = self.shuffled(case_ids, event, rng)
        by_bin = defaultdict(list)
        for case_id in shuffled:
            by_bin[self._bin[case_id]].append(case_id)
        place = {
            case_id: (at + 0.5) / len(members)
            for members in by_bin.values()
            for at, case_id in enumerate(members)
        }
        return sorted(shuffled, key=place.__getitem__)

    def sample(self, case_ids: Collection[str], count: int, rng: np.random.Generator) -> set[str]:
        """``count`` of the cases, including one with an event if at least two have one."""
        observed, censored = (self.interleaved(case_ids, event, rng) for event in (1, 0))
        of_observed = round(count * len(observed) / len(case_ids))
        if len(observed) > 1:
            of_observed = max(1, of_observed)
        of_observed = max(of_observed, count - len(censored))
        return {*observed[:of_observed], *censored[: count - of_observed]}


def group_cases(case_ids: Iterable[str], group_by: str | None) -> Groups | None:
    """The group of each case; None without ``group_by``. Raises `CohortError` for ids without a group."""
    if group_by is None:
        return None
    groups, without = {}, []
    for case_id in case_ids:
        try:
            groups[case_id] = extract_id(case_id, SITE if group_by == "site" else group_by, "group_by")
        except IdError:
            without.append(case_id)
    if without:
        wanted = (
            "TCGA barcodes, whose second part is the site; use a regular expression with one group around the site"
            if group_by == "site"
            else f"matched by the expression {group_by!r}; correct it"
        )
        raise CohortError([f"splits.group_by: {len(without)} case ids ({shorten(without)}) are not {wanted}"])
    return groups


def draw_folds(strata: Strata, groups: Groups | None, config: Splits) -> list[Split]:
    """Folds numbered from 0, without validation cases. Raises `CohortError` if there are too few cases."""
    _require_enough(strata.events, groups, config)
    everyone = set(strata.events)
    tests: list[set[str]] = []
    if config.scheme == "monte_carlo":
        count = max(1, round((config.test or MONTE_CARLO_TEST) * len(everyone)))
        for number in range(config.folds):
            rng = np.random.default_rng([config.seed, 0, number])
            tests.append(sample_cases(strata, groups, everyone, count, rng))
    else:
        for repeat in range(config.repeats):
            rng = np.random.default_rng(config.seed if repeat == 0 else [config.seed, 0, repeat])
            tests += _deal(strata, groups, config.folds, rng)
    return [
        Split(number, train=tuple(sorted(everyone - test)), validation=(), test=tuple(sorted(test)))
        for number, test in enumerate(tests)
    ]


def _require_enough(events: Mapping[str, int], groups: Groups | None, config: Splits) -> None:
    count = len(events if groups is None else set(groups.values()))
    name = "cases" if groups is None else "groups by splits.group_by"
    if count < (config.folds if config.scheme == "k_fold" else 3):
        raise CohortError(
            [
                f"splits.folds is {config.folds}, but the cohort has {count} {name}; "
                f"use at most as many folds as {name}"
            ]
        )


def _deal(strata: Strata, groups: Groups | None, folds: int, rng: np.random.Generator) -> list[set[str]]:
    """Deal the shuffled cases with an event, then the censored ones, to the folds in turn.

    Folds differ by at most 1 in cases and in events. Groups are dealt from large to small by powers of two, in random
    order within a size, each to the fold that has the fewest cases and events so far.
    """
    if groups is None:
        dealt = [case_id for event in (1, 0) for case_id in strata.shuffled(strata.events, event, rng)]
        return [set(dealt[fold::folds]) for fold in range(folds)]
    members = _members(groups, strata.events)
    order = sorted(
        rng.permutation(sorted(members)).tolist(), key=lambda group: -len(members[group]).bit_length()
    )
    events = max(1, sum(strata.events.values()))
    tests: list[set[str]] = [set() for _ in range(folds)]
    for group in order:
        fill = [
            len(test) / len(groups) + sum(strata.events[case_id] for case_id in test) / events
            for test in tests
        ]
        tests[int(np.argmin(fill))] |= members[group]
    return tests


def sample_cases(
    strata: Strata, groups: Groups | None, case_ids: Collection[str], count: int, rng: np.random.Generator
) -> set[str]:
    """About ``count`` of the cases: whole groups, if there are groups, and never all cases.

    Raises `CohortError` if all cases are in one group.
    """
    if groups is None:
        return strata.sample(case_ids, count, rng)
    members = _members(groups, case_ids)
    if len(members) < 2:
        raise CohortError(
            [
                f"all {len(case_ids)} cases are in group {shorten(sorted(members))} by splits.group_by, and some must "
                "be held out; use fewer folds, or remove group_by"
            ]
        )
    taken: set[str] = set()
    order = rng.permutation(sorted(members)).tolist()
    for group in order[:-1]:
        if not taken or len(taken | members[group]) <= count:
            taken |= members[group]
    return taken


def _members(groups: Groups, case_ids: Iterable[str]) -> dict[str, set[str]]:
    members: dict[str, set[str]] = defaultdict(set)
    for case_id in case_ids:
        members[groups[case_id]].add(case_id)
    return members


def _with_validation(fold: Split, strata: Strata, groups: Groups | None, config: Splits) -> Split:
    """The fold with validation cases: its own, or else a share of its training cases (at least 1)."""
    if fold.validation:
        return fold
    if len(fold.train) < 2:
        raise CohortError(
            [
                f"fold {fold.fold} has {len(fold.train)} training cases, but needs at least 2, one of them for "
                "validation; add cases or use other splits"
            ]
        )
    rng = np.random.default_rng([config.seed, fold.fold + 1])  # [seed, 0] draws the same as seed
    count = max(1, round(config.validation * len(fold.train)))
    validation = sample_cases(strata, groups, fold.train, count, rng)
    train = tuple(case_id for case_id in fold.train if case_id not in validation)
    return replace(fold, train=train, validation=tuple(sorted(validation)))


def check_no_leak(splits: Iterable[Split]) -> None:
    """Raise `CohortError` if a case is in several roles of a split, or twice in one."""
    leaks = []
    for split in splits:
        places = [(case_id, role) for role, case_ids in split.roles.items() for case_id in case_ids]
        counts = Counter(case_id for case_id, _ in places)
        for case_id in sorted(case_id for case_id, count in counts.items() if count > 1):
            where = " and ".join(role for found, role in places if found == case_id)
            leaks.append(
                f"fold {split.fold}: case {case_id} is in {where}; "
                "a case may be in one of them; correct the splits"
            )
    if leaks:
        raise CohortError(first_few(leaks, MAX_PROBLEMS, "cases"))


def check_groups(splits: Sequence[Split], groups: Groups | None) -> None:
    """Raise `CohortError` if cases of one group are in several roles of a split."""
    if groups is None:
        return
    problems = []
    for split in splits:
        roles = {role: {groups[case_id] for case_id in case_ids} for role, case_ids in split.roles.items()}
        for (one, first), (other, second) in combinations(roles.items(), 2):
            if common := sorted(first & second):
                problems.append(
                    f"fold {split.fold}: cases of {shorten(common)} are in both {one} and {other}, which "
                    "splits.group_by does not allow; correct the splits, or remove group_by"
                )
    if problems:
        raise CohortError(problems[:MAX_PROBLEMS])


def _check_test_counts(splits: Sequence[Split], events: dict[str, int]) -> list[str]:
    tested = Counter(case_id for split in splits for case_id in split.test)
    never = [case_id for case_id in events if not tested[case_id]]
    often = [case_id for case_id, count in tested.items() if count > 1]
    warnings = []
    if never:
        warnings.append(f"{len(never)} of {len(events)} cases are tested in no fold: {shorten(never)}")
    if often:
        warnings.append(
            f"{len(often)} of {len(events)} cases are tested in several folds, and count several times in pooled "
            f"results: {shorten(often)}"
        )
    return warnings


def _check_events(splits: Sequence[Split], events: dict[str, int]) -> list[str]:
    consequence = {
        "train": "nothing can be learned from them",
        "validation": "a Cox loss cannot select the epoch with them",
        "test": "its metrics will be null",
    }
    warnings = [
        f"fold {split.fold}: none of the {len(case_ids)} {role} cases has an event; {consequence[role]}"
        for split in splits
        for role, case_ids in split.roles.items()
        if case_ids and not any(events[case_id] for case_id in case_ids)
    ]
    counts = {split.fold: sum(events[case_id] for case_id in split.test) for split in splits}
    if few := {fold: count for fold, count in counts.items() if 0 < count < FEW_EVENTS}:
        folds = shorten([f"fold {fold}: {count}" for fold, count in few.items()], 10)
        warnings.append(
            f"fewer than {FEW_EVENTS} events among the test cases of {len(few)} of {len(counts)} folds ({folds}); "
            "their metrics will vary widely"
        )
    return warnings


def write_splits(splits: Iterable[Split], path: Path) -> None:
    """Write ``case_id,fold,role`` (role: train, validation, test) atomically.

    `make_splits` with ``files`` set to it returns the same splits.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case_id", "fold", "role"))
    for split in splits:
        for role, case_ids in split.roles.items():
            writer.writerows((case_id, split.fold, role) for case_id in case_ids)
    write_checked(path, text.getvalue())
