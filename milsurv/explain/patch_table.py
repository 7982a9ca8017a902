"""How much each patch of a slide counts, for other programs: a table, and GeoJSON that QuPath reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milsurv.explain.importance import Importance

PLACES = ("magnification", "x", "y", "side")
DECIMALS = 2
"""Of a corner's place in level-0 pixels."""
DIGITS = 6
"""Of a measurement."""


def importance_table(
    found: Importance, coords: Mapping[int, NDArray[np.int64]], sides: Mapping[int, float]
) -> pd.DataFrame:
    """A :func:`patch_table` with ``occlusion``; or ``attention`` in multiples of uniform, ``weight`` (it sums to 1 at
    each magnification) and ``fused``, which the finest alone has.
    """
    if found.kind == "occlusion":
        return patch_table(coords, sides, {"occlusion": found.values})
    fused = {} if found.fused is None else {max(found.values): found.fused}
    weights = {m: values / len(values) for m, values in found.values.items()}
    return patch_table(coords, sides, {"weight": weights, "attention": found.values, "fused": fused})


def patch_table(
    coords: Mapping[int, NDArray[np.int64]],
    sides: Mapping[int, float],
    columns: Mapping[str, Mapping[int, NDArray[np.float64]]],
) -> pd.DataFrame:
    """A row for each patch, the finest magnification first.

    Columns: ``magnification``; ``x, y, side``, the patch in level-0 pixels; then ``columns``, each magnification ->
    ``(n,)``, empty for the others.
    """
    measured = {m for values in columns.values() for m in values}
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "magnification": m,
                    "x": coords[m][:, 0],
                    "y": coords[m][:, 1],
                    "side": sides[m],
                    **{name: values.get(m, np.nan) for name, values in columns.items()},
                }
            )
            for m in sorted(measured, reverse=True)
        ],
        ignore_index=True,
    )


def patches_geojson(
    table: pd.DataFrame, colours: NDArray[np.uint8], about: Mapping[str, Any], origin: tuple[int, int]
) -> str:
    """A FeatureCollection of QuPath's detections (0.4 and newer), a square for each row of :func:`patch_table`.

    A measurement is named after its column and magnification, such as ``attention 20x``: QuPath colours the patches
    that have it. Weights, which are attention in another unit, are left to the table. A patch's name tells its place in
    the table; the squares count from ``origin``, the level-0 pixel that is QuPath's (0, 0). QuPath's importer passes
    over the member ``milsurv``, which holds ``about`` and the origin (RFC 7946, section 6.1). ``colours``: RGB
    ``(rows, 3)``.
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
