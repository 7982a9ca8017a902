"""Which promises a plugin has to keep, and running them: one after the other, or as tests of pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from milsurv.aggregators.base import Aggregator
from milsurv.backbones.base import Backbone
from milsurv.errors import MilsurvError, PluginError, WeightsError
from milsurv.losses.base import Loss
from milsurv.plugin.base import PluginConfig
from milsurv.plugin.registry import get_registry
from milsurv.testing import aggregator_promises, backbone_promises, loss_promises
from milsurv.testing.aggregator_promises import AggregatorSubject
from milsurv.testing.backbone_promises import BackboneSubject
from milsurv.testing.loss_promises import LossSubject
from milsurv.testing.promise import BrokenPromise, Subject


@dataclass(frozen=True)
class _Kind:
    name: str
    contract: type[Any]
    subject: type[Subject]
    promises: tuple[Callable[[Any], None], ...]


_KINDS = (
    _Kind("aggregator", Aggregator, AggregatorSubject, aggregator_promises.PROMISES),
    _Kind("loss", Loss, LossSubject, loss_promises.PROMISES),
    _Kind("backbone", Backbone, BackboneSubject, backbone_promises.PROMISES),
)

Plugin = type[Any] | tuple[type[Any], PluginConfig]
"""A plugin's class, checked with its Config's defaults, or the class with another Config."""


@dataclass(frozen=True)
class Check:
    """One promise of one plugin; calling it raises BrokenPromise when the promise is not kept."""

    plugin: str
    promise: str
    exemption: str | None
    """Why the plugin need not keep the promise; None when it has to."""
    subject: Subject
    function: Callable[[Any], None]

    def __call__(self) -> None:
        try:
            self.function(self.subject)
        except BrokenPromise as broken:
            raise BrokenPromise(f"{self.plugin} breaks the promise '{self.promise}': {broken}") from None
        except (AssertionError, WeightsError):
            raise
        except Exception as error:
            text = (
                f"{self.plugin} breaks the promise '{self.promise}' ({self.meaning}): it raised "
                f"{type(error).__name__}: {error}"
            )
            raise BrokenPromise(text) from error

    @property
    def meaning(self) -> str:
        """The promise in a sentence."""
        return (self.function.__doc__ or "").strip().removesuffix(".")


def promises_of(kind: str) -> dict[str, str]:
    """Promise -> what it means, for ``aggregator``, ``loss`` or ``backbone``."""
    (found,) = (k for k in _KINDS if k.name == kind)
    return {promise.__name__: (promise.__doc__ or "").strip() for promise in found.promises}


def checks_of(plugin: Plugin, expected_failures: Mapping[str, str] | None = None) -> list[Check]:
    """Every promise of a plugin.

    Args:
        plugin: a subclass of Aggregator, Loss or Backbone, or a pair of it and the Config to check it with.
        expected_failures: promise -> why this plugin need not keep it, added to the class's own
            ``expected_failures``.

    Raises MilsurvError when the class is of none of these kinds, or an exemption names no promise.
    """
    plugin_class, config = plugin if isinstance(plugin, tuple) else (plugin, None)
    kind = next(
        (k for k in _KINDS if isinstance(plugin_class, type) and issubclass(plugin_class, k.contract)), None
    )
    if kind is None:
        raise MilsurvError(f"{plugin_class} derives from none of milsurv.Aggregator, Loss and Backbone")
    exemptions = {**plugin_class.expected_failures, **(expected_failures or {})}
    known = [promise.__name__ for promise in kind.promises]
    unknown = sorted(exemptions.keys() - set(known))
    if unknown:
        raise MilsurvError(
            f"expected_failures of {plugin_class.__name__}: there is no promise {', '.join(unknown)}; "
            f"those of a {kind.name} are {', '.join(known)}"
        )
    subject = kind.subject(plugin_class, plugin_class.Config() if config is None else config)
    name = f"{kind.name} {plugin_class.__name__}{_settings(subject.config)}"
    return [Check(name, p.__name__, exemptions.get(p.__name__), subject, p) for p in kind.promises]


def _settings(config: PluginConfig) -> str:
    changed = config.model_dump(mode="json", exclude_defaults=True)
    return f"({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else ""


def check_aggregator(
    cls: type[Aggregator],
    config: PluginConfig | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Check every promise of an aggregator.

    Args:
        cls: the aggregator's class.
        config: settings to check it with; None: the defaults of its ``Config``.
        expected_failures: as for :func:`checks_of`.

    Returns promise -> ``kept``, or ``exempt:`` with the reason. Raises BrokenPromise with all that are not kept, and
    with exemptions that are no longer needed.
    """
    return _check_all(cls, config, expected_failures)


def check_loss(
    cls: type[Loss], config: PluginConfig | None = None, *, expected_failures: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Check every promise of a loss; as :func:`check_aggregator`."""
    return _check_all(cls, config, expected_failures)


def check_backbone(
    cls: type[Backbone],
    config: PluginConfig | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Check every promise of a backbone; as :func:`check_aggregator`. Raises WeightsError without its weights."""
    return _check_all(cls, config, expected_failures)


def _check_all(
    cls: type[Any], config: PluginConfig | None, expected_failures: Mapping[str, str] | None
) -> dict[str, str]:
    outcomes, broken = {}, []
    for check in checks_of(cls if config is None else (cls, config), expected_failures):
        try:
            check()
        except BrokenPromise as problem:
            if check.exemption is None:
                broken.append(str(problem))
            outcomes[check.promise] = f"exempt: {check.exemption}"
        else:
            outcomes[check.promise] = "kept"
            if check.exemption is not None:
                broken.append(
                    f"{check.plugin} keeps the promise '{check.promise}': remove it from expected_failures"
                )
    if broken:
        raise BrokenPromise("\n".join(broken))
    return outcomes


def parametrize_with_checks(
    plugins: Iterable[Plugin], *, expected_failures: Mapping[str, str] | None = None
) -> Any:
    """A decorator for a test that takes ``check`` and calls it: one pytest id for each plugin and promise.

    Exempt promises are shown as ``xfail`` with their reason, and fail when they are kept after all. A backbone whose
    weights cannot be had here is skipped with that reason. Arguments as for :func:`checks_of`.
    """
    import pytest

    parameters = []
    for plugin in plugins:
        for check in checks_of(plugin, expected_failures):
            exempt = pytest.mark.xfail(reason=str(check.exemption), raises=BrokenPromise, strict=True)
            marks = () if check.exemption is None else (exempt,)
            identity = f"{check.plugin.partition(' ')[2]}-{check.promise}"
            parameters.append(pytest.param(_skipping(check), id=identity, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _skipping(check: Check) -> Callable[[], None]:
    def run() -> None:
        import pytest

        try:
            check()
        except WeightsError as error:
            pytest.skip(str(error))

    return run


def plugins_of(distribution: str) -> list[type[Any]]:
    """The aggregators, losses and backbones that an installed distribution registers.

    Raises PluginError when it is not installed, registers none, or is broken.
    """
    registry = get_registry()
    registered = [info for info in registry.plugins if info.distribution == distribution]
    broken = [f"{info.kind} '{info.name}': {info.reason}" for info in registered if info.status != "ok"]
    if broken:
        raise PluginError(f"{distribution} is broken: {'; '.join(broken)}")
    checked = {kind.name for kind in _KINDS}
    found = [registry.load(info.kind, info.name) for info in registered if info.kind in checked]
    if not found:
        raise PluginError(
            f"no installed distribution {distribution} registers an aggregator, loss or backbone; install it with "
            "pip install -e . and see milsurv list-plugins"
        )
    return found
