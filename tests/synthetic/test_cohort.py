import hashlib
from pathlib import Path

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
from lifelines.utils import concordance_index

from milsurv.synthetic.cohort import plan_cohort, write_slide
from milsurv.synthetic.histology import draw_slide

COLUMNS = ["case_id", "slide_id", "time", "event", "true_risk", "architecture", "cells"]
SEEDS = range(9000, 9010)


def one_row_per_case(cases: int, seed: int) -> pd.DataFrame:
    return plan_cohort(cases, seed)[0].drop_duplicates("case_id")


def test_table_has_a_row_for_each_slide() -> None:
    table, slides = plan_cohort(110, 9001)
    assert list(table.columns) == COLUMNS
    assert table["slide_id"].tolist() == [slide.slide_id for slide in slides]
    assert table["slide_id"].is_unique
    assert table["case_id"].nunique() == 110
    assert slides[0].case_id == "SYN-0001"
    assert slides[0].slide_id == "SYN-0001-S1"
    assert (table.groupby("case_id")[["time", "event", "true_risk"]].nunique() == 1).all(axis=None)
    assert (table["time"] > 0).all()
    assert set(table["event"]) == {0, 1}
    assert (table["time"] == table["time"].round(2)).all()


def test_seed_alone_decides_and_more_cases_change_none() -> None:
    pd.testing.assert_frame_equal(plan_cohort(40, 9001)[0], plan_cohort(40, 9001)[0])
    many, few = plan_cohort(40, 9001)[0], plan_cohort(20, 9001)[0]
    pd.testing.assert_frame_equal(many.iloc[: len(few)], few)
    assert not plan_cohort(40, 9002)[0]["time"].equals(many["time"])


def test_the_generator_is_frozen(tmp_path: Path) -> None:
    """Another digest needs another GENERATOR_VERSION."""
    table, slides = plan_cohort(40, 9001)
    content = table.to_csv(index=False).encode() + write_slide(slides[0], tmp_path).read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "3f545e4cfa77fe77"


def test_some_cases_have_two_slides() -> None:
    extra = [len(plan_cohort(300, seed)[1]) / 300 - 1 for seed in SEEDS]
    assert 0.15 < np.mean(extra) < 0.20


def test_follow_up_is_realistic() -> None:
    tables = [one_row_per_case(110, seed) for seed in SEEDS]
    censored = [1 - table["event"].mean() for table in tables]
    assert min(censored) > 0.25
    assert max(censored) < 0.45
    assert 0.30 < np.mean(censored) < 0.40
    assert all(table["time"].max() <= 110 for table in tables)
    assert 15 < np.mean([table["time"].median() for table in tables]) < 40


def test_true_risk_orders_the_times_as_documented() -> None:
    tables = [one_row_per_case(110, seed) for seed in SEEDS]
    values = [concordance_index(t["time"], -t["true_risk"], t["event"]) for t in tables]
    assert 0.78 < np.mean(values) < 0.84
    assert min(values) > 0.72
    assert max(values) < 0.90


def test_effects_are_independent_and_standard() -> None:
    table = one_row_per_case(2000, 9001)
    assert abs(table["architecture"].corr(table["cells"])) < 0.08
    for effect in ("architecture", "cells"):
        assert abs(table[effect].mean()) < 0.08
        assert table[effect].std() == pytest.approx(1, abs=0.06)


def test_slide_file_holds_the_drawn_picture(tmp_path: Path) -> None:
    slide = plan_cohort(1, 9001)[1][0]
    path = write_slide(slide, tmp_path)
    assert path == tmp_path / "SYN-0001-S1.svs"
    drawn = draw_slide(slide.architecture, slide.cells, np.random.default_rng([9001, 1, 1]))
    with openslide.OpenSlide(path) as opened:
        assert float(opened.properties["openslide.mpp-x"]) == 0.5
        assert opened.properties["openslide.objective-power"] == "20"
        assert opened.level_dimensions == ((2048, 2048), (1024, 1024), (512, 512))
        pixels = np.asarray(opened.read_region((0, 0), 0, (2048, 2048)).convert("RGB")).astype(float)
    assert np.abs(pixels - drawn).mean() < 6
    assert np.abs((pixels - drawn).mean(axis=(0, 1))).max() < 1


def test_bytes_depend_on_nothing_but_seed_case_and_slide(tmp_path: Path) -> None:
    slides = plan_cohort(12, 9001)[1]
    case = next(slide.case_id for slide in slides if slide.slide_index == 2)
    first, second = (slide for slide in slides if slide.case_id == case)
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, order, threads in zip(folders, [(first, second), (second, first)], (1, 2), strict=True):
        folder.mkdir()
        before = cv2.getNumThreads()
        cv2.setNumThreads(threads)
        for slide in order:
            write_slide(slide, folder)
        cv2.setNumThreads(before)
    for slide in (first, second):
        name = f"{slide.slide_id}.svs"
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    pictures = {(folders[0] / f"{slide.slide_id}.svs").read_bytes() for slide in (first, second)}
    other_seed = next(slide for slide in plan_cohort(12, 9002)[1] if slide.slide_id == first.slide_id)
    pictures.add(write_slide(other_seed, folders[1]).read_bytes())
    assert len(pictures) == 3
