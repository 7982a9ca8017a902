"""Read a CSV, TSV or Parquet table as text, so that ids such as ``007`` stay what they are."""

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

from milsurv.cohort.file_formats import require_format
from milsurv.config.cohort import plain
from milsurv.errors import CohortError, first_line

Clean = Callable[[int, Mapping[str, str]], "Row"]
"""Makes a row of its number and its values."""
SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SUFFIXES = (*SEPARATORS, ".parquet")
MOST_CELLS = 100_000_000
"""Of a Parquet table: a few bytes of it can stand for any number of rows."""
USUAL_MISSING = frozenset(
    {
        *("na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "null", "none", "missing", "unknown", "unk"),
        *(".", "-", "--", "---", "'-", "'--", "?", "??"),
        *("[not available]", "[not applicable]", "[not evaluated]", "[unknown]", "[discrepancy]"),
        *("[completed]", "[pending]", "[not submitted]"),
        *("not available", "not applicable", "not evaluated", "not reported", "not known", "not recorded"),
        *("#name?", "#ref!", "#value!", "#div/0!", "#null!", "#num!"),
    }
)
"""Words that stand for a missing value, in small letters; they are read as empty."""


HEADER_WITHIN = 100
"""Lines in which a header is looked for that is not in the first."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    number: int
    """Line in the file on which the row starts; the header is line 1, for Parquet as if there were one."""
    cells: Mapping[str, str]
    """Column -> value without surrounding spaces, empty when missing."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Column -> the word that says that its value is missing, where there is one."""
    flaw: str | None = None
    """Why the row cannot be read; it then has no cells."""


@dataclass(frozen=True)
class TextTable:
    """A table in which every value is text. Rows without any value are not in it."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def column_list(self) -> str:
        """The columns for a message."""
        return ", ".join(filter(None, self.columns))

    @property
    def _other_separator(self) -> str | None:
        """What the table is probably separated by, when it is not what its suffix says."""
        return next((sign for sign in ";\t,| " if len(self.columns) == 1 and sign in self.columns[0]), None)

    def remedy(self, wanted: Iterable[str]) -> str | None:
        """What to do with a file whose first line does not name the columns ``wanted``; None when it is a header."""
        if self.path.suffix.lower() not in SEPARATORS:
            return None
        with self.path.open(encoding="utf-8-sig") as file:
            lines = [line.strip() for line in islice(file, HEADER_WITHIN)]
        separator = SEPARATORS[self.path.suffix.lower()]
        names = [{value.strip(' "') for value in line.split(separator)} for line in lines]
        comments = sum(1 for _ in takewhile(lambda line: line.startswith("#"), lines))
        header = next((number for number, found in enumerate(names) if found >= set(wanted)), None)
        if (comments and header == comments) or (comments > 1 and header is None):
            above = "line 1 is a comment" if comments == 1 else f"lines 1 to {comments} are comments"
            return f"{above} (#, as in cBioPortal's clinical data); remove what stands above the header"
        if header:
            return f"the header is in line {header + 1}; remove the lines above, so that it comes first"
        if found := self._other_separator:
            return (
                f"it looks separated by {_name(found)}, and a {self.path.suffix} file is read as separated by "
                f"{_name(separator)}; save it again in that way, with points before the decimals"
            )
        return None


def read_text_table(path: Path, missing: Collection[str] = USUAL_MISSING) -> TextTable:
    """Read ``path`` by its suffix: .csv (commas), .tsv and .txt (tabs), .parquet.

    Text files are UTF-8, with or without a byte order mark, with any line ends. Surrounding spaces and
    blank rows are ignored; a cell that holds one of the words ``missing``, in whatever letters, is empty. Raises
    `CohortError` when there is no such file, no such format, no header, a column twice, or an unclosed quotation mark.
    """
    if not path.is_file():
        raise CohortError([f"{path}: there is no such file; correct the path"])
    suffix = path.suffix.lower()
    require_format(path, suffix, SUFFIXES)
    clean = partial(_clean, missing=missing)
    try:
        table = (
            _read_parquet(path, clean)
            if suffix == ".parquet"
            else _read_delimited(path, SEPARATORS[suffix], clean)
        )
    except OSError as error:
        raise CohortError(
            [f"{path}: cannot be read ({error.strerror}); correct the path or its rights"]
        ) from None
    twice = [name for name, count in Counter(table.columns).items() if name and count > 1]
    if twice:
        raise CohortError(
            [f"{path}: column {', '.join(map(repr, twice))} stands twice in the header; rename one"]
        )
    return table


def _read_delimited(path: Path, separator: str, clean: Clean) -> TextTable:
    rows = []
    columns: tuple[str, ...] = ()
    try:
        for number, values in _records(path, separator):
            if columns:
                rows.append(_row(number, columns, values, clean))
            else:
                columns = tuple(value.strip() for value in values)
    except UnicodeDecodeError as error:
        raise CohortError(
            [f"{path}: not UTF-8 text (byte {error.start}); save it again with the encoding UTF-8"]
        ) from None
    if not columns:
        raise CohortError([f"{path}: the file is empty; its first line must name the columns"])
    return TextTable(path, columns, tuple(rows))


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each row that has any.

    Strict, because a quotation mark that is not closed can swallow the rows that follow.
    """
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


def _row(number: int, columns: tuple[str, ...], values: list[str], clean: Clean) -> Row:
    if len(values) < len(columns) or any(value.strip() for value in values[len(columns) :]):
        return Row(number, {}, flaw=f"has {len(values)} values where the header names {len(columns)} columns")
    return clean(number, dict(zip(columns, values, strict=False)))


def _read_parquet(path: Path, clean: Clean) -> TextTable:
    try:
        told = pyarrow.parquet.read_metadata(path)
        if told.num_rows * told.num_columns > MOST_CELLS:
            raise ValueError(f"it says that it has {told.num_rows} rows of {told.num_columns} columns")
        frame = pd.read_parquet(path)
    except Exception as error:  # its metadata is pandas' own JSON, in which anything may stand
        reason = first_line(error)
        raise CohortError([f"{path}: not a readable Parquet file ({reason}); write it again"]) from None
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    text = frame.astype(object).where(frame.notna(), "")
    columns = tuple(str(name).strip() for name in frame.columns)
    rows = []
    for number, values in enumerate(text.itertuples(index=False, name=None), start=2):
        row = clean(number, dict(zip(columns, map(str, values), strict=True)))
        if any(row.cells.values()):
            rows.append(row)
    return TextTable(path, columns, tuple(rows))


def _clean(number: int, values: Mapping[str, str], missing: Collection[str]) -> Row:
    cells = {column: value.strip() for column, value in values.items()}
    words = {column: value for column, value in cells.items() if value and plain(value) in missing}
    return Row(number, cells | dict.fromkeys(words, ""), words)


def _name(separator: str) -> str:
    return "tabs" if separator == "\t" else f"'{separator}'"
