from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from milsurv.explain.importance import Importance
from milsurv.explain.patch_table import patch_table, patches_geojson
from milsurv.explain.view import Patches, SlideView

PATCHES = {
    20: Patches(np.array([[0, 0], [512, 0], [0, 512]]), 512.0),
    10: Patches(np.array([[0, 0]]), 1024.25),
}
FOUND = Importance(
    "attention", {20: np.array([0.5, 1.5, 1.0]), 10: np.array([1.0])}, fused=np.array([0.75, 1.25, 1.0])
)


def table_of(importance: Importance) -> pd.DataFrame:
    thumbnail = np.zeros((8, 8, 3), np.uint8)
    return patch_table(SlideView("a", "", thumbnail, 1.0, 0.5, PATCHES, importance=importance))


def test_a_row_for_each_patch_with_weights_that_sum_to_one() -> None:
    table = table_of(FOUND)
    assert list(table.columns) == ["magnification", "x", "y", "side", "weight", "attention", "fused"]
    assert table["magnification"].tolist() == [20, 20, 20, 10]
    assert table.groupby("magnification")["weight"].sum().tolist() == pytest.approx([1, 1])
    assert table["fused"].tolist() == pytest.approx([0.75, 1.25, 1.0, np.nan], nan_ok=True)
    occlusion = table_of(Importance("occlusion", FOUND.values))
    assert list(occlusion.columns)[4:] == ["occlusion"]


def test_magnifications_without_attention_have_no_rows() -> None:
    found = Importance("attention", {10: np.array([1.0])}, fused=np.array([1.0]))
    table = table_of(found)
    assert table[["magnification", "fused"]].to_numpy().tolist() == [[10, 1.0]]


def test_squares_with_measurements_as_qupath_reads_them() -> None:
    colours = np.array([[255, 0, 0], [0, 0, 0], [0, 0, 0], [1, 2, 3]], np.uint8)
    table = table_of(FOUND)
    written = json.loads(patches_geojson(table, colours, {"slide": "a"}, (0, 0)))
    assert written["type"] == "FeatureCollection"
    assert written["milsurv"] == {"slide": "a", "origin": [0, 0]}
    first, *_, last = written["features"]
    assert first == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [512, 0], [512, 512], [0, 512], [0, 0]]]},
        "properties": {
            "objectType": "detection",
            "name": "20x at 0, 0",
            "color": [255, 0, 0],
            "measurements": {"attention 20x": 0.5, "fused 20x": 0.75},
        },
    }
    assert last["properties"]["color"] == [1, 2, 3]
    moved = json.loads(patches_geojson(table, colours, {"slide": "a"}, (100, 30)))["features"][0]
    assert moved["geometry"]["coordinates"][0][:2] == [[-100, -30], [412, -30]]
    assert moved["properties"]["name"] == "20x at 0, 0"
    assert last["properties"]["measurements"] == {"attention 10x": 1.0}
    assert last["geometry"]["coordinates"][0][2] == [1024.25, 1024.25]
