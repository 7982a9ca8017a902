"""Tables (CSV, TSV, Parquet) in which every value is text, so that ids such as ``007`` are kept.

Text is parsed with Python's csv module in strict mode rather than with pandas, which pads rows that are too short,
reports no line numbers, and lets an unclosed quotation mark swallow the rows that follow.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, takewhile
from pathlib import Path

import pandas as pd
import pyarrow.parquet

from milsurv.config.cohort import plain
from milsurv.errors import CohortError, first_line

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SUFFIXES = (*SEPARATORS, ".parquet")
MAX_CELLS = 100_000_000
"""Of a Parquet table: a small file can declare any number of rows."""
HEADER_WITHIN = 100
"""Lines that are searched for a header that is not in the first line."""
MISSING_WORDS = frozenset(
    {
        *("na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "null", "none", "missing", "unknown", "unk"),
        *(".", "-", "--", "---", "'-", "'--", "?", "??"),
        *("[not available]", "[not applicable]", "[not evaluated]", "[unknown]", "[discrepancy]"),
        *("[completed]", "[pending]", "[not submitted]"),
        *("not available", "not applicable", "not evaluated", "not reported", "not known", "not recorded"),
        *("#name?", "#ref!", "#value!", "#div/0!", "#null!", "#num!"),
    }
)
"""Lower-case words that mark a missing value by default; they are read as empty."""
_SAVE = "save the sheet as CSV UTF-8, and use that file"
_WORKBOOK = f"is an Excel workbook, which is not supported; {_SAVE}"
_UTF16 = "is UTF-16 text; save it again with the encoding UTF-8"
_OTHER_FORMATS = {
    b"PK\x03\x04": _WORKBOOK,
    b"\xd0\xcf\x11\xe0": _WORKBOOK,
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
    b"PAR1": "is a Parquet file; name it .parquet",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch the file with git lfs pull",
    b"<": "is HTML or XML, not a table; open it in a browser, and download the table itself",
    b"{": "is JSON, not a table; save it as CSV",
}
"""First bytes of a file -> what it is, and what to do."""
_OTHER_SUFFIXES = {
    ".xlsx": _WORKBOOK,
    ".xls": _WORKBOOK,
    ".ods": f"is a spreadsheet, which is not supported; {_SAVE}",
}


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    number: int
    """Line of the file on which the row starts. The header is line 1, in Parquet too."""
    cells: Mapping[str, str]
    """Column -> value without surrounding spaces, empty if missing."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Column -> the word that marks its value as missing, if there is one."""
    flaw: str | None = None
    """Why the row cannot be read; it then has no cells."""


Parse = Callable[[int, Mapping[str, str]], Row]
"""Makes a row from its number and values."""


