"""Whom a model learned from: recognised by file, id or case, and named nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from milsurv.cohort.cases import Case, Cohort, SlideRef, Split
from milsurv.runs.leakage import TrainingCases, content_of, name_prefixes
from milsurv.storage.run_files import TRAINING_FOLLOW_UP, TRAINING_SLIDES

FOLDS = (0, 1, 2)
SPLITS = (
    Split(0, ("P1", "P2"), ("P3",), ("P10",)),
    Split(1, ("P2", "P10"), ("P3",), ("P1",)),
    Split(2, ("P1", "P10"), ("P3",), ("P2",)),
)


@pytest.fixture
def known() -> TrainingCases:
    cases = [
        Case(name, 10.0 - number, number % 2, tuple(SlideRef(f"{name}-{s}", None) for s in "ab"))
        for number, name in enumerate(("P1", "P2", "P3", "P10"))
    ]
    made_from = {
        slide.slide_id: [f"hash of {slide.slide_id}", None] for case in cases for slide in case.slides
    }
    return TrainingCases.of(Cohort(tuple(cases), "months", "OS"), made_from, SPLITS)


def test_a_file_is_known_under_any_name(known: TrainingCases) -> None:
    found = known.overlap("renamed", ["hash of P1-b", "another tissue"], name_prefixes("renamed"), FOLDS)
    assert found.folds == (1,)
    assert found.note == (
        "the same file was used in training: predicted only by the models of fold 1, which were not trained on it"
    )


def test_a_slide_is_known_by_its_id_and_by_its_case(known: TrainingCases) -> None:
    assert known.overlap("P2-a", ["new"], name_prefixes("P2-a"), FOLDS).folds == (2,)
    assert known.overlap("P2-c", ["new"], name_prefixes("P2-c"), FOLDS).folds == (2,)
    assert known.overlap("anything", ["new"], ["P10"], FOLDS).folds == (0,)


def test_a_case_is_known_up_to_the_end_of_its_id_alone(known: TrainingCases) -> None:
    assert known.overlap("P10.c", ["new"], name_prefixes("P10.c"), FOLDS).folds == (0,)
    assert known.overlap("P100-a", ["new"], name_prefixes("P100-a"), FOLDS).folds == FOLDS
    assert known.overlap("P-1-a", ["new"], name_prefixes("P-1-a"), FOLDS).note is None
    assert known.overlap("P1-c", ["new"], ["somebody else"], FOLDS).folds == FOLDS


def test_a_slide_named_as_its_case_is_known(known: TrainingCases) -> None:
    assert known.overlap("P2", ["new"], name_prefixes("P2"), FOLDS).folds == (2,)


def test_a_slide_of_two_cases_is_judged_by_who_knows_neither(known: TrainingCases) -> None:
    """The file is P1's, which fold 1 does not know, and the id P2's, which fold 2 does not know."""
    assert known.overlap("P2-a", ["hash of P1-b"], [], FOLDS).folds == ()
    assert known.overlap("P1-a", ["new"], ["P10"], FOLDS).folds == ()


def test_a_case_that_chose_every_epoch_is_judged_by_nobody(known: TrainingCases) -> None:
    found = known.overlap("P3-c", ["new"], name_prefixes("P3-c"), FOLDS)
    assert found.folds == ()
    assert found.note == "its case was used in training, in every fold: no unbiased prediction is possible"


def test_what_is_written_comes_back_and_names_nobody(known: TrainingCases, tmp_path: Path) -> None:
    known.write(tmp_path)
    again = TrainingCases.read(tmp_path)
    assert again.slides.equals(known.slides)
    assert again.follow_up.time.tolist() == [7.0, 8.0, 9.0, 10.0]
    assert again.follow_up.event.tolist() == [1, 0, 1, 0]
    written = (tmp_path / TRAINING_SLIDES).read_text() + (tmp_path / TRAINING_FOLLOW_UP).read_text()
    assert not any(name in written for name in ("P1", "P2", "P3", "hash of"))


def test_imported_features_are_known_by_all_their_files() -> None:
    assert content_of({"20": "a", "10": "b"}) == content_of({"10": "b", "20": "a"})
    assert content_of({"20": "a", "10": "b"}) != content_of({"20": "a", "10": "c"})
