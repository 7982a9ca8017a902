"""Lists of feature files, and checks that they are intact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milsurv.errors import MilsurvError
from milsurv.features.store import MagnificationFeatures, read_attributes, read_features

MADE_FROM = ("slide", "source")
"""Attributes that identify what a file was made from: a slide, or files of another tool."""
ROUNDING_SHARE = 0.02
"""Share of a patch's side by which corners may be off the lattice, in addition to a pixel of rounding."""


@dataclass
class FeatureFolder:
    """A folder of feature files that were made with the same settings."""

    folder: Path
    settings: dict[str, Any]
    """Those of the first file."""
    slides: int = 0
    patches: Counter[int] = field(default_factory=Counter)
    """Magnification -> patches of all slides."""
    bytes: int = 0
    milsurv_versions: list[str] = field(default_factory=list)
    unreadable: int = 0
    """Files that cannot be read; they are not included in the other counts."""

    @property
    def name(self) -> str:
        """The backbone, or the encoder or folder whose features were imported."""
        return self.folder.name.rpartition("-")[0] or self.folder.name

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return {**asdict(self), "folder": str(self.folder), "name": self.name, "patches": dict(self.patches)}


def feature_files(path: Path) -> list[Path]:
    """The feature files at ``path``: a workspace, a folder, or one file. Raises MilsurvError when there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MilsurvError(f"{path}: no such file or folder")
    root = path / "features" if (path / "features").is_dir() else path
    files = sorted(file for file in root.rglob("*.h5") if not file.name.startswith("."))
    if not files:
        raise MilsurvError(f"{path}: holds no feature files (features/<name>/<slide>.h5)")
    return files


def list_folders(workspace: Path) -> list[FeatureFolder]:
    """The folders of a workspace's feature files, by name."""
    found: dict[Path, FeatureFolder] = {}
    for file in feature_files(workspace):
        folder = found.setdefault(file.parent, FeatureFolder(file.parent, {}))
        try:
            attributes = read_attributes(file)
            patches, version = attributes["patches"], attributes["milsurv_version"]
            folder.settings = folder.settings or attributes["settings"]
        except (MilsurvError, KeyError):
            folder.unreadable += 1
            continue
        folder.slides += 1
        folder.bytes += file.stat().st_size
        folder.patches.update({int(m): count for m, count in patches.items()})
        folder.milsurv_versions = sorted({*folder.milsurv_versions, version})
    return [found[path] for path in sorted(found)]


def problems_of(path: Path) -> list[str]:
    """The problems of a feature file, which is read completely and verified; empty if it is intact."""
    try:
        attributes, by_magnification = read_attributes(path), read_features(path)
    except MilsurvError as error:
        return [str(error)]
    if not by_magnification:
        return [f"{path}: holds no magnification"]
    problems = [*_attribute_problems(attributes, by_magnification)]
    for magnification, stored in by_magnification.items():
        problems += [f"{magnification}x: {problem}" for problem in _array_problems(stored)]
    if not problems:
        problems += _grid_problems(by_magnification, extracted="slide" in attributes)
    return [f"{path}: {problem}" for problem in problems]


def _attribute_problems(
    attributes: Mapping[str, Any], by_magnification: Mapping[int, MagnificationFeatures]
) -> Iterable[str]:
    for name in ("patches", "settings", "milsurv_version"):
        if name not in attributes:
            yield f"has no attribute '{name}'"
    if not any(name in attributes for name in MADE_FROM):
        yield f"has neither the attribute '{MADE_FROM[0]}' nor '{MADE_FROM[1]}', which identify what it was made from"
    counts = {str(m): len(stored.features) for m, stored in by_magnification.items()}
    if attributes.get("patches", counts) != counts:
        yield f"its attribute 'patches' is {attributes['patches']}, but it holds {counts}"


def _array_problems(stored: MagnificationFeatures) -> Iterable[str]:
    features = stored.features
    if features.dtype.kind != "f" or features.ndim != 2 or 0 in features.shape:
        yield f"features are {features.dtype} of shape {features.shape}, not numbers (n, d) of 1 or more patches"
        return
    wrong = len(features) - int(np.isfinite(features).all(axis=1).sum())
    if wrong:
        yield f"{wrong} of {len(features)} patches have features that are NaN or infinite"
    for name in ("coords", "grid"):
        array = getattr(stored, name)
        if array is not None and (array.dtype.kind != "i" or array.shape != (len(features), 2)):
            yield f"{name} is {array.dtype} of shape {array.shape}, not whole numbers ({len(features)}, 2)"
    if (
        stored.grid is not None
        and stored.grid.ndim == 2
        and len(np.unique(stored.grid, axis=0)) < len(stored.grid)
    ):
        yield "two patches have the same place in the grid"


def _grid_problems(by_magnification: Mapping[int, MagnificationFeatures], extracted: bool) -> Iterable[str]:
    """Grids that are not nested, or do not match the coordinates."""
    grids = {m: stored.grid for m, stored in by_magnification.items() if stored.grid is not None}
    if 0 < len(grids) < len(by_magnification):
        yield f"only {', '.join(f'{m}x' for m in grids)} of its magnifications have a grid"
    if extracted and len(grids) == len(by_magnification):
        coarsest = min(grids)
        held = {m: np.unique(grid // (m // coarsest), axis=0) for m, grid in grids.items()}
        for m, cells in held.items():
            if not np.array_equal(cells, held[coarsest]):
                yield f"the {m}x patches are not all within {coarsest}x patches, or one of these contains none"
    origins = {}
    for m, stored in by_magnification.items():
        if stored.grid is None or stored.coords is None or stored.patch_level0 is None:
            continue
        offsets = stored.coords - stored.grid * stored.patch_level0
        origins[m] = np.median(offsets, axis=0)
        if np.abs(offsets - origins[m]).max() > 1 + ROUNDING_SHARE * stored.patch_level0:
            yield f"{m}x: coords and grid are inconsistent"
    if origins:
        sides = [by_magnification[m].patch_level0 or 0.0 for m in origins]
        if np.ptp(list(origins.values()), axis=0).max() > 1 + ROUNDING_SHARE * min(sides):
            yield "the grids of its magnifications have different origins"
