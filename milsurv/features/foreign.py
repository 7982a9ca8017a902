"""Reading one slide's features at one magnification from a file that another tool wrote."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from milsurv.errors import SlideError, first_line
from milsurv.features.layouts import TRIDENT_FOLDER

Unit = Literal["px", "µm"]


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


def read_foreign(file: Path, layout: str, magnification: int) -> ForeignPatches:
    """Read a file of one of the layouts. Raises SlideError naming the file, what is there, and what is expected."""
    if file.suffix.lower() == ".pt":
        return ForeignPatches(_tensor(file))
    try:
        with h5py.File(file, "r") as opened:
            features = _features(opened, "feats" if layout == "stamp" else "features", file)
            places = _places(opened, len(features), file)
            if layout == "stamp":
                return _stamp(opened, features, places)
            return _pixels(opened, file, features, places, magnification)
    except (OSError, RuntimeError, KeyError) as error:
        raise SlideError(f"{file}: cannot be read as HDF5, it is damaged or none: {error}") from error


def _tensor(file: Path) -> NDArray[np.floating[Any]]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SlideError(
            f"{file}: holds more than a tensor, which might run code and is not loaded, or is damaged; a tensor "
            "(n, d) saved with torch.save is expected"
        ) from None
    except Exception as error:
        reason = first_line(error)
        raise SlideError(f"{file}: cannot be read, it is damaged or no .pt file: {reason}") from error
    if not isinstance(content, torch.Tensor):
        raise SlideError(
            f"{file}: holds a {type(content).__name__}; a floating-point tensor (n, d) is expected"
        )
    if not content.is_floating_point() or content.layout != torch.strided:
        raise SlideError(
            f"{file}: holds a {content.dtype} tensor; a floating-point tensor (n, d) is expected"
        )
    kept = content.detach() if content.dtype == torch.float16 else content.detach().float()
    return _sound(kept.numpy(), file)


def _features(opened: h5py.File, name: str, file: Path) -> NDArray[np.floating[Any]]:
    dataset = _dataset(opened, name, file)
    if dataset is None:
        there = ", ".join(opened) or "nothing"
        raise SlideError(f"{file}: has no dataset '{name}'; it holds {there}")
    if dataset.dtype.kind != "f":
        raise SlideError(f"{file}: '{name}' is {dataset.dtype}; floating-point numbers (n, d) are expected")
    values = dataset[()]
    with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused as that
        return _sound(values if values.dtype == np.float16 else values.astype(np.float32), file)


def _dataset(opened: h5py.File, name: str, file: Path) -> h5py.Dataset | None:
    """A dataset of the file, None without. Raises SlideError for one that would be read from another file."""
    dataset = opened.get(name)
    if not isinstance(dataset, h5py.Dataset):
        return None
    if dataset.file.filename != opened.filename or dataset.external or dataset.is_virtual:
        raise SlideError(f"{file}: '{name}' is kept in another file, which is not read; put the data in")
    return dataset


def _sound(features: NDArray[np.floating[Any]], file: Path) -> NDArray[np.floating[Any]]:
    """The features, once they are known to be a matrix of finite numbers."""
    if features.ndim != 2 or 0 in features.shape:
        raise SlideError(
            f"{file}: features have shape {features.shape}; (n, d) is expected, a row for each of 1 or more patches"
        )
    wrong = len(features) - int(np.isfinite(features).all(axis=1).sum())
    if wrong:
        raise SlideError(f"{file}: {wrong} of {len(features)} patches have features that are NaN or infinite")
    return np.ascontiguousarray(features)


def _places(opened: h5py.File, patches: int, file: Path) -> NDArray[np.float64] | None:
    dataset = _dataset(opened, "coords", file)
    if dataset is None:
        return None
    if dataset.dtype.kind not in "fiu" or dataset.shape != (patches, 2):
        raise SlideError(
            f"{file}: 'coords' is {dataset.dtype} of shape {dataset.shape}; numbers of shape ({patches}, 2) are "
            "expected, a row for each row of the features"
        )
    places = dataset[()].astype(np.float64)
    if not np.isfinite(places).all():
        raise SlideError(f"{file}: 'coords' has values that are NaN or infinite")
    return np.asarray(places)


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
    attributes = opened["coords"].attrs
    said = _number(attributes.get("target_magnification"))
    if said is not None and said != magnification:
        raise SlideError(
            f"{file}: says that it holds {said:g}x, but stands among the {magnification}x features"
        )
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
