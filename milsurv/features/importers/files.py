"""Reading feature matrices from untrusted HDF5 files and saved tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from milsurv.backbones.weights import load_pickled, require_held
from milsurv.errors import SlideError, first_line
from milsurv.features.hdf5 import RefusedError, member, require_bounded
from milsurv.features.importers.base import FeatureLayout, ImportedPatches, hash_rows, matrix_shape
from milsurv.features.isolated import read_isolated

T = TypeVar("T")
SHOWN_KEYS = 5
"""Number of a file's other items that a message lists."""
NUMBERS = (
    "downsample",
    "level0_magnification",
    "overlap",
    "patch_size",
    "patch_size_level0",
    "target_magnification",
    "tile_size",
    "tile_size_px",
    "tile_size_um",
)
"""Attributes that are read if they are positive numbers."""


@dataclass(frozen=True)
class Hdf5Content:
    """The datasets and attributes of an HDF5 file with the features of a slide."""

    features: NDArray[Any]
    coords: NDArray[np.float64] | None
    """``(n, 2)``."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Attributes of the file and of ``coords`` among ``NUMBERS``."""
    unit: str | None = None
    """Attribute ``unit`` of the file."""


class Hdf5Layout(FeatureLayout):
    """A file per slide: HDF5 with the features and ``coords`` in level-0 pixels, or a tensor saved by PyTorch."""

    dataset: ClassVar[str] = "features"

    def read(self, file: Path, magnification: int) -> ImportedPatches:
        if file.suffix.lower() == ".pt":
            tensor = read_tensor(file)
            return ImportedPatches((tensor if tensor.dtype == torch.float16 else tensor.float()).numpy())
        return self.patches_of(read_hdf5(_content, file, self.dataset), file, magnification)

    def read_shape(self, file: Path, magnification: int) -> tuple[int, int]:
        if file.suffix.lower() == ".pt":
            n, d = read_tensor(file, mmap=True).shape
            return n, d
        shape, numbers = read_hdf5(_header, file, self.dataset)
        _require_magnification(numbers, file, magnification)
        return shape

    def hash_features(self, file: Path, magnification: int) -> str:  # noqa: ARG002
        if file.suffix.lower() == ".pt":
            tensor = read_tensor(file, mmap=True)
            return hash_rows(tuple(tensor.shape), lambda rows: tensor[rows].float().numpy())
        return read_hdf5(_hash, file, self.dataset)

    def patches_of(self, content: Hdf5Content, file: Path, magnification: int) -> ImportedPatches:
        """The patches that an HDF5 file describes."""
        if content.coords is None:
            return ImportedPatches(content.features)
        numbers = content.numbers
        _require_magnification(numbers, file, magnification)
        patch_px, side = numbers.get("patch_size"), numbers.get("patch_size_level0")
        if side is None and patch_px is not None and "downsample" in numbers:
            side = patch_px * numbers["downsample"]
        return ImportedPatches(
            content.features,
            content.coords,
            side=side,
            overlap="overlap" in numbers,
            patch_px=int(patch_px) if patch_px else None,
            level0_magnification=numbers.get("level0_magnification"),
        )


def _require_magnification(numbers: dict[str, float], file: Path, magnification: int) -> None:
    found = numbers.get("target_magnification", magnification)
    if found != magnification:
        raise SlideError(
            f"{file}: its attribute target_magnification is {found:g}, but it is among the {magnification}x features"
        )


def read_hdf5(read: Callable[..., T], file: Path, dataset: str) -> T:
    """The result of ``read`` for the file, in a separate process. Raises SlideError when the file is damaged."""
    try:
        return read_isolated(read, file, dataset)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise SlideError(f"{file}: not a valid HDF5 file: {first_line(error)}") from error


