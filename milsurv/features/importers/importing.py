"""From a slide's features made elsewhere to its feature file: one unit of work, as extraction is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from milsurv._version import __version__
from milsurv.cohort.cases import SlideRef
from milsurv.cohort.ids import shorten
from milsurv.config.run import FeatureImport, RunConfig
from milsurv.errors import TABLE_ADVICE, MilsurvError, SlideError
from milsurv.executors.base import Context, Event, Unit
from milsurv.executors.devices import Device
from milsurv.features.extract import ExtractedSlide, left_out, traceback_of
from milsurv.features.importers.foreign import ForeignPatches, hash_of_features, read_foreign, read_shape
from milsurv.features.importers.lattice import rebuild_grid
from milsurv.features.importers.layouts import FeatureFolders, find_folders
from milsurv.features.store import MagnificationFeatures, read_attributes, write_features
from milsurv.plugin.registry import Registry
from milsurv.plugin.sources import framework_fingerprint
from milsurv.slides.opening import slide_faults
from milsurv.slides.reader import slide_identity
from milsurv.storage.atomic import fingerprint

IMPORTING_CODE = ("milsurv.features.importers.importing",)
"""What of milsurv itself decides imported features."""
PIXEL_SLACK = 0.5 + 1e-6
"""Level-0 pixels by which rounding moves a corner off a lattice of patches whose side is no whole number."""
TELLING = ("source", "table_mpp", "patches", "mpp", "mpp_source")
"""Attributes that tell what a feature file was made from and what came of it."""


@dataclass(frozen=True)
class ImportSettings:
    """All that decides what a feature file made from features of others holds."""

    verb: ClassVar = "importing"
    config: RunConfig
    section: FeatureImport
    source: FeatureFolders

    @classmethod
    def of(cls, config: RunConfig, section: FeatureImport) -> ImportSettings:
        """Raises MilsurvError when the folders that the configuration names are not there or not plain."""
        return cls(config, section, find_folders(section, config.tiling))

    @property
    def content(self) -> dict[str, Any]:
        """What a changed setting of which asks for another run; where the files stand is not in it, they are."""
        return {
            "import": {
                "layout": self.section.layout,
                "name": self.source.name,
                "magnifications": self.config.tiling.magnifications,
            },
            "origins": {"milsurv": framework_fingerprint(*IMPORTING_CODE)},
        }

    @cached_property
    def folder(self) -> Path:
        """Where feature files of these settings stand; features from another folder get one of their own."""
        folders = {m: list(map(str, folders)) for m, folders in self.source.by_magnification.items()}
        name = f"{self.source.name}-{fingerprint({**self.content, 'folders': folders})}"
        return self.config.workspace / "features" / name

    def path(self, slide_id: str) -> Path:
        return self.folder / f"{slide_id}.h5"

    def done_before(self, slide: SlideRef) -> ExtractedSlide | None:
        """The slide as it was imported before, or None when that is still to do."""
        return None if slide.path is None else imported(self, slide.slide_id, slide.path, slide.mpp)

    def unit(self, slide: SlideRef, device: Device) -> Unit:  # noqa: ARG002
        """The unit of work that imports a slide's features."""
        arguments = {"settings": self, "slide_id": slide.slide_id, "file": slide.path, "mpp": slide.mpp}
        return Unit(slide.slide_id, import_slide, arguments, self.path(slide.slide_id))

    @property
    def likeness(self) -> tuple[Callable[[Path], Hashable], ...]:
        """What a slide's files of one content share, whatever else is written into them: features."""
        layout = self.section.layout
        return (
            lambda file: tuple((m, hash_of_features(f, layout)) for m, f in sorted(self.files(file).items())),
        )

    def warnings(self, slides: Sequence[SlideRef], registry: Registry) -> Iterator[str]:  # noqa: ARG002
        """What should be known before the features of ``slides`` are imported: nothing."""
        yield from ()

    def identity(self, file: Path) -> dict[str, Any]:
        """Magnification -> name, size and quick hash of each file of the slide to which ``file`` belongs.

        Raises SlideError when the slide lacks a magnification, or a file cannot be read.
        """
        files = self.files(file)
        return {str(m): {"file": path.name, **slide_identity(path)} for m, path in files.items()}

    def files(self, file: Path) -> dict[int, Path]:
        """Magnification -> each file of the slide to which ``file`` belongs. Raises SlideError when it lacks one."""
        found = self.source.files(file)
        lacking = [m for m in self.source.by_magnification if m not in found]
        if lacking:
            folders = ", ".join(str(self.source.by_magnification[m][0]) for m in lacking)
            raise SlideError(
                f"has no {', '.join(f'{m}x' for m in lacking)} features: no file for it in {folders}"
            )
        return found

    def shapes(self, file: Path) -> dict[int, tuple[int, int]]:
        """Magnification -> ``(n, d)`` of the slide's features, from the headers of its files. Raises SlideError."""
        return {m: read_shape(path, self.section.layout, m) for m, path in self.files(file).items()}


