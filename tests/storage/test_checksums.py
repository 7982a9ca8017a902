"""Text files of a run's folder are read back as they were written, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from milsurv.errors import MilsurvError
from milsurv.storage.checksums import CHECKSUMS, read_checked, write_checked

TEXT = "case_id,risk\nP01,0.25\nÄ-2,1e-05\n"


def test_every_flipped_byte_of_file_or_checksums_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_checked(path, TEXT)
    write_checked(tmp_path / "other.csv", "x")
    harmless = 0
    for damaged in (path, tmp_path / CHECKSUMS):
        content = damaged.read_bytes()
        for place in range(len(content)):
            for flip in (0x01, 0x80, 0xFF):
                damaged.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
                try:
                    assert read_checked(path) == TEXT
                    harmless += 1
                except MilsurvError as error:
                    assert str(path) in str(error)  # noqa: PT017 - what is not refused is compared
        damaged.write_bytes(content)
    assert harmless < len((tmp_path / CHECKSUMS).read_bytes()) * 3  # the other file's line alone
    assert read_checked(path) == TEXT


def test_a_file_that_is_written_again_has_its_new_checksum_alone_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for text in ("{}", "{}", "[1]", "{}"):
        write_checked(path, text)
        assert read_checked(path) == text
    assert len((tmp_path / CHECKSUMS).read_text().splitlines()) == 3


def test_what_is_missing_or_has_no_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(MilsurvError, match=r"metrics\.json is missing"):
        read_checked(path)
    path.write_text("{}")
    with pytest.raises(
        MilsurvError, match=r"has no checksum in checksums\.txt: it was written by an older milsurv"
    ):
        read_checked(path)
