"""Checks of the plugin contract, for those who write plugins.

Every promise of the contract is a small function; a plugin keeps it or is told what was found and what was expected.

    from milsurv.testing import parametrize_with_checks, plugins_of

    @parametrize_with_checks(plugins_of("milsurv-mymil"))
    def test_contract(check):
        check()

Without pytest: ``check_aggregator(MyMIL)``, ``check_loss``, ``check_backbone``.
"""

from __future__ import annotations

from milsurv.testing.bags import make_bag
from milsurv.testing.checks import (
    Check,
    check_aggregator,
    check_backbone,
    check_loss,
    checks_of,
    parametrize_with_checks,
    plugins_of,
    promises_of,
)
from milsurv.testing.promise import BrokenPromise

__all__ = [
    "BrokenPromise",
    "Check",
    "check_aggregator",
    "check_backbone",
    "check_loss",
    "checks_of",
    "make_bag",
    "parametrize_with_checks",
    "plugins_of",
    "promises_of",
]
