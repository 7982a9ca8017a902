"""Features of a scenario's slides: gathered from a bank of patches that a backbone has embedded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from milsurv.cohort.cases import SlideRef
from milsurv.config.cohort import SyntheticCohort
from milsurv.errors import size
from milsurv.executors.base import Context, Resources
from milsurv.executors.devices import Device
from milsurv.features.bag import Bag
from milsurv.features.disk_space import bytes_per_patch, free_bytes
from milsurv.features.extraction import Extraction
from milsurv.features.patch_bank import COMPONENTS, PatchBank, read_bank
from milsurv.features.source import SlideCheck
from milsurv.features.store import MagnificationFeatures, bag_of
from milsurv.plugin.sources import framework_fingerprint
from milsurv.slides.grid import make_magnifications
from milsurv.slides.opening import slide_faults
from milsurv.slides.reader import slide_identity
from milsurv.storage.atomic import fingerprint
from milsurv.synthetic.bank import GENERATOR_VERSION, Picture, pictures_of
from milsurv.synthetic.pyramid import MPP
from milsurv.synthetic.scenarios import read_arrangement

EVERYWHERE = {"min_tissue": 0.0, "min_sharpness": None, "max_white": None, "max_black": None}
"""Settings of ``tiling`` with which a picture keeps all its patches."""


@dataclass(frozen=True)
class Arranged(Extraction):
    """Features of arrangements of blocks, whose patches are extracted from the pictures of a bank."""

    verb = "gathering"
    code: ClassVar[tuple[str, ...]] = (
        *Extraction.code,
        "milsurv.features.patch_bank",
        "milsurv.synthetic.bank",
        "milsurv.synthetic.histology",
    )
    usable = "are arrangements of the bank's patches, or have features already"
    size_of = "the features"

    @property
    def cohort(self) -> SyntheticCohort:
        """The section ``cohort``."""
        assert isinstance(self.config.cohort, SyntheticCohort)
        return self.config.cohort

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of the bank."""
        assert self.cohort.scenario is not None
        return pictures_of(self.cohort.scenario)

    @property
    def blocks(self) -> int:
        """Number of blocks of a slide."""
        assert self.cohort.patches is not None
        return max(4, round(self.cohort.patches / self._patches_of_block[max(self._patches_of_block)]))

    @property
    def _patches_of_block(self) -> dict[int, int]:
        """Magnification -> number of patches within one of the coarsest."""
        magnifications = self.config.tiling.magnifications
        return {m: (m // min(magnifications)) ** 2 for m in magnifications}

    @cached_property
    def extraction(self) -> Extraction:
        """The source of the features of the bank's pictures."""
        tiling = self.config.tiling.model_copy(update=EVERYWHERE)
        same = {field.name: getattr(self, field.name) for field in fields(self)}
        return Extraction(**{**same, "config": self.config.model_copy(update={"tiling": tiling})})

    @cached_property
    def content(self) -> dict[str, Any]:
        extracted = self.extraction.content
        return {
            **extracted,
            "bank": {
                "generator": GENERATOR_VERSION,
                "pictures": fingerprint([picture.slide_id for picture in self.pictures]),
                "components": COMPONENTS,
            },
            "origins": {**extracted["origins"], "milsurv": framework_fingerprint(*self.code)},
        }

    @cached_property
    def folder(self) -> Path:
        """Slides of other scenarios and seeds have the same ids, and are stored in other folders."""
        cohort = self.cohort.model_dump(include={"scenario", "seed", "patches"})
        name = f"{self.cohort.scenario}-{fingerprint({**self.content, 'cohort': cohort})}"
        return self.config.workspace / "features" / name

    @cached_property
    def bank(self) -> Path:
        """The file of the bank."""
        return self.pictures_folder.parent / f"{fingerprint(self.content)}.h5"

    @property
    def pictures_folder(self) -> Path:
        """Folder of the bank's pictures."""
        return self.config.workspace / "cohorts" / f"bank-{GENERATOR_VERSION}" / "slides"

    def identity(self, slide: SlideRef) -> dict[str, Any]:
        assert slide.path is not None
        return {"slide": slide_identity(slide.path), "tissue_source": None}

    def resources(self, device: Device) -> Resources:  # noqa: ARG002
        """Nothing is computed on a GPU."""
        return Resources()

    def warnings(self, slides: Sequence[SlideRef]) -> Iterator[str]:
        """A warning about missing disk space."""
        needed, free = len(slides) * self._bytes_of_slide, free_bytes(self.config.workspace)
        if needed > free:
            yield (
                f"the features of {len(slides)} slides take about {size(needed)}, but {self.config.workspace} has "
                f"{size(free)} free: free some space, or choose another --workspace"
            )

    @property
    def _bytes_of_slide(self) -> int:
        patches = self.blocks * sum(self._patches_of_block.values())
        return patches * bytes_per_patch(min(COMPONENTS, self.dim), self.config.extraction.dtype)

    def check_slide(self, slide: SlideRef) -> SlideCheck:
        if self.done_before(slide):
            return SlideCheck()
        return SlideCheck(to_do=not self.bank.exists(), bytes=self._bytes_of_slide)

    def sample(self, slide: SlideRef, choose: Callable[[Bag], Bag]) -> tuple[Bag, None]:
        """As by the base class; no pixels are read."""
        bank = read_bank(self.bank) if self.bank.exists() else self._random_bank()
        assert slide.path is not None
        return choose(bag_of(bank.gather(read_arrangement(slide.path)))), None

    def make(
        self,
        context: Context,  # noqa: ARG002
        slide: SlideRef,
    ) -> tuple[dict[int, MagnificationFeatures], dict[str, Any]]:
        """Gather the features of the slide's blocks."""
        assert slide.path is not None
        bank = read_bank(self.bank)
        with slide_faults():
            identity = self.identity(slide)
            features = bank.gather(read_arrangement(slide.path))
        settings = {"mpp": MPP, "mpp_source": "scenario", "patch_px": self.config.tiling.patch_px}
        return features, {**identity, **settings, "warnings": ()}

    def _random_bank(self) -> PatchBank:
        """A bank with a block of random features for each picture."""
        magnifications = make_magnifications(MPP, self.config.tiling)
        rng, count, dim = np.random.default_rng(0), len(self.pictures), min(COMPONENTS, self.dim)
        shapes = {m: (count, patches, dim) for m, patches in self._patches_of_block.items()}
        return PatchBank(
            {m: rng.standard_normal(shape, dtype=np.float32) for m, shape in shapes.items()},
            {m: of_m.patch_level0 for m, of_m in magnifications.items()},
            {m: of_m.mpp for m, of_m in magnifications.items()},
            {picture.slide_id: np.array([row]) for row, picture in enumerate(self.pictures)},
        )
