"""Reading one slide's features at one magnification from a file that another tool wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from milsurv.backbones.weights import load_pickled, require_held
from milsurv.errors import SlideError, first_line
from milsurv.features.hdf5 import RefusedError, member, require_bounded
from milsurv.features.importers.layouts import TRIDENT_FOLDER
from milsurv.features.isolated import read_isolated

Unit = Literal["px", "µm"]
T = TypeVar("T")
HASHED_ROWS = 16
"""Rows at the beginning, in the middle and at the end of features that are compared between files."""
SHOWN_KEYS = 5
"""Names of what else a file holds that a message lists."""


@dataclass(frozen=True)
class ForeignPatches:
    """What a file says of a slide's patches."""

    features: NDArray[np.floating[Any]]
    """``(n, d)`` float16 or float32, finite, n ≥ 1."""
    places: NDArray[np.float64] | None = None
    """``(n, 2)`` (x, y) of the patches' top-left corners in ``unit``, from the slide's own corner."""
    unit: Unit = "px"
    """``px``: level-0 pixels."""
    side: float | None = None
    """Side of a patch in ``unit``."""
    overlap: bool = False
    """True when neighbouring patches share pixels."""
    patch_px: int | None = None
    """Side of a patch in its own pixels."""
    level0_magnification: float | None = None


def read_shape(file: Path, layout: str, magnification: int) -> tuple[int, int]:
    """``(n, d)`` from the file's header. Raises SlideError as :func:`read_foreign`, but for wrong values."""
    if file.suffix.lower() == ".pt":
        n, d = _tensor(file, mmap=True).shape
        return n, d
    return _from_hdf5(_shape, file, layout, magnification)


def _shape(file: Path, layout: str, magnification: int) -> tuple[int, int]:
    with h5py.File(file, "r") as opened:
        shape = _matrix(_features(opened, layout, file).shape, file)
        coords = _coords(opened, shape[0], file)
        if layout != "stamp":
            _require_magnification(coords, file, magnification)
        return shape


def hash_of_features(file: Path, layout: str) -> str:
    """SHA-256 of the shape of a file's features, and of some rows in it, without reading the rest.

    Raises SlideError as :func:`read_shape`.
    """
    if file.suffix.lower() == ".pt":
        tensor = _tensor(file, mmap=True)
        return _hash(tuple(tensor.shape), lambda rows: tensor[rows].float().numpy())
    return _from_hdf5(_hash_in, file, layout)


def _hash_in(file: Path, layout: str) -> str:
    with h5py.File(file, "r") as opened:
        dataset = _features(opened, layout, file)
        return _hash(_matrix(dataset.shape, file), lambda rows: dataset[..., rows, :])


