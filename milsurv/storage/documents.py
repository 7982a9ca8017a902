"""Reading YAML and JSON that anybody may have written: bounded in size and depth, with one line for what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from milsurv.errors import MilsurvError, first_line, size

MOST_BYTES = 1_000_000
"""Of a YAML file."""
MOST_NODES = 100_000
"""Keys and values of a YAML file, each alias counted as all that it stands for."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads numbers such as 1e-4 as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


class YAMLError(MilsurvError):
    """Text is not YAML that is read here; ``line`` says where, if that is known."""

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file. Raises YAMLError when it is too large or not UTF-8."""
    if path.stat().st_size > MOST_BYTES:
        raise YAMLError(f"has {size(path.stat().st_size)}; a YAML file may have {size(MOST_BYTES)}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise YAMLError("is not text in UTF-8; save it as UTF-8") from None


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a YAML document, whose keys are all plain text; None when it is empty.

    Raises YAMLError for what is not valid, nests too deep, refers to itself, or stands for too much.
    """
    with _faults_named():
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _require_plain(root)
        return root


def construct_yaml(root: yaml.Node | None) -> Any:
    """The data of composed nodes, which are used up. Raises YAMLError for a value that cannot be read."""
    with _faults_named():
        return None if root is None else _Loader("").construct_document(root)


@contextmanager
def _faults_named() -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or first_line(error)
        raise YAMLError(f"not valid YAML: {problem}", mark and mark.line + 1) from None
    except RecursionError:
        raise YAMLError("not valid YAML: it nests too deep") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # what PyYAML's constructors raise for a date such as 2024-99-99, or a number of 5,000 digits
        raise YAMLError(
            f"not valid YAML: it holds a value that cannot be read ({first_line(error)})"
        ) from None


def _require_plain(root: yaml.Node) -> None:
    """Raise YAMLError for keys that are no text, and for aliases that stand for too much or for themselves."""
    counts: dict[int, int] = {}
    under_way: set[int] = set()

    def count(node: yaml.Node) -> int:
        if id(node) in under_way:
            raise YAMLError("not valid YAML here: an alias stands for what it is in", _line(node))
        if id(node) not in counts:
            under_way.add(id(node))
            counts[id(node)] = 1 + sum(count(child) for child in _children(node))
            under_way.remove(id(node))
        return counts[id(node)]

    if (nodes := count(root)) > MOST_NODES:
        raise YAMLError(f"stands for {nodes:.6g} keys and values; {MOST_NODES:,} are allowed")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YAMLError("a key must be text or a number, not a list or mapping", _line(key))
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def parse_json(text: str, where: object) -> Any:
    """JSON's data. Raises MilsurvError naming ``where`` when it is damaged or nests too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MilsurvError(
            f"{where} is damaged: it is not JSON that can be read ({first_line(error)})"
        ) from None
