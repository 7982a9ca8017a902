"""Folds made from a seed and folds read from files: nobody on two sides, nobody lost without a line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milsurv.cohort.cases import Case, Cohort, Split
from milsurv.cohort.splits import check_no_leak, make_splits, write_splits
from milsurv.cohort.table import read_cohort
from milsurv.config.cohort import Columns, TableCohort
from milsurv.config.run import Splits
from milsurv.errors import CohortError

EXCERPTS = Path(__file__).parents[1] / "data" / "cohorts"


def cohort_of(events: Sequence[int], shuffle: Random | None = None) -> Cohort:
    cases = [Case(f"C{number:03d}", 1.0 + number, event, ()) for number, event in enumerate(events)]
    if shuffle is not None:
        shuffle.shuffle(cases)
    return Cohort(tuple(cases), "months", "OS")


def problems(cohort: Cohort, files: Path, case_pattern: str | None = None) -> list[str]:
    with pytest.raises(CohortError) as caught:
        make_splits(cohort, Splits(files=files), case_pattern)
    return list(caught.value.problems)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.integers(0, 1), min_size=6, max_size=80),
    folds=st.integers(2, 6),
    seed=st.integers(0, 2**32),
    validation=st.floats(0.01, 0.49),
)
def test_made_folds_partition_the_cases_stratified(
    events: list[int], folds: int, seed: int, validation: float
) -> None:
    config = Splits(folds=folds, seed=seed, validation=validation)
    splits, _ = make_splits(cohort_of(events), config, None)

    event_of = {f"C{number:03d}": event for number, event in enumerate(events)}
    assert sorted(case_id for split in splits for case_id in split.test) == sorted(event_of)
    for counts in (
        [len(split.test) for split in splits],
        [sum(event_of[case_id] for case_id in split.test) for split in splits],
    ):
        assert max(counts) - min(counts) <= 1
    for fold, split in enumerate(splits):
        assert split.fold == fold
        assert sorted((*split.train, *split.validation, *split.test)) == sorted(event_of)
        pool = (*split.train, *split.validation)
        assert len(split.validation) == max(1, round(validation * len(pool)))
        assert split.train
        observed = sum(event_of[case_id] for case_id in pool)
        held = sum(event_of[case_id] for case_id in split.validation)
        proportional = len(split.validation) * observed / len(pool)
        assert abs(held - proportional) < 1 or (observed > 1 and held == 1)


@settings(max_examples=40, deadline=None)
@given(events=st.lists(st.integers(0, 1), min_size=6, max_size=40), shuffle=st.integers(0, 1000))
def test_folds_depend_on_seed_and_cases_not_on_row_order(events: list[int], shuffle: int) -> None:
    config = Splits(folds=3, seed=4)
    assert make_splits(cohort_of(events), config, None) == make_splits(
        cohort_of(events, Random(shuffle)), config, None
    )


def test_other_seeds_give_other_folds() -> None:
    cohort = cohort_of([0, 1] * 20)
    tests = {make_splits(cohort, Splits(seed=seed), None)[0][0].test for seed in range(5)}
    assert len(tests) == 5


def test_fewer_cases_than_folds() -> None:
    with pytest.raises(CohortError, match="folds is 5, but the cohort has 4 cases; use at most"):
        make_splits(cohort_of([0, 1, 0, 1]), Splits(), None)
    with pytest.raises(CohortError, match="fold 0 has 1 training cases, but needs at least 2"):
        make_splits(cohort_of([0, 1]), Splits(folds=2), None)


def test_sides_without_event_are_warned_of() -> None:
    _, warnings = make_splits(cohort_of([1] + [0] * 9), Splits(folds=2), None)
    assert "fold 0: none of the 4 train cases has an event; nothing can be learned from them" in warnings
    assert "fold 1: none of the 5 test cases has an event; its metrics will be null" in warnings
    assert any(
        "validation cases has an event; a Cox loss cannot select the epoch" in line for line in warnings
    )
    assert make_splits(cohort_of([1, 0] * 20), Splits(folds=2), None)[1] == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(st.integers(0, 1), min_size=6, max_size=30), seed=st.integers(0, 99))
def test_written_splits_read_back_as_they_were(tmp_path: Path, events: list[int], seed: int) -> None:
    cohort = cohort_of(events)
    splits, _ = make_splits(cohort, Splits(folds=3, seed=seed), None)
    path = tmp_path / "splits.csv"

    write_splits(splits, path)

    assert make_splits(cohort, Splits(files=path, seed=seed + 1), "^C(.*)x")[0] == splits
    assert next(csv.DictReader(path.read_text().splitlines())) == {
        "case_id": splits[0].train[0],
        "fold": "0",
        "role": "train",
    }
    assert {file.name for file in tmp_path.iterdir()} == {"splits.csv", "checksums.txt"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_table_of_cases_and_folds(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame(
        {"case_id": [f"C{n:03d}-s" for n in range(12)], "fold": [n % 3 + 1 for n in range(12)]}
    )
    path = tmp_path / f"folds.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")

    splits, warnings = make_splits(cohort_of([1, 0, 0, 1] * 3), Splits(files=path), "^(C.{3})")

    assert [split.fold for split in splits] == [1, 2, 3]
    assert splits[0].test == ("C000", "C003", "C006", "C009")
    assert sorted((*splits[0].train, *splits[0].validation)) == sorted(
        {f"C{n:03d}" for n in range(12)} - set(splits[0].test)
    )
    assert len(splits[0].validation) == 1
    assert [line for line in warnings if "event" not in line] == []


def test_case_in_two_folds_names_the_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.csv", "case_id,fold", "C000,0", "C001,1", "C002,0", "C003,1", "C000,1", "C001,1"
    )
    assert problems(cohort_of([0, 1, 0, 1]), path) == [
        f"{path}: case C000 is in fold 0 (row 2) and fold 1 (row 6); one is allowed; correct the file"
    ]


def test_case_in_two_roles_of_a_fold_names_the_rows(tmp_path: Path) -> None:
    rows = ["C000,0,train", "C001,0,test", "C000,0,test", "C000,1,test", "C001,1,train"]
    path = write(tmp_path / "f.csv", "case_id,fold,role", *rows)
    assert problems(cohort_of([0, 1]), path) == [
        f"{path}: case C000 is in train (row 2) and test (row 4) of fold 0; one is allowed; correct the file"
    ]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (",0,train", "row 2: case_id is empty"),
        ("C000,one,train", "row 2: fold is one; allowed: whole numbers from 0"),
        ("C000,,train", "row 2: fold is empty"),
        ("C000,-1,train", "row 2: fold is -1"),
        ("C000,0,tests", "row 2: role is tests (did you mean 'test'?); allowed: train, validation, test"),
        ("C000,0,", "row 2: role is empty"),
        ("C000,0", "row 2: has 2 values, but the header has 3 columns"),
        ("X000,0,train", "row 2: 'X000' does not match cohort.case_pattern '^(C.*)'"),
    ],
)
def test_bad_row_of_a_split_table(tmp_path: Path, row: str, what: str) -> None:
    path = write(tmp_path / "f.csv", "case_id,fold,role", row, "C000,0,train", "C001,0,train", "C002,0,test")
    (problem,) = problems(cohort_of([0, 1, 1]), path, "^(C.*)")
    assert problem.startswith(f"{path}: {what}")


def author_folder(folder: Path, tests: Sequence[Sequence[str]], ids: Sequence[str]) -> Path:
    """``splits_<k>.csv`` as the authors of CrossFusion write them: an index, columns of unequal length."""
    for fold, test in enumerate(tests):
        train = [case_id for case_id in ids if case_id not in test]
        lines = [
            f"{n},{train[n] if n < len(train) else ''},{test[n] if n < len(test) else ''}"
            for n in range(max(len(train), len(test)))
        ]
        write(folder / f"splits_{fold}.csv", ",train,val", *lines)
    return folder


def test_authors_folder_with_slide_level_ids(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    config = TableCohort(
        table=EXCERPTS / "coad_excerpt.csv",
        slides=tmp_path / "slides",
        columns=Columns(time="survival_months", censorship="censorship"),
        case_pattern="^(.{12})",
        on_invalid="drop",
    )
    cohort = read_cohort(config)
    frame = pd.read_csv(config.table)
    ids = list(frame.case_id)
    by_case = sorted(set(frame.case_id.str[:12]))
    tests = [[i for i in ids if by_case.index(i[:12]) % 3 == fold] for fold in range(3)]
    folder = author_folder(tmp_path / "splits", tests, ids)

    splits, warnings = make_splits(cohort, Splits(files=folder), config.case_pattern)

    kept = {case.case_id for case in cohort.cases}
    for split, test in zip(splits, tests, strict=True):
        assert set(split.test) == {case_id[:12] for case_id in test} & kept
        assert {*split.train, *split.validation, *split.test} == kept
    assert warnings[0] == (
        f"{folder}: 3 cases of the splits are not in the cohort: TCGA-AA-A022, TCGA-G4-6302, TCGA-G4-6626"
    )

    leaking = author_folder(
        tmp_path / "leak", [["TCGA-QG-A5Z1-01Z-00-DX1.F3157C57-0F35-42D3-9CA5-C72D93F1BF89"]], ids
    )
    assert problems(cohort, leaking, config.case_pattern) == [
        f"{leaking}: case TCGA-QG-A5Z1 is in train and val of splits_0.csv; one is allowed; correct the file"
    ]


def test_many_leaks_are_counted(tmp_path: Path) -> None:
    ids = [f"C{n:03d}" for n in range(8)]
    path = write(tmp_path / "s" / "splits_0.csv", "train,val", *(f"{case_id},{case_id}" for case_id in ids))
    found = problems(cohort_of([0, 1] * 4), path.parent)
    assert len(found) == 6
    assert found[0].endswith(
        "case C000 is in train and val of splits_0.csv; one is allowed; correct the file"
    )
    assert found[5] == "and 3 more such problems"


def test_folder_with_a_test_column_reports_test(tmp_path: Path) -> None:
    write(tmp_path / "s" / "splits_3.csv", ",train,val,test", "0,C000,C002,C003", "1,C001,,C004")
    write(tmp_path / "s" / "splits_3_bool.csv", ",train", "C000,True")
    splits, warnings = make_splits(cohort_of([0, 1, 1, 0, 1]), Splits(files=tmp_path / "s"), None)
    assert splits == [Split(3, ("C000", "C001"), ("C002",), ("C003", "C004"))]
    assert warnings[0] == "3 of 5 cases are tested in no fold: C000, C001, C002"
    assert warnings[1].startswith("fewer than 10 events among the test cases of 1 of 1 folds (fold 3: 1)")
    assert len(warnings) == 2


def test_cases_that_no_fold_names(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "case_id,fold", "C000,0", "C001,1", "C002,0", "C003,1")
    assert problems(cohort_of([0, 1] * 5), path) == [
        f"{path}: 6 of the cohort's 10 cases are in no fold: C004, C005, C006, C007, C008, …; add them, remove "
        "them from the cohort's table, or check cohort.case_pattern"
    ]


def test_folds_of_another_cohort(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "case_id,fold", "X1,0", "X2,1")
    assert problems(cohort_of([0, 1, 1]), path) == [
        f"{path}: none of the cohort's 3 cases (C000, …) is in a fold; the ids there are X1, X2; "
        "correct splits.files or cohort.case_pattern"
    ]


def test_folds_that_leave_out_or_repeat_cases_are_warned_of(tmp_path: Path) -> None:
    rows = [f"C{n:03d},{fold},{'test' if n < 2 else 'train'}" for fold in (0, 1) for n in range(6 - fold)]
    path = write(tmp_path / "f.csv", "case_id,fold,role", *rows)
    splits, warnings = make_splits(cohort_of([1, 0] * 3), Splits(files=path), None)
    assert [len(split.validation) for split in splits] == [1, 1]
    assert warnings[:3] == [
        f"{path}: fold 1 does not include 1 cases: C005",
        "4 of 6 cases are tested in no fold: C002, C003, C004, …",
        "2 of 6 cases are tested in several folds, and count several times in pooled results: C000, C001",
    ]


def test_a_fold_must_train_and_test_somebody(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "case_id,fold,role", "C000,0,train", "C001,0,train", "C002,0,validation")
    assert problems(cohort_of([0, 1, 1]), path) == [
        f"{path}: fold 0 has no test case of the cohort; add some, or remove the fold"
    ]


@pytest.mark.parametrize(
    ("name", "lines", "what"),
    [
        (
            "splits_0.csv",
            [",train,val", "0,C000,C001"],
            "the columns are train, val; splits.files must be a table",
        ),
        (
            "f.csv",
            ["case_id;fold", "C000;0"],
            "it seems to be separated by ';', but .csv files must be separated by ','",
        ),
    ],
)
def test_wrong_kind_of_split_file(tmp_path: Path, name: str, lines: list[str], what: str) -> None:
    path = write(tmp_path / name, *lines)
    assert problems(cohort_of([0, 1]), path)[0].startswith(f"{path}: {what}")


def test_wrong_folder_of_splits(tmp_path: Path) -> None:
    assert "contains no file named splits_<k>.csv" in problems(cohort_of([0, 1]), tmp_path)[0]
    write(tmp_path / "splits_0.csv", "training,val", "C000,C001")
    assert problems(cohort_of([0, 1]), tmp_path) == [
        f"{tmp_path / 'splits_0.csv'}: the columns are training, val; train and val are required, test is optional; "
        "correct the file"
    ]
    assert "file not found" in problems(cohort_of([0, 1]), tmp_path / "gone.csv")[0]


def test_check_no_leak() -> None:
    check_no_leak([Split(0, ("A",), ("B",), ("C",)), Split(1, ("C",), ("B",), ("A",))])
    with pytest.raises(CohortError) as caught:
        check_no_leak([Split(0, ("A", "D"), ("B",), ("C",)), Split(1, ("C", "A"), ("B",), ("A", "B"))])
    assert [line.split(";")[0] for line in caught.value.problems] == [
        "fold 1: case A is in train and test",
        "fold 1: case B is in validation and test",
    ]
