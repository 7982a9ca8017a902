"""Synthetic cohorts in which the mean of the patches does not tell the risk, with known true risk.

A slide is an arrangement of blocks: a block is the area of one patch of the coarsest magnification, with the finer
patches within it. Its patches of the finest magnification show the block's cells, and are taken from one picture of
the `bank`; its coarser patches show the block's architecture, and are taken from another. So no single magnification
shows both, however well a model remembers the patches of the bank.

- ``rare``: a contiguous focus of 2 to 5 % of the blocks. The coarser the cells in it, the higher the risk. Cells
  elsewhere are fine to average, in shares that differ between cases by more than the focus changes the mean.
- ``joint``: half of the blocks have coarse cells and half ordered glands, in every case. The more of the coarse cells
  are in ordered glands, the higher the risk.
- ``spatial``: a quarter of the blocks has coarse cells and a quarter fine ones, in every case. The more of the coarse
  ones have a fine one beside them, the higher the risk.
- ``site``: as ``rare``, with steps of coarseness that are twice as large, and cases of sites with a look of their own.
  Every second site has more cases at high risk, so a look is correlated with risk, but that of another site is not.

A case depends only on the scenario, the seed, its number and the number of blocks, not on the size of the cohort.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milsurv.cohort.ids import ARRANGEMENT_SUFFIX
from milsurv.config.cohort import Scenario
from milsurv.errors import SlideError
from milsurv.storage.atomic import write_text
from milsurv.synthetic.bank import (
    ARCHITECTURE,
    COARSE,
    DISORDERED,
    FINE,
    MIDDLE,
    NO_SITE,
    ORDERED,
    SITES,
    Picture,
    pictures_of,
)
from milsurv.synthetic.cohort import follow_up

EFFECT = 1.5
"""Log hazard ratio for one standard deviation of a score that is uniform between 0 and 1."""
FOCUS = (0.02, 0.05)
"""Range of the focus's share of the blocks in ``rare``."""
SITE_SHIFT = 0.5
"""How much higher the expected score of cases is in every second site of ``site``."""
MOVES_PER_BLOCK = 40
"""Most exchanges of blocks that are tried until ``spatial`` has the wanted neighbours."""
LARGEST_PART = 2**16
COLUMNS = ("column", "row", "cells", "architecture", "cells_from", "cells_part", "coarse_from", "coarse_part")

_STREAMS: dict[Scenario, int] = {"rare": 101, "joint": 102, "spatial": 103, "site": 104}

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Content:
    """What a case's blocks show, and the score between 0 and 1 that determines its risk."""

    cells: Numbers
    """``(n,)`` effects of the blocks, see `bank`, in the order of :func:`places`."""
    architecture: Numbers
    score: float
    truth: Mapping[str, float]
    """Further columns of the cohort's table."""
    site: int = NO_SITE


@dataclass(frozen=True)
class Arrangement:
    """A slide: a row of ``blocks`` for each block, with the columns ``COLUMNS``."""

    slide_id: str
    blocks: pd.DataFrame


def plan_scenario(
    scenario: Scenario, cases: int, seed: int, blocks: int
) -> tuple[pd.DataFrame, list[Arrangement]]:
    """Draw ``cases`` cases with one slide of ``blocks`` blocks each: their table, and their slides in the same order.

    The table has the columns case_id, slide_id, time (months), event (1 observed, 0 censored), true_risk (log hazard
    ratio to a case with score 0.5), score, and columns of the scenario.
    """
    drawn = [_draw_case(scenario, seed, number, blocks) for number in range(1, cases + 1)]
    return pd.DataFrame([row for row, _ in drawn]), [slide for _, slide in drawn]


def places(blocks: int) -> NDArray[np.int64]:
    """``(blocks, 2)``: (column, row) of each block, row by row in a square whose last row may be shorter."""
    width = int(np.ceil(np.sqrt(blocks)))
    row, column = np.divmod(np.arange(blocks), width)
    return np.stack([column, row], axis=1)


