"""Feature files: one HDF5 file per slide, a group per magnification.

    20x/features  float16 (n, d)     20x/coords  int64 (n, 2)     20x/grid  int32 (n, 2)

and attributes that say how they were made. Features made elsewhere may lack coords, grid and resolution. A file is
written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from milsurv.artifacts import atomic_path
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag


@dataclass(frozen=True)
class ScaleFeatures:
    """What is stored of one magnification."""

    features: NDArray[np.floating[Any]]
    """``(n, d)``."""
    coords: NDArray[np.int64] | None = None
    """``(n, 2)`` level-0 pixels (x, y), top-left."""
    grid: NDArray[np.int32] | None = None
    """``(n, 2)`` (column, row)."""
    mpp: float | None = None
    """True µm per patch pixel."""
    patch_level0: float | None = None
    """Side of a patch in level-0 pixels."""


def write_features(path: Path, scales: Mapping[int, ScaleFeatures], attributes: Mapping[str, Any]) -> None:
    """Write one slide's features; ``attributes`` is anything JSON-able.

    HDF5 makes the file in memory: it crashes the process when it cannot write to a disk that is full.
    """
    image = BytesIO()
    with h5py.File(image, "w") as file:
        for name, value in attributes.items():
            file.attrs[name] = json.dumps(value)
        for magnification, scale in scales.items():
            group = file.create_group(f"{magnification}x")
            for name in ("mpp", "patch_level0"):
                if getattr(scale, name) is not None:
                    group.attrs[name] = getattr(scale, name)
            for name in ("features", "coords", "grid"):
                if getattr(scale, name) is not None:
                    group.create_dataset(name, data=getattr(scale, name), chunks=True, fletcher32=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def read_scales(path: Path) -> dict[int, ScaleFeatures]:
    """All that a feature file holds: magnification -> scale, finest first. Raises MilsurvError as :func:`read_bag`."""
    with _open(path) as file:
        groups = {int(name.removesuffix("x")): group for name, group in file.items()}
        return {m: _read_scale(groups[m]) for m in sorted(groups, reverse=True)}


def _read_scale(group: h5py.Group) -> ScaleFeatures:
    arrays = {name: group[name][()] for name in ("features", "coords", "grid") if name in group}
    mpp, side = (
        float(group.attrs[name]) if name in group.attrs else None for name in ("mpp", "patch_level0")
    )
    return ScaleFeatures(
        arrays["features"], arrays.get("coords"), arrays.get("grid"), mpp=mpp, patch_level0=side
    )


def read_attributes(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The attributes of a feature file, or those of these names, which takes less time.

    Raises MilsurvError when it cannot be read, or lacks one.
    """
    with _open(path) as file:
        return {name: _attribute(file, name) for name in (file.attrs if names is None else names)}


def _attribute(file: h5py.File, name: str) -> Any:
    """A JSON attribute, read past the look-ups of ``file.attrs``, which take most of the time over many files."""
    attribute = h5py.h5a.open(file.id, name.encode())
    value = np.empty((), dtype=attribute.dtype)
    attribute.read(value)
    return json.loads(value.item())


def read_bag(path: Path) -> Bag:
    """The bag of a feature file, in the type that is stored; without what not all magnifications have.

    Raises MilsurvError when it cannot be read.
    """
    scales = read_scales(path)

    def tensors(name: str) -> dict[int, torch.Tensor] | None:
        arrays = {m: getattr(scale, name) for m, scale in scales.items()}
        if any(array is None for array in arrays.values()):
            return None
        return {m: torch.from_numpy(array) for m, array in arrays.items()}

    features = {m: torch.from_numpy(scale.features) for m, scale in scales.items()}
    return Bag(features, tensors("coords"), tensors("grid"))


def patch_sides(path: Path) -> dict[int, float]:
    """Magnification -> side of its patches in level-0 pixels."""
    with _open(path) as file:
        return {
            int(name.removesuffix("x")): float(group.attrs["patch_level0"]) for name, group in file.items()
        }


def feature_dims(path: Path) -> dict[int, int]:
    """Magnification -> length of its feature vectors."""
    with _open(path) as file:
        return {int(name.removesuffix("x")): int(group["features"].shape[1]) for name, group in file.items()}


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise MilsurvError(
            f"feature file {path} cannot be read ({error}); delete it and run again to make it anew"
        ) from error
