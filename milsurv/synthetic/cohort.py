"""A synthetic cohort: cases with known true risk, and slides whose appearance depends on it.

Each case has two independent effects, one on the tissue's architecture (seen at 5x) and one on its cells (seen
at 20x); see `histology` for their appearance. The true log-risk is their sum times `EFFECT`. Survival times follow a
proportional-hazards Weibull model, and censoring times are independent of everything else. A case and its pictures
depend only on the cohort's seed and the case's number, not on the cohort's size.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from milsurv.executors.base import Context
from milsurv.synthetic.histology import draw_slide
from milsurv.synthetic.pyramid import write_pyramid

GENERATOR_VERSION = 1
"""Increased whenever the data of a seed change: times, risks or a single pixel."""

EFFECT = 1.15
"""Log hazard ratio for one standard deviation of either effect: the true risk's C-index is about 0.81."""
LATENT_LIMIT = 2.5
WEIBULL_SHAPE = 1.6
MEDIAN_MONTHS = 30.0
"""Median survival of a case with both effects 0."""
CENSORING_MONTHS = (6.0, 110.0)
"""Range of the uniform distribution of censoring times: about 35 % of the cases are censored."""
TWO_SLIDES_SHARE = 0.17

_CASE_STREAM = 0  # a slide's stream is its number, from 1


@dataclass(frozen=True)
class SyntheticSlide:
    """Inputs of one slide's picture: cohort seed, case and slide numbers (from 1), and the case's effects."""

    case_id: str
    slide_id: str
    seed: int
    case_index: int
    slide_index: int
    architecture: float
    cells: float


def plan_cohort(cases: int, seed: int) -> tuple[pd.DataFrame, list[SyntheticSlide]]:
    """Draw `cases` cases and return their table and their slides, in the same order.

    The table has a row for each slide: case_id, slide_id, time (months), event (1 observed, 0 censored),
    true_risk (log hazard ratio to a case with both effects 0), architecture and cells (standard deviations).
    """
    rows: list[dict[str, object]] = []
    slides: list[SyntheticSlide] = []
    for case_index in range(1, cases + 1):
        rng = _stream(seed, case_index, _CASE_STREAM)
        architecture, cells = (
            float(effect) for effect in np.clip(rng.standard_normal(2), -LATENT_LIMIT, LATENT_LIMIT)
        )
        true_risk = EFFECT * (architecture + cells)
        time, event = follow_up(true_risk, rng)
        case_id = f"SYN-{case_index:04d}"
        for slide_index in range(1, 2 + int(rng.random() < TWO_SLIDES_SHARE)):
            slide_id = f"{case_id}-S{slide_index}"
            slides.append(
                SyntheticSlide(case_id, slide_id, seed, case_index, slide_index, architecture, cells)
            )
            rows.append(
                {
                    "case_id": case_id,
                    "slide_id": slide_id,
                    "time": time,
                    "event": event,
                    "true_risk": true_risk,
                    "architecture": architecture,
                    "cells": cells,
                }
            )
    return pd.DataFrame(rows), slides


def write_slide(slide: SyntheticSlide, folder: Path) -> Path:
    """Draw `slide`, write it to `folder`/<slide_id>.svs atomically, and return the path."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        rng = _stream(slide.seed, slide.case_index, slide.slide_index)
        picture = draw_slide(slide.architecture, slide.cells, rng)
        return write_pyramid(picture, slide_path(slide, folder))
    finally:
        cv2.setNumThreads(threads)


def slide_path(slide: SyntheticSlide, folder: Path) -> Path:
    """Path of a slide of a cohort."""
    return folder / f"{slide.slide_id}.svs"


def draw(context: Context, slide: SyntheticSlide, folder: Path) -> None:
    """Unit of work: draw and write one slide, unless it exists."""
    if not slide_path(slide, folder).exists():
        write_slide(slide, folder)
    context.report({"event": "drawn"})


def _stream(seed: int, case_index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, case_index, stream])


def follow_up(true_risk: float, rng: np.random.Generator) -> tuple[float, int]:
    """Time in months, rounded to 2 decimals, and whether the event was observed."""
    scale = MEDIAN_MONTHS / np.log(2) ** (1 / WEIBULL_SHAPE)
    survival = scale * (rng.exponential() / np.exp(true_risk)) ** (1 / WEIBULL_SHAPE)
    censoring = rng.uniform(*CENSORING_MONTHS)
    time = max(round(float(min(survival, censoring)), 2), 0.01)
    return time, int(survival <= censoring)
