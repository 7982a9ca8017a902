"""Detection of pen marks and edges of glass, which are coloured but not tissue."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RED_BELOW_GREEN = 20
"""Grey levels by which red is below green in blue and green ink; bluish haematoxylin reaches 10."""
DEEP_CHROMA = 90
"""Chroma (highest minus lowest channel, in grey levels) from which red only needs to be the lowest channel."""
PALE_CHROMA, RED_SHARE = 12, 0.05
"""Of rims of ink: smallest chroma, and share of it by which red is below green."""
RIM = 2
"""Width of a rim in multiples of the median filter's."""
MAX_BLACK, MAX_BLACK_CHROMA = 90, 20
"""Largest value of the highest channel, and largest chroma, of black ink; melanin is browner, nuclei are bluer."""
EDGE_LENGTH = 10
"""Smallest length of an edge of glass in multiples of its width."""


def find_ink(picture: NDArray[np.uint8], median_px: int) -> NDArray[np.bool_]:
    """Mask ``(h, w)`` of blue, green and black ink in an RGB picture ``(h, w, 3)``.

    The picture is smoothed by a median filter of ``median_px``.

    Haematoxylin and eosin both absorb green more than red (optical densities in Ruifrok and Johnston, "Quantification
    of histochemical staining by color deconvolution", 2001); blue and green ink absorb red most. Pale and greyish
    blues, which also occur in bluish stains and mucin, are ink only at the rim of a stroke.
    """
    red, green, blue = (channel.astype(np.int16) for channel in cv2.split(cv2.medianBlur(picture, median_px)))
    highest = np.maximum(np.maximum(red, green), blue)
    chroma = highest - np.minimum(np.minimum(red, green), blue)
    bluish = green - red >= RED_SHARE * chroma
    ink = (green - red >= RED_BELOW_GREEN) | (bluish & (chroma >= DEEP_CHROMA))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RIM * median_px + 1,) * 2)
    rim = bluish & (chroma >= PALE_CHROMA) & (cv2.dilate(ink.astype(np.uint8), disc) == 1)
    black = (highest <= MAX_BLACK) & (chroma <= MAX_BLACK_CHROMA)
    return np.asarray(ink | rim | black)


def straight_edges(mask: NDArray[np.uint8], width: float) -> NDArray[np.bool_]:
    """Pieces of ``mask`` (0 and 1) that are straight, at most ``width`` pixels wide, and long: ``(h, w)``."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    edges = np.zeros(count, bool)
    longest = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    for label in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] <= width * longest).tolist():
        if label:
            left, top, columns, rows = stats[label, : cv2.CC_STAT_AREA]
            piece = (
                labels[top : top + rows, left : left + columns] == label
            )  # cropped, since dust makes thousands of pieces
            points = np.argwhere(piece).astype(np.float32)
            sides = np.array(cv2.minAreaRect(points)[1]) + 1  # the rectangle is between pixel centres
            edges[label] = sides.min() <= width and sides.max() >= EDGE_LENGTH * sides.min()
    return np.asarray(edges[labels])
