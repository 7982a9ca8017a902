from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milsurv.cohort.cases import SlideRef
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.executors.base import Event
from milsurv.features.importers.importing import Import
from milsurv.features.source import SlideOutcome, make_feature_file
from milsurv.features.store import read_attributes, read_bag, read_features
from milsurv.plugin.registry import get_registry
from tests.contexts import on_cpu
from tests.features.importers.make_foreign import (
    MAGNIFICATIONS,
    import_config,
    make_features,
    nested_cells,
    trident_file,
    write_h5,
    write_pt,
    write_trident,
)


def _settings(folder: Path, layout: str, source: Any, *magnifications: int, **sections: Any) -> Import:
    tiling = {"magnifications": magnifications or MAGNIFICATIONS}
    config = RunConfig.model_validate(import_config(folder, layout, source, tiling=tiling, **sections))
    return Import.of(config, get_registry())


def _ignore(_event: Event) -> None:
    pass


def _import(settings: Import, slide: str = "a", mpp: float | None = None) -> SlideOutcome:
    (file,) = (file for file in settings.index().files if file.stem == slide)
    return make_feature_file(on_cpu(), settings, SlideRef(slide, file, mpp))


def _write_trident(root: Path, slide: str = "a", seed: int = 1) -> dict[int, tuple[Any, Any]]:
    """Magnification -> cells and features, in an order that is not that of the grid."""
    rng = np.random.default_rng(seed)
    written = {}
    for magnification, cells in nested_cells(seed).items():
        cells, features = rng.permutation(cells), make_features(len(cells), seed + magnification)
        write_trident(root, slide, magnification, cells, features)
        written[magnification] = (cells, features)
    return written


