from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from milsurv.config.loading import load_config
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.features.store import read_bag
from milsurv.models.heatmap import DrawnSlide, make_explainer
from milsurv.models.trained import TrainedModel, load_trained
from milsurv.runs.leakage import TrainingOverlap
from milsurv.synthetic.pyramid import write_pyramid
from milsurv.training.model import load_model
from tests.conftest import COLOUR_BACKBONE, small_config
from tests.features.importers.make_foreign import import_config, write_table, write_trident_cohort
from tests.sessions import draw_heatmap, find_slide, run
from tests.slides.make_slides import with_tissue, write_scn

KNOWN = "P03-1"
FILES = {
    "heatmap.png",
    "heatmap_20x.png",
    "heatmap_10x.png",
    "heatmap_5x.png",
    "heatmap_fused.png",
    "gallery.png",
    "patches.csv",
    "patches.geojson",
}


def train(folder: Path, config: dict[str, object], *overrides: str) -> Path:
    """The folder of a run."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(config))
    return run(*load_config(str(file), overrides)).folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_cohort: Path) -> Path:
    """A run of its own copy of the small cohort, three folds, two seeds."""
    folder = tmp_path_factory.mktemp("heatmap")
    shutil.copytree(small_cohort, folder / "cohort")
    return train(
        folder, small_config(folder / "workspace", folder / "cohort"), "seeds=[1, 2]", "training.epochs=1"
    )


@pytest.fixture(scope="module")
def files(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written of a slide of the run."""
    folder = tmp_path_factory.mktemp("files") / "out"
    trained = load(finished)
    assert written(draw_heatmap(trained, find_slide(trained, KNOWN), folder)) == FILES
    return folder


@pytest.fixture
def trained(finished: Path) -> TrainedModel:
    return load(finished)


def load(folder: Path, *overrides: str) -> TrainedModel:
    return load_trained(folder, overrides, [COLOUR_BACKBONE])


def slides_of(trained: TrainedModel) -> pd.DataFrame:
    return pd.read_csv(trained.folder / "slides.csv", dtype=str).set_index("slide_id")


def reporting_folds(trained: TrainedModel, case_id: str) -> list[int]:
    splits = pd.read_csv(trained.folder / "splits.csv", dtype={"case_id": str})
    return splits.loc[(splits["case_id"] == case_id) & (splits["role"] == "test"), "fold"].tolist()


def new_slide(folder: Path, name: str = "new slide.svs") -> Path:
    return write_pyramid(with_tissue(1024, 1024, [(200, 100, 500, 800)], seed=99), folder / name)


def written(paths: Sequence[Path]) -> set[str]:
    assert all(path.stat().st_size for path in paths)
    return {path.name for path in paths}


def test_a_slide_of_the_run_is_seen_by_the_models_that_did_not_learn_from_it(
    trained: TrainedModel, files: Path
) -> None:
    drawn = find_slide(trained, KNOWN)
    assert drawn.features == trained.config.workspace / slides_of(trained).loc[KNOWN]["features"]
    folds = reporting_folds(trained, KNOWN.removesuffix("-1"))
    explainer = make_explainer(trained, drawn.overlap, "cpu")
    assert [(path.parent.name, seed) for path, seed in explainer.models] == [
        (f"fold_{fold}", seed) for seed in (1, 2) for fold in folds
    ]
    assert f"mean of 2 models not trained on this slide's case (fold {folds[0]})" in explainer.description
    table = pd.read_csv(files / "patches.csv")
    bag = read_bag(drawn.features)
    models = [load_model(path, trained.registry, "cpu")[0] for path, _ in explainer.models]
    for m, of_m in table.groupby("magnification"):
        assert bag.coords is not None
        assert of_m[["x", "y"]].to_numpy().tolist() == bag.coords[int(str(m))].tolist()
        expected = torch.stack([model.attention(bag)[int(str(m))] for model in models]).mean(0)
        assert of_m["weight"].to_numpy() == pytest.approx(expected.detach().numpy(), rel=1e-5)
        assert of_m["attention"].to_numpy() == pytest.approx(of_m["weight"].to_numpy() * len(of_m))
    assert table["fused"].notna().sum() == len(bag.features[20])
    assert set(table["seen_in_training"]) == {0}


def test_the_geojson_and_the_table_hold_the_same(files: Path) -> None:
    table = pd.read_csv(files / "patches.csv")
    content = json.loads((files / "patches.geojson").read_text())
    assert content["milsurv"]["slide"] == KNOWN
    assert "not trained on" in content["milsurv"]["by"]
    assert len(content["features"]) == len(table)
    for feature, (_, row) in zip(content["features"], table.iterrows(), strict=True):
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert ring[0].tolist() == ring[-1].tolist() == [row["x"], row["y"]]
        assert np.ptp(ring, axis=0).tolist() == [row["side"]] * 2
        measured = feature["properties"]["measurements"]
        assert measured[f"attention {row['magnification']:.0f}x"] == pytest.approx(row["attention"], rel=1e-5)