def _content(file: Path, dataset: str) -> Hdf5Content:
    with h5py.File(file, "r") as opened:
        features = _features(opened, dataset, file)
        n, _ = matrix_shape(features.shape, file)
        coords = _coords(opened, n, file)
        unit = opened.attrs.get("unit")
        return Hdf5Content(
            features[()],
            None if coords is None else coords[()].astype(np.float64).reshape(n, 2),
            _numbers(opened, coords),
            unit.decode() if isinstance(unit, bytes) else unit,
        )


def _header(file: Path, dataset: str) -> tuple[tuple[int, int], dict[str, float]]:
    with h5py.File(file, "r") as opened:
        shape = matrix_shape(_features(opened, dataset, file).shape, file)
        return shape, _numbers(opened, _coords(opened, shape[0], file))


def _hash(file: Path, dataset: str) -> str:
    with h5py.File(file, "r") as opened:
        features = _features(opened, dataset, file)
        return hash_rows(matrix_shape(features.shape, file), lambda rows: features[..., rows, :])


def _features(opened: h5py.File, name: str, file: Path) -> h5py.Dataset:
    dataset = _dataset(opened, name, file)
    if dataset is None:
        there = ", ".join(list(opened)[:SHOWN_KEYS]) or "nothing"
        raise SlideError(f"{file}: has no dataset '{name}'; it contains {there}")
    if dataset.dtype.kind != "f":
        raise SlideError(f"{file}: '{name}' is {dataset.dtype}; floating-point numbers (n, d) are expected")
    return dataset


def _coords(opened: h5py.File, patches: int, file: Path) -> h5py.Dataset | None:
    dataset = _dataset(opened, "coords", file)
    if dataset is None:
        return None
    if dataset.dtype.kind not in "fiu" or dataset.shape not in ((patches, 2), (1, patches, 2)):
        raise SlideError(
            f"{file}: 'coords' is {dataset.dtype} of shape {dataset.shape}; numbers of shape ({patches}, 2) are "
            "expected, a row for each row of the features"
        )
    return dataset


def _dataset(opened: h5py.File, name: str, file: Path) -> h5py.Dataset | None:
    """A dataset of the file, or None. Raises SlideError if its data are in another file or too large for this one."""
    try:
        found = member(opened, name)
        return require_bounded(found) if isinstance(found, h5py.Dataset) else None
    except RefusedError as error:
        raise SlideError(f"{file}: '{name}' {error}") from None


def _numbers(*items: h5py.File | h5py.Dataset | None) -> dict[str, float]:
    found = {}
    for item in items:
        if item is None:
            continue
        for name in NUMBERS:
            try:
                number = float(np.ravel(item.attrs.get(name))[0])
            except (TypeError, ValueError, IndexError):
                continue
            if np.isfinite(number) and number > 0:
                found[name] = number
    return found


def read_tensor(file: Path, mmap: bool = False) -> torch.Tensor:
    """``(n, d)`` floating-point; with ``mmap`` its values stay on disk until they are used. Raises SlideError."""
    try:
        content = load_pickled(file, mmap)
        if isinstance(content, torch.Tensor) and content.layout == torch.strided:
            require_held([content], file)
    except ValueError as error:
        raise SlideError(
            f"{file}: cannot be read: {error}; a tensor (n, d) saved with torch.save is expected"
        ) from error
    if isinstance(content, dict):
        keys = ", ".join(map(str, list(content)[:SHOWN_KEYS])) or "nothing"
        raise SlideError(
            f"{file}: holds a dict ({keys}); a floating-point tensor (n, d) is expected: save only the feature tensor, "
            "torch.save(content[KEY], FILE)"
        )
    if not isinstance(content, torch.Tensor):
        raise SlideError(
            f"{file}: holds a {type(content).__name__}; a floating-point tensor (n, d) is expected"
        )
    if not content.is_floating_point() or content.layout != torch.strided:
        raise SlideError(
            f"{file}: holds a {content.dtype} tensor; a floating-point tensor (n, d) is expected"
        )
    return content.detach().reshape(matrix_shape(tuple(content.shape), file))
