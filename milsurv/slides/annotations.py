"""What an annotation tool wrote as GeoJSON: the areas that were drawn, by QuPath of any version or by another."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Corners of a closed line, ``(k, 2)`` (x, y), the last one not repeated."""
Area = list[Ring]
"""Rings of a polygon: its points lie within an odd number of them."""

CUT_OUT = ("ignore", "exclude")
"""Beginnings of the names of classes that are cut out, in any case."""
FURTHEST = 2.0**31
"""Coordinates are smaller than this, either way."""
NO_AREA = {
    "Point": "point",
    "MultiPoint": "point",
    "LineString": "line",
    "MultiLineString": "line",
    None: "empty object",
}
OTHER_OBJECTS = ("detection", "cell", "tile", "tmacore", "root")
"""QuPath's types of objects that are no annotations, without case, ``Path…Object``, spaces and underscores."""
TYPE_NAMES = ("objectType", "object_type", "type")
"""Properties in which versions of QuPath tell an object's type; before, its feature's id was the type."""


@dataclass
class Annotations:
    """The areas of a file, in its own coordinates."""

    areas: list[Area] = field(default_factory=list)
    cut_out: list[Area] = field(default_factory=list)
    """Those of a class that is cut out."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """What else the file holds: kind -> number."""
    origin: tuple[float, float] | None = None
    """Level-0 pixel that is (0, 0) in the file, if it says so in its member ``milsurv``."""

    def told(self) -> str:
        """What was passed over, such as "2 points, 1 cell"."""
        return ", ".join(f"{n:,} {kind}{'s' * (n > 1)}" for kind, n in sorted(self.passed_over.items()))


def read_annotations(content: bytes) -> Annotations:
    """The areas in a GeoJSON of UTF-8, UTF-16 or UTF-32. Raises ValueError, with the reason, when it cannot be used."""
    if content[:2] in (b"\x1f\x8b", b"PK"):
        raise ValueError("it is compressed; unpack it")
    try:
        drawn = json.loads(content)
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8 or UTF-16") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no whole JSON ({error})") from None
    found = Annotations()
    if isinstance(drawn, dict):
        found.origin = _origin(drawn.get("milsurv"))
    try:
        _collect(drawn, "", found)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def _origin(member: Any) -> tuple[float, float] | None:
    if not isinstance(member, dict) or "origin" not in member:
        return None
    try:
        (origin,) = _points([member["origin"]]).tolist()
    except ValueError:
        raise ValueError("its milsurv.origin is not the [x, y] of a level-0 pixel") from None
    return origin[0], origin[1]


def _collect(drawn: Any, name: str, found: Annotations) -> None:
    """Add the areas of a FeatureCollection, a Feature, a geometry, or a list of these, of the class ``name``."""
    if isinstance(drawn, list):
        for part in drawn:
            _collect(part, name, found)
        return
    kind = drawn.get("type") if isinstance(drawn, dict) else None
    if kind == "FeatureCollection":
        _collect(_listed(drawn, "features"), name, found)
    elif kind == "Feature":
        _collect_feature(drawn, found)
    elif kind == "GeometryCollection":
        _collect(_listed(drawn, "geometries"), name, found)
    elif kind in ("Polygon", "MultiPolygon"):
        polygons = _listed(drawn, "coordinates")
        for polygon in [polygons] if kind == "Polygon" else polygons:
            _add(_area(polygon), name, found)
    elif isinstance(kind, str) and kind in NO_AREA:
        found.passed_over[NO_AREA[kind]] += 1
    else:
        raise ValueError(
            f"it holds {str(kind or drawn)[:40]!r}, which is no GeoJSON; save it from QuPath again"
        )


def _collect_feature(feature: dict[str, Any], found: Annotations) -> None:
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise ValueError(f"the properties of a feature are {str(properties)[:40]!r}, not names with values")
    other = _other_object(feature, properties)
    geometry = feature.get("geometry")
    if other is not None:
        found.passed_over[other] += 1
    elif geometry is None:
        found.passed_over[NO_AREA[None]] += 1
    else:
        _collect(geometry, _class(properties.get("classification")), found)
    for children in (feature, properties):
        _collect(children.get("childObjects") or [], "", found)


def _other_object(feature: dict[str, Any], properties: dict[str, Any]) -> str | None:
    """The type of a feature that is one of QuPath's objects other than an annotation."""
    given = [properties.get(name) for name in TYPE_NAMES]
    for number, name in enumerate([*given, feature.get("id")]):
        if not isinstance(name, str):
            continue
        plain = re.sub(r"^path|object$|[\s_-]", "", name.casefold())
        if plain in OTHER_OBJECTS:
            return "TMA core" if plain == "tmacore" else plain
        if number < 2 and plain != "annotation":  # a property that only QuPath has
            return f"{name[:40]!r} object"
    return "cell" if "nucleusGeometry" in feature else None


def _class(classification: Any) -> str:
    """A classification's name; QuPath has written ``{name: …}`` and ``{names: […]}``, others write the name alone."""
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = classification.get("name") or (names[0] if isinstance(names, list) and names else "")
    return classification if isinstance(classification, str) else ""


def _listed(drawn: dict[str, Any], member: str) -> list[Any]:
    parts = drawn.get(member)
    if not isinstance(parts, list):
        raise ValueError(f"a {drawn['type']} has no list of {member}")
    return parts


def _add(area: Area, name: str, found: Annotations) -> None:
    if not area:
        found.passed_over["empty polygon"] += 1
    elif name.casefold().strip().startswith(CUT_OUT):
        found.cut_out.append(area)
    else:
        found.areas.append(area)


def _area(coordinates: Any) -> Area:
    """The rings that enclose something; none when the outer one does not."""
    if not isinstance(coordinates, list):
        raise ValueError("a polygon's coordinates are no lists of [x, y]")
    rings = [_points(ring) for ring in coordinates]
    enclosing = [ring for ring in rings if len(np.unique(ring, axis=0)) >= 3]
    return enclosing if rings and len(np.unique(rings[0], axis=0)) >= 3 else []


def _points(ring: Any) -> Ring:
    try:
        points = np.array([point[:2] for point in ring], float).reshape(-1, 2)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise ValueError("a polygon's coordinates are no lists of [x, y]") from None
    if not (np.abs(points) < FURTHEST).all():  # NaN is not either
        raise ValueError("a polygon's coordinates are not all numbers of pixels: NaN, or beyond 2³¹")
    return points[:-1] if len(points) > 1 and (points[0] == points[-1]).all() else points