def test_the_gallery_and_maps_come_from_the_slide(files: Path) -> None:
    plain = cv2.imread(str(files / "heatmap_20x.png"))
    assert plain is not None
    assert plain.shape == (1024, 1024, 3)
    coloured = (np.ptp(plain, axis=2) > 25).mean()
    table = pd.read_csv(files / "patches.csv")
    share = (table["magnification"] == 20).sum() * 64**2 / 1024**2
    assert coloured == pytest.approx(share, rel=0.1)
    gallery = cv2.imread(str(files / "gallery.png"))
    assert gallery is not None
    assert (gallery < 200).mean() > 0.2


def test_a_new_slide_is_extracted_as_training_did_and_seen_by_all(
    trained: TrainedModel, tmp_path: Path
) -> None:
    mine = load(trained.folder, f"workspace={tmp_path / 'workspace'}")
    drawn = find_slide(mine, str(new_slide(tmp_path)))
    assert drawn.features.is_relative_to(tmp_path / "workspace")
    assert drawn.overlap == TrainingOverlap((0, 1, 2))
    assert (
        "mean of 6 models not trained on this slide" in make_explainer(mine, drawn.overlap, "cpu").description
    )
    assert written(draw_heatmap(mine, drawn, tmp_path / "out")) == FILES


def test_the_geojson_of_a_slide_with_bounds_counts_from_qupaths_corner(
    trained: TrainedModel, tmp_path: Path
) -> None:
    mine = load(trained.folder, f"workspace={tmp_path / 'workspace'}")
    at, side = (320, 192), 512
    slide = write_scn(tmp_path / "a.scn", with_tissue(side, side, [(0, 0, side, side)]), at=at, slide_px=1024)
    draw_heatmap(mine, find_slide(mine, str(slide)), tmp_path / "out")
    in_level_0 = pd.read_csv(tmp_path / "out" / "patches.csv")
    content = json.loads((tmp_path / "out" / "patches.geojson").read_text())
    assert content["milsurv"]["origin"] == list(at)
    corners = np.array([feature["geometry"]["coordinates"][0][0] for feature in content["features"]])
    assert (corners + at).tolist() == in_level_0[["x", "y"]].to_numpy().tolist()
    finest = corners[in_level_0["magnification"] == 20]
    assert (finest.min(axis=0) == 0).all()
    assert (finest.max(axis=0) == side - 64).all()


def test_a_slide_that_every_model_knows_is_drawn_and_says_so(trained: TrainedModel, tmp_path: Path) -> None:
    drawn = find_slide(trained, KNOWN)
    known = DrawnSlide(drawn.slide, drawn.features, TrainingOverlap((), "its case was used in training"))
    explainer = make_explainer(trained, known.overlap, "cpu")
    assert len(explainer.models) == 6
    assert "TRAINED ON this slide's case" in explainer.description
    draw_heatmap(trained, known, tmp_path)
    assert set(pd.read_csv(tmp_path / "patches.csv")["seen_in_training"]) == {1}
    assert json.loads((tmp_path / "patches.geojson").read_text())["milsurv"]["seen_in_training"] is True


def test_models_whose_epoch_the_reported_cases_chose_are_told_to_be_optimistic(trained: TrainedModel) -> None:
    training = trained.config.training.model_copy(update={"selection": "reported_fold"})
    optimistic = replace(trained, config=trained.config.model_copy(update={"training": training}))
    known = TrainingOverlap((0,), "its case was used in training")
    assert make_explainer(optimistic, known, "cpu").description.endswith(
        "; optimistic: epoch selected on the test cases"
    )
    assert "optimistic" not in make_explainer(trained, known, "cpu").description