def imported(settings: ImportSettings, slide_id: str, file: Path, mpp: float | None) -> ExtractedSlide | None:
    """The slide as it was imported before, or None when that is still to do."""
    path = settings.path(slide_id)
    if not path.is_file():
        return None
    try:
        attributes = read_attributes(path, TELLING)
        if attributes["source"] != settings.identity(file) or attributes["table_mpp"] != mpp:
            return None
        return _outcome(slide_id, attributes)
    except (MilsurvError, KeyError):
        return None


def _outcome(slide_id: str, attributes: Mapping[str, Any]) -> ExtractedSlide:
    patches = {int(m): count for m, count in attributes["patches"].items()}
    hashes = {m: file["quick_hash"] for m, file in attributes["source"].items()}
    return ExtractedSlide(slide_id, patches, attributes["mpp"], attributes["mpp_source"], made_from=hashes)


def import_slide(
    context: Context, settings: ImportSettings, slide_id: str, file: Path, mpp: float | None
) -> ExtractedSlide:
    """Unit of work: read a slide's features at every magnification, write its feature file, unless it is there.

    A slide that cannot be used gives a reason in place of a file.
    """
    event: Event = {"event": "slide", "slide": slide_id, "reason": None}
    try:
        with slide_faults():
            outcome = imported(settings, slide_id, file, mpp) or _import(settings, slide_id, file, mpp)
    except SlideError as error:
        outcome = left_out(slide_id, error, TABLE_ADVICE)
        event |= {"reason": outcome.reason, **traceback_of(error)}
    context.report(event)
    return outcome


def _import(settings: ImportSettings, slide_id: str, file: Path, mpp: float | None) -> ExtractedSlide:
    identity = settings.identity(file)
    files = settings.files(file)
    patches = {m: read_foreign(path, settings.section.layout, m) for m, path in files.items()}
    power = next((p.level0_magnification for p in patches.values() if p.level0_magnification), None)
    slide_mpp = mpp if mpp is not None else 10 / power if power else None
    mpp_source = "table" if mpp is not None else "objective power" if power else None
    grid = _grid(patches)
    patch_px = {of_m.patch_px for of_m in patches.values()}
    by_magnification = {
        m: MagnificationFeatures(
            of_m.features,
            _coords(of_m, slide_mpp),
            None if grid is None else grid[m],
            _patch_mpp(of_m, slide_mpp),
            _side_level0(of_m, slide_mpp),
        )
        for m, of_m in patches.items()
    }
    attributes = {
        "source": identity,
        "table_mpp": mpp,
        "mpp": slide_mpp,
        "mpp_source": mpp_source,
        "patches": {str(m): len(of_m.features) for m, of_m in patches.items()},
        "patch_px": patch_px.pop() if len(patch_px) == 1 else None,
        "settings": settings.content,
        "milsurv_version": __version__,
    }
    write_features(settings.path(slide_id), by_magnification, attributes)
    return _outcome(slide_id, attributes)


def _grid(patches: Mapping[int, ForeignPatches]) -> dict[int, NDArray[np.int32]] | None:
    places = {m: of_m.places for m, of_m in patches.items() if of_m.places is not None and not of_m.overlap}
    units = {of_m.unit for of_m in patches.values()}
    if len(places) < len(patches) or len(units) > 1:
        return None
    sides = {m: of_m.side for m, of_m in patches.items()}
    return rebuild_grid(places, sides, PIXEL_SLACK if units == {"px"} else None)


def _coords(patches: ForeignPatches, mpp: float | None) -> NDArray[np.int64] | None:
    """Level-0 pixels; None when there are no places, or µm on a slide of unknown resolution."""
    if patches.places is None or (patches.unit == "µm" and mpp is None):
        return None
    scale = mpp if patches.unit == "µm" and mpp else 1.0
    return np.rint(patches.places / scale).astype(np.int64)


def _side_level0(patches: ForeignPatches, mpp: float | None) -> float | None:
    if patches.unit == "px" or patches.side is None:
        return patches.side
    return patches.side / mpp if mpp else None


def _patch_mpp(patches: ForeignPatches, mpp: float | None) -> float | None:
    """µm per patch pixel."""
    if patches.side is None or patches.patch_px is None:
        return None
    if patches.unit == "µm":
        return patches.side / patches.patch_px
    return patches.side * mpp / patches.patch_px if mpp else None


def require_equal_dims(dims: Mapping[str, Mapping[int, int]]) -> None:
    """Raises MilsurvError when slides (id -> magnification -> length) have features of different lengths.

    They come from different encoders then, and which of them was meant nobody but the user knows: to leave out the
    slides of the rarer one could lose half of the cohort for a mistake that is quickly mended.
    """
    by_dim: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for slide_id, by_magnification in dims.items():
        for magnification, dim in by_magnification.items():
            by_dim[magnification][dim].append(slide_id)
    for magnification, slides in by_dim.items():
        if len(slides) > 1:
            counted = "; ".join(
                f"{dim} values in {len(ids)} ({shorten(sorted(ids))})"
                for dim, ids in sorted(slides.items(), key=lambda item: -len(item[1]))
            )
            raise MilsurvError(
                f"features.import: features at {magnification}x differ in length between slides: {counted}; they come "
                "from different encoders: move those that are not meant out of the folder, or leave their slides out "
                "of the cohort table"
            )
