"""Importance of patches for other programs: a table, and GeoJSON for QuPath."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milsurv.explain.view import SlideView

PLACES = ("magnification", "x", "y", "side")
DECIMALS = 2
"""Of the corners in level-0 pixels."""
DIGITS = 6
"""Significant digits of a measurement."""


def patch_table(view: SlideView) -> pd.DataFrame:
    """A row for each patch that has a value, the finest magnification first.

    Columns: ``magnification``; ``x, y, side``, the patch in level-0 pixels; then ``occlusion``, or ``weight``
    (attention that sums to 1 at each magnification), ``attention`` (multiples of uniform) and ``fused`` (finest
    magnification).
    """
    found = view.importance
    assert found is not None
    tables = []
    for m in sorted(found.values, reverse=True):
        patches, values = view.patches[m], found.values[m]
        columns: dict[str, Any] = {"occlusion": values}
        if found.kind == "attention":
            fused = found.fused if found.fused is not None and m == max(found.values) else np.nan
            columns = {"weight": values / len(values), "attention": values, "fused": fused}
        x, y = patches.coords.T
        tables.append(pd.DataFrame({"magnification": m, "x": x, "y": y, "side": patches.side, **columns}))
    return pd.concat(tables, ignore_index=True)


def patches_geojson(
    table: pd.DataFrame, colours: NDArray[np.uint8], about: Mapping[str, Any], origin: tuple[int, int]
) -> str:
    """A GeoJSON FeatureCollection of QuPath detections (0.4 and newer), a square for each row of :func:`patch_table`.

    Measurements are named after column and magnification, such as ``attention 20x``; weights are omitted, since they
    are attention in another unit. A detection's name gives its level-0 position; its coordinates are relative to
    ``origin``, the level-0 pixel that is QuPath's (0, 0). The member ``milsurv`` contains ``about`` and the origin;
    QuPath ignores it (RFC 7946, section 6.1). ``colours``: RGB ``(rows, 3)``.
    """
    named = [column for column in table.columns if column not in (*PLACES, "weight")]
    features = []
    for row, colour in zip(table.to_dict("records"), colours.tolist(), strict=True):
        left, top = row["x"] - origin[0], row["y"] - origin[1]
        right, bottom = round(left + row["side"], DECIMALS), round(top + row["side"], DECIMALS)
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        measurements = {
            f"{name} {row['magnification']}x": float(f"{row[name]:.{DIGITS}g}")
            for name in named
            if np.isfinite(row[name])
        }
        properties = {
            "objectType": "detection",
            "name": f"{row['magnification']}x at {row['x']}, {row['y']}",
            "color": colour,
            "measurements": measurements,
        }
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    content = {"type": "FeatureCollection", "milsurv": {**about, "origin": origin}, "features": features}
    return json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n"
