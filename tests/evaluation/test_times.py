from __future__ import annotations

import numpy as np
import pytest

from milsurv.config.run import Evaluation
from milsurv.evaluation.times import evaluation_times, survival_column

TIME = np.arange(1.0, 102.0)
EVENT = np.ones(101)


def test_quartiles_of_the_event_times_by_default() -> None:
    event = (np.arange(101) % 2 == 0).astype(int)
    assert evaluation_times(TIME, event, Evaluation()).times == (26, 51, 76)


def test_the_grid_is_even_and_ends_at_the_80th_percentile_of_events() -> None:
    grid = evaluation_times(TIME, EVENT, Evaluation()).integration
    assert len(grid) == 20
    assert np.diff(grid) == pytest.approx([grid[0]] * 19, rel=1e-4)
    assert grid[-1] == pytest.approx(81)


def test_times_asked_for_are_sorted_and_stand_once_among_all() -> None:
    times = evaluation_times(TIME, EVENT, Evaluation(times=(81.0, 12.5, 12.5)))
    assert list(times.times) == [12.5, 81]
    assert times.all == tuple(sorted({*times.integration, 12.5}))


def test_without_events_there_is_a_reason() -> None:
    times = evaluation_times(TIME, 0 * EVENT, Evaluation())
    assert not times.all
    assert times.reason is not None
    assert "no events" in times.reason
    assert evaluation_times(TIME, 0 * EVENT, Evaluation(times=(3,))).times == (3,)


@pytest.mark.parametrize(
    ("time", "name"),
    [(12.5, "survival_at_12.5"), (12.0, "survival_at_12"), (1234.5678, "survival_at_1234.5678")],
)
def test_columns_are_short_and_keep_the_time(time: float, name: str) -> None:
    assert survival_column(time) == name
    assert float(name.removeprefix("survival_at_")) == time


def test_neighbouring_times_have_columns_of_their_own() -> None:
    times = evaluation_times(10_000 + TIME / 1000, EVENT, Evaluation())
    names = [survival_column(t) for t in times.all]
    assert len(set(names)) == len(names)
    assert [float(name.removeprefix("survival_at_")) for name in names] == list(times.all)
