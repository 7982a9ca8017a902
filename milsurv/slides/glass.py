"""Estimation and removal of the tint of a slide's glass."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SAMPLE_PX = 600
"""Longest side of the downsampled picture in which the colour of the glass is estimated."""
SMOOTH = 3.0
"""Largest standard deviation, in grey levels, of glass within a window: unlike tissue, it has no texture."""
DARKEST = 100
"""Smallest value of the darkest channel of glass."""
STAINED_HUES = (35.0, 245.0)
"""Hues in degrees outside which haematoxylin and eosin are (through red); inside are yellow, green and blue."""
MAX_TINT, MAX_STAINED_TINT, GREY_TINT = 0.3, 0.1, 0.03
"""Largest HSV saturation of glass: of any hue; of a stain's hue; of a stain's hue if a part of the slide is white."""
MIN_SHARE = 0.01
"""Smallest share of the picture with the colour of its glass."""
BIN, BINS = 0.02, 64
"""Width and number of the bins of log(red / green) and of log(blue / green)."""
CLEAR = 0.02
"""Largest log ratio of glass that counts as colourless."""
WHITE = 255
"""Value of all channels of overexposed glass and of areas that were not scanned."""
FITTED, REFITS = 5000, 8
"""Number of pixels and of iterations in fitting the change of the glass's colour over the slide."""


def on_clear_glass(picture: NDArray[np.uint8], window_px: int) -> NDArray[np.uint8]:
    """Remove the tint of the glass from an RGB picture ``(h, w, 3)``, so that glass becomes grey.

    Each channel is divided by that of the glass, since absorption is multiplicative, and scaled such that the brightest
    channel of the glass is unchanged. The colour of the glass may change slowly over the slide. It is the brightest of
    the frequent colours of areas without texture in windows of ``window_px``. The picture is returned unchanged if
    there is no such colour (tissue everywhere, a dark background) or if the glass is colourless.
    """
    step = math.ceil(max(picture.shape) / SAMPLE_PX)
    coefficients = _glass(np.ascontiguousarray(picture[::step, ::step]), window_px)
    if coefficients is None:
        return picture
    (height, width), clear = picture.shape[:2], np.empty_like(picture)
    x = np.linspace(-1, 1, width, dtype=np.float32)
    for row, y in enumerate(np.linspace(-1, 1, height, dtype=np.float32)):
        surface, lowest, highest = coefficients
        ratios = (_terms(x, np.full_like(x, y)) @ surface).clip(lowest, highest)
        channels = np.exp(np.insert(ratios, 1, 0, axis=1))
        factors = channels.max(axis=1, keepdims=True) / channels
        clear[row] = (picture[row] * factors + 0.5).clip(0, 255)
    return clear


def _glass(picture: NDArray[np.uint8], window_px: int) -> tuple[Floats, Floats, Floats] | None:
    """Coefficients ``(6, 2)`` of the log ratios in ``_terms``, and the bounds ``(2,)`` of these ratios; or None."""
    blurred = np.asarray(cv2.medianBlur(picture, window_px), np.uint8)
    glass = _smooth(picture, window_px) & _may_be_glass(blurred)
    pixels = blurred[glass].astype(np.float32)
    if len(pixels) < MIN_SHARE * glass.size:
        return None
    logs = np.log(pixels)
    ratios = logs[:, ::2] - logs[:, 1:2]
    common = _brightest(ratios, pixels.mean(axis=1), MIN_SHARE * glass.size)
    if common is None:
        return None
    every = math.ceil(len(ratios) / FITTED)
    ratios, rows, columns = ratios[::every], *(at[::every] for at in np.nonzero(glass))
    height, width = glass.shape
    terms = _terms(*(2 * at / max(side - 1, 1) - 1 for at, side in ((columns, width), (rows, height))))
    surface = np.zeros((terms.shape[1], 2), np.float32)
    surface[0] = common
    for _ in range(REFITS):  # starting from the frequent colour, as far as it changes slowly
        near = (np.abs(terms @ surface - ratios) <= 1.5 * BIN).all(axis=1)
        surface = np.linalg.lstsq(terms[near], ratios[near], rcond=None)[0].astype(np.float32)
    lowest, highest = np.percentile(ratios[near], (1, 99), axis=0).astype(np.float32)
    tint = max(np.abs(lowest).max(), np.abs(highest).max())
    return None if tint <= CLEAR else (surface, lowest, highest)


def _terms(x: NDArray[np.floating], y: NDArray[np.floating]) -> Floats:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)


def _brightest(ratios: Floats, light: Floats, least: float) -> Floats | None:
    """The brightest colour ``(2,)`` of at least ``least`` pixels; None if no colour is so frequent."""
    places = (np.rint(ratios / BIN).astype(np.int64) + BINS // 2).clip(0, BINS - 1)
    flat = places[:, 0] * BINS + places[:, 1]
    around = np.ones((3, 3))
    count, total = (
        cv2.filter2D(np.bincount(flat, weights, BINS**2).reshape(BINS, BINS), -1, around, borderType=0)
        for weights in (np.ones(len(flat)), light)
    )
    common = (count == cv2.dilate(count, around.astype(np.uint8))) & (count >= least)
    if not common.any():
        return None
    mode = np.array(
        np.unravel_index(np.where(common, total / np.maximum(count, 1), 0).argmax(), common.shape)
    )
    return np.asarray(np.median(ratios[(np.abs(places - mode) <= 1).all(axis=1)], axis=0), np.float32)


def _smooth(picture: NDArray[np.uint8], window_px: int) -> NDArray[np.bool_]:
    values = picture.astype(np.float32)
    mean, square = (cv2.blur(array, (window_px, window_px)) for array in (values, values**2))
    return np.asarray((square - mean**2).max(axis=2) <= SMOOTH**2)


def _may_be_glass(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    hue, saturation, _ = cv2.split(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2HSV))
    lowest = picture.min(axis=2)
    white = lowest == WHITE
    stained = (hue < STAINED_HUES[0]) | (hue > STAINED_HUES[1])
    tint = np.where(stained, GREY_TINT if white.mean() >= MIN_SHARE else MAX_STAINED_TINT, MAX_TINT)
    return np.asarray((saturation <= tint) & (lowest >= DARKEST) & ~white)
