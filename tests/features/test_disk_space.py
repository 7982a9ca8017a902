from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from milsurv.cohort.cases import SlideRef
from milsurv.config.loading import load_config
from milsurv.executors.devices import Device
from milsurv.features.disk_space import max_patches, missing_space, open_ref, tissue_patches
from milsurv.features.extraction import Extraction
from tests.conftest import WriteConfig


def test_space_is_estimated_from_the_tissue_of_a_few_slides(
    write_config: WriteConfig, small_cohort: Path
) -> None:
    config, registry = load_config(str(write_config()))
    files = sorted((small_cohort / "slides").glob("*.svs"))[:5]
    slides = [SlideRef(file.stem, file) for file in files]
    assert missing_space(config, registry, 1000, slides) is None
    needed, free = missing_space(config, registry, 10**13, slides) or (0.0, 0)
    sampled = []
    for slide in slides[::2]:
        with open_ref(config, registry, slide) as opened:
            sampled.append(tissue_patches(config, registry, opened))
            assert sampled[-1] < max_patches(config, opened)
    assert needed == sum(sampled) / 3 * 5 * (2 * 10**13 + 24)
    assert 0 < free < needed


def test_missing_space_and_unknown_magnifications_are_warned_of_before_the_first_slide(
    write_config: WriteConfig, small_cohort: Path
) -> None:
    config, registry = load_config(str(write_config()))
    slides = [SlideRef("P00-1", small_cohort / "slides" / "P00-1.svs")]
    settings = Extraction.of(config, registry, Device("cpu"))
    assert list(settings.warnings(slides)) == []
    room, *_ = replace(settings, dim=10**13).warnings(slides)
    assert "the features of 1 slides take about" in room
    assert "TB, but" in room
    (scales,) = replace(settings, trained_at=(20,)).warnings(())
    assert scales == "backbone colour was trained at 20x; its features at 10x and 5x may be less informative"
