"""The pictures whose patches the slides of scenarios are arranged from; see `scenarios`.

A picture is drawn as by `histology`, with one of two degrees of order of the glands and one of five of coarseness of
the chromatin. For scenario ``site``, three of them are drawn in the look of each site: its stain, and the white balance
and sharpness of its scanner.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from milsurv.config.cohort import Scenario
from milsurv.executors.base import Context
from milsurv.synthetic.histology import WHITE, draw_slide
from milsurv.synthetic.pyramid import write_pyramid

GENERATOR_VERSION = 2
"""Increased whenever the data of a seed change in a scenario: times, risks, arrangements or a single pixel."""

ORDERED, DISORDERED = ARCHITECTURE = (-2.0, 2.0)
FINE, MIDDLE, COARSE = -2.0, 0.0, 2.0
CELLS = (FINE, -1.0, MIDDLE, 1.0, COARSE)
"""Effects as in `histology`, in standard deviations."""
SITES = 8
NO_SITE = 0
"""Site of pictures without the look of a site; sites have numbers from 1."""
PICTURES, PICTURES_OF_SITE = 16, 4
"""Pictures of each pair of effects, and of each pair of effects of each site."""


@dataclass(frozen=True)
class Picture:
    """One picture of the bank: its effects, the site whose look it has, and its number among those alike."""

    architecture: float
    cells: float
    site: int
    number: int

    @property
    def slide_id(self) -> str:
        site = f"site{self.site}-" if self.site else ""
        return f"BANK-{site}architecture{self.architecture:+g}-cells{self.cells:+g}-{self.number:02d}"


def pictures_of(scenario: Scenario) -> tuple[Picture, ...]:
    """The pictures that the slides of a scenario are arranged from; all but ``site`` share theirs."""
    if scenario != "site":
        return tuple(
            Picture(architecture, cells, NO_SITE, number)
            for architecture, cells, number in product(ARCHITECTURE, CELLS, range(PICTURES))
        )
    return tuple(
        Picture(architecture, cells, site, number)
        for site, architecture, cells, number in product(
            range(1, SITES + 1), ARCHITECTURE, (FINE, MIDDLE, COARSE), range(PICTURES_OF_SITE)
        )
    )


def picture_path(picture: Picture, folder: Path) -> Path:
    """Path of a picture's slide file."""
    return folder / f"{picture.slide_id}.svs"


def draw_picture(context: Context, picture: Picture, folder: Path) -> None:
    """Unit of work: draw a picture and write it as a slide, unless it exists."""
    path = picture_path(picture, folder)
    if not path.exists():
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            write_pyramid(_drawn(picture), path)
        finally:
            cv2.setNumThreads(threads)
    context.report({"event": "drawn"})


def _drawn(picture: Picture) -> NDArray[np.uint8]:
    place = (ARCHITECTURE.index(picture.architecture), CELLS.index(picture.cells))
    rng = np.random.default_rng([GENERATOR_VERSION, *place, picture.site, picture.number])
    drawn = draw_slide(picture.architecture, picture.cells, rng)
    return _in_look_of(picture.site, drawn) if picture.site else drawn


def _in_look_of(site: int, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with the optical density of R, G, B scaled (stain), another white, and less sharp (scanner)."""
    rng = np.random.default_rng([GENERATOR_VERSION, site])
    stain, white, blur = rng.normal(1.0, 0.12, 3), rng.uniform(225.0, 252.0, 3), rng.uniform(0.2, 0.6)
    light = np.arange(256)[:, None] / WHITE
    colours = np.rint(np.clip(white * light**stain, 0, 255)).astype(np.uint8)
    coloured = cv2.LUT(drawn, colours[None])
    return np.asarray(cv2.GaussianBlur(coloured, (0, 0), blur), dtype=np.uint8)
