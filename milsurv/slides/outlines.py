"""A tissue mask's outlines as GeoJSON, for QuPath."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from milsurv.slides.annotations import Ring
from milsurv.slides.tissue import TissueMask
from milsurv.storage.atomic import write_text

TISSUE = {"name": "Tissue", "color": [0, 115, 92]}


def write_geojson(mask: TissueMask, path: Path, origin: tuple[int, int]) -> None:
    """Write each piece of tissue as an annotation with holes, along its pixels' edges.

    ``origin`` is the level-0 pixel that is (0, 0) in the file: :attr:`Slide.qupath_origin`, for QuPath. It stands in
    the file's member ``milsurv``, which QuPath passes over.
    """
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [_closed(ring * mask.downsample - origin) for ring in rings],
            },
            "properties": {"objectType": "annotation", "classification": TISSUE},
        }
        for rings in _pieces(mask.mask)
    ]
    content = {"type": "FeatureCollection", "milsurv": {"origin": origin}, "features": features}
    write_text(path, json.dumps(content) + "\n")


def _closed(ring: Ring) -> list[list[float]]:
    return [*ring.tolist(), ring[0].tolist()]


def _pieces(mask: NDArray[np.bool_]) -> Iterator[list[Ring]]:
    """Rings of each 4-connected piece, the outer one first, in mask pixels."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    rings: list[list[tuple[float, Ring]]] = [[] for _ in range(count)]
    for ring, inside in _rings(mask):
        following = np.roll(ring, -1, axis=0)
        area = float((ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]).sum()) / 2
        rings[labels[inside]].append((area, ring))
    for piece in rings[1:]:
        yield [ring for _, ring in sorted(piece, key=lambda found: -found[0])]


def _rings(mask: NDArray[np.bool_]) -> Iterator[tuple[Ring, tuple[int, int]]]:
    """Lines around the true pixels, which lie to their right, and (row, column) of one of those."""
    padded = np.pad(mask, 1)
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    pixels: dict[tuple[tuple[int, int], tuple[int, int]], tuple[int, int]] = {}
    # Step to the neighbour beyond an edge -> the edge's start and end (x, y) from the pixel's corner, clockwise.
    edges = {(-1, 0): (0, 0, 1, 0), (0, 1): (1, 0, 1, 1), (1, 0): (1, 1, 0, 1), (0, -1): (0, 1, 0, 0)}
    for (down, right), (x0, y0, x1, y1) in edges.items():
        beyond = padded[1 + down : padded.shape[0] - 1 + down, 1 + right : padded.shape[1] - 1 + right]
        for row, column in np.argwhere(mask & ~beyond).tolist():
            start, end = (column + x0, row + y0), (column + x1, row + y1)
            ends.setdefault(start, []).append(end)
            pixels[start, end] = (row, column)
    while ends:
        start = next(iter(ends))
        corners, places, before = [start], {start: 0}, None
        pixel = pixels[start, ends[start][0]]
        while corners:
            here = corners[-1]
            there = _next(ends, here, before)
            before = here
            if there not in places:
                places[there] = len(corners)
                corners.append(there)
                continue
            at = places[there]  # a ring touches no corner twice: what lies between is a ring of its own
            yield _bends(corners[at:]), pixel
            for corner in corners[at + (at > 0) :]:
                del places[corner]
            del corners[at + (at > 0) :]


def _bends(corners: list[tuple[int, int]]) -> Ring:
    """The corners at which a ring changes its direction."""
    ring = np.array(corners, float)
    return ring[np.any(np.roll(ring, 1, axis=0) + np.roll(ring, -1, axis=0) != 2 * ring, axis=1)]


def _next(
    ends: dict[tuple[int, int], list[tuple[int, int]]], here: tuple[int, int], before: tuple[int, int] | None
) -> tuple[int, int]:
    """The end of the edge that goes on from ``here``: to the right where two pixels touch by their corners."""
    choices = ends[here]
    choice = choices[0]
    if before is not None and len(choices) == 2:
        step = (here[0] - before[0], here[1] - before[1])
        choice = (here[0] - step[1], here[1] + step[0])
    choices.remove(choice)
    if not choices:
        del ends[here]
    return choice
