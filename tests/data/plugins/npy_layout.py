"""A layout of features with one .npy file per slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from milsurv import FeatureLayout, ImportedPatches, Register, hookimpl


class Npy(FeatureLayout):
    suffixes = (".npy",)

    def read(self, file: Path, magnification: int) -> ImportedPatches:  # noqa: ARG002
        return ImportedPatches(np.load(file, allow_pickle=False))


@hookimpl
def milsurv_register_feature_layouts(register: Register) -> None:
    register("npy", f"{__name__}:Npy", summary="a .npy file per slide")
