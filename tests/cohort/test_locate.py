"""Finding slide files: suffixes, nested folders, links, names with dots, two files of one id."""

from __future__ import annotations

from pathlib import Path

import pytest

from milsurv.cohort.cases import SlideRef
from milsurv.cohort.ids import SLIDE_SUFFIXES, IdError, extract_id, extract_slide_id
from milsurv.cohort.locate import index_slides, locate_by_case, locate_by_slide
from milsurv.errors import CohortError

BARCODE = "TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def indexed(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in index_slides(folder).files]


@pytest.mark.parametrize("suffix", [*SLIDE_SUFFIXES, ".SVS"])
def test_only_a_slide_suffix_is_taken_off(suffix: str) -> None:
    assert extract_slide_id(f"{BARCODE}{suffix}", None) == BARCODE
    assert extract_slide_id(BARCODE, None) == BARCODE


@pytest.mark.parametrize("name", ["", ".svs", ".", "..", "../a", "a/b.svs", "a\\b", "a\nb", "a\x00"])
def test_ids_that_cannot_name_a_feature_file_are_refused(name: str) -> None:
    with pytest.raises(IdError):
        extract_slide_id(name, None)


def test_a_pattern_cuts_and_may_include_the_suffix() -> None:
    assert extract_slide_id("batch/scan_7.svs", "([^/]+)$") == "scan_7"
    assert extract_slide_id("scan_7.svs", r"_(\d+)\.svs$") == "7"
    with pytest.raises(IdError, match=r"'scan' does not match cohort.case_pattern '\^\(x\)\?'"):
        extract_id("scan", "^(x)?", "case_pattern")


def test_slides_are_found_in_nested_folders_and_hidden_or_other_files_are_not(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.ndpi", "a/x.SVS", "a/deep/y.mrxs", "a/deep/y/Data0001.dat", "notes.txt", "z.svs.partial"
    )
    touch(tmp_path, ".hidden/h.svs", "a/._x.svs")
    assert indexed(tmp_path) == ["a/deep/y.mrxs", "a/x.SVS", "b.ndpi"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/far.svs", "slides/a/near.svs")
    slides = tmp_path / "slides"
    (slides / "a" / "loop").symlink_to(slides, target_is_directory=True)
    (slides / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (slides / "link2").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert indexed(slides) == ["a/near.svs", "link/far.svs"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="folder not found"):
        index_slides(tmp_path / "slides")


def test_a_slide_without_a_file_has_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.svs", "b.tif", "c.tif", "d.tif", "e.tif", "f.tif")

    located = locate_by_slide(index_slides(tmp_path), ["a", "gone"], None)

    assert located.slides == {
        "a": (SlideRef("a", tmp_path / "x" / "a.svs"),),
        "gone": (SlideRef("gone", None, reason=f"no file for this slide in {tmp_path}"),),
    }
    assert located.problems == ()
    assert located.warnings == (
        f"1 of 2 slides have no file in {tmp_path}: gone",
        f"5 slide files do not belong to any case of the cohort, in {tmp_path}: b.tif, c.tif, d.tif, …",
    )


def test_no_slide_found_at_all_shows_an_id_and_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "scan_a.svs")
    located = locate_by_slide(index_slides(tmp_path), ["a", "b"], None)
    assert located.warnings == (
        f"none of the 2 slides has a file in {tmp_path}: searched for a, …; the files there are scan_a.svs; "
        "correct cohort.slides, or extract the ids with cohort.slide_pattern",
    )
    assert (
        locate_by_slide(index_slides(tmp_path), ["a"], "_(.)").slides["a"][0].path == tmp_path / "scan_a.svs"
    )


def test_a_slide_with_two_files_has_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.svs", "two/a.svs", "b.svs")

    located = locate_by_slide(index_slides(tmp_path), ["a", "b"], None)

    assert located.slides["b"] == (SlideRef("b", tmp_path / "b.svs"),)
    reason = (
        f"2 files with this id in {tmp_path}: one/a.svs, two/a.svs; one is allowed: move the others, or set "
        "cohort.slide_pattern so that their ids differ"
    )
    assert located.slides["a"] == (SlideRef("a", None, reason=reason),)
    assert (located.problems, located.warnings) == ((), ())


def test_accents_are_the_same_composed_and_apart(tmp_path: Path) -> None:
    touch(tmp_path, "Mo\u0308ller.svs")
    (slide,) = locate_by_slide(index_slides(tmp_path), ["M\u00f6ller"], None).slides["M\u00f6ller"]
    assert slide.path == tmp_path / "Mo\u0308ller.svs"


def test_names_that_are_not_utf_8_are_passed_over_with_a_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "caf\udce9/b.svs", "c\udcff.svs")
    index = index_slides(tmp_path)
    assert index.files == (tmp_path / "a.svs",)
    assert set(index.unreadable) == {
        f"{tmp_path}/{name}: skipped (its name is not UTF-8; rename it)"
        for name in ("caf\\udce9", "c\\udcff.svs")
    }


def test_files_by_case(tmp_path: Path) -> None:
    touch(tmp_path, "P1_x.svs", "P1_y.svs", "P2_x.svs", "P4_x.svs", "Q.svs")
    index = index_slides(tmp_path)

    located = locate_by_case(index, ["P1", "P2", "P3"], r"^(P\d)", None)

    assert {case: [ref.slide_id for ref in refs] for case, refs in located.slides.items()} == {
        "P1": ["P1_x", "P1_y"],
        "P2": ["P2_x"],
        "P3": [],
    }
    assert located.problems == ()
    assert located.warnings == (
        f"1 of 3 cases have no slide file in {tmp_path}: P3",
        f"2 slide files do not belong to any case of the cohort, in {tmp_path}: P4_x.svs, Q.svs",
    )
    ambiguous = locate_by_case(index, ["P1", "P2"], r"^(P\d)", "_(.)").slides
    assert [ref.slide_id for ref in ambiguous["P1"]] == ["x", "y"]
    assert all("2 files with this id" in str(ambiguous[case][0].reason) for case in ("P1", "P2"))


def test_tables_and_files_of_features_meet_at_the_slides_id(tmp_path: Path) -> None:
    """STAMP's tables name feature files; TRIDENT's files may carry the slide's suffix as well."""
    for name in ("a.h5", "b.svs.h5", "c.1.pt"):
        (tmp_path / name).touch()
    index = index_slides(tmp_path, (".h5", ".pt"))
    assert [extract_slide_id(name, None) for name in ("a.h5", "b.svs", "b.svs.h5", "c.1")] == [
        "a",
        "b",
        "b",
        "c.1",
    ]
    located = locate_by_slide(index, ["a", "b", "c.1"], None)
    assert [located.slides[slide][0].path for slide in ("a", "b", "c.1")] == list(index.files)


def test_ids_that_lost_zeros_or_capitals_are_told_beside_the_files_they_are_like(tmp_path: Path) -> None:
    touch(tmp_path, "007.svs", "P-a.svs", "x.svs")
    located = locate_by_slide(index_slides(tmp_path), ["7", "p-A", "x", "y"], None)
    assert located.warnings[1] == (
        "2 ids of the table differ from a file's only in case, spaces or leading zeros ('7' and '007', "
        "'p-A' and 'P-a'); write them as in the file names"
    )
    assert [located.slides[name][0].path is None for name in ("7", "p-A", "x", "y")] == [
        True,
        True,
        False,
        True,
    ]