def test_a_trident_slide_keeps_features_places_and_grid(tmp_path: Path) -> None:
    written = _write_trident(tmp_path / "trident")
    settings = _settings(tmp_path, "trident", tmp_path / "trident")
    outcome = _import(settings)
    assert outcome.reason is None
    bag = read_bag(settings.path("a"))
    assert outcome.patches == bag.sizes
    assert (outcome.mpp, outcome.mpp_source) == (0.25, "objective power")
    assert bag.coords is not None
    assert bag.grid is not None
    for magnification, (cells, features) in written.items():
        np.testing.assert_array_equal(bag.features[magnification].numpy(), features)
        np.testing.assert_array_equal(bag.coords[magnification].numpy(), cells * (256 * 40 // magnification))
        np.testing.assert_array_equal(bag.grid[magnification].numpy(), cells)
    by_magnification = read_features(settings.path("a"))
    assert {m: (s.mpp, s.patch_level0) for m, s in by_magnification.items()} == {
        20: (0.5, 512),
        10: (1.0, 1024),
        5: (2.0, 2048),
    }


def test_overlap_leaves_the_places_and_no_grid(tmp_path: Path) -> None:
    for magnification, cells in nested_cells(1).items():
        write_trident(
            tmp_path,
            "a",
            magnification,
            cells,
            make_features(len(cells), 1),
            overlap=128 * (magnification == 20),
        )
    settings = _settings(tmp_path, "trident", tmp_path)
    _import(settings)
    bag = read_bag(settings.path("a"))
    assert bag.grid is None
    assert bag.coords is not None


def test_tensors_alone_have_neither_places_nor_grid(tmp_path: Path) -> None:
    for m in MAGNIFICATIONS:
        write_pt(
            tmp_path / "ctranspath" / f"x{m}" / "pt_files" / "a.pt", torch.from_numpy(make_features(m, m))
        )
    settings = _settings(tmp_path, "authors", tmp_path / "ctranspath")
    assert settings.folder.name.startswith("ctranspath-")
    outcome = _import(settings)
    assert replace(outcome, made_from=None) == SlideOutcome("a", {20: 20, 10: 10, 5: 5})
    assert set(outcome.made_from) == {"20", "10", "5"}
    assert len(set(outcome.made_from.values())) == 3
    bag = read_bag(settings.path("a"))
    assert (bag.coords, bag.grid) == (None, None)
    np.testing.assert_array_equal(bag.features[10].numpy(), make_features(10, 10))


def test_clam_magnifications_in_folders_of_their_own_are_one_bag(tmp_path: Path) -> None:
    cells = {m: np.argwhere(np.ones((m // 5 * 2, m // 5 * 2))) for m in MAGNIFICATIONS}
    for m, of_m in cells.items():
        arrays = {"features": make_features(len(of_m), m), "coords": (of_m * (5120 // m)).astype(np.int32)}
        write_h5(tmp_path / str(m) / "h5_files" / "a.h5", arrays, {})
    settings = _settings(tmp_path, "clam", {m: str(tmp_path / str(m)) for m in MAGNIFICATIONS})
    _import(settings, mpp=0.5)
    bag = read_bag(settings.path("a"))
    assert bag.grid is not None
    for m, of_m in cells.items():
        np.testing.assert_array_equal(bag.grid[m].numpy(), of_m)


@pytest.mark.parametrize("mpp", [0.25, None])
def test_stamp_places_need_the_slides_resolution_and_the_grid_does_not(
    tmp_path: Path, mpp: float | None
) -> None:
    cells = {m: np.argwhere(np.ones((m // 10 * 3, m // 10 * 3))) for m in (20, 10)}
    for m, of_m in cells.items():
        coords = (of_m * (256.0 * 10 / m)).astype(np.float32)
        attributes = {"unit": "um", "tile_size_um": 2560 / m, "tile_size_px": 256}
        write_h5(
            tmp_path / str(m) / "a.h5",
            {"feats": make_features(len(of_m), m), "coords": coords},
            attributes,
            on="",
        )
    settings = _settings(tmp_path, "stamp", {m: str(tmp_path / str(m)) for m in (20, 10)}, 20, 10)
    _import(settings, mpp=mpp)
    bag = read_bag(settings.path("a"))
    assert bag.grid is not None
    for m, of_m in cells.items():
        np.testing.assert_array_equal(bag.grid[m].numpy(), of_m)
        if mpp is None:
            assert bag.coords is None
        else:
            assert bag.coords is not None
            np.testing.assert_array_equal(bag.coords[m].numpy(), of_m * (2560 // m * 4))
    assert [stored.mpp for stored in read_features(settings.path("a")).values()] == [0.5, 1.0]


def test_a_slide_is_imported_once_until_one_of_its_files_or_its_resolution_changes(tmp_path: Path) -> None:
    _write_trident(tmp_path / "trident")
    settings = _settings(tmp_path, "trident", tmp_path / "trident")
    (file,) = settings.index().files
    assert settings.done_before(SlideRef("a", file)) is None
    outcome = _import(settings)
    assert settings.done_before(SlideRef("a", file)) == outcome
    assert settings.done_before(SlideRef("a", file, 0.5)) is None
    path = settings.path("a")
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    assert settings.done_before(SlideRef("a", file)) is None
    path.write_bytes(whole)
    coarse = trident_file(tmp_path / "trident", "a", 5)
    cells = nested_cells(1)[5]
    write_trident(tmp_path / "trident", "a", 5, cells, make_features(len(cells), 99))
    assert coarse.is_file()
    assert settings.done_before(SlideRef("a", file)) is None
    assert _import(settings).reason is None
    assert settings.done_before(SlideRef("a", file)) is not None


def test_a_slide_that_lacks_a_magnification_is_left_out_with_that_reason(tmp_path: Path) -> None:
    for slide in ("a", "b"):
        _write_trident(tmp_path / "trident", slide)
    trident_file(tmp_path / "trident", "a", 10).unlink()
    trident_file(tmp_path / "trident", "b", 20).unlink()
    settings = _settings(tmp_path, "trident", tmp_path / "trident")
    reasons = {slide: str(_import(settings, slide).reason) for slide in ("a", "b")}
    assert reasons["a"].startswith("has no 10x features: no file for it in ")
    assert reasons["b"].startswith("has no 20x features: no file for it in ")
    assert not settings.folder.exists()


def test_a_bad_file_is_a_reason_and_no_feature_file(tmp_path: Path) -> None:
    _write_trident(tmp_path / "trident")
    bad = make_features(3, 1)
    bad[1] = np.nan
    write_trident(tmp_path / "trident", "a", 10, np.array([[0, 0], [1, 0], [0, 1]]), bad)
    settings = _settings(tmp_path, "trident", tmp_path / "trident")
    assert "1 of 3 patches have features that are NaN" in str(_import(settings).reason)
    assert not settings.path("a").exists()


def test_the_run_is_not_another_where_the_files_were_moved_and_the_folder_is(tmp_path: Path) -> None:
    _write_trident(tmp_path / "here")
    here = _settings(tmp_path, "trident", tmp_path / "here")
    (file,) = here.index().files
    identity = here.identity(SlideRef("a", file))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = _settings(tmp_path, "trident", tmp_path / "there")
    (moved,) = there.index().files
    assert (there.content, there.identity(SlideRef("a", moved))) == (here.content, identity)
    assert there.folder != here.folder
    assert _settings(tmp_path, "trident", tmp_path / "here", 20, 10).content != here.content


def test_features_of_two_encoders_are_refused_with_how_many_slides_have_which(tmp_path: Path) -> None:
    for number, dim in enumerate((6, 6, 6, 4)):
        path = tmp_path / "mixed" / "pt_files" / f"s{number}.pt"
        write_pt(path, torch.ones(3, dim))
    settings = _settings(tmp_path, "clam", tmp_path / "mixed", 20)
    dims = {}
    for file in settings.index().files:
        dims[file.stem] = settings.check_slide(SlideRef(file.stem, file)).dims
    settings.require_equal_dims((slide, dims[slide]) for slide in ("s0", "s1", "s2"))
    with pytest.raises(
        MilsurvError, match=r"at 20x differ .*: 6 values in 3 \(s0, s1, s2\); 4 values in 1 \(s3\)"
    ):
        settings.require_equal_dims(dims.items())


def test_the_file_says_what_it_was_made_from(tmp_path: Path) -> None:
    _write_trident(tmp_path / "trident")
    settings = _settings(tmp_path, "trident", tmp_path / "trident")
    _import(settings)
    attributes = read_attributes(settings.path("a"))
    assert attributes["settings"].keys() == {"import", "origins"}
    imported = {"layout": "trident", "name": "uni_v1", "magnifications": [20, 10, 5]}
    assert attributes["settings"]["import"] == imported
    assert attributes["source"].keys() == {"20", "10", "5"}
    assert attributes["source"]["20"]["size"] == trident_file(tmp_path / "trident", "a", 20).stat().st_size
    assert attributes["patch_px"] == 256
