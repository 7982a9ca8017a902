"""What MLflow is told of a configuration and of a run's metrics: flat names with one value each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_NAME = 250
LONGEST_VALUE = 6000
"""Characters that MLflow keeps of a parameter's name and value."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
"""A setting's name that MLflow takes; no dots, which join names here."""


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The configuration with joined names, such as ``training.learning_rate``.

    Text stands as it is, everything else as JSON. Keys and values that are too odd or too long for MLflow are not
    lost to a reader of ``config.yaml``: a section with a key that MLflow would refuse is one parameter in JSON, and
    a value over :data:`LONGEST_VALUE` characters is cut and ends with ``…``.
    """
    return dict(_flat(config, ""))


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and all(_can_join(name, inner) for inner in value):
            yield from _flat(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _can_join(name: str, inner: Any) -> bool:
    return (
        isinstance(inner, str)
        and NAME.fullmatch(inner) is not None
        and len(f"{name}.{inner}") <= LONGEST_NAME
    )


def results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a run's pooled metrics and their summary over folds, as ``metrics.json`` holds them.

    ``seed_<s>/pooled/<metric>`` with ``_lower`` and ``_upper``, the ends of its interval, for each seed, and
    ``summary/<metric>_mean`` and ``_standard_deviation``. What is null there is not here.
    """
    found: dict[str, float | None] = {}
    for pooled in metrics["pooled"]:
        for name, metric in pooled["metrics"].items():
            place = f"seed_{pooled['seed']}/pooled/{name}"
            found[place] = metric["value"]
            found[f"{place}_lower"], found[f"{place}_upper"] = metric["interval"] or (None, None)
    for name, summary in metrics["summary"].items():
        for what in ("mean", "standard_deviation"):
            found[f"summary/{name}_{what}"] = summary[what]
    return {name: value for name, value in found.items() if value is not None}
