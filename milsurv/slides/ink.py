"""What is coloured on a slide and is no tissue: pen marks, and edges of glass."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WEAK_CHROMA = 12
STRONG_CHROMA = 60
"""Grey levels between the highest and the lowest channel: of what may be ink, and of what surely has a colour."""
RED_LEAST = 0.05
"""By how much of the chroma red lies below green, at least, in blue and green ink."""
BLACK_MOST = 90
BLACK_CHROMA = 20
"""Highest channel and chroma of black ink, at most; melanin is browner, nuclei are bluer."""
EDGE_LENGTH = 10
"""Length of an edge of glass in multiples of its width, at least."""


def find_ink(picture: NDArray[np.uint8], median_px: int) -> NDArray[np.bool_]:
    """Blue, green and black ink in an RGB picture ``(h, w, 3)``, smoothed by a median of ``median_px``: ``(h, w)``.

    Haematoxylin and eosin both absorb green more than red (optical densities in Ruifrok and Johnston, "Quantification
    of histochemical staining by color deconvolution", 2001); blue and green ink absorb red most. Pale colours are
    ink only where they are one piece with a strong one: rims of strokes are, mucin is not.
    """
    red, green, blue = (channel.astype(np.int16) for channel in cv2.split(cv2.medianBlur(picture, median_px)))
    highest = np.maximum(np.maximum(red, green), blue)
    chroma = highest - np.minimum(np.minimum(red, green), blue)
    coloured = (chroma >= WEAK_CHROMA) & (green - red >= RED_LEAST * chroma)
    black = (highest <= BLACK_MOST) & (chroma <= BLACK_CHROMA)
    return _pieces_with(coloured, coloured & (chroma >= STRONG_CHROMA)) | black


def straight_edges(mask: NDArray[np.uint8], width: float) -> NDArray[np.bool_]:
    """Pieces of a ``mask`` of 0 and 1 that are straight, at most ``width`` pixels wide, and long: ``(h, w)``."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    edges = np.zeros(count, bool)
    longest = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    for label in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] <= width * longest).tolist():
        if label:
            points = np.argwhere(labels == label).astype(np.float32)
            sides = np.array(cv2.minAreaRect(points)[1]) + 1  # between pixels' centres
            edges[label] = sides.min() <= width and sides.max() >= EDGE_LENGTH * sides.min()
    return np.asarray(edges[labels])


def _pieces_with(mask: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The 8-connected pieces of ``mask`` that hold a seed."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    chosen = np.zeros(count, bool)
    chosen[labels[seeds]] = True
    return np.asarray(chosen[labels] & mask)
