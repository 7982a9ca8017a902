"""Times that contradict their unit are told with their numbers; those of real cohorts in their own unit are not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from milsurv.cohort.time_doubts import DAYS, follow_up_doubt, known_unit, thousands_doubt, time_doubts
from tests.cohort.tables import columns, doubts, write

MEDIANS = {"aggressive": 9.0, "usual": 25.0, "slow": 70.0}
"""Months of follow-up in cohorts of cancer."""


def times(median: float, unit: str, cases: int = 200) -> list[float]:
    """Exponential times with ``median`` months, none beyond 20 years, in ``unit``."""
    draw = random.Random(1)
    months = [min(draw.expovariate(0.693 / median), 240.0) + 0.3 for _ in range(cases)]
    return [round(month * DAYS["month"] / DAYS[unit], 3) for month in months]


@pytest.mark.parametrize("unit", DAYS)
@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_times_in_their_unit_are_not_doubted(median: float, unit: str) -> None:
    assert list(time_doubts("time", f"{unit}s", times(median, unit))) == []


@pytest.mark.parametrize(("unit", "said"), [("day", "months"), ("day", "years"), ("month", "years")])
@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_longer_than_people_are_followed(median: float, unit: str, said: str) -> None:
    found = times(median, unit)
    (line,) = time_doubts("time", said, found)
    assert line.startswith(f"the longest follow-up is {max(found):,.4g} {said} (")
    assert f"{unit}s" in line.partition("perhaps the times are in ")[2]


@pytest.mark.parametrize(("unit", "said"), [("month", "days"), ("year", "days"), ("year", "weeks")])
@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_shorter_than_cohorts_are_followed(median: float, unit: str, said: str) -> None:
    (line,) = time_doubts("time", said, times(median, unit))
    assert "which is short" in line
    assert f"{unit}s" in line.partition("perhaps the times are in ")[2]


@pytest.mark.parametrize(
    ("column", "unit", "doubted"),
    [
        ("days_to_death", "months", True),
        ("OS_MONTHS", "days", True),
        ("survival_days", "months", True),
        ("OSDays", "months", True),
        ("followup_yrs", "months", True),
        ("days_to_death", "days", False),
        ("OS_MONTHS", "Months", False),
        ("survival_months", "month", False),
        ("OS.time", "months", False),
        ("time", "months", False),
        ("yearly_visit_time", "months", False),
        ("age_at_diagnosis", "months", True),
        ("date", "months", True),
        ("stage_time", "months", False),
    ],
)
def test_names_that_contradict_the_unit(column: str, unit: str, doubted: bool) -> None:
    found = list(time_doubts(column, unit, times(25, known_unit(unit) or "month")))
    assert len(found) == doubted
    assert all(f"cohort.columns.time is {column}, a name that speaks of " in line for line in found)


def test_equal_times_and_calendar_years(tmp_path: Path) -> None:
    (line,) = doubts(write(tmp_path, columns(time=[24] * 10)))
    assert line.startswith("all 10 cases have the same follow-up, 24 months")
    (line,) = doubts(write(tmp_path, columns(time=range(2001, 2011))))
    assert line.startswith("the times in column time, 2001 to 2010, look like calendar years")


@pytest.mark.parametrize(
    ("unit", "other"), [("month", "day"), ("day", "month"), ("year", "month"), ("month", "year")]
)
def test_an_external_cohort_in_another_unit(unit: str, other: str) -> None:
    training, here = times(25, unit), times(40, other)
    line = follow_up_doubt(f"{unit}s", here, training)
    assert line is not None
    assert f"{max(here):,.4g} and {max(training):,.4g}" in line


@pytest.mark.parametrize(
    ("texts", "doubted"),
    [
        (["1.234", "950", "2.100"], True),
        (["1.234", "950.5", "2.100"], False),
        (["12.345", "1.202"], False),
        (["1234", "950"], False),
        (["1.234", "1950"], False),
    ],
)
def test_points_between_thousands(texts: list[str], doubted: bool) -> None:
    assert (thousands_doubt("time", texts) is not None) == doubted


@pytest.mark.parametrize("median", MEDIANS.values(), ids=MEDIANS.keys())
def test_another_disease_in_the_same_unit_is_no_other_unit(median: float) -> None:
    assert follow_up_doubt("months", times(median, "month"), times(25, "month")) is None
