"""Checks of the plugin contract, for authors of plugins.

    from milsurv.testing import parametrize_with_checks, plugins_of

    @parametrize_with_checks(plugins_of("milsurv-mymil"))
    def test_contract(check):
        check()

Without pytest: ``check_aggregator(MyMIL)``, ``check_loss``, ``check_backbone``. A failed check says what was found and
what was expected.
"""

from __future__ import annotations

from milsurv.testing.bags import make_bag
from milsurv.testing.checks import (
    Check,
    check_aggregator,
    check_backbone,
    check_loss,
    checks_of,
    describe_checks,
    parametrize_with_checks,
    plugins_of,
)
from milsurv.testing.contract import ContractError

__all__ = [
    "Check",
    "ContractError",
    "check_aggregator",
    "check_backbone",
    "check_loss",
    "checks_of",
    "describe_checks",
    "make_bag",
    "parametrize_with_checks",
    "plugins_of",
]
