"""What a cohort should not be when its table was read right: told aloud, or refused where rows would be lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milsurv.cohort.event_column import EventColumn
from milsurv.cohort.id_doubts import id_doubts
from milsurv.cohort.rows import Entry
from milsurv.cohort.text_table import TextTable
from milsurv.cohort.time_doubts import thousands_doubt, time_doubts
from milsurv.config.cohort import TableCohort

MANY_LEFT_OUT = 0.5
_SIDES = ("are censored", "have an event")


def doubts(
    table: TextTable, config: TableCohort, events: EventColumn, kept: Sequence[Entry]
) -> Iterator[str]:
    """Lines about the event column, the times, the ids and the rows left out of a table with rows ``kept``."""
    by_case = {entry.case_id: entry for entry in kept}
    if doubt := events.doubt():
        yield doubt
    sides = {entry.event for entry in kept}
    if len(sides) == 1 and len(by_case) > 1:
        side = _SIDES[sides.pop()]
        yield (
            f"all {len(by_case)} cases {side}, as column {events.name} is read ({events.allowed}); make sure that it "
            "is the right column, and that its values mean this"
        )
    yield from time_doubts(config.columns.time, config.time_unit, [entry.time for entry in by_case.values()])
    if doubt := thousands_doubt(
        config.columns.time, [row.cells.get(config.columns.time, "") for row in table.rows if not row.flaw]
    ):
        yield doubt
    yield from id_doubts(list(by_case))
    yield from _left_out(table, events, {entry.row for entry in kept})


def one_sided(table: TextTable, events: EventColumn, kept: Sequence[Entry]) -> list[str]:
    """A line when all cases with an event, or all censored ones, would be dropped: what is wrong is not theirs."""
    sides = {entry.event for entry in kept}
    if len(sides) != 1:
        return []
    side = sides.pop()
    rows = {entry.row for entry in kept}
    gone = [row for row in table.rows if row.number not in rows and not row.flaw]
    other = [row for row in gone if events.read(row) == 1 - side]
    lost = other or [row for row in gone if events.read(row) is None]
    if not lost:
        return []
    which = f"rows of cases that {_SIDES[1 - side]}" if other else f"rows whose {events.name} is empty"
    return [
        f"{table.path}: cohort.on_invalid: drop would leave out all {len(lost)} {which} (the first is row "
        f"{lost[0].number}), and all cases that stay {_SIDES[side]}; see what is wrong with on_invalid: error, and "
        "correct the table or cohort.columns"
    ]


def _left_out(table: TextTable, events: EventColumn, kept: set[int]) -> Iterator[str]:
    """Dropping that takes away most rows, or most of one side."""
    if (gone := len(table.rows) - len(kept)) > MANY_LEFT_OUT * len(table.rows):
        yield f"{gone} of {len(table.rows)} rows of the table are left out; see why, before you trust the rest"
        return
    shares = []
    for side in (0, 1):
        rows = [row.number for row in table.rows if events.read(row) == side]
        shares.append((len([number for number in rows if number not in kept]), len(rows)))
    (censored, of_censored), (observed, of_observed) = shares
    if any(lost > MANY_LEFT_OUT * total for lost, total in shares):
        yield (
            f"left out are {censored} of {of_censored} rows of censored cases and {observed} of {of_observed} of cases "
            "with an event: what is left may not stand for the cohort"
        )
