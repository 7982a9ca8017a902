"""Outlines of a tissue mask as GeoJSON, for QuPath."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from milsurv.slides.tissue import TissueMask
from milsurv.storage.atomic import write_text

TISSUE = {"name": "Tissue", "color": [0, 115, 92]}


def write_geojson(mask: TissueMask, path: Path, origin: tuple[int, int]) -> None:
    """Write each piece of tissue as an annotation with holes, along the edges of its pixels.

    ``origin`` is the level-0 pixel that is (0, 0) in the file: :attr:`Slide.qupath_origin`, for QuPath. It is stored
    in the member ``milsurv`` of the file, which QuPath ignores.
    """
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(
                shapely.transform(piece, lambda corners: corners * mask.downsample - origin)
            ),
            "properties": {"objectType": "annotation", "classification": TISSUE},
        }
        for piece in _pieces(mask.mask)
    ]
    content = {"type": "FeatureCollection", "milsurv": {"origin": origin}, "features": features}
    write_text(path, json.dumps(content) + "\n")


def _pieces(mask: NDArray[np.bool_]) -> Iterator[BaseGeometry]:
    """The 4-connected pieces in mask pixels, as polygons without collinear corners."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for label in range(1, count):
        left, top, width, height = stats[label, : cv2.CC_STAT_AREA]
        piece = (labels[top : top + height, left : left + width] == label).astype(np.uint8)
        # OpenCV's contours run through pixel centres; at twice the size, half of them are the edges of mask pixels.
        doubled = np.kron(piece, np.ones((2, 2), np.uint8))
        contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        shell, *holes = ((contour[:, 0] + 1) // 2 + (left, top) for contour in contours)
        yield shapely.simplify(shapely.make_valid(shapely.Polygon(shell, holes)), 0)
