"""What a promise is, and those that plugins of all kinds make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from milsurv.plugin.base import PluginConfig
from milsurv.plugin.registry import get_registry


class BrokenPromise(AssertionError):  # noqa: N818 - it is no error of the test
    """A plugin does not do what its contract promises; the message says what was found and what was expected."""

    @classmethod
    def of(cls, found: str, expected: str) -> BrokenPromise:
        return cls(f"found {found}; expected {expected}")


@dataclass(frozen=True)
class Subject:
    """A plugin's class with the settings under which it is checked."""

    plugin_class: type[Any]
    config: PluginConfig

    @property
    def summaries(self) -> list[str]:
        """What the registrations of this class say of it in one line; none when it is not registered."""
        target = f"{self.plugin_class.__module__}:{self.plugin_class.__qualname__}"
        return [info.summary for info in get_registry().plugins if info.target == target]


def documented(subject: Subject) -> None:
    """The class has a docstring whose first line is a sentence of its own, and one line as its summary."""
    lines = (subject.plugin_class.__doc__ or "").strip().splitlines()
    if not lines or (len(lines) > 1 and lines[1].strip()):
        found = f"the docstring {lines[:2]}" if lines else "no docstring"
        raise BrokenPromise.of(found, "a docstring of one line, or of one line, a blank one, and more")
    for summary in subject.summaries:
        if not summary.strip() or "\n" in summary:
            raise BrokenPromise.of(f"the summary {summary!r}", "one line that says what the plugin is")


def config_round_trip(subject: Subject) -> None:
    """The Config derives from PluginConfig, has a default for every key, and comes back from YAML as it was."""
    config_class = subject.plugin_class.Config
    if not issubclass(config_class, PluginConfig):
        raise BrokenPromise.of(f"Config {config_class}", "a subclass of milsurv.PluginConfig")
    without_default = [name for name, field in config_class.model_fields.items() if field.is_required()]
    if without_default:
        raise BrokenPromise.of(f"no default for {', '.join(without_default)}", "one for each key of Config")
    text = yaml.safe_dump(subject.config.model_dump(mode="json"))
    again = config_class(**yaml.safe_load(text))
    if again != subject.config:
        raise BrokenPromise.of(f"{again!r} after a round trip through YAML", f"{subject.config!r}")


def equal(found: Tensor, expected: Tensor, what: str, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raises BrokenPromise where two tensors differ."""
    if not torch.allclose(found.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True):
        raise BrokenPromise.of(f"{shown(found)} {what}", shown(expected))


def finite(values: Tensor, what: str) -> None:
    """Raises BrokenPromise where a tensor has NaN or infinity."""
    if not bool(torch.isfinite(values).all()):
        raise BrokenPromise.of(f"{shown(values)} for {what}", "finite numbers")


def same_state(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises BrokenPromise where two state dicts differ in a name or a bit."""
    changed = sorted(found.keys() ^ expected.keys())
    changed += [
        name for name in found.keys() & expected.keys() if not torch.equal(found[name], expected[name])
    ]
    if changed:
        raise BrokenPromise.of(f"other values of {', '.join(changed)} {what}", "the state as it was")


def shown(tensor: Tensor) -> str:
    """A tensor in a message: its numbers when they are few, else its shape and range."""
    if tensor.numel() <= 6:
        return str([float(f"{value:.6g}") for value in tensor.detach().double().flatten().tolist()])
    return f"{tuple(tensor.shape)} from {tensor.min().item():.4g} to {tensor.max().item():.4g}"
