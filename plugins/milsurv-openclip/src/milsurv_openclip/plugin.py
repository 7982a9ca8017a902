"""The registration of the backbones."""

from __future__ import annotations

from milsurv import Register, hookimpl

milsurv_api = 1


@hookimpl
def milsurv_register_backbones(register: Register) -> None:
    register(
        "conch",
        "milsurv_openclip.backbones:Conch",
        summary="CONCH, ViT-B/16 (Lu et al. 2024), 512-d; gated, non-commercial research only",
    )
    register(
        "quiltnet",
        "milsurv_openclip.backbones:QuiltNet",
        summary="QuiltNet-B-32, ViT-B/32 (Ikezogwo et al. 2023), 768-d before the projection",
    )