def arrangement_path(slide_id: str, folder: Path) -> Path:
    """The file that represents a slide."""
    return folder / f"{slide_id}{ARRANGEMENT_SUFFIX}"


def write_arrangement(slide: Arrangement, folder: Path) -> Path:
    """Write a slide's blocks to a CSV file in ``folder`` atomically, unless it exists, and return the path."""
    path = arrangement_path(slide.slide_id, folder)
    if not path.exists():
        write_text(path, slide.blocks.to_csv(index=False))
    return path


def read_arrangement(path: Path) -> pd.DataFrame:
    """The blocks in a file of :func:`write_arrangement`. Raises SlideError when it is not such a file."""
    try:
        blocks = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SlideError(f"not an arrangement of blocks ({error})") from error
    whole = [name for name in COLUMNS if name.endswith(("column", "row", "part"))]
    if tuple(blocks.columns) != COLUMNS or not len(blocks):
        raise SlideError(f"not an arrangement of blocks; its columns must be {', '.join(COLUMNS)}")
    if any(blocks[name].dtype != np.int64 or blocks[name].min() < 0 for name in whole):
        raise SlideError(f"not an arrangement of blocks: {', '.join(whole)} must be whole numbers from 0")
    return blocks


def _draw_case(
    scenario: Scenario, seed: int, number: int, blocks: int
) -> tuple[dict[str, object], Arrangement]:
    rng = np.random.default_rng([seed, number, _STREAMS[scenario]])
    content = _CONTENTS[scenario](rng, blocks)
    true_risk = EFFECT * (content.score - 0.5) * np.sqrt(12)
    time, event = follow_up(true_risk, rng)
    case_id = f"SYN-{f'SITE{content.site}-' if content.site else ''}{number:04d}"
    slide = Arrangement(f"{case_id}-S1", _fill(scenario, content, rng))
    row = {
        "case_id": case_id,
        "slide_id": slide.slide_id,
        "time": time,
        "event": event,
        "true_risk": true_risk,
        "score": content.score,
        **content.truth,
    }
    return row, slide


def _fill(scenario: Scenario, content: Content, rng: np.random.Generator) -> pd.DataFrame:
    """Choose the picture, and the part of it, that the patches of each block are taken from."""
    cells_pool, coarse_pool = _pools(scenario)
    where, count = places(len(content.cells)), len(content.cells)
    choice = rng.integers(0, LARGEST_PART, (4, count))

    def chosen(
        pool: Mapping[tuple[float, int], list[str]], effects: Numbers, at: NDArray[np.int64]
    ) -> list[str]:
        found = (pool[effect, content.site] for effect in effects.tolist())
        return [ids[index % len(ids)] for ids, index in zip(found, at.tolist(), strict=True)]

    values = (
        where[:, 0],
        where[:, 1],
        content.cells,
        content.architecture,
        chosen(cells_pool, content.cells, choice[0]),
        choice[1],
        chosen(coarse_pool, content.architecture, choice[2]),
        choice[3],
    )
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


@cache
def _pools(
    scenario: Scenario,
) -> tuple[dict[tuple[float, int], list[str]], dict[tuple[float, int], list[str]]]:
    """(Effect, site) -> ids of the pictures that show these cells, and of those that show this architecture."""

    def grouped(effect: Callable[[Picture], float]) -> dict[tuple[float, int], list[str]]:
        groups: dict[tuple[float, int], list[str]] = {}
        for picture in pictures_of(scenario):
            groups.setdefault((effect(picture), picture.site), []).append(picture.slide_id)
        return groups

    return grouped(lambda picture: picture.cells), grouped(lambda picture: picture.architecture)


def _rare(rng: np.random.Generator, blocks: int) -> Content:
    return _with_focus(rng, blocks, grade=rng.random(), steps=2)


