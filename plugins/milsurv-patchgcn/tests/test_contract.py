"""Patch-GCN keeps milsurv's contract of an aggregator, with its defaults and with one layer."""

from __future__ import annotations

from collections.abc import Callable

from milsurv.testing import parametrize_with_checks, plugins_of
from milsurv_patchgcn.aggregator import PatchGCN, PatchGCNConfig


@parametrize_with_checks([*plugins_of("milsurv-patchgcn"), (PatchGCN, PatchGCNConfig(num_layers=1))])
def test_contract(check: Callable[[], None]) -> None:
    check()
