"""Folds that are drawn: repeats, Monte Carlo, sites, strata of time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from milsurv.cohort.cases import Case, Cohort
from milsurv.cohort.splits import make_splits, write_splits
from milsurv.config.run import Splits
from milsurv.errors import CohortError

SITES = ("2Y", "5L", "BL", "C4", "DK", "ZF")


def tcga(cases: int, seed: int = 0, sites: int = 6) -> Cohort:
    """Cases of some TCGA sites, the first with half of them."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(cases):
        site = SITES[int(rng.integers(sites)) if number % 2 else 0]
        time = float(rng.exponential(20))
        made.append(Case(f"TCGA-{site}-{number:04d}", time, int(rng.random() < 0.5), ()))
    return Cohort(tuple(made), "months", "OS")


def site_of(case_id: str) -> str:
    return case_id.split("-")[1]


def shuffled(cohort: Cohort, seed: int = 1) -> Cohort:
    cases = list(cohort.cases)
    Random(seed).shuffle(cases)
    return Cohort(tuple(cases), cohort.time_unit, cohort.endpoint)


MANY_CASES = 30
"""So many are not drawn into the same fold twice; few may be."""


@settings(max_examples=25, deadline=None)
@given(st.integers(12, 60), st.integers(2, 4), st.integers(1, 3), st.integers(0, 99))
def test_every_repeat_reports_every_case_once(cases: int, folds: int, repeats: int, seed: int) -> None:
    cohort = tcga(cases, seed)
    splits, _ = make_splits(cohort, Splits(folds=folds, repeats=repeats, seed=seed), None)
    once, _ = make_splits(cohort, Splits(folds=folds, seed=seed), None)
    assert splits[:folds] == once
    assert [split.fold for split in splits] == list(range(folds * repeats))
    everyone = sorted(case.case_id for case in cohort.cases)
    for repeat in range(repeats):
        part = splits[repeat * folds : (repeat + 1) * folds]
        assert sorted(case_id for split in part for case_id in split.test) == everyone
    if cases >= MANY_CASES:
        assert len({split.test for split in splits}) == len(splits)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(12, 80), st.floats(0.1, 0.5), st.integers(0, 99), st.sampled_from(["event", "event_and_time"])
)
def test_monte_carlo_reports_its_share_each_time(cases: int, share: float, seed: int, by: str) -> None:
    cohort = tcga(cases, seed)
    config = Splits.model_validate(
        {"scheme": "monte_carlo", "folds": 4, "test": share, "seed": seed, "stratify": by}
    )
    splits, warnings = make_splits(cohort, config, None)
    again, _ = make_splits(shuffled(cohort), config, None)
    assert splits == again
    for split in splits:
        assert len(split.test) == max(1, round(share * cases))
        assert len({*split.train, *split.validation, *split.test}) == cases
    assert not any("tested" in warning for warning in warnings)


