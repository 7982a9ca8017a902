"""Metrics, for tests: a plain function, one at each evaluation time, and one that fails."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from milsurv import MetricSpec, NotComputableError, Register, Stratum, bootstrapped, hookimpl
from milsurv.evaluation.pairs import c_index

Array = npt.NDArray[np.float64]


@hookimpl
def milsurv_register_metrics(register: Register) -> None:
    for name in ("somers_d", "died", "failing"):
        register(name, f"{__name__}:{name.upper()}", summary=f"{name}, made for a test")


def somers_d(time: Array, event: npt.NDArray[np.bool_], risk: Array) -> float:
    """Concordant minus discordant pairs, over comparable pairs."""
    return 2 * c_index(time, event, risk) - 1


def died(strata: Sequence[Stratum], t: float) -> Array:
    """Share of cases with an event by ``t``, without regard to censoring."""
    if not any((s.time <= t).any() for s in strata):
        raise NotComputableError(f"nobody left by {t:g}")
    deaths = sum(s.counts @ (s.event & (s.time <= t)) for s in strata)
    return np.asarray(deaths / sum(s.counts.sum(axis=1) for s in strata))


def failing(_: Sequence[Stratum]) -> Array:
    """Raises."""
    raise KeyError("survival")


SOMERS_D = MetricSpec(
    name="somers_d",
    title="Somers' D <of the test>",
    direction="higher",
    chance=0.0,
    shown=("key_table", "screen", "compare"),
    label="Somers' D",
    methods="Somers' D",
    citations=("Somers RH. A new asymmetric measure of association. 1962.",),
    function=bootstrapped(somers_d),
)
DIED = MetricSpec(name="died", title="Died", direction="lower", over="times", shown=("curve",), function=died)
FAILING = MetricSpec(name="failing", title="Failing", function=failing)
