"""Read a CSV, TSV or Parquet table as text, so that ids such as ``007`` stay what they are."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from milsurv.errors import CohortError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SUFFIXES = (*SEPARATORS, ".parquet")
MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"})
"""Cells that are read as empty, whatever their case."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    number: int
    """Line in the file on which the row starts; the header is line 1, for Parquet as if there were one."""
    cells: Mapping[str, str]
    """Column -> value without surrounding spaces, empty when missing."""
    flaw: str | None = None
    """Why the row cannot be read; it then has no cells."""


@dataclass(frozen=True)
class TextTable:
    """A table in which every value is text. Rows without any value are not in it."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def column_list(self) -> str:
        """The columns for a message, and whether the table was probably cut at the wrong sign."""
        names = ", ".join(filter(None, self.columns))
        found = next((sign for sign in ";\t,|" if len(self.columns) == 1 and sign in names), None)
        if found is None:
            return names
        return (
            f"{names!r} (it looks separated by {_name(found)}, but a {self.path.suffix} file is read "
            f"as separated by {_name(SEPARATORS[self.path.suffix.lower()])})"
        )


def read_text_table(path: Path) -> TextTable:
    """Read ``path`` by its suffix: .csv (commas), .tsv and .txt (tabs), .parquet.

    Text files are UTF-8, with or without a byte order mark, with any line ends. Surrounding spaces and
    blank rows are ignored. Raises `CohortError` when there is no such file, no such format, no header, a
    column twice, or an unclosed quotation mark.
    """
    if not path.is_file():
        raise CohortError([f"{path}: there is no such file; correct the path"])
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CohortError(
            [f"{path}: not a table that can be read; allowed: {', '.join(SUFFIXES)}; save it as one of these"]
        )
    table = _read_parquet(path) if suffix == ".parquet" else _read_delimited(path, SEPARATORS[suffix])
    twice = [name for name, count in Counter(table.columns).items() if name and count > 1]
    if twice:
        raise CohortError(
            [f"{path}: column {', '.join(map(repr, twice))} stands twice in the header; rename one"]
        )
    return table


def _read_delimited(path: Path, separator: str) -> TextTable:
    rows = []
    columns: tuple[str, ...] = ()
    try:
        for number, values in _records(path, separator):
            if columns:
                rows.append(_row(number, columns, values))
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


def _row(number: int, columns: tuple[str, ...], values: list[str]) -> Row:
    if len(values) < len(columns) or any(value.strip() for value in values[len(columns) :]):
        return Row(number, {}, f"has {len(values)} values where the header names {len(columns)} columns")
    return Row(number, {name: _clean(value) for name, value in zip(columns, values, strict=False)})


def _read_parquet(path: Path) -> TextTable:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CohortError([f"{path}: not a readable Parquet file ({reason}); write it again"]) from None
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    text = frame.astype(object).where(frame.notna(), "")
    columns = tuple(str(name).strip() for name in frame.columns)
    rows = []
    for number, values in enumerate(text.itertuples(index=False, name=None), start=2):
        cells = {name: _clean(str(value)) for name, value in zip(columns, values, strict=True)}
        if any(cells.values()):
            rows.append(Row(number, cells))
    return TextTable(path, columns, tuple(rows))


def _clean(value: str) -> str:
    value = value.strip()
    return "" if value.casefold() in MISSING else value


def _name(separator: str) -> str:
    return "tabs" if separator == "\t" else f"'{separator}'"
