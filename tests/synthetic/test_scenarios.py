from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index

from milsurv.config.cohort import Scenario
from milsurv.errors import SlideError
from milsurv.synthetic.bank import pictures_of
from milsurv.synthetic.scenarios import (
    COLUMNS,
    EFFECT,
    places,
    plan_scenario,
    read_arrangement,
    write_arrangement,
)

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
DIGESTS = {
    "rare": "fc22dffbbe079247",
    "joint": "1c38b8cfba020166",
    "spatial": "12ca704303cd4813",
    "site": "71311406abd1f00c",
}
"""Of table and arrangements of 30 cases of 40 blocks, seed 9001. Another digest needs another GENERATOR_VERSION."""
SEEDS = range(9000, 9005)

cohorts = settings(deadline=None, max_examples=25)
seeds, blocks = st.integers(9000, 10_000), st.integers(16, 150)
scenarios = st.sampled_from(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_generator_is_frozen(scenario: Scenario) -> None:
    table, slides = plan_scenario(scenario, 30, 9001, 40)
    text = table.to_csv(index=False) + "".join(slide.blocks.to_csv(index=False) for slide in slides)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[scenario]


@cohorts
@given(scenario=scenarios, seed=seeds, size=blocks)
def test_more_cases_change_none(scenario: Scenario, seed: int, size: int) -> None:
    (many, slides), (few, first) = (
        plan_scenario(scenario, 5, seed, size),
        plan_scenario(scenario, 2, seed, size),
    )
    pd.testing.assert_frame_equal(many.iloc[:2], few)
    for one, other in zip(slides, first, strict=False):
        assert one.slide_id == other.slide_id
        pd.testing.assert_frame_equal(one.blocks, other.blocks)
    assert not plan_scenario(scenario, 5, seed + 1, size)[0]["time"].equals(many["time"])


@cohorts
@given(scenario=scenarios, seed=seeds, size=blocks)
def test_blocks_lie_in_a_square_and_come_from_pictures_that_show_them(
    scenario: Scenario, seed: int, size: int
) -> None:
    pictures = {picture.slide_id: picture for picture in pictures_of(scenario)}
    table, slides = plan_scenario(scenario, 3, seed, size)
    for slide, site in zip(slides, table.get("site", [0, 0, 0]), strict=True):
        found = slide.blocks
        assert tuple(found.columns) == COLUMNS
        assert set(zip(found["column"], found["row"], strict=True)) == set(map(tuple, places(size).tolist()))
        assert found[["column", "row"]].max().max() <= np.ceil(np.sqrt(size)) - 1
        for row in found.to_dict("records"):
            cells, coarse = pictures[row["cells_from"]], pictures[row["coarse_from"]]
            assert (cells.cells, coarse.architecture) == (row["cells"], row["architecture"])
            assert cells.site == coarse.site == site
        if scenario == "site":
            assert f"SITE{site}-" in slide.slide_id


def _score(scenario: Scenario, blocks: pd.DataFrame, focus: float) -> float:
    """The score of a slide, worked out from its file alone."""
    at: dict[tuple[int, int], tuple[float, float]] = {
        (column, row): (cells, architecture)
        for column, row, cells, architecture in blocks[list(COLUMNS[:4])].to_numpy().tolist()
    }
    coarse = [place for place, (cells, _) in at.items() if cells == 2]
    if scenario == "joint":
        return sum(at[place][1] == -2 for place in coarse) / len(coarse)
    if scenario == "spatial":
        beside = [((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)) for x, y in coarse]
        return sum(any(at.get(p, (0, 0))[0] == -2 for p in around) for around in beside) / len(coarse)
    return sum(cells for cells, _ in at.values() if cells > 0) / 2 / round(focus * len(at))


@cohorts
@given(scenario=scenarios, seed=seeds, size=blocks)
def test_the_true_risk_follows_from_the_written_blocks(scenario: Scenario, seed: int, size: int) -> None:
    table, slides = plan_scenario(scenario, 3, seed, size)
    for row, slide in zip(table.to_dict("records"), slides, strict=True):
        score = _score(scenario, slide.blocks, row.get("focus", 0.0))
        assert score == pytest.approx(row["score"])
        assert row["true_risk"] == pytest.approx(EFFECT * (score - 0.5) / np.sqrt(1 / 12))


@cohorts
@given(scenario=st.sampled_from(("joint", "spatial")), seed=seeds, size=blocks)
def test_every_case_has_the_same_shares(scenario: Scenario, seed: int, size: int) -> None:
    """So the expectation of any mean over one magnification is the same in all cases."""
    _, slides = plan_scenario(scenario, 4, seed, size)
    cells = {tuple(slide.blocks["cells"].value_counts().sort_index()) for slide in slides}
    assert len(cells) == 1
    if scenario == "joint":
        assert len({(slide.blocks["architecture"] == -2).sum() for slide in slides}) == 1


@pytest.mark.parametrize("scenario", ["rare", "spatial", "site"])
def test_the_architecture_is_independent_of_the_risk(scenario: Scenario) -> None:
    table, slides = plan_scenario(scenario, 400, 9001, 64)
    ordered = [(slide.blocks["architecture"] == -2).mean() for slide in slides]
    assert abs(np.corrcoef(ordered, table["score"])[0, 1]) < 0.13


@pytest.mark.parametrize("scenario", ["rare", "site"])
def test_a_focus_is_small_contiguous_and_less_than_the_variation_elsewhere(scenario: Scenario) -> None:
    table, slides = plan_scenario(scenario, 300, 9001, 125)
    assert table["focus"].between(0.02, 0.05).all()
    effect, elsewhere = [], []
    for size, slide in zip(table["focus"] * 125, slides, strict=True):
        coarse = slide.blocks[slide.blocks["cells"] > 0]
        assert len(coarse) <= round(size)
        if len(coarse) > 1:
            assert (np.ptp(coarse[["column", "row"]].to_numpy(), axis=0) <= 3).all()
        effect.append(coarse["cells"].sum() / 125)
        elsewhere.append(slide.blocks["cells"].clip(upper=0).mean())
    assert np.std(effect) < np.std(elsewhere) / 5


def test_neighbours_are_as_many_as_wanted() -> None:
    scores = plan_scenario("spatial", 300, 9001, 125)[0]["score"]
    assert scores.min() < 0.05
    assert scores.max() > 0.95
    assert np.histogram(scores, 5, (0, 1))[0].min() > 30


def test_every_second_site_has_more_cases_at_high_risk() -> None:
    table, _ = plan_scenario("site", 1000, 9001, 125)
    by_site = table.groupby("site")["score"].mean()
    assert by_site.index.tolist() == list(range(1, 9))
    high = by_site.index % 2 == 1
    assert by_site[high].min() > by_site[~high].max() + 0.3
    assert max(np.ptp(by_site[high]), np.ptp(by_site[~high])) < 0.15
    alone = concordance_index(table["time"], -(table["site"] % 2), table["event"])
    assert 0.66 < alone < 0.74


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_bound_is_as_documented(scenario: Scenario) -> None:
    tables = [plan_scenario(scenario, 300, seed, 64)[0] for seed in SEEDS]
    bounds = [concordance_index(t["time"], -t["true_risk"], t["event"]) for t in tables]
    assert 0.78 < np.mean(bounds) < 0.86
    assert all(0.55 < table["event"].mean() < 0.75 for table in tables)


def test_a_written_arrangement_is_read_as_it_was(tmp_path: Path) -> None:
    _, (slide,) = plan_scenario("joint", 1, 9001, 20)
    path = write_arrangement(slide, tmp_path)
    assert path.name == "SYN-0001-S1.blocks"
    pd.testing.assert_frame_equal(read_arrangement(path), slide.blocks)
    path.write_text("kept")
    assert write_arrangement(slide, tmp_path).read_text() == "kept"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not an arrangement of blocks"),
        ("a,b\n1,2\n", "its columns must be column, row"),
        (f"{','.join(COLUMNS)}\n", "its columns must be"),
        (f"{','.join(COLUMNS)}\n0,-1,2,2,A,0,B,0\n", "must be whole numbers from 0"),
        (f"{','.join(COLUMNS)}\n0,x,2,2,A,0,B,0\n", "must be whole numbers from 0"),
    ],
)
def test_another_file_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "a.blocks"
    path.write_text(text)
    with pytest.raises(SlideError, match=problem):
        read_arrangement(path)
