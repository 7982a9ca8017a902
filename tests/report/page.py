"""A page as its reader gets it, parsed by the standard library."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "link", "br", "hr", "input"}
Attributes = dict[str, str]


class Page(HTMLParser):
    """Elements, ids, headings and text; raises AssertionError when tags do not nest."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.headings: list[tuple[int, str]] = []
        self.titles: list[str] = []
        self.table_cells: list[tuple[str, Attributes]] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        """What is to be read, spaces folded."""
        return " ".join("".join(self._text).split())

    def all(self, tag: str) -> list[Attributes]:
        return [attributes for name, attributes in self.elements if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        if tag == "td":
            self.table_cells.append(("", self.elements[-1][1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open or "script" in self._open:
            return
        if "title" in self._open:
            self.titles.append(data)
            return
        self._text.append(data)
        if self._open and self._open[-1] in ("h1", "h2", "h3", "h4"):
            level, heading = self.headings[-1]
            self.headings[-1] = level, heading + data
        if "td" in self._open:
            cell, attributes = self.table_cells[-1]
            self.table_cells[-1] = cell + data, attributes
