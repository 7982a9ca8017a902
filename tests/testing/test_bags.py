from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milsurv.testing import make_bag
from milsurv.testing.bags import shuffled


@given(n=st.integers(1, 300), seed=st.integers(0, 5), coarsest=st.sampled_from([20, 10, 5]))
@settings(max_examples=60, deadline=None)
def test_bags_are_as_extraction_makes_them(n: int, seed: int, coarsest: int) -> None:
    magnifications = [m for m in (20, 10, 5) if m >= coarsest]
    bag = make_bag(n, magnifications=magnifications, dim=3, seed=seed)
    assert bag.coords is not None
    assert bag.grid is not None
    finest = {tuple(place) for place in bag.grid[20].tolist()}
    assert len(finest) == n
    for m in magnifications:
        places = [tuple(place) for place in bag.grid[m].tolist()]
        ratio = 20 // m
        assert places == sorted(places, key=lambda place: (place[1], place[0]))
        assert set(places) == {(column // ratio, row // ratio) for column, row in finest}
        assert torch.equal(bag.coords[m], bag.grid[m].long() * 256 * ratio)
        assert bag.features[m].shape == (len(places), 3)


def test_a_shuffled_bag_has_the_same_patches_elsewhere() -> None:
    bag = make_bag(40)
    other = shuffled(bag)
    assert bag.grid is not None
    assert other.grid is not None
    for m, places in bag.grid.items():
        before = {tuple(place): row for place, row in zip(places.tolist(), bag.features[m], strict=True)}
        assert not torch.equal(other.grid[m], places) or len(places) == 1
        for place, row in zip(other.grid[m].tolist(), other.features[m], strict=True):
            assert torch.equal(before[tuple(place)], row)
