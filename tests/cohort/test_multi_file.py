"""Slides of several files count once. Headers are written by pydicom, which is the oracle of what they hold."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from milsurv.cohort.locate import index_slides, locate_by_case, locate_by_slide
from milsurv.cohort.multi_file import dicom_series, files_of_slide, group_files
from milsurv.slides.jpeg_tiles import JpegTilesSlide
from milsurv.slides.reader import slide_identity
from tests.slides.make_dicom import write_dicom_slide
from tests.slides.make_slides import stained

PICTURE = stained(256, 256)


def write_header(
    path: Path, series: str, implicit: bool = False, endless: bool = False, nested: int = 0
) -> Path:
    """A DICOM file without pixels; ``nested`` sequences, one in the other, tell other series before its own."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    inner = dataset
    for _ in range(nested):
        item = Dataset()
        item.SeriesInstanceUID = generate_uid()
        inner.ReferencedSeriesSequence = [item]
        inner["ReferencedSeriesSequence"].is_undefined_length = endless
        item.is_undefined_length_sequence_item = endless
        inner = item
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = series
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("nested", [0, 1, 3])
@pytest.mark.parametrize("endless", [False, True])
@pytest.mark.parametrize("implicit", [False, True])
def test_the_series_of_a_header_is_what_pydicom_wrote(
    tmp_path: Path, implicit: bool, endless: bool, nested: int
) -> None:
    series = generate_uid()
    assert dicom_series(write_header(tmp_path / "a.dcm", series, implicit, endless, nested)) == series


@given(st.binary(max_size=300))
def test_whatever_follows_the_beginning_no_header_is_an_error(rest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        path.write_bytes(bytes(128) + b"DICM" + rest)
        found = dicom_series(path)
    assert found is None or isinstance(found, str)


def test_a_dicom_series_is_one_slide_whatever_file_is_named(tmp_path: Path) -> None:
    first = write_dicom_slide(tmp_path / "S1", PICTURE, (1, 2, 4))
    second = write_dicom_slide(tmp_path / "two", PICTURE[::-1], (1, 2))
    third = [
        file.rename(file.with_name(f"x-{file.name}")) for file in write_dicom_slide(tmp_path / "3", PICTURE)
    ]
    third = [file.rename(tmp_path / "two" / file.name) for file in third]
    index = index_slides(tmp_path)
    assert index.files == (first[0], second[0], third[0])
    located = locate_by_slide(index, ["S1", "level-2", "x-level-1", "two"], None)
    (named,), (again,), (other,), (nobody,) = located.slides.values()
    assert named.path == first[0]
    assert again.reason == "it is the same DICOM series as slide S1, which is used once"
    assert other.path == third[0]
    assert nobody.path is None  # the folder holds two slides
    by_case = locate_by_case(index, ["S1"], "(S[0-9])", None)
    assert [slide.path for slide in by_case.slides["S1"]] == [first[0]]

    assert len({slide_identity(file)["quick_hash"] for file in first}) == 1
    before = slide_identity(first[0])
    assert before["size"] == sum(file.stat().st_size for file in files_of_slide(first[1]))
    first[2].write_bytes(first[2].read_bytes() + b"\0")
    assert slide_identity(first[0])["quick_hash"] != before["quick_hash"]
    for file in second:
        with JpegTilesSlide(file) as slide:
            assert (slide.dimensions, slide.mpp) == ((256, 256), 0.5)


def test_files_given_one_by_one_are_grouped_too(tmp_path: Path) -> None:
    files = write_dicom_slide(tmp_path / "S1", PICTURE)
    assert group_files([*reversed(files), tmp_path / "other.svs"]).files == (files[1], tmp_path / "other.svs")


def test_channels_of_a_fluorescence_slide_and_parts_of_a_czi_are_no_slides(tmp_path: Path) -> None:
    for name in ("red.ndpi", "green.ndpi", "bright.ndpi", "c0.svs", "he.svs"):
        (tmp_path / name).touch()
    (tmp_path / "set.ndpis").write_text(
        "[NanoZoomer Digital Pathology Image Set]\r\nNoImages=2\r\nImage0=red.ndpi\r\nImage1=green.ndpi\r\n"
    )
    (tmp_path / "set.afi").write_text("<ImageList><Image><Path>C:\\scans\\c0.svs</Path></Image></ImageList>")
    for part in range(3):
        header = b"ZISRAWFILE".ljust(80, b"\0") + struct.pack("<i", part)
        (tmp_path / f"z{f'({part})' if part else ''}.czi").write_bytes(header)
    index = index_slides(tmp_path)
    assert [file.name for file in index.files] == ["bright.ndpi", "he.svs", "z.czi"]
    told = "\n".join(index.unreadable)
    assert "set.ndpis: skipped with the 2 files that it lists" in told
    assert "set.afi: skipped with the 1 files" in told
    assert "2 files skipped: they are parts of CZI slides" in told


def test_the_folder_of_a_mirax_slide_holds_no_slides(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("m.mrxs", "m/Slidedat.ini", "m/Data0000.dat", "m/Index.dat"):
        (tmp_path / name).touch()
    assert [file.name for file in index_slides(tmp_path).files] == ["m.mrxs"]


def test_pipes_among_slides_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.dcm", "a.czi", "a.ndpis", "a.svs"):
        os.mkfifo(tmp_path / name)
    assert [file.name for file in index_slides(tmp_path).files] == ["a.czi", "a.dcm", "a.svs"]
