from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milsurv.cohort.summaries import MAX_LINES, MAX_REASONS, group_by_reason, summarize, summarize_if_many


def test_lines_of_one_reason_are_counted_with_an_example() -> None:
    lines = [
        f"row {n} (case T{n}): excluded, OS.time is '#N/A'; nothing is left of the case" for n in range(1000)
    ]
    lines += [f"slide S{n} is excluded: no file for this slide in /data/my-slides" for n in range(10_000)]
    lines += [
        f"slide S{n} will be excluded: 2 files with this id in /data: {n}.svs, {n}b.svs" for n in (1, 1)
    ]
    lines += ["case [b]Y: no usable slide"]
    assert summarize(lines) == [
        "10,000 × no file for this slide in /data/my-slides, such as slide S0",
        "1,000 × OS.time is '#N/A', such as row 0 (case T0)",
        "2 × 2 files with this id in /data: 1.svs, 1b.svs, such as slide S1",
        "1 × no usable slide, such as case [b]Y",
    ]


def test_values_that_differ_are_left_open() -> None:
    lines = [f"row {n} (case {n}): excluded, time is -{n}.5" for n in range(2, 9)]
    lines += [f"row {n}: excluded, event is {word!r}" for n, word in enumerate("abc")]
    assert [reason.text for reason in group_by_reason(lines)] == ["time is …", "event is …"]


def test_few_lines_stay_as_they_are() -> None:
    lines = [f"row {n}: excluded, time is 0" for n in range(MAX_LINES)]
    assert summarize_if_many(lines, "rows") == lines
    assert summarize_if_many([*lines, lines[0]], "rows are excluded")[0] == "13 rows are excluded:"


@given(st.lists(st.text(), max_size=60))
def test_no_line_is_lost_and_the_account_is_short(lines: list[str]) -> None:
    assert sorted(line for reason in group_by_reason(lines) for line in reason.lines) == sorted(lines)
    told = summarize(lines)
    assert sum(int(line.partition(" × ")[0].replace(",", "")) for line in told) == len(lines)
    assert len(told) <= MAX_REASONS + 1
