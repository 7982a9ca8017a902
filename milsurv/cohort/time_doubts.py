"""Follow-up times that contradict their unit: told with the numbers, since they stop nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from statistics import median

DAYS = {"day": 1.0, "week": 7.0, "month": 365.25 / 12, "year": 365.25}
"""Unit -> its days."""
LONGEST_YEARS = 60.0
"""Nobody is followed for longer: the oldest cohorts of adults are about as old."""
MEDIAN_YEARS = 20.0
"""Of half of a cohort: few cohorts are followed for so long, and those of cancer are not."""
SHORT_DAYS = 365.25
"""A cohort of which nobody is followed for a year is rare, and has few events."""
SHORT_MEDIAN_DAYS = 60.0
ALIKE = 5.0
"""Two cohorts of one disease differ less than this in median and in longest follow-up; units differ by 7 to 365."""
_UNIT_IN_NAME = {
    "day": re.compile(r"days?(?![a-z])|(?<![a-z])d(?![a-z])"),
    "week": re.compile(r"weeks?(?![a-z])|(?<![a-z])wks?(?![a-z])"),
    "month": re.compile(r"months?(?![a-z])|(?<![a-z])(mo|mos|mths?)(?![a-z])"),
    "year": re.compile(r"years?(?![a-z])|(?<![a-z])(y|yrs?)(?![a-z])"),
}
_NO_FOLLOW_UP = re.compile(r"(?<![a-z])(age|date|birth|diagnosis_year|year_of\w*)(?![a-z])")


def known_unit(text: str) -> str | None:
    """``day``, ``week``, ``month`` or ``year``, as ``text`` says; None when it says something else."""
    return next((unit for unit in DAYS if text.strip().casefold() in (unit, f"{unit}s", f"{unit}(s)")), None)


def time_doubts(column: str, unit: str, times: Sequence[float]) -> Iterator[str]:
    """What is odd about follow-up ``times`` (n ≥ 1, in ``unit``) of a table's ``column``."""
    yield from _name_doubts(column, unit)
    longest, middle = max(times), median(times)
    if min(times) == longest and len(times) > 1:
        yield f"all {len(times)} cases have the same follow-up, {longest:g} {unit}; is column {column} the right one?"
    if all(1900 <= time <= 2100 and time == int(time) for time in times):
        yield (
            f"the times in column {column}, {min(times):g} to {longest:g}, look like calendar years; give the time "
            "from start to end of follow-up"
        )
        return
    if (known := known_unit(unit)) is None:
        return
    told = f"the longest follow-up is {longest:,.4g} {unit} ({_years(longest, known)}), the median {middle:,.4g} {unit}"
    days = DAYS[known]
    if longest * days > LONGEST_YEARS * DAYS["year"] or middle * days > MEDIAN_YEARS * DAYS["year"]:
        shorter = [name for name in DAYS if DAYS[name] < days]
        perhaps = (
            f" perhaps the times are in {' or '.join(f'{name}s' for name in shorter)}:" if shorter else ""
        )
        yield f"{told}, longer than people are followed;{perhaps} set cohort.time_unit, or convert the times"
    elif longest * days < SHORT_DAYS or middle * days < SHORT_MEDIAN_DAYS:
        longer = [name for name in DAYS if DAYS[name] > days]
        perhaps = f" perhaps the times are in {' or '.join(f'{name}s' for name in longer)}:" if longer else ""
        yield f"{told}, which is short;{perhaps} set cohort.time_unit, or convert the times"


def thousands_doubt(column: str, texts: Sequence[str]) -> str | None:
    """A line when the only points in the numbers of a column stand where thousands are separated."""
    pointed = [text for text in texts if "." in text]
    if not pointed or not all(re.fullmatch(r"\d{1,3}(\.\d{3})?", text) for text in texts):
        return None
    if len(pointed) == len(texts):  # as well a number rounded to three decimals
        return None
    return (
        f"the only points in column {column} stand before three digits, such as {pointed[0]}, and are read as decimal "
        "points; if they separate thousands, take them out"
    )


def _name_doubts(column: str, unit: str) -> Iterator[str]:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", column).lower()
    said = [name for name, pattern in _UNIT_IN_NAME.items() if pattern.search(words)]
    known = known_unit(unit)
    if known is not None and len(said) == 1 and said != [known]:
        yield (
            f"cohort.columns.time is {column}, a name that speaks of {said[0]}s, and cohort.time_unit is {unit}; if "
            f"the name is right, set cohort.time_unit: {said[0]}s"
        )
    if match := _NO_FOLLOW_UP.search(words):
        yield (
            f"cohort.columns.time is {column}, a name that speaks of {match[0]} and not of follow-up; name the column "
            "with the time from start to end of follow-up"
        )


def _years(time: float, unit: str) -> str:
    return f"{time * DAYS[unit] / DAYS['year']:,.3g} years"


def follow_up_doubt(unit: str, times: Sequence[float], training: Sequence[float]) -> str | None:
    """A line when an external cohort's follow-up is so unlike training's, in one unit, that its unit is in doubt."""
    ratios = [measure(times) / measure(training) for measure in (median, max)]
    if not (min(ratios) >= ALIKE or max(ratios) <= 1 / ALIKE):
        return None
    middle, longest = ([measure(of) for of in (times, training)] for measure in (median, max))
    return (
        f"the median follow-up of this cohort is {middle[0]:,.4g} {unit}, of training {middle[1]:,.4g} {unit}; the "
        f"longest {longest[0]:,.4g} and {longest[1]:,.4g}: if the times of one are in another unit, convert the "
        f"table's times to {unit}, or the scores that depend on time mean nothing"
    )
