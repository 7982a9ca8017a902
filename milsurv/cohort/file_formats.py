"""Files that are called tables and are something else: each is named for what it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from milsurv.errors import CohortError

_SAVE = "save the sheet as CSV UTF-8, and name that file"
_WORKBOOK = f"is an Excel workbook, which is not read; {_SAVE}"
_BEGINNINGS = {
    b"PK\x03\x04": _WORKBOOK,
    b"\xd0\xcf\x11\xe0": _WORKBOOK,
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"\xff\xfe": "is UTF-16 text; save it again with the encoding UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it again with the encoding UTF-8",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch that with git lfs pull",
    b"<": "is a web page or XML and no table; look at it in a browser, and download the table itself",
    b"{": "is JSON and no table; save it as CSV",
}
"""What a file begins with -> what it is, and what to do."""
_NAMES = {".xlsx": _WORKBOOK, ".xls": _WORKBOOK, ".ods": f"is a spreadsheet, which is not read; {_SAVE}"}


def require_format(path: Path, suffix: str, allowed: Sequence[str]) -> None:
    """Raise `CohortError` when the suffix of the file, or what it begins with, is not that of a table."""
    if suffix not in allowed:
        what = _NAMES.get(
            suffix, f"not a table that can be read; allowed: {', '.join(allowed)}; save it as one of these"
        )
        raise CohortError([f"{path}: {what}"])
    if suffix == ".parquet":
        return
    with path.open("rb") as file:
        begins = file.read(64)
    text = begins.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, what in _BEGINNINGS.items():
        if begins.startswith(beginning) or text.startswith(beginning):
            raise CohortError([f"{path}: {what}"])
    if b"\0" in begins:
        raise CohortError(
            [f"{path}: holds NUL bytes, perhaps UTF-16 text; save it again with the encoding UTF-8"]
        )
