import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milsurv.slides.annotations import read_annotations

DATA = Path(__file__).parents[1] / "data" / "annotations"
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE]}


def feature(geometry: Any = POLYGON, properties: Any = None, **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties or {}, **members}


def read(drawn: Any) -> Any:
    return read_annotations(json.dumps(drawn).encode())


@pytest.mark.parametrize(
    ("name", "areas", "ignored"),
    [
        ("qupath_0.5.geojson", 2, {}),
        ("qupath_0.3.geojson", 1, {"cell": 2, "detection": 1, "tile": 1, "TMA core": 1}),
        ("qupath_0.2.json", 2, {"cell": 1, "detection": 1, "tile": 1, "TMA core": 1}),
    ],
)
def test_objects_of_every_version_of_qupath(name: str, areas: int, ignored: dict[str, int]) -> None:
    found = read_annotations((DATA / name).read_bytes())
    assert len(found.areas) == areas
    assert found.ignored == ignored
    assert not found.excluded


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({"properties": {"objectType": "cell"}}, "cell"),
        ({"properties": {"objectType": "tma_core"}}, "TMA core"),
        ({"properties": {"object_type": "detection"}}, "detection"),
        ({"properties": {"object_type": "superpixel"}}, "'superpixel' object"),
        ({"properties": {"type": "Cell"}}, "cell"),
        ({"id": "PathCellObject"}, "cell"),
        ({"id": "PathDetectionObject"}, "detection"),
        ({"id": "PathTileObject"}, "tile"),
        ({"id": "TMACoreObject"}, "TMA core"),
        ({"id": "PathRootObject"}, "root"),
        ({"nucleusGeometry": POLYGON}, "cell"),
    ],
)
def test_objects_that_are_no_annotations(other: dict[str, Any], kind: str) -> None:
    found = read([{**feature(), **other}, feature()])
    assert len(found.areas) == 1
    assert found.ignored == {kind: 1}


@pytest.mark.parametrize(
    "annotation",
    [
        feature(properties={"objectType": "annotation"}),
        feature(properties={"object_type": "Annotation"}),
        feature(properties={"type": "Tumour"}),
        feature(id="PathAnnotationObject"),
        feature(id="6423a977-ffff-48db-affc-cd11632010f0"),
        feature(id=7, properties={"isLocked": False, "measurements": []}),
        feature(properties={"classification": None}),
        feature(properties={"classification": "Tumor"}),
        feature(properties={"classification": {"names": ["Tumor", "Positive"]}}),
        {"type": "Feature", "geometry": POLYGON, "properties": None},
        {"type": "FeatureCollection", "features": [{"type": "FeatureCollection", "features": [feature()]}]},
        feature(None, childObjects=[feature()], properties={"objectType": "root"}),
    ],
)
def test_annotations(annotation: Any) -> None:
    (area,) = read(annotation).areas
    np.testing.assert_array_equal(area.exterior.coords, SQUARE)


@pytest.mark.parametrize(
    "classification",
    [{"name": "Ignore*"}, {"names": ["Ignore*", "x"]}, "Ignore*", {"name": "IGNORE"}, {"name": "exclude me"}],
)
def test_classes_that_are_excluded(classification: Any) -> None:
    found = read(feature(properties={"classification": classification}))
    assert (len(found.areas), len(found.excluded)) == (0, 1)


def test_what_has_no_area_is_ignored() -> None:
    point, line = (
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
    )
    bowl = {
        "type": "GeometryCollection",
        "geometries": [point, line, POLYGON, {**line, "type": "MultiPoint"}],
    }
    thin = {"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [1, 1]]]}
    empty = {"type": "MultiPolygon", "coordinates": []}
    drawn = [feature(bowl), feature(thin), feature(empty), feature(None), {**POLYGON, "coordinates": []}]
    found = read(drawn)
    assert len(found.areas) == 1
    assert found.ignored == {
        "point": 2,
        "line": 1,
        "empty polygon": 2,
        "empty object": 1,
    }
    assert found.ignored_text() == "1 empty object, 2 empty polygons, 1 line, 2 points"


def test_encodings_and_odd_coordinates() -> None:
    text = json.dumps(feature(properties={"name": "Möller 患者"}))
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"):
        assert len(read_annotations(text.encode(encoding)).areas) == 1
    deep = [[x, y, 7] for x, y in [SQUARE[0], *SQUARE]]  # three numbers to a point, and one point twice
    (area,) = read({**POLYGON, "coordinates": [deep]}).areas
    np.testing.assert_array_equal(area.exterior.coords, [SQUARE[0], *SQUARE])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(json.dumps(feature()).encode()), "compressed; unpack it"),
        (b"PK\x03\x04", "compressed; unpack it"),
        (b"\x89\xff\xfe\xfa", "not text in UTF-8"),
        (b"", "not valid JSON"),
        (json.dumps(feature())[:-9].encode(), "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"17", "contains '17', which is not GeoJSON"),
        (b"null", "contains 'None', which is not GeoJSON"),
        (feature({"type": "Circle", "coordinates": [1, 2]}), "contains 'Circle', which is not GeoJSON"),
        (feature({"type": ["Polygon"], "coordinates": []}), "not GeoJSON"),
        (feature({"type": "Polygon"}), "Polygon has no list of coordinates"),
        (feature({"type": "MultiPolygon", "coordinates": 7}), "MultiPolygon has no list of coordinates"),
        (feature({"type": "MultiPolygon", "coordinates": [7]}), "not lists of"),
        ({"type": "FeatureCollection"}, "has no list of features"),
        ({"type": "FeatureCollection", "features": {"a": 1}}, "has no list of features"),
        (feature({"type": "Polygon", "coordinates": [[[1, 1], [2, 2], ["a", 3]]]}), "not lists of"),
        (feature({"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [3]]]}), "not lists of"),
        (feature({"type": "Polygon", "coordinates": [[1, 2, 3]]}), "not lists of"),
        (feature({"type": "Polygon", "coordinates": ["abc"]}), "not lists of"),
        (feature({"type": "Polygon", "coordinates": [[[10**400, 1], [2, 2], [3, 5]]]}), "not lists of"),
        (
            feature({"type": "Polygon", "coordinates": [[[float("nan"), 1], [2, 2], [3, 5]]]}),
            "not valid pixels",
        ),
        (
            feature({"type": "Polygon", "coordinates": [[[float("inf"), 1], [2, 2], [3, 5]]]}),
            "not valid pixels",
        ),
        (feature({"type": "Polygon", "coordinates": [[[1e300, 1], [2, 2], [3, 5]]]}), "not valid pixels"),
        (feature(properties=[1]), "properties of a feature"),
        ({**feature(), "milsurv": {"origin": "corner"}}, "milsurv.origin"),
        ({**feature(), "milsurv": {"origin": [1]}}, "milsurv.origin"),
    ],
)
def test_what_cannot_be_used_is_said(content: Any, reason: str) -> None:
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(ValueError, match=reason):
        read_annotations(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "features", "geometry", "coordinates", "properties", "classification", "milsurv"]
            ),
            inner
            | st.sampled_from(
                ["Feature", "Polygon", "FeatureCollection", "MultiPolygon", "GeometryCollection"]
            ),
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(JSON)
def test_nothing_but_a_reason_is_raised(drawn: Any) -> None:
    try:
        found = read(drawn)
    except ValueError:
        return
    assert isinstance(found.ignored, Counter)
    for area in [*found.areas, *found.excluded]:
        assert len(np.unique(area.exterior.coords, axis=0)) >= 3
