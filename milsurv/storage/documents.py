"""Reading untrusted YAML and JSON, limited in size and depth, with errors of one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from milsurv.errors import MilsurvError, first_line, size

MAX_BYTES = 1_000_000
"""Size of a YAML file."""
MAX_NODES = 100_000
"""Keys and values of a YAML file with its aliases expanded."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads numbers such as 1e-4 as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


class YAMLError(MilsurvError):
    """Invalid or unsupported YAML, in ``line`` if known."""

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file. Raises YAMLError if it is too large or not UTF-8."""
    if path.stat().st_size > MAX_BYTES:
        raise YAMLError(f"has {size(path.stat().st_size)}; a YAML file may have {size(MAX_BYTES)}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise YAMLError("is not UTF-8 text; save it as UTF-8") from None


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a YAML document with scalar keys; None if it is empty.

    Raises YAMLError if it is invalid, nested too deeply, recursive, or too large when its aliases are expanded.
    """
    with _yaml_errors():
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _require_plain(root)
        return root


def construct_yaml(root: yaml.Node | None) -> Any:
    """The data of composed nodes, which can be constructed once. Raises YAMLError for a value that cannot be read."""
    with _yaml_errors():
        return None if root is None else _Loader("").construct_document(root)


@contextmanager
def _yaml_errors() -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or first_line(error)
        raise YAMLError(f"not valid YAML: {problem}", mark and mark.line + 1) from None
    except RecursionError:
        raise YAMLError("not valid YAML: it is nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # raised by PyYAML for a date such as 2024-99-99 or a number of 5,000 digits
        raise YAMLError(
            f"not valid YAML: it contains a value that cannot be read ({first_line(error)})"
        ) from None


def _require_plain(root: yaml.Node) -> None:
    """Raise YAMLError for keys that are not scalars, and for recursive aliases or too many nodes."""
    counts: dict[int, int] = {}
    in_progress: set[int] = set()

    def count(node: yaml.Node) -> int:
        if id(node) in in_progress:
            raise YAMLError("not valid YAML: an alias refers to a node that contains it", _line(node))
        if id(node) not in counts:
            in_progress.add(id(node))
            counts[id(node)] = 1 + sum(count(child) for child in _children(node))
            in_progress.remove(id(node))
        return counts[id(node)]

    if (nodes := count(root)) > MAX_NODES:
        raise YAMLError(
            f"has {nodes:.6g} keys and values with its aliases expanded; at most {MAX_NODES:,} are allowed"
        )


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


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys such as ``section.key``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def parse_json(text: str, where: object) -> Any:
    """The data of JSON text. Raises MilsurvError naming ``where`` if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MilsurvError(f"{where} is damaged: it is not valid JSON ({first_line(error)})") from None
