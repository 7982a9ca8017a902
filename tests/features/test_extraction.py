from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import torch

from milsurv.cohort.cases import SlideRef
from milsurv.config.loading import load_config
from milsurv.executors.base import Event
from milsurv.executors.devices import Device
from milsurv.features.embedding import load_encoder
from milsurv.features.extraction import Extraction
from milsurv.features.source import make_feature_file
from milsurv.features.store import read_attributes, read_bag
from tests.conftest import WriteConfig
from tests.contexts import on_cpu


def _settings(config_file: Path, *overrides: str) -> Extraction:
    config, registry = load_config(str(config_file), overrides)
    return Extraction.of(config, registry, Device("cpu"))


def test_features_are_those_of_the_patches_that_openslide_shows(
    write_config: WriteConfig, small_cohort: Path
) -> None:
    """The colour backbone's mean against pixels read patch by patch at level 0 and averaged."""
    settings = _settings(write_config(), "extraction.dtype=float32", "extraction.batch_size=7")
    slide = small_cohort / "slides" / "P00-1.svs"
    outcome = make_feature_file(on_cpu(), settings, SlideRef("P00-1", slide))
    bag = read_bag(settings.path("P00-1"))
    assert outcome.patches == bag.sizes
    assert bag.coords is not None
    with openslide.OpenSlide(slide) as opened:
        for magnification, side in {20: 64, 10: 128, 5: 256}.items():
            coords = bag.coords[magnification].numpy()
            for row in range(0, len(coords), max(1, len(coords) // 10)):
                x, y = coords[row].tolist()
                if x + side > opened.dimensions[0] or y + side > opened.dimensions[1]:
                    continue
                rgb = np.asarray(opened.read_region((x, y), 0, (side, side)).convert("RGB"))
                pooled = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_AREA) / 255
                np.testing.assert_allclose(
                    bag.features[magnification][row, :3].numpy(), pooled.mean((0, 1)), atol=2 / 255
                )


def test_another_transform_asks_for_features_anew(write_config: WriteConfig) -> None:
    settings = _settings(write_config())
    assert settings.content["backbone"]["transform"]["resize_px"] == 64
    changed = {**settings.transform, "resize_px": 73}
    assert replace(settings, transform=changed).folder != settings.folder


def test_a_worker_loads_an_encoder_once_and_lets_it_go_at_the_end(write_config: WriteConfig) -> None:
    settings = _settings(write_config())
    context = on_cpu()
    with context.shared:
        encoder = load_encoder(context, settings.config, settings.precision)
        assert load_encoder(context, settings.config, settings.precision) is encoder
        gone = weakref.ref(encoder)
        del encoder
    gc.collect()
    assert gone() is None
    with context.shared:
        assert load_encoder(context, settings.config, settings.precision) is not None


def test_a_slide_is_extracted_once_until_the_slide_or_a_setting_changes(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    settings = _settings(write_config())
    slide = tmp_path / "P00-1.svs"
    shutil.copy(small_cohort / "slides" / "P00-1.svs", slide)
    assert settings.done_before(SlideRef("P00-1", slide)) is None
    outcome = make_feature_file(on_cpu(), settings, SlideRef("P00-1", slide))
    assert settings.done_before(SlideRef("P00-1", slide)) == outcome
    assert settings.done_before(SlideRef("P00-1", slide, 0.51)) is None
    shutil.copy(small_cohort / "slides" / "P02-1.svs", slide)
    assert settings.done_before(SlideRef("P00-1", slide)) is None
    make_feature_file(on_cpu(), settings, SlideRef("P00-1", slide))
    settings.path("P00-1").write_bytes(settings.path("P00-1").read_bytes()[:1000])
    assert settings.done_before(SlideRef("P00-1", slide)) is None


def test_a_redrawn_tissue_asks_for_its_slide_again(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    settings = _settings(write_config(), f"tissue={{name: geojson, folder: '{tmp_path}'}}")
    slide = small_cohort / "slides" / "P00-1.svs"
    failed = make_feature_file(on_cpu(), settings, SlideRef("P00-1", slide))
    assert str(failed.reason).startswith(f"tissue: {tmp_path / 'P00-1.geojson'} cannot be read")
    counts = []
    for side in (256, 512):
        ring = [[0, 0], [side, 0], [side, side], [0, side], [0, 0]]
        (tmp_path / "P00-1.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
        assert settings.done_before(SlideRef("P00-1", slide)) is None
        outcome = make_feature_file(on_cpu(), settings, SlideRef("P00-1", slide))
        assert settings.done_before(SlideRef("P00-1", slide)) == outcome
        counts.append(outcome.patches[20])
    assert counts == [(256 // 64) ** 2, (512 // 64) ** 2]


def test_rejected_patches_are_in_no_file(write_config: WriteConfig, small_cohort: Path) -> None:
    slide = small_cohort / "slides" / "P00-1.svs"
    everything, some = (_settings(write_config(), f"tiling.max_white={most}") for most in ("null", "0.02"))
    for settings in (everything, some):
        make_feature_file(on_cpu(), settings, SlideRef("P00-1", slide))
    whole, part = (read_bag(settings.path("P00-1")) for settings in (everything, some))
    assert whole.grid is not None
    assert part.grid is not None
    assert part.coords is not None
    assert 0 < part.sizes[20] < whole.sizes[20]
    for magnification, places in part.grid.items():
        rows = [whole.grid[magnification].tolist().index(place) for place in places.tolist()]
        assert rows == sorted(rows)
        assert torch.equal(part.features[magnification], whole.features[magnification][rows])
        parents = {tuple(place) for place in (part.grid[20] // (20 // magnification)).tolist()}
        assert {tuple(place) for place in places.tolist()} == parents
    attributes = read_attributes(some.path("P00-1"))
    assert attributes["patches"] == {str(m): count for m, count in part.sizes.items()}
    assert attributes["rejected_patches"] == {
        str(m): whole.sizes[m] - count for m, count in part.sizes.items()
    }
    none = _settings(write_config(), "tiling.min_sharpness=1e9")
    outcome = make_feature_file(on_cpu(), none, SlideRef("P00-1", slide))
    assert str(outcome.reason).startswith(
        f"no patch left: all {whole.sizes[20]} are rejected by tiling.min_sharp"
    )


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("tiling.max_white=0.9", False),
        ("tiling.min_tissue=0.6", False),
        ("tiling.patch_px=32", False),
        ("extraction.dtype=float32", False),
        ("backbone={name: efficientnet_lite0, input_px: 128}", False),
        ("extraction.batch_size=3", True),
        ("executor.workers=2", True),
        ("training.epochs=9", True),
        ("name=other", True),
    ],
)
def test_the_folder_stands_for_what_changes_features_and_for_nothing_else(
    write_config: WriteConfig, override: str, same: bool
) -> None:
    path = write_config()
    assert (_settings(path).folder == _settings(path, override).folder) == same


def test_a_useless_slide_gives_a_reason_and_no_file(write_config: WriteConfig, tmp_path: Path) -> None:
    settings = _settings(write_config())
    slide = tmp_path / "note.svs"
    slide.write_text("not a slide")
    outcome = make_feature_file(on_cpu(), settings, SlideRef("note", slide))
    assert "cannot be opened" in str(outcome.reason)
    assert not settings.path("note").exists()


def test_the_file_says_how_it_was_made(write_config: WriteConfig, small_cohort: Path) -> None:
    settings = _settings(write_config())
    make_feature_file(on_cpu(), settings, SlideRef("P00-1", small_cohort / "slides" / "P00-1.svs"))
    attributes = read_attributes(settings.path("P00-1"))
    assert attributes["mpp"] == 0.5
    assert attributes["mpp_source"] == "properties"
    assert attributes["settings"]["backbone"]["weights"] == "none"
    assert attributes["settings"]["tissue"]["name"] == "otsu"
    assert set(attributes["slide"]) == {"size", "quick_hash"}


def test_patches_are_counted_as_they_are_done(write_config: WriteConfig, small_cohort: Path) -> None:
    settings = _settings(write_config())
    events: list[Event] = []
    slide = small_cohort / "slides" / "P00-1.svs"
    outcome = make_feature_file(on_cpu(events.append), settings, SlideRef("P00-1", slide))
    counted = sum(event["count"] for event in events if event["event"] == "patches")
    assert counted == sum(outcome.patches.values())
