"""Slides of one content under several names, which would stand on both sides of a fold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from milsurv.cohort.cases import Cohort, SlideRef
from milsurv.cohort.ids import shorten
from milsurv.errors import CohortError, SlideError

SHOWN_COPIES = 10
Likeness = Sequence[Callable[[Path], Hashable]]
"""What two files of one content share, from what is quickly known to what is certain."""


def without_copies(cohort: Cohort, likeness: Likeness, dropping: bool) -> Cohort:
    """The cohort in which each content stands once.

    Of a case's slides of one content the first is used. Slides of one content under several cases cannot all be
    theirs: they raise `CohortError`, or, when ``dropping``, are left out of all of these cases.
    """
    case_of = {slide.slide_id: case.case_id for case in cohort.cases for slide in case.slides}
    slides = {slide.slide_id: slide for case in cohort.cases for slide in case.slides}
    reasons: dict[str, str] = {}
    shared = []
    for copies in _of_one_content(list(slides.values()), likeness):
        if len({case_of[slide_id] for slide_id in copies}) > 1:
            shared.append(", ".join(f"{slide_id} (case {case_of[slide_id]})" for slide_id in copies))
            reasons |= dict.fromkeys(copies, f"of one content under several cases: {shared[-1]}")
        else:
            reasons |= dict.fromkeys(
                copies[1:], f"the same content as slide {copies[0]} of its case, used once"
            )
    if shared and not dropping:
        raise CohortError(_problems(shared))
    if not reasons:
        return cohort
    kept = tuple(
        replace(case, slides=tuple(_without(slide, reasons.get(slide.slide_id)) for slide in case.slides))
        for case in cohort.cases
    )
    told = (
        f"{len(reasons)} slides are left out that have the same content as another ({shorten(sorted(reasons))})"
        + (f"; {len(shared)} contents stand under several cases" if shared else "")
    )
    return replace(cohort, cases=kept, warnings=(*cohort.warnings, told))


def _without(slide: SlideRef, reason: str | None) -> SlideRef:
    return slide if reason is None else replace(slide, path=None, reason=reason)


def _problems(shared: Sequence[str]) -> list[str]:
    more = len(shared) - SHOWN_COPIES
    return [
        *(
            f"slides of one content under several cases: {slides}; nothing says whose it is: remove the wrong rows or "
            "files, give one case id to what is one patient, or leave all of them out with cohort.on_invalid: drop"
            for slides in shared[:SHOWN_COPIES]
        ),
        *([f"and {more} more such contents"] if more > 0 else []),
    ]


def _of_one_content(slides: Sequence[SlideRef], likeness: Likeness) -> list[list[str]]:
    """Ids of slides whose files are alike in everything, in the order of ``slides``; no file is alike to itself alone.

    A file that cannot be read is alike to none: what reads it later says why.
    """
    groups = [[(slide.slide_id, slide.path) for slide in slides if slide.path is not None]]
    for alike in likeness:
        finer = []
        for group in groups:
            by_content = defaultdict(list)
            for slide_id, path in group:
                try:
                    by_content[alike(path)].append((slide_id, path))
                except (SlideError, OSError):
                    continue
            finer += [same for same in by_content.values() if len(same) > 1]
        groups = finer
    return [[slide_id for slide_id, _ in group] for group in groups]
