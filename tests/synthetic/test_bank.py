from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import openslide

from milsurv.executors.base import Context
from milsurv.synthetic.bank import SITES, Picture, draw_picture, picture_path, pictures_of
from milsurv.synthetic.histology import draw_slide

DIGESTS = {0: "c4349abca69a77c9", 3: "b1044d8f2aaee6e1"}
"""Site -> of the slide file of a picture. Another digest needs another GENERATOR_VERSION."""


def test_scenarios_share_their_pictures_except_site() -> None:
    assert pictures_of("rare") == pictures_of("joint") == pictures_of("spatial")
    assert {picture.site for picture in pictures_of("joint")} == {0}
    assert {picture.site for picture in pictures_of("site")} == set(range(1, SITES + 1))
    for scenario in ("joint", "site"):
        ids = [picture.slide_id for picture in pictures_of(scenario)]
        assert len(set(ids)) == len(ids)


def test_a_picture_is_that_of_the_frozen_generator_in_the_look_of_its_site(tmp_path: Path) -> None:
    plain, there = (Picture(-2.0, 2.0, site, 1) for site in (0, 3))
    for picture in (plain, there):
        draw_picture(Context(), picture, tmp_path)
        content = picture_path(picture, tmp_path).read_bytes()
        assert hashlib.sha256(content).hexdigest()[:16] == DIGESTS[picture.site]
    drawn = draw_slide(-2.0, 2.0, np.random.default_rng([2, 0, 4, 0, 1]))
    with openslide.OpenSlide(picture_path(plain, tmp_path)) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")).astype(float)
    assert np.abs(pixels - drawn).mean() < 6
    with openslide.OpenSlide(picture_path(there, tmp_path)) as slide:
        looked = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")).astype(float)
    assert np.abs((looked - pixels).mean(axis=(0, 1))).max() > 5


def test_a_picture_that_exists_is_not_drawn_again(tmp_path: Path) -> None:
    picture = Picture(2.0, 0.0, 0, 0)
    picture_path(picture, tmp_path).write_text("kept")
    draw_picture(Context(), picture, tmp_path)
    assert picture_path(picture, tmp_path).read_text() == "kept"
