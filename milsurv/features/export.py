"""Export of features in the formats of TRIDENT and CLAM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch

from milsurv.errors import MilsurvError
from milsurv.features.importers.trident import FEATURES
from milsurv.features.inventory import feature_files
from milsurv.features.store import MagnificationFeatures, read_attributes, read_features
from milsurv.storage.atomic import atomic_path

ExportLayout = Literal["trident", "clam"]


def export_features(folder: Path, output: Path, layout: ExportLayout) -> Iterator[Path]:
    """Write the features of every slide in ``folder`` to ``output``; yields the file of each slide once it is done.

    ``trident``: ``{m}x_{px}px_0px_overlap/features_<name>/<slide>.h5``, in the stored dtype. ``clam``: one folder per
    magnification with ``{m}x/h5_files/<slide>.h5``, if there are coordinates, and ``{m}x/pt_files/<slide>.pt``, both
    float32. A slide's files are complete or missing. Raises MilsurvError when a file cannot be read, or does not
    contain what the layout requires.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        raise MilsurvError(f"{output} lies within the features to export; name another folder")
    for file in feature_files(folder):
        attributes = read_attributes(file)
        for magnification, stored in read_features(file).items():
            if layout == "trident":
                _write_trident(file, output, magnification, stored, attributes)
            else:
                _write_clam(file, output, magnification, stored)
        yield file


def _write_trident(
    file: Path, output: Path, magnification: int, stored: MagnificationFeatures, attributes: dict[str, Any]
) -> None:
    patch_px, side = attributes.get("patch_px"), stored.patch_level0
    if stored.coords is None or patch_px is None or side is None:
        raise MilsurvError(
            f"{file}: has no coordinates or sizes of its {magnification}x patches, which the trident layout requires; "
            "export it with --layout clam"
        )
    name = file.parent.name.rpartition("-")[0] or file.parent.name
    folder = output / f"{magnification}x_{patch_px}px_0px_overlap" / f"{FEATURES}{name}"
    about = {
        "patch_size": patch_px,
        "patch_size_level0": int(side) if side == int(side) else side,
        "target_magnification": magnification,
        "overlap": 0,
        "name": file.stem,
    }
    if attributes.get("mpp"):
        about["level0_magnification"] = round(10 / attributes["mpp"])
    with atomic_path(folder / file.name) as temporary, h5py.File(temporary, "w") as opened:
        opened.create_dataset("features", data=stored.features)
        opened.create_dataset("coords", data=stored.coords).attrs.update(about)


def _write_clam(file: Path, output: Path, magnification: int, stored: MagnificationFeatures) -> None:
    folder = output / f"{magnification}x"
    features = stored.features.astype(np.float32)
    if stored.coords is not None:
        with (
            atomic_path(folder / "h5_files" / file.name) as temporary,
            h5py.File(temporary, "w") as opened,
        ):
            opened.create_dataset("features", data=features)
            coords = opened.create_dataset("coords", data=stored.coords)
            if stored.patch_level0 is not None:
                coords.attrs["patch_size_level0"] = stored.patch_level0
    with atomic_path(folder / "pt_files" / f"{file.stem}.pt") as temporary:
        torch.save(torch.from_numpy(features), temporary)
