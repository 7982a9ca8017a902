"""The works that a run is based on, from ``citations.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_DATA: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "citations.yaml").read_text(encoding="utf-8"))
WORKS: dict[str, str] = _DATA["works"]
"""Key -> reference."""
OF_PLUGIN: dict[str, dict[str, list[str]]] = _DATA["plugins"]
"""Kind -> name of a built-in plugin -> keys of the works to cite for it."""
SOFTWARE: dict[str, list[str]] = _DATA["software"]
"""Package -> its name in the text, and the key of the work to cite for it."""


class Citations:
    """Numbers works in the order in which a text first cites them."""

    def __init__(self) -> None:
        self._keys: list[str] = []

    def __call__(self, *keys: str) -> str:
        """`` [1, 2]``, with a leading space; empty without keys. A key that is not in `WORKS` is a reference itself."""
        self._keys += [key for key in dict.fromkeys(keys) if key not in self._keys]
        numbers = sorted(self._keys.index(key) + 1 for key in set(keys))
        return f" [{', '.join(map(str, numbers))}]" if numbers else ""

    def of_plugin(self, kind: str, name: str) -> str:
        """The same for a plugin; empty when it is not a built-in one."""
        return self(*OF_PLUGIN.get(kind, {}).get(name, ()))

    @property
    def works(self) -> list[str]:
        """The cited references, in the order of their numbers."""
        return [WORKS.get(key, key) for key in self._keys]
