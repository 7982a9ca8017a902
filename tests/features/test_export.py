from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from milsurv.cohort.cases import SlideRef
from milsurv.config.loading import load_config
from milsurv.errors import MilsurvError
from milsurv.executors.devices import Device
from milsurv.features.export import ExportLayout, export_features
from milsurv.features.extraction import Extraction
from milsurv.features.source import make_feature_file
from milsurv.features.store import MagnificationFeatures, read_bag, write_features
from tests.conftest import WriteConfig
from tests.contexts import on_cpu
from tests.features.importers.make_foreign import make_features
from tests.features.importers.test_importing import _import, _settings


@pytest.fixture
def extracted(write_config: WriteConfig, small_cohort: Path) -> Path:
    """A folder with the features of one slide, extracted at 0.3 µm/px, where no side is a whole number of pixels."""
    config, registry = load_config(str(write_config()))
    settings = Extraction.of(config, registry, Device("cpu"))
    slide = small_cohort / "slides" / "P00-1.svs"
    assert make_feature_file(on_cpu(), settings, SlideRef("P00-1", slide, 0.3)).reason is None
    return settings.folder


def test_what_trident_is_given_comes_back_as_the_same_bag(extracted: Path, tmp_path: Path) -> None:
    assert [file.stem for file in export_features(extracted, tmp_path / "out", "trident")] == ["P00-1"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{m}x_64px_0px_overlap" for m in (20, 10, 5)
    }
    settings = _settings(tmp_path, "trident", tmp_path / "out")
    assert settings.folders.name == "colour"
    assert _import(settings, "P00-1").reason is None
    before, after = read_bag(extracted / "P00-1.h5"), read_bag(settings.path("P00-1"))
    for name in ("features", "coords", "grid"):
        for m in (20, 10, 5):
            was, is_now = getattr(before, name)[m], getattr(after, name)[m]
            assert was.dtype == is_now.dtype
            assert torch.equal(was, is_now)


def test_trident_readers_find_what_they_look_for(extracted: Path, tmp_path: Path) -> None:
    list(export_features(extracted, tmp_path, "trident"))
    with h5py.File(tmp_path / "5x_64px_0px_overlap" / "features_colour" / "P00-1.h5") as file:
        assert file["features"].shape == (len(file["coords"]), 6)
        attributes = dict(file["coords"].attrs)
    assert attributes["patch_size"] == 64
    assert attributes["patch_size_level0"] == pytest.approx(64 * 2 / 0.3)
    assert (attributes["target_magnification"], attributes["overlap"]) == (5, 0)
    assert attributes["name"] == "P00-1"
    assert attributes["level0_magnification"] == 33


def test_what_clam_is_given_comes_back_with_the_same_numbers(extracted: Path, tmp_path: Path) -> None:
    list(export_features(extracted, tmp_path / "out", "clam"))
    tensor = torch.load(tmp_path / "out" / "20x" / "pt_files" / "P00-1.pt", weights_only=True)
    before = read_bag(extracted / "P00-1.h5")
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, before.features[20].float())
    settings = _settings(tmp_path, "clam", {m: str(tmp_path / "out" / f"{m}x") for m in (20, 10, 5)})
    _import(settings, "P00-1")
    after = read_bag(settings.path("P00-1"))
    for name in ("features", "coords", "grid"):
        for m in (20, 10, 5):
            np.testing.assert_array_equal(getattr(after, name)[m], getattr(before, name)[m])


def test_features_without_places_go_to_clam_as_tensors_alone(tmp_path: Path) -> None:
    write_features(
        tmp_path / "ctp-1" / "a.h5", {20: MagnificationFeatures(make_features(3, 1))}, {"patch_px": None}
    )
    list(export_features(tmp_path / "ctp-1", tmp_path / "out", "clam"))
    written = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written == [Path("20x/pt_files/a.pt")]
    with pytest.raises(MilsurvError, match=r"a\.h5: has no coordinates or sizes .*--layout clam"):
        list(export_features(tmp_path / "ctp-1", tmp_path / "out", "trident"))


@pytest.mark.parametrize("layout", ["trident", "clam"])
def test_features_are_not_exported_into_themselves(tmp_path: Path, layout: ExportLayout) -> None:
    write_features(tmp_path / "a.h5", {20: MagnificationFeatures(make_features(3, 1))}, {})
    with pytest.raises(MilsurvError, match="lies within the features"):
        list(export_features(tmp_path, tmp_path / "out", layout))
