"""TRIDENT's layout: ``{m}x_{px}px_{overlap}px_overlap/features_{encoder}/{slide}.h5`` below one folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from milsurv.config.run import FeatureImport, Tiling
from milsurv.errors import MilsurvError, nearest
from milsurv.features.importers.base import (
    FeatureFolders,
    ImportedPatches,
    contents,
    listed,
    single_folder,
)
from milsurv.features.importers.files import Hdf5Content, Hdf5Layout

FOLDER = re.compile(r"(?P<magnification>\d+)x_(?P<patch_px>\d+)px_(?P<overlap>\d+)px_overlap")
FEATURES = "features_"
"""Prefix of the names of feature folders, followed by the encoder's name."""


class Trident(Hdf5Layout):
    """Features of one or several encoders, as TRIDENT writes them."""

    names_encoder = True

    def find_folders(self, section: FeatureImport, tiling: Tiling) -> FeatureFolders:
        root, wanted = single_folder(section), tiling.magnifications
        below = {m: _magnification_folder(root, m, tiling.patch_px) for m in wanted}
        encoders = {m: _encoders(folder) for m, folder in below.items()}
        common = sorted(set.intersection(*(set(found) for found in encoders.values())))
        everywhere = "; ".join(f"{m}x: {', '.join(found) or 'none'}" for m, found in encoders.items())
        encoder = section.encoder
        if encoder is None:
            if len(common) != 1:
                what, advice = (
                    ("several encoders", "choose one with features.encoder")
                    if common
                    else ("no encoder", "extract what is missing")
                )
                raise MilsurvError(
                    f"features.import: {root} has features of {what} at all of {listed(wanted)} "
                    f"({everywhere}); {advice}"
                )
            encoder = common[0]
        elif encoder not in common:
            raise MilsurvError(
                f"features.encoder: {root} has no features of '{encoder}'{nearest(encoder, common)} at all of "
                f"{listed(wanted)}; there are: {everywhere}"
            )
        return FeatureFolders(encoder, {m: (folder / f"{FEATURES}{encoder}",) for m, folder in below.items()})

    def patches_of(self, content: Hdf5Content, file: Path, magnification: int) -> ImportedPatches:
        patches = super().patches_of(content, file, magnification)
        folder = FOLDER.fullmatch(file.parent.parent.name)
        return replace(patches, overlap=True) if folder and int(folder["overlap"]) else patches


def _magnification_folder(root: Path, magnification: int, patch_px: int) -> Path:
    """The folder of a magnification; of several, the one without overlap whose patches have ``patch_px``."""
    found = [
        (match, folder)
        for folder in sorted(root.iterdir())
        if (match := FOLDER.fullmatch(folder.name)) and int(match["magnification"]) == magnification
    ]
    if not found:
        raise MilsurvError(
            f"features.import: {root} has no folder such as {magnification}x_256px_0px_overlap, in which layout "
            f"trident keeps {magnification}x features; {contents(root)}; see tiling.magnifications"
        )
    if len(found) > 1:
        fitting = [
            (m, folder) for m, folder in found if int(m["patch_px"]) == patch_px and int(m["overlap"]) == 0
        ]
        if len(fitting) != 1:
            raise MilsurvError(
                f"features.import: {root} has several folders for {magnification}x: "
                f"{', '.join(folder.name for _, folder in found)}; set tiling.patch_px to choose one without overlap"
            )
        found = fitting
    return found[0][1]


def _encoders(folder: Path) -> list[str]:
    return sorted(
        below.name.removeprefix(FEATURES)
        for below in folder.iterdir()
        if below.is_dir() and below.name.startswith(FEATURES)
    )
