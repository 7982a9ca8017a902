"""Feature files: one HDF5 file per slide, a group per magnification.

    20x/features  float16 (n, d)     20x/coords  int64 (n, 2)     20x/grid  int32 (n, 2)

and attributes that record how they were made. Imported features may lack coords, grid and resolution. Files are written
atomically, with checksums of their content that are verified on every read.
"""

from __future__ import annotations

import json
import zlib
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

from milsurv.errors import MilsurvError, first_line
from milsurv.features.bag import Bag
from milsurv.features.hdf5 import member, read_array, require_bounded
from milsurv.storage.atomic import atomic_path

CHECKSUMS = "checksums"


@dataclass(frozen=True)
class MagnificationFeatures:
    """The stored data of one magnification."""

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


def write_features(
    path: Path, by_magnification: Mapping[int, MagnificationFeatures], attributes: Mapping[str, Any]
) -> None:
    """Write one slide's features; ``attributes`` are JSON-serializable.

    The file is created in memory, because HDF5 crashes the process when it cannot write to a full disk.
    """
    image = BytesIO()
    with h5py.File(image, "w", libver=("v110", "v110")) as file:  # its headers have checksums of their own
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(json.dumps(value))
        for magnification, stored in by_magnification.items():
            group = file.create_group(f"{magnification}x")
            for name in ("mpp", "patch_level0"):
                if getattr(stored, name) is not None:
                    group.attrs[name] = float(getattr(stored, name))
            for name in ("features", "coords", "grid"):
                if getattr(stored, name) is not None:
                    group.create_dataset(name, data=getattr(stored, name))
        write_checksums(file)
    with atomic_path(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def write_checksums(file: h5py.File) -> None:
    """Write CRC-32 checksums of the whole content of a feature file to its attribute ``checksums``.

    The attribute is JSON, ``{"settings": …, "20x@mpp": …, "20x/features": …}``, preceded by its own checksum in eight
    digits.
    """
    sums = {name: zlib.crc32(_attribute(file, name)) for name in file.attrs if name != CHECKSUMS}
    for place, group in file.items():
        sums |= {f"{place}@{name}": zlib.crc32(_attribute(group, name)) for name in group.attrs}
        sums |= {f"{place}/{name}": _crc_of_array(dataset[()]) for name, dataset in group.items()}
    text = json.dumps(sums).encode()
    file.attrs[CHECKSUMS] = np.bytes_(b"%08x" % zlib.crc32(text) + text)


def _crc_of_array(array: NDArray[Any]) -> int:
    """CRC-32 of dtype, shape and values: detects every changed byte, and is faster than reading the data."""
    head = f"{array.dtype.str} {array.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(head))


def _attribute(item: h5py.Group, name: str) -> bytes:
    """An attribute's bytes, read without ``attrs``, whose look-ups take most of the time for many files."""
    attribute = h5py.h5a.open(item.id, name.encode())
    if attribute.shape != () or attribute.dtype.kind not in "Sf":
        raise ValueError(f"attribute {name} is neither text nor a number")
    value = np.empty((), dtype=attribute.dtype)
    attribute.read(value)
    return value.tobytes()


class _FeatureFile:
    """An open feature file whose checksums are verified on every read."""

    def __init__(self, file: h5py.File):
        self._file = file
        if CHECKSUMS not in file.attrs:
            raise ValueError("it has no checksums: an older milsurv made it, or another tool")
        content = _attribute(file, CHECKSUMS)
        if content[:8] != b"%08x" % zlib.crc32(content[8:]):
            raise ValueError("its checksums are damaged")
        self._sums: dict[str, int] = json.loads(content[8:])

    @property
    def attributes(self) -> list[str]:
        """Names of the file's JSON attributes."""
        return [name for name in self._sums if "@" not in name and "/" not in name]

    def attribute(self, name: str) -> Any:
        content = _attribute(self._file, name)
        self._require(name, zlib.crc32(content))
        return json.loads(content)

    @property
    def magnifications(self) -> list[int]:
        """Finest first."""
        places = {name.partition("/")[0].removesuffix("x") for name in self._sums if "/" in name}
        return sorted(map(int, places), reverse=True)

    def shape(self, magnification: int) -> tuple[int, int]:
        """``(n, d)`` of the features."""
        n, d = require_bounded(self._dataset(f"{magnification}x", "features")).shape
        return n, d

    def array(self, magnification: int, name: str) -> NDArray[Any] | None:
        """A dataset; None if the file does not have it."""
        place = f"{magnification}x/{name}"
        if place not in self._sums:
            return None
        array = read_array(self._dataset(f"{magnification}x", name))
        self._require(place, _crc_of_array(array))
        return array

    def number(self, magnification: int, name: str) -> float | None:
        """An attribute of a magnification; None if the file does not have it."""
        place = f"{magnification}x@{name}"
        if place not in self._sums:
            return None
        content = _attribute(self._member(self._file, f"{magnification}x"), name)
        self._require(place, zlib.crc32(content))
        return float(np.frombuffer(content)[0])

    def _dataset(self, group: str, name: str) -> h5py.Dataset:
        return self._member(self._member(self._file, group), name)

    @staticmethod
    def _member(group: h5py.Group, name: str) -> Any:
        found = member(group, name)
        if found is None:
            raise KeyError(f"{name} is missing")
        return found

    def _require(self, place: str, crc: int) -> None:
        if self._sums.get(place) != crc:
            raise ValueError(f"checksum mismatch in {place}")


def read_features(path: Path) -> dict[int, MagnificationFeatures]:
    """The content of a feature file by magnification, finest first. Raises MilsurvError like :func:`read_bag`."""
    with _open(path) as file:
        return {m: _read_magnification(file, m) for m in file.magnifications}


def _read_magnification(file: _FeatureFile, magnification: int) -> MagnificationFeatures:
    features = file.array(magnification, "features")
    if features is None:
        raise KeyError(f"{magnification}x has no features")
    return MagnificationFeatures(
        features,
        file.array(magnification, "coords"),
        file.array(magnification, "grid"),
        file.number(magnification, "mpp"),
        file.number(magnification, "patch_level0"),
    )


def read_attributes(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The attributes of a feature file, or only those with the given names, which is faster.

    Raises MilsurvError when the file cannot be read, or when an attribute is missing or damaged.
    """
    with _open(path) as file:
        return {name: file.attribute(name) for name in (file.attributes if names is None else names)}


def read_bag(path: Path) -> Bag:
    """The bag of a feature file, in the stored dtype; ``coords`` and ``grid`` only if all magnifications have them.

    Raises MilsurvError when the file cannot be read, or is damaged.
    """
    return bag_of(read_features(path))


def bag_of(by_magnification: Mapping[int, MagnificationFeatures]) -> Bag:
    """The bag of a slide's features; ``coords`` and ``grid`` only if all magnifications have them."""

    def tensors(name: str) -> dict[int, torch.Tensor] | None:
        arrays = {m: getattr(stored, name) for m, stored in by_magnification.items()}
        if any(array is None for array in arrays.values()):
            return None
        return {m: torch.from_numpy(array) for m, array in arrays.items()}

    features = {m: torch.from_numpy(stored.features) for m, stored in by_magnification.items()}
    return Bag(features, tensors("coords"), tensors("grid"))


def patch_sides(path: Path) -> dict[int, float]:
    """Magnification -> side of its patches in level-0 pixels, if known."""
    with _open(path) as file:
        sides = {m: file.number(m, "patch_level0") for m in file.magnifications}
    return {m: side for m, side in sides.items() if side is not None}


def feature_dims(path: Path) -> dict[int, int]:
    """Magnification -> length of its feature vectors."""
    with _open(path) as file:
        return {m: file.shape(m)[1] for m in file.magnifications}


@contextmanager
def _open(path: Path) -> Iterator[_FeatureFile]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield _FeatureFile(file)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise MilsurvError(
            f"feature file {path} cannot be read ({first_line(error)}); delete it and run again to recreate it"
        ) from error
