"""Areas drawn in QuPath, of any version, or in another annotation tool, read from GeoJSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

EXCLUDED = ("ignore", "exclude")
"""Prefixes of the names of classes that are excluded from tissue, matched without case."""
MAX_COORDINATE = 2.0**31
NO_AREA = {
    "Point": "point",
    "MultiPoint": "point",
    "LineString": "line",
    "MultiLineString": "line",
    None: "empty object",
}
OTHER_OBJECTS = ("detection", "cell", "tile", "tmacore", "root")
"""QuPath's types of objects other than annotations, without case, ``Path…Object``, spaces and underscores."""
TYPE_NAMES = ("objectType", "object_type", "type")
"""Properties with an object's type in different versions of QuPath; in the oldest, the feature's id is the type."""


@dataclass
class Annotations:
    """The areas of a file, in its own coordinates."""

    areas: list[Polygon] = field(default_factory=list)
    """As drawn: they may cross themselves, and their points are those within an odd number of their rings."""
    excluded: list[Polygon] = field(default_factory=list)
    """Areas of a class that is excluded from tissue."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Other objects in the file: kind -> number."""
    origin: tuple[float, float] | None = None
    """Level-0 pixel that is (0, 0) in the file, if its member ``milsurv`` contains it."""

    def ignored_text(self) -> str:
        """The ignored objects, such as "2 points, 1 cell"."""
        return ", ".join(f"{n:,} {kind}{'s' * (n > 1)}" for kind, n in sorted(self.ignored.items()))


def read_annotations(content: bytes) -> Annotations:
    """The areas in GeoJSON text of UTF-8, UTF-16 or UTF-32. Raises ValueError with the reason if it cannot be used."""
    if content[:2] in (b"\x1f\x8b", b"PK"):
        raise ValueError("it is compressed; unpack it")
    try:
        drawn = json.loads(content)
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8 or UTF-16") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON ({error})") from None
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
    """Add the areas of a FeatureCollection, a Feature, a geometry of the class ``name``, or a list of these."""
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
            _add_area(polygon, name, found)
    elif isinstance(kind, str) and kind in NO_AREA:
        found.ignored[NO_AREA[kind]] += 1
    else:
        raise ValueError(
            f"it contains {str(kind or drawn)[:40]!r}, which is not GeoJSON; export it from QuPath again"
        )


def _collect_feature(feature: dict[str, Any], found: Annotations) -> None:
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise ValueError(f"the properties of a feature are {str(properties)[:40]!r}, not a JSON object")
    other = _other_object(feature, properties)
    geometry = feature.get("geometry")
    if other is not None:
        found.ignored[other] += 1
    elif geometry is None:
        found.ignored[NO_AREA[None]] += 1
    else:
        _collect(geometry, _class(properties.get("classification")), found)
    for children in (feature, properties):
        _collect(children.get("childObjects") or [], "", found)


def _other_object(feature: dict[str, Any], properties: dict[str, Any]) -> str | None:
    """The type of a feature that is an object of QuPath other than an annotation."""
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
    """Name of a classification: QuPath writes ``{name: …}`` or ``{names: […]}``, other tools the name itself."""
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = classification.get("name") or (names[0] if isinstance(names, list) and names else "")
    return classification if isinstance(classification, str) else ""


def _listed(drawn: dict[str, Any], member: str) -> list[Any]:
    parts = drawn.get(member)
    if not isinstance(parts, list):
        raise ValueError(f"a {drawn['type']} has no list of {member}")
    return parts


def _add_area(coordinates: Any, name: str, found: Annotations) -> None:
    """Add a polygon. Rings with fewer than three different points enclose nothing, and are dropped."""
    if not isinstance(coordinates, list):
        raise ValueError("a polygon's coordinates are not lists of [x, y]")
    rings = [_points(ring) for ring in coordinates]
    enclosing = [len(np.unique(ring, axis=0)) >= 3 for ring in rings]
    if not enclosing or not enclosing[0]:
        found.ignored["empty polygon"] += 1
        return
    shell, *holes = (ring for ring, encloses in zip(rings, enclosing, strict=True) if encloses)
    excluded = name.casefold().strip().startswith(EXCLUDED)
    (found.excluded if excluded else found.areas).append(Polygon(shell, holes))


def _points(ring: Any) -> NDArray[np.float64]:
    """``(n, 2)`` (x, y)."""
    try:
        points = np.array([point[:2] for point in ring], float).reshape(-1, 2)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise ValueError("a polygon's coordinates are not lists of [x, y]") from None
    if not (np.abs(points) < MAX_COORDINATE).all():  # False for NaN too
        raise ValueError("a polygon's coordinates are not valid pixels: NaN, or beyond 2³¹")
    return points
