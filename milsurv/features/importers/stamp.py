"""STAMP's layout: a folder per magnification with a file per slide, in the same subfolders as the slides."""

from __future__ import annotations

from pathlib import Path

from milsurv.features.importers.base import ImportedPatches
from milsurv.features.importers.files import Hdf5Content, Hdf5Layout


class Stamp(Hdf5Layout):
    """Coordinates are in µm since version 2, which records the unit; in older versions the unit is unknown."""

    dataset = "feats"

    def patches_of(self, content: Hdf5Content, file: Path, magnification: int) -> ImportedPatches:  # noqa: ARG002
        numbers = content.numbers
        side = numbers.get("tile_size_um", numbers.get("tile_size"))
        if content.coords is None or side is None or content.unit != "um":
            return ImportedPatches(content.features)
        patch_px = numbers.get("tile_size_px")
        return ImportedPatches(
            content.features, content.coords, "µm", side, patch_px=int(patch_px) if patch_px else None
        )