def test_occlusion_stands_beside_attention_and_is_the_mean_fall_of_the_standardised_risk(
    trained: TrainedModel, files: Path, tmp_path: Path
) -> None:
    drawn = find_slide(trained, KNOWN)
    names = {"occlusion_" + name for name in FILES} - {
        f"occlusion_heatmap_{name}.png" for name in ("20x", "10x", "fused")
    }
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    assert written(draw_heatmap(trained, drawn, tmp_path, use_occlusion=True)) == names
    assert {path.name for path in tmp_path.iterdir()} == FILES | names
    table = pd.read_csv(tmp_path / "occlusion_patches.csv")
    bag = read_bag(drawn.features)
    assert bag.grid is not None
    first = bag.grid[5][0]
    keep = {m: ~(places // (m // 5) == first).all(dim=1) for m, places in bag.grid.items()}
    less = Bag(
        {m: features[keep[m]] for m, features in bag.features.items()},
        grid={m: places[keep[m]] for m, places in bag.grid.items()},
    )
    falls = []
    for path, _ in make_explainer(trained, drawn.overlap, "cpu").models:
        network, loss, about, _ = load_model(path, trained.registry, "cpu")
        with torch.no_grad():
            outputs = torch.stack([network(bag), network(less)])
        risk = loss.risk(outputs)
        falls.append(float(risk[0] - risk[1]) / about["risk_deviation"])
    for m in (20, 10, 5):
        values = table.loc[table["magnification"] == m, "occlusion"].to_numpy()
        assert values[~keep[m].numpy()] == pytest.approx(np.mean(falls), rel=1e-3, abs=1e-5)


def test_an_aggregator_without_attention_is_occluded(small_cohort: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path / "workspace", small_cohort) | {"aggregator": {"name": "meanpool"}}
    trained = load(train(tmp_path, config, "training.epochs=1"))
    paths = draw_heatmap(trained, find_slide(trained, KNOWN), tmp_path / "out")
    assert "occlusion_heatmap.png" in written(paths)
    assert pd.read_csv(tmp_path / "out" / "occlusion_patches.csv")["occlusion"].abs().max() > 0


def test_a_slide_that_moved_is_drawn_from_where_it_is(trained: TrainedModel, tmp_path: Path) -> None:
    path = Path(slides_of(trained).loc[KNOWN]["path"])
    moved = tmp_path / path.name
    path.rename(moved)
    try:
        with pytest.raises(
            MilsurvError, match=f"{KNOWN}: no longer at .*{path.name}.*give its file: milsurv"
        ):
            find_slide(trained, KNOWN)
        drawn = find_slide(trained, str(moved))
        assert drawn.slide.path == moved
        assert drawn.overlap == find_slide(trained, str(moved)).overlap
        assert drawn.features == trained.config.workspace / slides_of(trained).loc[KNOWN]["features"]
    finally:
        moved.rename(path)


def test_another_slide_of_a_known_name_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    other = new_slide(tmp_path, f"{KNOWN}.svs")
    features = trained.config.workspace / slides_of(trained).loc[KNOWN]["features"]
    before = features.read_bytes()
    with pytest.raises(MilsurvError, match="were made from another file"):
        find_slide(trained, str(other))
    assert features.read_bytes() == before


def test_another_slide_of_a_name_that_was_drawn_before_is_refused(
    trained: TrainedModel, tmp_path: Path
) -> None:
    mine = load(trained.folder, f"workspace={tmp_path / 'workspace'}")
    slide = new_slide(tmp_path)
    first = find_slide(mine, str(slide))
    assert find_slide(mine, str(slide)) == first
    write_pyramid(with_tissue(1024, 1024, [(0, 0, 500, 800)], seed=1), slide)
    with pytest.raises(MilsurvError, match="holds the features of another slide named"):
        find_slide(mine, str(slide))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            "P03-11",
            r"slide P03-11: not a file, and not among the 17 slides listed in .* \(did you mean 'P03-1'\?\)",
        ),
        ("no/such.svs", "slide no/such.svs: not a file"),
    ],
)
def test_what_is_no_slide(trained: TrainedModel, given: str, problem: str) -> None:
    with pytest.raises(MilsurvError, match=problem):
        find_slide(trained, given)


def test_a_file_that_is_no_slide_is_told_once(
    trained: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.svs").write_text("this is no slide")
    with pytest.raises(MilsurvError, match=r"text.svs: cannot be opened"):
        find_slide(trained, str(tmp_path / "text.svs"))
    assert capsys.readouterr() == ("", "")


def test_features_that_lie_beyond_the_slide(trained: TrainedModel, tmp_path: Path) -> None:
    drawn = find_slide(trained, KNOWN)
    small = write_pyramid(with_tissue(512, 512, [(0, 0, 512, 512)]), tmp_path / f"{KNOWN}.svs")
    wrong = DrawnSlide(trained.slide(small), drawn.features, drawn.overlap)
    with pytest.raises(
        MilsurvError, match=r"it has 512 × 512 pixels, but \d+x patches of its features lie at up to"
    ):
        draw_heatmap(trained, wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of features made elsewhere."""
    folder = tmp_path_factory.mktemp("imported")
    write_table(folder / "table.csv", write_trident_cohort(folder / "trident"))
    return train(folder, import_config(folder, "trident", str(folder / "trident")))


def test_imported_features_are_drawn_on_the_slide_that_is_given(imported: Path, tmp_path: Path) -> None:
    trained = load_trained(imported)
    slide = write_pyramid(np.full((4096, 4096, 3), 200, np.uint8), tmp_path / "C03-1.svs")
    drawn = find_slide(trained, str(slide))
    assert len(drawn.overlap.folds) == 1
    assert written(draw_heatmap(trained, drawn, tmp_path / "out")) == FILES


def test_imported_features_need_the_slide_they_were_made_from(imported: Path, tmp_path: Path) -> None:
    trained = load_trained(imported)
    with pytest.raises(MilsurvError, match="C03-1: the run imported its features, without slides"):
        find_slide(trained, "C03-1")
    with pytest.raises(MilsurvError, match="imported features, and there are none of slide new slide"):
        find_slide(trained, str(new_slide(tmp_path)))
