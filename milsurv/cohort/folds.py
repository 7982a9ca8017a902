"""Draw folds: k-fold, once or several times, or Monte Carlo; by case, or with all cases of a site together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from milsurv.cohort.cases import Case, Split
from milsurv.cohort.ids import IdError, extract_id, shorten
from milsurv.cohort.split_files import AssignedFold
from milsurv.config.run import Splits
from milsurv.errors import CohortError

SITE = r"^TCGA-(\w{2})-\w{4}"
"""Tissue source site of a TCGA barcode."""
TIME_BINS = 4
MONTE_CARLO_TEST = 0.2

Groups = Mapping[str, str]
"""Case id -> the group whose cases stay together."""


class Strata:
    """What folds are balanced by: event, and the quarter of event times that follow-up ended in if wanted."""

    def __init__(self, cases: Collection[Case], by: str):
        self.events = {case.case_id: case.event for case in cases}
        event_times = [case.time for case in cases if case.event]
        edges = np.quantile(event_times or [0.0], np.arange(1, TIME_BINS) / TIME_BINS)
        in_time = by == "event_and_time"
        self._bin = {
            case.case_id: int(np.searchsorted(edges, case.time, side="right")) if in_time else 0
            for case in cases
        }

    def shuffled(self, case_ids: Iterable[str], event: int, rng: np.random.Generator) -> list[str]:
        """The cases with, or without, an event at random, those of an earlier quarter first."""
        ordered = sorted(case_id for case_id in case_ids if bool(self.events[case_id]) == bool(event))
        return sorted(rng.permutation(ordered).tolist(), key=self._bin.__getitem__)

    def spread(self, case_ids: Iterable[str], event: int, rng: np.random.Generator) -> list[str]:
        """The same cases in an order of which every beginning has its share of each quarter."""
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

    def take(self, case_ids: Collection[str], count: int, rng: np.random.Generator) -> frozenset[str]:
        """About ``count`` of the cases, with an event among them if two have one."""
        observed, censored = (self.spread(case_ids, event, rng) for event in (1, 0))
        of_observed = round(count * len(observed) / len(case_ids))
        if len(observed) > 1:
            of_observed = max(1, of_observed)
        of_observed = max(of_observed, count - len(censored))
        return frozenset(observed[:of_observed] + censored[: count - of_observed])


def groups_of(case_ids: Iterable[str], group_by: str | None) -> Groups | None:
    """The group of each case; None when each stands for itself. Raises `CohortError` for ids without a group."""
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
            "TCGA barcodes, whose second part is the site; give a regular expression with one group around the site"
            if group_by == "site"
            else f"matched by the expression {group_by!r}; correct it"
        )
        raise CohortError([f"splits.group_by: {len(without)} case ids ({shorten(without)}) are not {wanted}"])
    return groups


def draw_folds(strata: Strata, groups: Groups | None, config: Splits) -> list[AssignedFold]:
    """The folds that ``config`` asks for, numbered from 0. Raises `CohortError` when there are too few cases."""
    _require_enough(strata.events, groups, config)
    everyone = frozenset(strata.events)
    tests: list[frozenset[str]] = []
    if config.scheme == "monte_carlo":
        count = max(1, round((config.test or MONTE_CARLO_TEST) * len(everyone)))
        for number in range(config.folds):
            rng = np.random.default_rng([config.seed, 0, number])
            tests.append(take(strata, groups, everyone, count, rng))
    else:
        for repeat in range(config.repeats):
            rng = np.random.default_rng(config.seed if repeat == 0 else [config.seed, 0, repeat])
            tests += _deal(strata, groups, config.folds, rng)
    return [
        AssignedFold(number, train=everyone - test, validation=frozenset(), test=test)
        for number, test in enumerate(tests)
    ]


def _require_enough(events: Mapping[str, int], groups: Groups | None, config: Splits) -> None:
    units = events if groups is None else set(groups.values())
    name = "cases" if groups is None else "groups by splits.group_by"
    needed = config.folds if config.scheme == "k_fold" else 3
    if len(units) < needed:
        raise CohortError(
            [
                f"splits.folds is {config.folds}, but the cohort has {len(units)} {name}; "
                f"give at most as many folds as {name}"
            ]
        )


def _deal(
    strata: Strata, groups: Groups | None, folds: int, rng: np.random.Generator
) -> list[frozenset[str]]:
    """Deal the shuffled cases with an event, then the others, to the folds in turn.

    Folds differ by at most 1 in cases and in events. Groups are dealt from large to small by
    powers of two, at random within a size, each to the fold that is then the least filled with cases and events.
    """
    if groups is None:
        everyone = strata.events
        dealt = [case_id for event in (1, 0) for case_id in strata.shuffled(everyone, event, rng)]
        return [frozenset(dealt[fold::folds]) for fold in range(folds)]
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
    return [frozenset(test) for test in tests]


def take(
    strata: Strata, groups: Groups | None, case_ids: frozenset[str], count: int, rng: np.random.Generator
) -> frozenset[str]:
    """About ``count`` of the cases; whole groups, where there are any, and never all of them.

    Raises `CohortError` when all cases are of one group.
    """
    if groups is None:
        return strata.take(case_ids, count, rng)
    members = _members(groups, case_ids)
    if len(members) < 2:
        raise CohortError(
            [
                f"{len(case_ids)} cases are all of {shorten(sorted(members))} by splits.group_by, and some must be "
                "held out of them; give fewer folds, or leave group_by out"
            ]
        )
    taken: set[str] = set()
    order = rng.permutation(sorted(members)).tolist()
    for group in order[:-1]:
        if not taken or len(taken | members[group]) <= count:
            taken |= members[group]
    return frozenset(taken)


def _members(groups: Groups, case_ids: Iterable[str]) -> dict[str, set[str]]:
    members: dict[str, set[str]] = defaultdict(set)
    for case_id in case_ids:
        members[groups[case_id]].add(case_id)
    return members


def check_groups(splits: Sequence[Split], groups: Groups | None) -> None:
    """Raise `CohortError` when cases of one group stand on two sides of a split."""
    if groups is None:
        return
    problems = []
    for split in splits:
        sides = {side: {groups[case_id] for case_id in case_ids} for side, case_ids in split.sides.items()}
        for (one, there), (other, here) in combinations(sides.items(), 2):
            if common := sorted(there & here):
                problems.append(
                    f"fold {split.fold}: cases of {shorten(common)} stand in {one} and in {other}, which "
                    "splits.group_by forbids; correct the splits, or leave group_by out"
                )
    if problems:
        raise CohortError(problems[:5])