def _hash(shape: tuple[int, ...], read: Callable[[slice], NDArray[Any]]) -> str:
    digest = hashlib.sha256(repr(shape).encode())
    for start in (0, max(0, shape[0] // 2 - HASHED_ROWS // 2), max(0, shape[0] - HASHED_ROWS)):
        with np.errstate(over="ignore"):
            digest.update(read(slice(start, start + HASHED_ROWS)).astype(np.float32).tobytes())
    return digest.hexdigest()


def read_foreign(file: Path, layout: str, magnification: int) -> ForeignPatches:
    """Read a file of one of the layouts. Raises SlideError naming the file, what is there, and what is expected."""
    if file.suffix.lower() == ".pt":
        tensor = _tensor(file)
        kept = tensor if tensor.dtype == torch.float16 else tensor.float()
        return ForeignPatches(_finite(kept.numpy(), file))
    return _from_hdf5(_patches, file, layout, magnification)


def _patches(file: Path, layout: str, magnification: int) -> ForeignPatches:
    with h5py.File(file, "r") as opened:
        dataset = _features(opened, layout, file)
        shape = _matrix(dataset.shape, file)
        values = dataset[()].reshape(shape)
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused as that
            features = _finite(values if values.dtype == np.float16 else values.astype(np.float32), file)
        places = _places(opened, len(features), file)
        if layout == "stamp":
            return _stamp(opened, features, places)
        return _pixels(opened, file, features, places, magnification)


def _from_hdf5(read: Callable[..., T], file: Path, *arguments: Any) -> T:
    """What ``read`` takes from the file. Raises SlideError when it is damaged, whatever that would do."""
    try:
        return read_isolated(read, file, *arguments)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        reason = first_line(error)
        raise SlideError(f"{file}: cannot be read as HDF5, it is damaged or none: {reason}") from error


def _tensor(file: Path, mmap: bool = False) -> torch.Tensor:
    """``(n, d)`` floating-point; ``mmap`` leaves its values on the disk until they are used."""
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
            f"{file}: holds a dict ({keys}); a floating-point tensor (n, d) is expected: save the features alone, "
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
    return content.detach().reshape(_matrix(tuple(content.shape), file))


def _features(opened: h5py.File, layout: str, file: Path) -> h5py.Dataset:
    name = "feats" if layout == "stamp" else "features"
    dataset = _dataset(opened, name, file)
    if dataset is None:
        there = ", ".join(list(opened)[:SHOWN_KEYS]) or "nothing"
        raise SlideError(f"{file}: has no dataset '{name}'; it holds {there}")
    if dataset.dtype.kind != "f":
        raise SlideError(f"{file}: '{name}' is {dataset.dtype}; floating-point numbers (n, d) are expected")
    return dataset


def _dataset(opened: h5py.File, name: str, file: Path) -> h5py.Dataset | None:
    """A dataset of the file, None without. Raises SlideError for one that is not in the file as it says."""
    try:
        found = member(opened, name)
        return require_bounded(found) if isinstance(found, h5py.Dataset) else None
    except RefusedError as error:
        raise SlideError(f"{file}: '{name}' {error}") from None


def _matrix(shape: tuple[int, ...] | None, file: Path) -> tuple[int, int]:
    """``(n, d)`` of features of ``shape``, which may have a leading 1, as TRIDENT writes for some encoders."""
    inner = shape[1:] if shape is not None and len(shape) == 3 and shape[0] == 1 else shape
    if inner is None or len(inner) != 2 or 0 in inner:
        raise SlideError(
            f"{file}: features have shape {shape}; (n, d) is expected, a row for each of 1 or more patches, or "
            "(1, n, d)"
        )
    return inner[0], inner[1]


def _finite(features: NDArray[np.floating[Any]], file: Path) -> NDArray[np.floating[Any]]:
    wrong = len(features) - int(np.isfinite(features).all(axis=1).sum())
    if wrong:
        raise SlideError(f"{file}: {wrong} of {len(features)} patches have features that are NaN or infinite")
    return np.ascontiguousarray(features)


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


def _places(opened: h5py.File, patches: int, file: Path) -> NDArray[np.float64] | None:
    dataset = _coords(opened, patches, file)
    if dataset is None:
        return None
    places = dataset[()].astype(np.float64).reshape(patches, 2)
    if not np.isfinite(places).all():
        raise SlideError(f"{file}: 'coords' has values that are NaN or infinite")
    return np.asarray(places)


def _require_magnification(coords: h5py.Dataset | None, file: Path, magnification: int) -> None:
    said = None if coords is None else _number(coords.attrs.get("target_magnification"))
    if said is not None and said != magnification:
        raise SlideError(
            f"{file}: says that it holds {said:g}x, but stands among the {magnification}x features"
        )


def _pixels(
    opened: h5py.File,
    file: Path,
    features: NDArray[np.floating[Any]],
    places: NDArray[np.float64] | None,
    magnification: int,
) -> ForeignPatches:
    """TRIDENT and CLAM: level-0 pixels, with attributes on ``coords`` (CLAM writes them into its patch files alone)."""
    if places is None:
        return ForeignPatches(features)
    if (places != np.rint(places)).any():
        raise SlideError(f"{file}: 'coords' has fractions; whole level-0 pixels are expected")
    _require_magnification(opened["coords"], file, magnification)
    attributes = opened["coords"].attrs
    patch_px = _number(attributes.get("patch_size"))
    side = _number(attributes.get("patch_size_level0"))
    downsample = np.ravel(attributes.get("downsample", ()))
    if side is None and patch_px is not None and len(downsample):
        side = patch_px * float(downsample[0])
    folder = TRIDENT_FOLDER.fullmatch(file.parent.parent.name)
    return ForeignPatches(
        features,
        places,
        side=side,
        overlap=bool(_number(attributes.get("overlap"))) or bool(folder and int(folder["overlap"])),
        patch_px=int(patch_px) if patch_px else None,
        level0_magnification=_number(attributes.get("level0_magnification")),
    )


def _stamp(
    opened: h5py.File, features: NDArray[np.floating[Any]], places: NDArray[np.float64] | None
) -> ForeignPatches:
    """STAMP: µm since version 2, where attributes say so; older places are in units that nothing tells."""
    attributes = opened.attrs
    side = _number(attributes.get("tile_size_um", attributes.get("tile_size")))
    unit = attributes.get("unit")
    if places is None or side is None or (unit.decode() if isinstance(unit, bytes) else unit) != "um":
        return ForeignPatches(features)
    patch_px = _number(attributes.get("tile_size_px"))
    return ForeignPatches(features, places, "µm", side, patch_px=int(patch_px) if patch_px else None)


def _number(value: Any) -> float | None:
    """An attribute as a positive number; None for none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None