@dataclass(frozen=True)
class TextTable:
    """A table of text. Blank rows are not included."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def column_list(self) -> str:
        """The columns for a message."""
        return ", ".join(filter(None, self.columns))

    def suggest_fix(self, wanted: Iterable[str]) -> str | None:
        """What to do with a text file whose first line does not name the columns ``wanted``, if known."""
        suffix = self.path.suffix.lower()
        if suffix not in SEPARATORS:
            return None
        with self.path.open(encoding="utf-8-sig") as file:
            lines = [line.strip() for line in islice(file, HEADER_WITHIN)]
        names = [{value.strip(' "') for value in line.split(SEPARATORS[suffix])} for line in lines]
        comments = sum(1 for _ in takewhile(lambda line: line.startswith("#"), lines))
        header = next((number for number, found in enumerate(names) if found >= set(wanted)), None)
        if (comments and header == comments) or (comments > 1 and header is None):
            above = "line 1 is a comment" if comments == 1 else f"lines 1 to {comments} are comments"
            return f"{above} (#, as in cBioPortal's clinical data); remove the lines above the header"
        if header:
            return f"the header is in line {header + 1}; remove the lines above it"
        other = next((char for char in ";\t,| " if len(self.columns) == 1 and char in self.columns[0]), None)
        if other:
            return (
                f"it seems to be separated by {_name(other)}, but {suffix} files must be separated by "
                f"{_name(SEPARATORS[suffix])}; save it again in that format, with decimal points"
            )
        return None


def read_text_table(path: Path, missing: Collection[str] = MISSING_WORDS) -> TextTable:
    """Read a table by its suffix: .csv (commas), .tsv and .txt (tabs), .parquet.

    Text files are UTF-8, with or without a byte order mark, with any line endings. Surrounding spaces and blank rows
    are ignored. Cells that contain one of the words ``missing``, in any case, are empty. Raises `CohortError` if the
    file does not exist or has another format, if it has no header or a duplicate column, or if a quotation mark is
    not closed.
    """
    if not path.is_file():
        raise CohortError([f"{path}: file not found; correct the path"])
    suffix = path.suffix.lower()
    parse = partial(_parse_row, missing=missing)
    try:
        _require_format(path, suffix)
        table = (
            _read_parquet(path, parse)
            if suffix == ".parquet"
            else _read_delimited(path, SEPARATORS[suffix], parse)
        )
    except OSError as error:
        raise CohortError(
            [f"{path}: cannot be read ({error.strerror}); check the path and its permissions"]
        ) from None
    if twice := [name for name, count in Counter(table.columns).items() if name and count > 1]:
        raise CohortError(
            [f"{path}: column {', '.join(map(repr, twice))} appears twice in the header; rename one"]
        )
    return table


def _require_format(path: Path, suffix: str) -> None:
    """Raise `CohortError` if the suffix or the first bytes of the file are not those of a table."""
    if suffix not in SUFFIXES:
        allowed = f"is not a supported table; allowed: {', '.join(SUFFIXES)}; save it as one of these"
        raise CohortError([f"{path}: {_OTHER_SUFFIXES.get(suffix, allowed)}"])
    if suffix == ".parquet":
        return
    with path.open("rb") as file:
        head = file.read(64)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, problem in _OTHER_FORMATS.items():
        if head.startswith(magic) or text.startswith(magic):
            raise CohortError([f"{path}: {problem}"])
    if b"\0" in head:
        raise CohortError(
            [f"{path}: contains NUL bytes, perhaps UTF-16 text; save it again with the encoding UTF-8"]
        )


def _read_delimited(path: Path, separator: str, parse: Parse) -> TextTable:
    rows = []
    columns: tuple[str, ...] = ()
    try:
        for number, values in _records(path, separator):
            extra = values[len(columns) :]
            if not columns:
                columns = tuple(value.strip() for value in values)
            elif len(values) < len(columns) or any(value.strip() for value in extra):
                flaw = f"has {len(values)} values, but the header has {len(columns)} columns"
                rows.append(Row(number, {}, flaw=flaw))
            else:
                rows.append(parse(number, dict(zip(columns, values, strict=False))))
    except UnicodeDecodeError as error:
        raise CohortError(
            [f"{path}: not UTF-8 text (byte {error.start}); save it again with the encoding UTF-8"]
        ) from None
    if not columns:
        raise CohortError([f"{path}: the file is empty; its first line must name the columns"])
    return TextTable(path, columns, tuple(rows))


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each row that is not blank."""
    space_after_quote = re.compile(rf'(?<=[^"{separator}])" +(?=[{separator}\r\n]|$)')
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = (space_after_quote.sub('"', line) for line in file)
        reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
        number = 1
        try:
            for values in reader:
                if any(value.strip() for value in values):
                    yield number, values
                number = reader.line_num + 1
        except csv.Error as error:
            raise CohortError(
                [f"{path}: row {number}: {error}; look for a quotation mark that is not closed"]
            ) from None


def _read_parquet(path: Path, parse: Parse) -> TextTable:
    try:
        metadata = pyarrow.parquet.read_metadata(path)
        if metadata.num_rows * metadata.num_columns > MAX_CELLS:
            raise ValueError(f"it declares {metadata.num_rows} rows of {metadata.num_columns} columns")
        frame = pd.read_parquet(path)
    except Exception as error:  # the metadata is pandas' own JSON, which may contain anything
        reason = first_line(error)
        raise CohortError([f"{path}: not a readable Parquet file ({reason}); write it again"]) from None
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    text = frame.astype(object).where(frame.notna(), "")
    columns = tuple(str(name).strip() for name in frame.columns)
    rows = [
        parse(number, dict(zip(columns, map(str, values), strict=True)))
        for number, values in enumerate(text.itertuples(index=False, name=None), start=2)
    ]
    return TextTable(path, columns, tuple(row for row in rows if any(row.cells.values())))


def _parse_row(number: int, values: Mapping[str, str], missing: Collection[str]) -> Row:
    cells = {column: value.strip() for column, value in values.items()}
    words = {column: value for column, value in cells.items() if value and plain(value) in missing}
    return Row(number, cells | dict.fromkeys(words, ""), words)


def _name(separator: str) -> str:
    return "tabs" if separator == "\t" else f"'{separator}'"
