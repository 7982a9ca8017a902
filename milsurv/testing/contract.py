"""What all checks use: the plugin under test, comparisons of tensors, and the checks that every kind has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from milsurv.plugin.base import PluginConfig
from milsurv.plugin.registry import get_registry


class ContractError(AssertionError):
    """A plugin does not fulfil its contract; the message says what was found and what was expected."""


@dataclass(frozen=True)
class Subject:
    """A plugin class and the configuration to check it with."""

    plugin_class: type[Any]
    config: PluginConfig

    @property
    def summaries(self) -> list[str]:
        """The summaries under which this class is registered."""
        target = f"{self.plugin_class.__module__}:{self.plugin_class.__qualname__}"
        return [info.summary for info in get_registry().plugins if info.target == target]


def expect(condition: bool, found: str, expected: str) -> None:
    """Raise ContractError unless ``condition`` holds."""
    if not condition:
        raise ContractError(f"found {found}; expected {expected}")


def equal(found: Tensor, expected: Tensor, what: str, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise ContractError unless two tensors are equal."""
    same = torch.allclose(found.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True)
    expect(same, f"{shown(found)} {what}", shown(expected))


def finite(values: Tensor, what: str) -> None:
    """Raise ContractError if a tensor has NaN or infinity."""
    expect(bool(torch.isfinite(values).all()), f"{shown(values)} for {what}", "finite numbers")


def same_state(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise ContractError unless two state dicts have the same names and values."""
    changed = sorted(found.keys() ^ expected.keys())
    changed += [
        name for name in found.keys() & expected.keys() if not torch.equal(found[name], expected[name])
    ]
    expect(not changed, f"other values of {', '.join(changed)} {what}", "an unchanged state")


def shown(tensor: Tensor) -> str:
    """A tensor in a message: its numbers if there are few, otherwise its shape and range."""
    if tensor.numel() <= 6:
        return str([float(f"{value:.6g}") for value in tensor.detach().double().flatten().tolist()])
    return f"{tuple(tensor.shape)} from {tensor.min().item():.4g} to {tensor.max().item():.4g}"


def documented(subject: Subject) -> None:
    """The class has a docstring whose first line is a complete sentence, and a summary of one line."""
    lines = (subject.plugin_class.__doc__ or "").strip().splitlines()
    complete = bool(lines) and (len(lines) == 1 or not lines[1].strip())
    found = f"the docstring {lines[:2]}" if lines else "no docstring"
    expect(complete, found, "a docstring of one line, or of one line, a blank line, and more")
    for summary in subject.summaries:
        expect(bool(summary.strip()) and "\n" not in summary, f"the summary {summary!r}", "one line")


def config_round_trip(subject: Subject) -> None:
    """Config derives from PluginConfig, has a default for every key, and survives a round trip through YAML."""
    config_class = subject.plugin_class.Config
    expect(
        issubclass(config_class, PluginConfig), f"Config {config_class}", "a subclass of milsurv.PluginConfig"
    )
    required = [name for name, field in config_class.model_fields.items() if field.is_required()]
    expect(not required, f"no default for {', '.join(required)}", "one for each key of Config")
    again = config_class(**yaml.safe_load(yaml.safe_dump(subject.config.model_dump(mode="json"))))
    expect(again == subject.config, f"{again!r} after a round trip through YAML", f"{subject.config!r}")
