"""What this package registers with milsurv."""

from __future__ import annotations

from milsurv import Register, hookimpl

milsurv_api = 1


@hookimpl
def milsurv_register_aggregators(register: Register) -> None:
    register(
        "patchgcn",
        "milsurv_patchgcn.aggregator:PatchGCN",
        summary="graph convolutions over neighbouring patches, then attention pooling (Chen et al. 2021)",
    )
