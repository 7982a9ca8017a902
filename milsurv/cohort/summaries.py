"""Summaries of many messages about rows, cases or slides, grouped by their reason."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_REASONS = 10
"""Reasons that are listed; the rest are counted."""
MAX_LINES = 12
"""Up to this many messages are shown one by one."""
_MESSAGE = re.compile(r"(?P<who>.*?)(?: (?:is|will be) excluded)?: (?:excluded, )?(?P<why>.*)", re.DOTALL)
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|(?<!\S)/\S+|(?<![\w.])[-+]?\d[\d.,]*")
"""What differs between messages of one reason: quoted values, paths, numbers."""


@dataclass(frozen=True)
class Reason:
    """Messages ``WHO: WHY`` with the same reason for different rows, cases or slides."""

    text: str
    """WHY, with ``…`` in place of values that differ."""
    lines: tuple[str, ...]
    example: str
    """WHO of the first message."""

    @property
    def summary(self) -> str:
        """Count, reason and example."""
        return f"{len(self.lines):,} × {self.text}{f', such as {self.example}' if self.example else ''}"


def group_by_reason(lines: Iterable[str]) -> list[Reason]:
    """The reasons of messages such as ``row 3 (case A): excluded, time is 0``, most frequent first."""
    groups: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for line in lines:
        match = _MESSAGE.fullmatch(line)
        who, why = (match["who"], match["why"]) if match else ("", line)
        why = why.partition("; nothing is left of ")[0]
        groups[_VALUES.sub("…", why)].append((why, who, line))
    reasons = []
    for masked, messages in groups.items():
        whys, whos, whole = zip(*messages, strict=True)
        reasons.append(Reason(whys[0] if len(set(whys)) == 1 else masked, whole, whos[0]))
    return sorted(reasons, key=lambda reason: -len(reason.lines))


def summarize(lines: Sequence[str]) -> list[str]:
    """A line for each of the most frequent reasons, with count and example, and one line for the rest."""
    reasons = group_by_reason(lines)
    shown, others = reasons[:MAX_REASONS], reasons[MAX_REASONS:]
    summary = [reason.summary for reason in shown]
    if others:
        summary.append(f"{sum(len(reason.lines) for reason in others):,} × {len(others)} other reasons")
    return summary


def summarize_if_many(lines: Sequence[str], about: str) -> list[str]:
    """The lines if they are few; otherwise a line with their number and what they are ``about``, and the summary."""
    if len(lines) <= MAX_LINES:
        return list(lines)
    return [f"{len(lines):,} {about}:", *(f"  {line}" for line in summarize(lines))]
