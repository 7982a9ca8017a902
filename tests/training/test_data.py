from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milsurv import Bag
from milsurv.training.data import TrainingCase, merge_bags, rows_of, sample_patches


def _nested_bag(cells: np.ndarray) -> Bag:
    """A bag whose 20x patches are ``cells`` (n, 2), with the 10x and 5x patches around them."""
    grid, features = {}, {}
    for m, per in ((20, 1), (10, 2), (5, 4)):
        places = np.unique(cells // per, axis=0)
        grid[m] = torch.from_numpy(places.astype(np.int32))
        features[m] = torch.from_numpy(places.astype(np.float32)) + m
    return Bag(features, {m: places.long() * 100 for m, places in grid.items()}, grid)


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=150),
    st.integers(1, 120),
    st.integers(0, 9),
)
def test_a_sample_keeps_whole_areas(cells: set[tuple[int, int]], most: int, seed: int) -> None:
    bag = _nested_bag(np.array(sorted(cells)))
    sample = sample_patches(bag, most, torch.Generator().manual_seed(seed))
    again = sample_patches(bag, most, torch.Generator().manual_seed(seed))
    assert sample.grid is not None
    assert bag.grid is not None
    areas = {tuple(place) for place in sample.grid[5].tolist()}
    if len(cells) <= most:
        assert sample is bag
    else:
        assert sample.sizes[20] <= most or len(areas) == 1
        assert areas
    for m, per in ((20, 4), (10, 2), (5, 1)):
        inside = [tuple(place) in areas for place in (bag.grid[m] // per).tolist()]
        assert torch.equal(sample.grid[m], bag.grid[m][torch.tensor(inside)])  # all of each area, in order
        assert torch.equal(sample.features[m], bag.features[m][torch.tensor(inside)])
        assert torch.equal(sample.features[m], again.features[m])


def test_without_a_grid_each_magnification_keeps_the_same_share() -> None:
    bag = Bag({20: torch.arange(200.0).unsqueeze(1), 5: torch.arange(12.0).unsqueeze(1)})
    sample = sample_patches(bag, 50, torch.Generator().manual_seed(0))
    assert sample.sizes == {20: 50, 5: 3}
    for features in sample.features.values():
        assert (features.diff(dim=0) > 0).all()


def test_every_area_is_drawn_in_time() -> None:
    bag = _nested_bag(np.argwhere(np.ones((16, 16))))
    seen = [
        sample_patches(bag, 64, torch.Generator().manual_seed(seed)).grid[5].tolist()  # type: ignore[index]
        for seed in range(40)
    ]
    assert {tuple(place) for places in seen for place in places} == {
        (c, r) for c in range(4) for r in range(4)
    }


def test_rows_and_bags_of_a_case() -> None:
    one = TrainingCase("a", 3.0, 1, (("a-1", Path("a-1.h5")), ("a-2", Path("a-2.h5"))))
    two = TrainingCase("b", 4.0, 0, (("b-1", Path("b-1.h5")),))
    assert rows_of([one, two], "case") == (one, two)
    rows = rows_of([one, two], "slide")
    assert [(row.case_id, row.time, [slide for slide, _ in row.slides]) for row in rows] == [
        ("a", 3.0, ["a-1"]),
        ("a", 3.0, ["a-2"]),
        ("b", 4.0, ["b-1"]),
    ]
    assert one.bags("slide") == [(one.slides[0],), (one.slides[1],)]
    assert one.bags("case") == [one.slides]


def test_merge_bags_has_all_patches_and_no_places() -> None:
    bags = [_nested_bag(np.argwhere(np.ones((side, side)))) for side in (4, 8)]
    joined = merge_bags(bags)
    assert joined.sizes == {20: 80, 10: 20, 5: 5}
    assert joined.grid is joined.coords is None
    assert torch.equal(joined.features[10][4:], bags[1].features[10])
