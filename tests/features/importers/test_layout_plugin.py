"""A layout of a plugin file: runs train on it, and what it returns is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from milsurv.config.loading import load_config
from milsurv.errors import ConfigError
from milsurv.features.store import read_bag
from milsurv.storage.checksums import read_json
from tests.conftest import DATA
from tests.features.importers.make_foreign import import_config, make_features, slide_ids, write_table
from tests.sessions import run

PLUGIN = DATA / "plugins" / "npy_layout.py"


def _config(folder: Path, bad: dict[str, Any] | None = None, layout: str = "npy") -> Path:
    """A cohort of slides at 20x; ``bad``: slide id -> content of its file."""
    source = folder / "npy"
    source.mkdir()
    for number, slide in enumerate(slide_ids()):
        np.save(source / f"{slide}.npy", make_features(5 + number, number))
    for slide, content in (bad or {}).items():
        np.save(source / f"{slide}.npy", content)
    write_table(folder / "table.csv", slide_ids())
    sections = {"aggregator": {"name": "abmil", "hidden_dim": 4}, "tiling": {"magnifications": [20]}}
    config = import_config(folder, layout, str(source), plugins=[str(PLUGIN)], **sections)
    path = folder / "npy.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_run_trains_on_the_features_of_a_plugins_layout(tmp_path: Path) -> None:
    config, registry = load_config(str(_config(tmp_path)))
    result = run(config, registry)
    assert result.metrics["cohort"]["slides"] == 12
    assert result.metrics["cohort"]["imported"] == "npy"
    slides = {path.stem: path for path in (tmp_path / "workspace" / "features").rglob("*.h5")}
    assert set(slides) == set(slide_ids())
    bag = read_bag(slides["C03-1"])
    np.testing.assert_array_equal(bag.features[20].numpy(), make_features(8, 3))
    recorded = {row["kind"]: row for row in read_json(result.folder / "plugins.json")}
    assert set(recorded) == {"feature_layout", "aggregator", "loss"}
    assert recorded["feature_layout"]["distribution"] == str(PLUGIN)


def test_what_a_layout_returns_is_checked(tmp_path: Path) -> None:
    bad = {
        "C00-1": np.array([[1.0, np.nan]]),
        "C01-1": np.zeros(3),
        "C02-1": np.zeros((2, 6), int),
    }
    config, registry = load_config(str(_config(tmp_path, bad)))
    slides = run(config, registry).folder / "slides.csv"
    text = slides.read_text()
    assert "1 of 1 patches have features that are NaN" in text
    assert "features have shape (3,); (n, d) is expected" in text
    assert "features are int64; floating-point numbers (n, d) are expected" in text


def test_an_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(_config(tmp_path, layout="npz")))
    (problem,) = caught.value.problems
    assert "features.layout: unknown feature_layout 'npz' (did you mean 'npy'?)" in problem
    assert "available: authors, clam, npy, stamp, trident" in problem
    assert "npy.yaml:" in problem
