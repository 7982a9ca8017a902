"""Many lines about rows, cases or slides, told by the reasons that they have in common."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN_REASONS = 10
"""Reasons that are told one by one."""
FEW = 12
"""Lines up to this number are told one by one."""
_WHO = re.compile(
    r"(?P<who>.*?)(?: (?:is|will be|would be) left out)?: (?:left out, )?(?P<why>.*)", re.DOTALL
)
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|(?<!\S)/\S+|(?<![\w.])[-+]?\d[\d.,]*")
"""What differs between lines of one reason: quoted values, paths, numbers."""


@dataclass(frozen=True)
class Reason:
    """Lines ``WHO: WHY`` that say the same of different rows, cases or slides."""

    text: str
    """WHY, with ``…`` in place of the values that differ."""
    lines: tuple[str, ...]
    example: str
    """WHO of the first line."""

    @property
    def told(self) -> str:
        """Count, reason, and the example."""
        return f"{len(self.lines):,} × {self.text}{f', such as {self.example}' if self.example else ''}"


def by_reason(lines: Iterable[str]) -> list[Reason]:
    """The reasons of lines such as ``row 3 (case A): left out, time is 0``, the most frequent first."""
    groups: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for line in lines:
        found = _WHO.fullmatch(line)
        who, why = (found["who"], found["why"]) if found else ("", line)
        why = why.partition("; nothing is left of ")[0]
        groups[_VALUES.sub("…", why)].append((why, who, line))
    reasons = []
    for masked, told in groups.items():
        whys, whos, whole = zip(*told, strict=True)
        reasons.append(Reason(whys[0] if len(set(whys)) == 1 else masked, whole, whos[0]))
    return sorted(reasons, key=lambda reason: -len(reason.lines))


def counted(lines: Sequence[str]) -> list[str]:
    """A line for each of the most frequent reasons, with its count and an example, and one for all others."""
    reasons = by_reason(lines)
    shown, others = reasons[:SHOWN_REASONS], reasons[SHOWN_REASONS:]
    told = [reason.told for reason in shown]
    if others:
        told.append(f"{sum(len(reason.lines) for reason in others):,} × {len(others)} other reasons")
    return told


def few_lines(lines: Sequence[str], about: str) -> list[str]:
    """The lines when they are few; else a line that counts what they are ``about``, and one for each reason."""
    if len(lines) <= FEW:
        return list(lines)
    return [f"{len(lines):,} {about}:", *(f"  {line}" for line in counted(lines))]
