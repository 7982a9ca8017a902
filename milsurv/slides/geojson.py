"""Tissue as GeoJSON, which QuPath writes and reads: a mask's outlines out, and drawn annotations in as the mask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from milsurv.artifacts import write_text
from milsurv.config import AbsolutePath
from milsurv.errors import SlideError
from milsurv.plugin.base import PluginConfig
from milsurv.slides.reader import Slide, thumbnail_downsample, thumbnail_size
from milsurv.slides.tissue import TissueMask, TissueSegmenter, picture_px

TISSUE = {"name": "Tissue", "color": [0, 115, 92]}
IGNORED = ("ignore", "exclude")
"""Beginnings of the names of classes that are cut out; so are names that end in ``*``, as QuPath's Ignore*."""

Ring = NDArray[np.float64]
"""Corners of a closed line, ``(k, 2)`` (x, y), the last one not repeated."""


class GeoJsonConfig(PluginConfig):
    """Settings of tissue that is read from files."""

    folder: AbsolutePath
    """Holds ``<slide file's stem>.geojson`` for each slide, in level-0 pixels."""
    mpp: PositiveFloat = 8.0
    """µm per pixel of the mask."""


class GeoJsonTissue(TissueSegmenter):
    """Tissue as drawn: the union of all annotations, without those of an ignored class."""

    Config = GeoJsonConfig

    def __init__(self, config: GeoJsonConfig):
        self.config = config

    def source(self, slide: Path) -> str:
        """``sha256:…`` of the slide's GeoJSON."""
        return f"sha256:{hashlib.sha256(self._content(slide)).hexdigest()}"

    def segment(self, slide: Slide) -> TissueMask:
        file = self._file(slide.path)
        try:
            drawn = json.loads(self._content(slide.path))
            downsample = thumbnail_downsample(slide.dimensions, picture_px(slide, self.config.mpp))
            width, height = thumbnail_size(slide.dimensions, downsample)
            return TissueMask(_mask(drawn, (height, width), downsample), downsample)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise SlideError(f"tissue: {file} cannot be used: {error}; save it from QuPath again") from None

    def _content(self, slide: Path) -> bytes:
        try:
            return self._file(slide).read_bytes()
        except OSError as error:
            raise SlideError(
                f"tissue: {self._file(slide)} cannot be read ({error.strerror}); draw the tissue and save it there, "
                "or begin with what milsurv inspect writes"
            ) from None

    def _file(self, slide: Path) -> Path:
        return self.config.folder / f"{slide.stem}.geojson"


def write_geojson(mask: TissueMask, path: Path) -> None:
    """Write each piece of tissue as an annotation with holes, along its pixels' edges, in level-0 pixels."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [_closed(ring, mask.downsample) for ring in rings],
            },
            "properties": {"objectType": "annotation", "classification": TISSUE},
        }
        for rings in _pieces(mask.mask)
    ]
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}) + "\n")


def _closed(ring: Ring, downsample: float) -> list[list[float]]:
    return [*(ring * downsample).tolist(), (ring[0] * downsample).tolist()]


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


def _mask(drawn: Any, shape: tuple[int, int], downsample: float) -> NDArray[np.bool_]:
    """The pixels of ``shape`` whose centres lie in a polygon. Raises ValueError for what is no GeoJSON of polygons."""
    tissue, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    polygons = list(_polygons(drawn))
    if not polygons:
        raise ValueError("it holds no polygon")
    for polygon, name in polygons:
        out = name.lower().startswith(IGNORED) or name.endswith("*")
        _fill(ignored if out else tissue, [ring / downsample for ring in polygon])
    return tissue & ~ignored


def _polygons(drawn: Any) -> Iterator[tuple[list[Ring], str]]:
    """Rings of each polygon and its class, from a FeatureCollection, Features, a Feature or a geometry."""
    if isinstance(drawn, list):
        for part in drawn:
            yield from _polygons(part)
        return
    kind = drawn.get("type") if isinstance(drawn, dict) else None
    if kind == "FeatureCollection":
        yield from _polygons(drawn.get("features", []))
    elif kind == "Feature":
        properties = drawn.get("properties") or {}
        if properties.get("objectType", "annotation") != "annotation":  # QuPath's cells, detections, tiles
            return
        name = str((properties.get("classification") or {}).get("name", ""))
        for polygon, _ in _polygons(drawn.get("geometry")):
            yield polygon, name
    elif kind == "GeometryCollection":
        yield from _polygons(drawn.get("geometries", []))
    elif kind == "Polygon":
        yield _checked(drawn.get("coordinates")), ""
    elif kind == "MultiPolygon":
        for coordinates in drawn.get("coordinates", []):
            yield _checked(coordinates), ""
    else:
        raise ValueError(f"it holds {str(kind or drawn)[:40]!r}, allowed are polygons and multipolygons")


def _checked(coordinates: Any) -> list[Ring]:
    try:
        rings = [np.array([point[:2] for point in ring], float) for ring in coordinates]
    except (TypeError, ValueError, IndexError, OverflowError):
        raise ValueError("a polygon's coordinates are no lists of [x, y]") from None
    for ring in rings:
        if ring.ndim != 2 or not np.isfinite(ring).all() or len(np.unique(ring, axis=0)) < 3:
            raise ValueError("a polygon needs three points or more, all of them finite numbers")
    if not rings:
        raise ValueError("a polygon has no ring of points")
    return rings


def _fill(mask: NDArray[np.bool_], rings: list[Ring]) -> None:
    """Set the pixels whose centres lie within an odd number of ``rings``."""
    corners = np.concatenate(rings)
    following = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    (x, y), (x_end, y_end) = corners.T, following.T
    low, high = (np.ceil(ends - 0.5).clip(0, len(mask)).astype(int) for ends in np.sort([y, y_end], axis=0))
    crossed = high - low  # rows whose centre line an edge crosses
    edge = np.repeat(np.arange(len(crossed)), crossed)
    row = np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed, crossed) + low[edge]
    if not len(row):
        return
    top, bottom = row.min(), row.max() + 1
    along = (row + 0.5 - y[edge]) / (y_end - y)[edge]
    column = np.ceil(x[edge] + along * (x_end - x)[edge] - 0.5).clip(0, mask.shape[1]).astype(int)
    left = column.min()
    toggles = np.zeros((bottom - top, column.max() + 1 - left), np.int32)
    np.add.at(toggles, (row - top, column - left), 1)
    inside = toggles.cumsum(axis=1)[:, :-1] % 2 == 1
    mask[top:bottom, left : left + inside.shape[1]] |= inside
