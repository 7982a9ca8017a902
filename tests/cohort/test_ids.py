"""Ids that no table may have, because no file can be named after them or no screen shows them."""

from __future__ import annotations

import pytest

from milsurv.cohort.ids import MAX_ID_BYTES, IdError, extract_id, extract_slide_id


@pytest.mark.parametrize("value", ["A\0B", "A\x1b[31m", "A\nB", "\x7f", "A\ud800"])
def test_control_characters_are_refused(value: str) -> None:
    with pytest.raises(IdError, match="control character") as caught:
        extract_id(value, None, "case_pattern")
    assert str(caught.value).isprintable()
    with pytest.raises(IdError, match="control character"):
        extract_slide_id(value, None)


def test_an_id_too_long_for_a_file_name_is_refused() -> None:
    assert extract_slide_id("é" * (MAX_ID_BYTES // 2), None) == "é" * (MAX_ID_BYTES // 2)
    with pytest.raises(
        IdError, match=rf"{MAX_ID_BYTES + 1} bytes, too many for a file name; shorten it with"
    ):
        extract_slide_id("x" * (MAX_ID_BYTES + 1), None)


@pytest.mark.parametrize("value", ["..", ".", "a/b", "a\\b", ".svs"])
def test_what_is_no_file_name_is_refused(value: str) -> None:
    with pytest.raises(IdError):
        extract_slide_id(value, None)
