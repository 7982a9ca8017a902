"""The checks of a plugin, run one after the other or as tests of pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from milsurv.aggregators.base import Aggregator
from milsurv.backbones.base import Backbone
from milsurv.errors import MilsurvError, PluginError, WeightsError
from milsurv.losses.base import Loss
from milsurv.plugin.base import PluginConfig
from milsurv.plugin.registry import get_registry
from milsurv.testing import aggregator_checks, backbone_checks, loss_checks
from milsurv.testing.aggregator_checks import AggregatorSubject
from milsurv.testing.backbone_checks import BackboneSubject
from milsurv.testing.contract import ContractError, Subject
from milsurv.testing.loss_checks import LossSubject


@dataclass(frozen=True)
class _Kind:
    base: type[Any]
    subject: type[Subject]
    checks: tuple[Callable[[Any], None], ...]


_KINDS = {
    "aggregator": _Kind(Aggregator, AggregatorSubject, aggregator_checks.CHECKS),
    "loss": _Kind(Loss, LossSubject, loss_checks.CHECKS),
    "backbone": _Kind(Backbone, BackboneSubject, backbone_checks.CHECKS),
}

Plugin = type[Any] | tuple[type[Any], PluginConfig]
"""A plugin class, checked with the defaults of its Config, or a class and the Config to check it with."""


@dataclass(frozen=True)
class Check:
    """One check of one plugin; calling it raises ContractError if the check fails."""

    plugin: str
    name: str
    exemption: str | None
    """Why the plugin may fail the check; None if it must pass."""
    subject: Subject
    function: Callable[[Any], None]

    def __call__(self) -> None:
        try:
            self.function(self.subject)
        except ContractError as error:
            raise ContractError(f"{self.plugin} fails the check '{self.name}': {error}") from None
        except (AssertionError, WeightsError):
            raise
        except Exception as error:
            raise ContractError(
                f"{self.plugin} fails the check '{self.name}' ({_description(self.function).removesuffix('.')}): it "
                f"raised {type(error).__name__}: {error}"
            ) from error


def _description(function: Callable[[Any], None]) -> str:
    return (function.__doc__ or "").strip()


def describe_checks(kind: str) -> dict[str, str]:
    """Check name -> what is required, for ``aggregator``, ``loss`` or ``backbone``."""
    return {function.__name__: _description(function) for function in _KINDS[kind].checks}


def checks_of(plugin: Plugin, expected_failures: Mapping[str, str] | None = None) -> list[Check]:
    """Every check of a plugin.

    Args:
        plugin: a subclass of Aggregator, Loss or Backbone, or a pair of it and the Config to check it with.
        expected_failures: check name -> why this plugin may fail it, in addition to the class's own
            ``expected_failures``.

    Raises MilsurvError when the class is of none of these kinds, or ``expected_failures`` names an unknown check.
    """
    plugin_class, config = plugin if isinstance(plugin, tuple) else (plugin, None)
    is_class = isinstance(plugin_class, type)
    name = next((n for n, kind in _KINDS.items() if is_class and issubclass(plugin_class, kind.base)), None)
    if name is None:
        raise MilsurvError(f"{plugin_class} derives from none of milsurv.Aggregator, Loss and Backbone")
    kind = _KINDS[name]
    exemptions = {**plugin_class.expected_failures, **(expected_failures or {})}
    known = [function.__name__ for function in kind.checks]
    if unknown := sorted(exemptions.keys() - set(known)):
        raise MilsurvError(
            f"expected_failures of {plugin_class.__name__}: there is no check {', '.join(unknown)}; the checks of "
            f"{name} plugins are {', '.join(known)}"
        )
    subject = kind.subject(plugin_class, plugin_class.Config() if config is None else config)
    changed = subject.config.model_dump(mode="json", exclude_defaults=True)
    settings = f"({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else ""
    title = f"{name} {plugin_class.__name__}{settings}"
    return [Check(title, f.__name__, exemptions.get(f.__name__), subject, f) for f in kind.checks]


def check_plugin(
    cls: type[Any],
    config: PluginConfig | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Run every check of an aggregator, loss or backbone.

    Args:
        cls: the plugin class.
        config: settings to check it with; None for the defaults of its ``Config``.
        expected_failures: as in :func:`checks_of`.

    Returns check name -> ``passed``, or ``exempt:`` with the reason. Raises ContractError with all failed checks, and
    with exemptions that are no longer needed; WeightsError if the weights of a backbone are not available.
    """
    outcomes, failed = {}, []
    for check in checks_of(cls if config is None else (cls, config), expected_failures):
        try:
            check()
        except ContractError as error:
            if check.exemption is None:
                failed.append(str(error))
            outcomes[check.name] = f"exempt: {check.exemption}"
        else:
            outcomes[check.name] = "passed"
            if check.exemption is not None:
                failed.append(
                    f"{check.plugin} passes the check '{check.name}': remove it from expected_failures"
                )
    if failed:
        raise ContractError("\n".join(failed))
    return outcomes


check_aggregator = check_loss = check_backbone = check_plugin


def parametrize_with_checks(
    plugins: Iterable[Plugin], *, expected_failures: Mapping[str, str] | None = None
) -> Any:
    """A decorator for a test that takes ``check`` and calls it: one test for each plugin and check.

    Expected failures are shown as ``xfail`` with their reason, and fail if the check passes. A backbone whose weights
    are not available is skipped. Arguments as in :func:`checks_of`.
    """
    import pytest

    def run(check: Check) -> None:
        try:
            check()
        except WeightsError as error:
            pytest.skip(str(error))

    parameters = []
    for plugin in plugins:
        for check in checks_of(plugin, expected_failures):
            exempt = pytest.mark.xfail(reason=str(check.exemption), raises=ContractError, strict=True)
            marks = () if check.exemption is None else (exempt,)
            name = f"{check.plugin.partition(' ')[2]}-{check.name}"
            parameters.append(pytest.param(partial(run, check), id=name, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def plugins_of(distribution: str) -> list[type[Any]]:
    """The aggregators, losses and backbones that an installed distribution registers.

    Raises PluginError when it is not installed, registers none, or is broken.
    """
    registry = get_registry()
    registered = [info for info in registry.plugins if info.distribution == distribution]
    broken = [f"{info.kind} '{info.name}': {info.reason}" for info in registered if info.status != "ok"]
    if broken:
        raise PluginError(f"{distribution} is broken: {'; '.join(broken)}")
    found = [registry.load(info.kind, info.name) for info in registered if info.kind in _KINDS]
    if not found:
        raise PluginError(
            f"no installed distribution {distribution} registers an aggregator, loss or backbone; install it with "
            "pip install -e . and see milsurv list-plugins"
        )
    return found