@settings(max_examples=25, deadline=None)
@given(st.integers(40, 120), st.integers(2, 5), st.integers(0, 99))
def test_folds_stratified_on_time_differ_by_one_case_of_each_quarter(
    cases: int, folds: int, seed: int
) -> None:
    cohort = tcga(cases, seed)
    splits, _ = make_splits(cohort, Splits(folds=folds, seed=seed, stratify="event_and_time"), None)
    edges = np.quantile([case.time for case in cohort.cases if case.event], [0.25, 0.5, 0.75])
    stratum = {case.case_id: (case.event, int((case.time >= edges).sum())) for case in cohort.cases}
    for wanted in set(stratum.values()):
        counts = [sum(stratum[case_id] == wanted for case_id in split.test) for split in splits]
        assert max(counts) - min(counts) <= 1
    sizes = [len(split.test) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        pool = (*split.train, *split.validation)
        for wanted in set(stratum.values()):
            share = sum(stratum[case_id] == wanted for case_id in pool) * len(split.validation) / len(pool)
            held = sum(stratum[case_id] == wanted for case_id in split.validation)
            assert abs(held - share) < 2.5


@pytest.mark.parametrize("scheme", ["k_fold", "monte_carlo"])
@pytest.mark.parametrize("group_by", ["site", r"^TCGA-(\w{2})"])
def test_no_site_stands_on_two_sides(scheme: str, group_by: str) -> None:
    cohort = tcga(90)
    config = Splits.model_validate({"scheme": scheme, "folds": 3, "group_by": group_by})
    splits, _ = make_splits(cohort, config, None)
    assert splits == make_splits(shuffled(cohort), config, None)[0]
    for split in splits:
        sides = [
            {site_of(case_id) for case_id in side} for side in (split.train, split.validation, split.test)
        ]
        assert all(sides)
        assert sum(len(side) for side in sides) == len(set().union(*sides)) == len(SITES)
    if scheme == "k_fold":
        tested = Counter(case_id for split in splits for case_id in split.test)
        assert set(tested.values()) == {1}
        assert len(tested) == 90


def test_sites_fill_the_folds_evenly() -> None:
    """Twenty sites of like size: every fold has its share of cases and events."""
    rng = np.random.default_rng(0)
    cases = [
        Case(f"TCGA-{n % 20:02d}-{n:04d}", float(n + 1), int(rng.random() < 0.4), ()) for n in range(300)
    ]
    splits, _ = make_splits(Cohort(tuple(cases), "months", "OS"), Splits(group_by="site"), None)
    event = {case.case_id: case.event for case in cases}
    assert [len(split.test) for split in splits] == [60] * 5
    counts = [sum(event[case_id] for case_id in split.test) for split in splits]
    assert max(counts) - min(counts) <= 8


def test_ids_without_a_site_are_named() -> None:
    cohort = Cohort(tuple(Case(f"P{n}", n + 1.0, n % 2, ()) for n in range(9)), "months", "OS")
    with pytest.raises(
        CohortError, match=r"splits.group_by: 9 case ids \(P0, P1, P2, …\) are not TCGA barcodes"
    ):
        make_splits(cohort, Splits(group_by="site", folds=2), None)


def test_too_few_sites_are_told() -> None:
    with pytest.raises(
        CohortError, match=r"splits.folds is 5, but the cohort has 2 groups by splits.group_by"
    ):
        make_splits(tcga(40, sites=2), Splits(group_by="site"), None)
    with pytest.raises(
        CohortError, match=r"cases are in group \w\w by splits.group_by, and some must be held out"
    ):
        make_splits(tcga(40, sites=2), Splits(group_by="site", folds=2), None)


def test_files_that_part_a_site_are_refused(tmp_path: Path) -> None:
    cohort = tcga(60)
    splits, _ = make_splits(cohort, Splits(), None)
    write_splits(splits, tmp_path / "splits.csv")
    with pytest.raises(
        CohortError, match=r"fold 0: cases of 2Y.* are in both train and .*correct the splits"
    ):
        make_splits(cohort, Splits(files=tmp_path / "splits.csv", group_by="site"), None)


@pytest.mark.parametrize(
    ("settings_", "told"),
    [
        ({"scheme": "monte_carlo", "repeats": 3}, "the number of splits is splits.folds"),
        ({"test": 0.3}, "test applies only to scheme: monte_carlo"),
        ({"files": "splits.csv", "repeats": 2}, "defines the folds; remove either repeats"),
        ({"group_by": "no group"}, "must have exactly one group"),
    ],
)
def test_contradictions_are_refused(settings_: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Splits.model_validate(settings_)


@pytest.mark.parametrize("scheme", [{"scheme": "monte_carlo"}, {"repeats": 2}, {"files": "splits.csv"}])
def test_settings_that_were_written_are_read_again(scheme: dict[str, object]) -> None:
    splits = Splits.model_validate(scheme)
    assert Splits.model_validate(splits.model_dump(mode="json")) == splits


def test_folds_with_few_events_are_told() -> None:
    cases = [Case(f"C{n:03d}", n + 1.0, int(n < 30), ()) for n in range(100)]
    _, warnings = make_splits(Cohort(tuple(cases), "months", "OS"), Splits(folds=5), None)
    assert warnings == [
        "fewer than 10 events among the test cases of 5 of 5 folds (fold 0: 6, fold 1: 6, fold 2: 6, "
        "fold 3: 6, fold 4: 6); their metrics will vary widely"
    ]
    cases = [Case(f"C{n:03d}", n + 1.0, int(n < 50), ()) for n in range(100)]
    assert make_splits(Cohort(tuple(cases), "months", "OS"), Splits(folds=5), None)[1] == []
