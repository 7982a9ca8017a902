"""Reading arrays of an HDF5 file that anybody may have written, within what the file's size allows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

MOST_COMPRESSED = 100
"""Bytes of an array for each byte of its file, when it is compressed: features hardly shrink, coordinates tenfold."""
ALWAYS_READ = 64 * 2**20
"""Bytes that a compressed array may have in any case."""
SMALLEST_CHUNK_ENTRY = 8
"""Bytes of its file that the place of a chunk takes at least."""


class RefusedError(ValueError):
    """Why an item is not read, to be said after its name."""


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What stands in the group itself under ``name``; None without. Raises RefusedError for links: they lead away."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise RefusedError("is a link, perhaps to another file, and no link is followed; put the data in")
    return group[name]


def require_bounded(dataset: h5py.Dataset) -> h5py.Dataset:
    """The dataset, if its numbers are in its file and not many times larger than that. Raises RefusedError."""
    if dataset.external or dataset.is_virtual:
        raise RefusedError("is kept in another file, which is not read; put the data in")
    if dataset.dtype.kind not in "fiu":
        raise RefusedError(f"holds {dataset.dtype}, not numbers")
    if dataset.shape is None:
        return dataset
    there = Path(dataset.file.filename).stat().st_size
    needed = math.prod(dataset.shape) * dataset.dtype.itemsize
    most = there
    if dataset.chunks is not None:
        compressed = dataset.id.get_create_plist().get_nfilters() > 0
        most = max(ALWAYS_READ, MOST_COMPRESSED * there) if compressed else there
        needed = max(needed, math.prod(dataset.chunks) * dataset.dtype.itemsize) if compressed else needed
    if needed > most:
        raise RefusedError(f"says that it is {dataset.shape}, {needed:.3g} bytes, in a file of {there} bytes")
    if dataset.chunks is None:
        whole = dataset.id.get_storage_size() >= needed
    else:
        chunks = math.prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        whole = chunks * SMALLEST_CHUNK_ENTRY <= there and dataset.id.get_num_chunks() == chunks
    if not whole:
        raise RefusedError(f"says that it is {dataset.shape}, and not all of that is in the file")
    return dataset


def read_array(dataset: h5py.Dataset) -> NDArray[Any]:
    """All of it, see :func:`require_bounded`."""
    return np.asarray(require_bounded(dataset)[()])
