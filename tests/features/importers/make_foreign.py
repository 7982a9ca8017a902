"""Folders of features as other tools write them, with real files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from milsurv.features.importers.base import FeatureLayout, ImportedPatches, checked
from milsurv.plugin.registry import get_registry

DIM = 6
MAGNIFICATIONS = (20, 10, 5)
CASES = 12


def make_features(patches: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """``(patches, DIM)``."""
    return (np.random.default_rng(seed).normal(size=(patches, DIM)) + shift).astype(np.float32)


def nested_cells(seed: int, side: int = 2) -> dict[int, NDArray[np.int64]]:
    """Magnification -> ``(n, 2)`` cells (column, row): some of the finest, and all that hold one of them."""
    rng = np.random.default_rng(seed)
    finest = np.argwhere(rng.random((4 * side, 4 * side)) < 0.7)
    return {m: np.unique(finest // (20 // m), axis=0) for m in MAGNIFICATIONS}


def write_h5(
    path: Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any], on: str = "coords"
) -> None:
    """An HDF5 file with attributes on the dataset ``on``, or on the file when ``on`` is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        (file[on] if on else file).attrs.update(attributes)


def write_pt(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def trident_file(root: Path, slide: str, magnification: int, encoder: str = "uni_v1", px: int = 256) -> Path:
    """Where TRIDENT keeps a slide's features."""
    return root / f"{magnification}x_{px}px_0px_overlap" / f"features_{encoder}" / f"{slide}.h5"


def write_trident(
    root: Path,
    slide: str,
    magnification: int,
    cells: NDArray[np.int64],
    features: NDArray[Any],
    *,
    encoder: str = "uni_v1",
    **attributes: Any,
) -> Path:
    """A slide scanned at 40x, with patches of 256 px."""
    path = trident_file(root, slide, magnification, encoder)
    side = 256 * 40 // magnification
    given = {
        "patch_size": 256,
        "patch_size_level0": side,
        "level0_magnification": 40,
        "target_magnification": magnification,
        "overlap": 0,
        "name": slide,
        **attributes,
    }
    write_h5(path, {"features": features, "coords": cells * side}, given)
    return path


def slide_ids(cases: int = CASES) -> list[str]:
    return [f"C{case:02d}-1" for case in range(cases)]


def write_table(path: Path, ids: Iterable[str]) -> Path:
    """A cohort table of a case for each slide; two thirds have an event."""
    rng = np.random.default_rng(3)
    rows = [
        {
            "case_id": slide.partition("-")[0],
            "slide_id": slide,
            "time": round(float(rng.exponential(30)) + 0.5, 2),
            "event": int(number % 3 != 0),
        }
        for number, slide in enumerate(ids)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def write_trident_cohort(root: Path, cases: int = CASES) -> list[str]:
    """Features of a slide for each case at three magnifications, with grids that nest."""
    ids = slide_ids(cases)
    for number, slide in enumerate(ids):
        for magnification, cells in nested_cells(number).items():
            features = make_features(len(cells), 100 * number + magnification, shift=number / cases)
            write_trident(root, slide, magnification, cells, features)
    return ids


def import_config(folder: Path, layout: str, source: Any, **sections: Any) -> dict[str, Any]:
    """A configuration that runs imported features in seconds."""
    return {
        "name": "imported",
        "workspace": str(folder / "workspace"),
        "cohort": {"table": str(folder / "table.csv")},
        "features": {"import": source, "layout": layout},
        "splits": {"folds": 2, "validation": 0.3},
        "aggregator": {"name": "crossfusion", "embed_dim": 8, "num_heads": 2},
        "loss": {"name": "nll", "bins": 2},
        "training": {"epochs": 1, "batch_cases": 4},
        "evaluation": {"bootstraps": 10},
        "executor": {"workers": 1},
    } | sections


def layout_of(name: str) -> FeatureLayout:
    layout: FeatureLayout = get_registry().load("feature_layout", name)()
    return layout


def read_foreign(file: Path, layout: str, magnification: int) -> ImportedPatches:
    return checked(layout_of(layout).read(file, magnification), file)


def read_shape(file: Path, layout: str, magnification: int) -> tuple[int, int]:
    return layout_of(layout).read_shape(file, magnification)
