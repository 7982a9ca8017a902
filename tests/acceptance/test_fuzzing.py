"""Damaged and crafted files are read or refused, within bounds of memory and time, whatever reads them."""

from __future__ import annotations

import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from milsurv.backbones.weights import read_state
from milsurv.cohort.text_table import read_text_table
from milsurv.errors import MilsurvError
from milsurv.features.store import MagnificationFeatures, read_attributes, read_bag, write_features
from milsurv.plugin.base import PluginConfig
from milsurv.slides.geojson import GeoJsonConfig, GeoJsonTissue
from milsurv.slides.jpeg_tiles import JpegTiles, JpegTilesError
from milsurv.slides.opening import slide_faults
from milsurv.slides.reader import OpenSlideReader
from milsurv.storage.checksums import read_checked, write_checked
from milsurv.storage.documents import compose_yaml, construct_yaml, parse_json, read_yaml_text
from milsurv.training.model import load_tensors, save_tensors
from milsurv.training.results import read_predictions
from tests.features.importers.make_foreign import read_foreign

CASES = 250
SECONDS_A_CASE = 10
SECONDS = 120
"""For all cases of one reader."""
MEMORY = 6 * 2**30
"""Address space beyond what the libraries take."""
POINTERS = (0, 1, 8, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)

FEATURES = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float16)
CELLS = np.arange(12).reshape(6, 2)


def _h5(**options: object) -> bytes:
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.create_dataset("features", data=FEATURES.astype(np.float32), **options)
        file.create_dataset("coords", data=CELLS).attrs["patch_size_level0"] = 256
        file.create_group("other")["cycle"] = h5py.SoftLink("/other/cycle")
    return image.getvalue()


def _own() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        write_features(
            path, {20: MagnificationFeatures(FEATURES, CELLS, CELLS.astype(np.int32))}, {"mpp": 0.5}
        )
        return path.read_bytes()


def _saved(content: object) -> bytes:
    image = io.BytesIO()
    torch.save(content, image)
    return image.getvalue()


def _model() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_tensors(path, {"a": torch.ones(2, 3), "b": torch.zeros(1)}, {"epoch": 1})
        return path.read_bytes()


def _parquet() -> bytes:
    image = io.BytesIO()
    pd.DataFrame({"case_id": ["a", "b"], "time": [1.0, 2.0]}).to_parquet(image)
    return image.getvalue()


def _tiff() -> bytes:
    image = io.BytesIO()
    picture = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(image, picture, tile=(32, 32), compression="jpeg", photometric="rgb")
    return image.getvalue()


def _read_own(path: Path) -> None:
    read_attributes(path)
    read_bag(path)


def _read_yaml(path: Path) -> None:
    construct_yaml(compose_yaml(read_yaml_text(path)))


def _read_json(path: Path) -> None:
    parse_json(path.read_bytes().decode(errors="replace"), path)


def _read_predictions(path: Path) -> None:
    write_checked(path.with_name("predictions.csv"), "case_id,risk\nP1,0.5\n")
    path.with_name("predictions.csv").write_bytes(path.read_bytes())
    read_predictions(path.with_name("predictions.csv"))
    read_checked(path.with_name("predictions.csv"))


def _read_tiff(path: Path) -> None:
    try:
        tiles = JpegTiles(path)
    except JpegTilesError:
        return
    tiles.close()


def _geojson() -> bytes:
    ring = [[2, 2], [60, 2], [60, 60.5], [2, 60], [2, 2]]
    properties = {"objectType": "annotation", "classification": {"name": "Tumor"}}
    drawn = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
    }
    return json.dumps({"type": "FeatureCollection", "features": [drawn, drawn]}).encode()


def _read_slide(path: Path) -> None:
    with slide_faults(), OpenSlideReader(PluginConfig()).open(path, 0.5) as slide:
        slide.thumbnail(64)
        slide.read(0, 0, 32, 32, (32, 32))


def _read_geojson(path: Path) -> None:
    slide = path.with_suffix(".tif")
    if not slide.exists():
        slide.write_bytes(_tiff())
    with OpenSlideReader(PluginConfig()).open(slide, 0.5) as opened:
        GeoJsonTissue(GeoJsonConfig(folder=path.parent)).segment(opened)


YAML = b"name: a\ncohort: {table: t.csv, columns: &c {time: 1e-4}}\nseeds: [1, 2]\nx: *c\ndate: 2024-01-02\n"
READERS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], object]]] = {
    "own features": (".h5", _own, _read_own),
    "contiguous HDF5": (".h5", _h5, lambda path: read_foreign(path, "clam", 20)),
    "chunked HDF5": (
        ".h5",
        lambda: _h5(chunks=(2, 2), compression="gzip", shuffle=True, fletcher32=True, maxshape=(None, 3)),
        lambda path: read_foreign(path, "clam", 20),
    ),
    "tensor": (".pt", lambda: _saved(torch.ones(3, 4)), lambda path: read_foreign(path, "clam", 20)),
    "checkpoint": (
        ".pth",
        lambda: _saved({"model": {"a": torch.ones(3), "b": torch.ones(2, 2)}}),
        read_state,
    ),
    "weights": (".safetensors", _model, read_state),
    "model": (".safetensors", _model, load_tensors),
    "CSV": (".csv", lambda: b'case_id,slide_id,time\nP1,"s,1",3\nP2,s2,4.5\n', read_text_table),
    "Parquet": (".parquet", _parquet, read_text_table),
    "predictions": (".txt", lambda: b"case_id,risk\nP1,0.5\n", _read_predictions),
    "YAML": (".yaml", lambda: YAML, _read_yaml),
    "JSON": (".json", lambda: json.dumps({"a": [1, 2.5, None, {"b": "c"}]}).encode(), _read_json),
    "GeoJSON": (".geojson", _geojson, _read_geojson),
    "TIFF": (".tif", _tiff, _read_tiff),
    "slide": (".tif", _tiff, _read_slide),
}


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with a few of: flipped bytes, cuts, parts put elsewhere, large numbers, repeats."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            number = draw.choice((*POINTERS, draw.randrange(len(content) + 1))).to_bytes(8, "little")
            data[at : at + 8] = number
        elif kind == 2:
            data[at : at + 8] = data[end : end + 8]  # a pointer to somewhere else in the file
        elif kind == 3:
            del data[at : at + draw.choice((1, 8, 64, len(data)))]
        elif kind == 4:
            data[at:at] = data[at : at + draw.choice((1, 16, 64))] * draw.choice((1, 2, 50))
        else:
            data[at : at + 1] = bytes([draw.choice(b"\0\xff[{(\"':&*-9e,\n")])
    return bytes(data)


def fuzz(name: str, seed: int, cases: int) -> None:
    """Read so many mutated files; whatever is raised but MilsurvError ends it."""
    suffix, make, read = READERS[name]
    content, draw = make(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        read(path)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        for case in range(cases):
            path.write_bytes(mutated(content, draw))
            print(case, flush=True)
            started = time.monotonic()
            try:
                read(path)
            except MilsurvError as error:
                assert str(error).strip()  # noqa: PT017 - anything else goes on to the test
            assert time.monotonic() - started < SECONDS_A_CASE, f"case {case} is slow"


@pytest.mark.acceptance
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    """In a process of its own, since a library may end it or never return."""
    command = [sys.executable, "-m", "tests.acceptance.test_fuzzing", name, "1", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"case {done.stdout.split()[-1:]}: {done.stderr[-2000:]}"
    assert len(done.stdout.split()) == CASES


if __name__ == "__main__":
    fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
