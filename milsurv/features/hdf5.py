"""Reading arrays of untrusted HDF5 files, within the limits of the file's size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

MOST_COMPRESSED = 100
"""Limit of bytes of a compressed array per byte of its file: features hardly shrink, coordinates tenfold."""
ALWAYS_READ = 64 * 2**20
"""Size up to which a compressed array is always read."""
SMALLEST_CHUNK_ENTRY = 8
"""Minimum bytes of the index entry of a chunk."""


class RefusedError(ValueError):
    """An item is not read. The message is the reason, and follows the item's name."""


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """The item ``name`` in the group, or None. Raises RefusedError for links, which may lead to other files."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise RefusedError("is a link, perhaps to another file; copy the data into the file")
    return group[name]


def require_bounded(dataset: h5py.Dataset) -> h5py.Dataset:
    """The dataset. Raises RefusedError if its data are not in the file, or are many times larger than the file."""
    if dataset.external or dataset.is_virtual:
        raise RefusedError("is stored in another file, which is not read; copy the data into the file")
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
        raise RefusedError(f"has shape {dataset.shape}, {needed:.3g} bytes, in a file of {there} bytes")
    if dataset.chunks is None:
        whole = dataset.id.get_storage_size() >= needed
    else:
        chunks = math.prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        whole = chunks * SMALLEST_CHUNK_ENTRY <= there and dataset.id.get_num_chunks() == chunks
    if not whole:
        raise RefusedError(f"has shape {dataset.shape}, but not all of it is in the file")
    return dataset


def read_array(dataset: h5py.Dataset) -> NDArray[Any]:
    """The whole array. Raises RefusedError like :func:`require_bounded`."""
    return np.asarray(require_bounded(dataset)[()])