def _site(rng: np.random.Generator, blocks: int) -> Content:
    site = int(rng.integers(1, SITES + 1))
    grade = rng.uniform(0, 1 - SITE_SHIFT) + SITE_SHIFT * (site % 2)
    content = _with_focus(rng, blocks, grade, steps=1)
    return replace(content, site=site, truth={"site": site, **content.truth})


def _with_focus(rng: np.random.Generator, blocks: int, grade: float, steps: int) -> Content:
    """Cells between fine and average, except in a focus, where they are between average and coarse, in ``steps``.

    ``grade``, between 0 and 1, is the expected score.
    """
    elsewhere, order = rng.random(2)
    size = max(1, round(rng.uniform(*FOCUS) * blocks))
    where = places(blocks)
    distance = np.square(where - where[rng.integers(blocks)]).sum(axis=1)
    focus = np.argsort(distance, kind="stable")[:size]
    step = (COARSE - MIDDLE) / steps
    cells = (FINE + step * rng.binomial(steps, elsewhere, blocks)).astype(np.float64)
    cells[focus] = MIDDLE + step * rng.binomial(steps, grade, size)
    architecture = np.where(rng.random(blocks) < order, ORDERED, DISORDERED)
    score = float(cells[focus].mean()) / COARSE
    return Content(cells, architecture, score, {"focus": size / blocks})


def _joint(rng: np.random.Generator, blocks: int) -> Content:
    half = blocks // 2
    together = int(rng.integers(half + 1))
    coarse = np.arange(blocks) < half
    ordered = (np.arange(blocks) < together) | (
        (np.arange(blocks) >= half) & (np.arange(blocks) < 2 * half - together)
    )
    order = rng.permutation(blocks)
    return Content(
        np.where(coarse, COARSE, FINE)[order],
        np.where(ordered, ORDERED, DISORDERED)[order],
        together / half,
        {},
    )


def _spatial(rng: np.random.Generator, blocks: int) -> Content:
    quarter = blocks // 4
    cells = np.full(blocks, MIDDLE)
    cells[:quarter], cells[quarter : 2 * quarter] = COARSE, FINE
    cells = rng.permutation(cells)
    beside = _exchange(cells, int(rng.integers(quarter + 1)), rng)
    return Content(cells, rng.choice(ARCHITECTURE, blocks), beside / quarter, {})


def _exchange(cells: Numbers, wanted: int, rng: np.random.Generator) -> int:
    """Exchange blocks, in place, until ``wanted`` coarse ones have a fine one beside them; returns their number.

    It can end before that, with about as many.
    """
    neighbours, kinds, count = _neighbours(len(cells)), cells.tolist(), len(cells)

    def beside(at: int) -> bool:
        return kinds[at] == COARSE and any(kinds[other] == FINE for other in neighbours[at])

    found = sum(map(beside, range(count)))
    for one, other in rng.integers(0, count, (MOVES_PER_BLOCK * count, 2)).tolist():
        if found == wanted:
            break
        if kinds[one] == kinds[other]:
            continue
        changed = {one, other, *neighbours[one], *neighbours[other]}
        before = sum(map(beside, changed))
        kinds[one], kinds[other] = kinds[other], kinds[one]
        then = found - before + sum(map(beside, changed))
        if abs(then - wanted) <= abs(found - wanted):
            found = then
        else:
            kinds[one], kinds[other] = kinds[other], kinds[one]
    cells[:] = kinds
    return found


@cache
def _neighbours(blocks: int) -> list[list[int]]:
    """The blocks above, below, left and right of each block."""
    index = {place: at for at, place in enumerate(map(tuple, places(blocks).tolist()))}
    return [
        [index[beside] for beside in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)) if beside in index]
        for x, y in index
    ]


_CONTENTS: dict[Scenario, Callable[[np.random.Generator, int], Content]] = {
    "rare": _rare,
    "joint": _joint,
    "spatial": _spatial,
    "site": _site,
}
