"""Import of features extracted by another tool: settings, and the conversion of one slide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milsurv.cohort.cases import SlideRef
from milsurv.cohort.ids import shorten
from milsurv.cohort.locate import SlideFolder
from milsurv.config.run import FeatureImport, RunConfig
from milsurv.errors import MilsurvError, SlideError
from milsurv.executors.base import Context
from milsurv.features.bag import Bag
from milsurv.features.importers.base import (
    FeatureFolders,
    FeatureLayout,
    ImportedPatches,
    checked,
    files_of_slide,
    index_files,
)
from milsurv.features.importers.lattice import rebuild_grid
from milsurv.features.source import FeatureSource, SlideCheck
from milsurv.features.store import MagnificationFeatures, bag_of
from milsurv.plugin.registry import Registry
from milsurv.plugin.sources import framework_fingerprint
from milsurv.slides.opening import slide_faults
from milsurv.slides.reader import slide_identity
from milsurv.storage.atomic import fingerprint

PIXEL_SLACK = 0.5 + 1e-6
"""Level-0 pixels by which rounding moves a corner off a lattice of patches whose side is not an integer."""
KIND = "feature_layout"


@dataclass(frozen=True)
class Import(FeatureSource):
    """Features that are read from the folders of another tool."""

    section: FeatureImport
    folders: FeatureFolders

    verb = "importing"
    code = ("milsurv.features.importers.importing",)
    usable = "have features at every magnification"
    size_of = "the imported features"

    @classmethod
    def of(cls, config: RunConfig, registry: Registry) -> Import:
        """Raises MilsurvError when the layout is unknown, or a configured folder is missing or ambiguous."""
        section = config.features
        assert section is not None
        layout: FeatureLayout = registry.load(KIND, section.layout)()
        paths = section.folders.values() if isinstance(section.folders, Mapping) else [section.folders]
        for path in paths:
            if not path.is_dir():
                raise MilsurvError(f"features.import: {path}: there is no such folder")
        if section.encoder is not None and not layout.names_encoder:
            raise MilsurvError(
                f"features.encoder: folders of layout {section.layout} do not name an encoder; remove it, and name the "
                "encoder's own folder in features.import"
            )
        origins = {(KIND, section.layout): registry.origin(KIND, section.layout)}
        return cls(config, origins, section, layout.find_folders(section, config.tiling))

    @property
    def layout(self) -> FeatureLayout:
        layout: FeatureLayout = self.registry.load(KIND, self.section.layout)()
        return layout

    @property
    def content(self) -> dict[str, Any]:
        """The location of the files is not included; their content is identified by :meth:`made_from`."""
        return {
            "import": {
                "layout": self.section.layout,
                "name": self.folders.name,
                "magnifications": self.config.tiling.magnifications,
            },
            "origins": {
                **{kind: origin for (kind, _), origin in self.origins.items()},
                "milsurv": framework_fingerprint(*self.code),
            },
        }

    @cached_property
    def folder(self) -> Path:
        """Features imported from different folders are stored in different folders."""
        folders = {m: list(map(str, searched)) for m, searched in self.folders.by_magnification.items()}
        name = f"{self.folders.name}-{fingerprint({**self.content, 'folders': folders})}"
        return self.config.workspace / "features" / name

    @property
    def free_settings(self) -> tuple[str, ...]:  # type: ignore[override]
        """The name, unless the layout records the encoder: the name of a folder does not identify the encoder."""
        return () if self.layout.names_encoder else ("import.name",)

    @property
    def summary(self) -> dict[str, str | None]:
        return {"imported": self.folders.name, "precision": None}

    @property
    def content_keys(self) -> Sequence[Callable[[Path], Hashable]]:
        layout = self.layout
        return (
            lambda file: tuple((m, layout.hash_features(f, m)) for m, f in sorted(self.files(file).items())),
        )

    def index(self) -> SlideFolder:
        return index_files(self.folders, self.layout.suffixes)

    def identity(self, slide: SlideRef) -> dict[str, Any]:
        """``source``: magnification -> name, size and quick hash of each of the slide's files."""
        assert slide.path is not None
        files = self.files(slide.path)
        return {"source": {str(m): {"file": path.name, **slide_identity(path)} for m, path in files.items()}}

    def made_from(self, attributes: Mapping[str, Any]) -> dict[str, str]:
        """Magnification -> quick hash of its file."""
        return {m: file["quick_hash"] for m, file in attributes["source"].items()}

    def files(self, file: Path) -> dict[int, Path]:
        """Magnification -> file of the slide to which ``file`` belongs. Raises SlideError when one is missing."""
        found = files_of_slide(self.folders, self.layout.suffixes, file)
        missing = [m for m in self.folders.by_magnification if m not in found]
        if missing:
            folders = ", ".join(str(self.folders.by_magnification[m][0]) for m in missing)
            raise SlideError(
                f"has no {', '.join(f'{m}x' for m in missing)} features: no file for it in {folders}"
            )
        return found

    def require_equal_dims(self, dims: Iterable[tuple[str, Mapping[int, int]]]) -> None:
        """An error for the user to resolve: excluding the slides of the rarer encoder could halve the cohort."""
        by_dim: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for slide_id, by_magnification in dims:
            for magnification, dim in by_magnification.items():
                by_dim[magnification][dim].append(slide_id)
        for magnification, slides in by_dim.items():
            if len(slides) > 1:
                counted = "; ".join(
                    f"{dim} values in {len(ids)} ({shorten(sorted(ids))})"
                    for dim, ids in sorted(slides.items(), key=lambda item: -len(item[1]))
                )
                raise MilsurvError(
                    f"features.import: features at {magnification}x differ in length between slides: {counted}; they "
                    "come from different encoders: move those that are not meant out of the folder, or remove their "
                    "slides from the cohort table"
                )

    def require_own_file(self, slide: SlideRef) -> None:
        """Nothing to check: features imported from different folders are stored in different folders."""

    def check_slide(self, slide: SlideRef) -> SlideCheck:
        assert slide.path is not None
        files, layout = self.files(slide.path), self.layout
        with slide_faults():
            dims = {m: layout.read_shape(file, m)[1] for m, file in files.items()}
        return SlideCheck(bytes=sum(file.stat().st_size for file in files.values()), dims=dims)

    def sample(self, slide: SlideRef, choose: Callable[[Bag], Bag]) -> tuple[Bag, None]:
        features, _ = self.make(Context(), slide)
        return choose(bag_of(features)), None

    def make(
        self,
        context: Context,  # noqa: ARG002
        slide: SlideRef,
    ) -> tuple[dict[int, MagnificationFeatures], dict[str, Any]]:
        assert slide.path is not None
        with slide_faults():
            layout, identity = self.layout, self.identity(slide)
            patches = {m: checked(layout.read(path, m), path) for m, path in self.files(slide.path).items()}
            power = next((p.level0_magnification for p in patches.values() if p.level0_magnification), None)
            mpp = slide.mpp if slide.mpp is not None else 10 / power if power else None
            grid = _grid(patches)
        patch_px = {of_m.patch_px for of_m in patches.values()}
        features = {
            m: MagnificationFeatures(
                of_m.features,
                _coords(of_m, mpp),
                None if grid is None else grid[m],
                _patch_mpp(of_m, mpp),
                _side_level0(of_m, mpp),
            )
            for m, of_m in patches.items()
        }
        return features, {
            **identity,
            "mpp": mpp,
            "mpp_source": "table" if slide.mpp is not None else "objective power" if power else None,
            "patch_px": patch_px.pop() if len(patch_px) == 1 else None,
        }


def _grid(patches: Mapping[int, ImportedPatches]) -> dict[int, NDArray[np.int32]] | None:
    coords = {m: of_m.coords for m, of_m in patches.items() if of_m.coords is not None and not of_m.overlap}
    units = {of_m.unit for of_m in patches.values()}
    if len(coords) < len(patches) or len(units) > 1:
        return None
    sides = {m: of_m.side for m, of_m in patches.items()}
    return rebuild_grid(coords, sides, PIXEL_SLACK if units == {"px"} else None)


def _coords(patches: ImportedPatches, mpp: float | None) -> NDArray[np.int64] | None:
    """Level-0 pixels; None without coordinates, or if they are in µm and the slide's resolution is unknown."""
    if patches.coords is None or (patches.unit == "µm" and mpp is None):
        return None
    scale = mpp if patches.unit == "µm" and mpp else 1.0
    return np.rint(patches.coords / scale).astype(np.int64)


def _side_level0(patches: ImportedPatches, mpp: float | None) -> float | None:
    if patches.unit == "px" or patches.side is None:
        return patches.side
    return patches.side / mpp if mpp else None


def _patch_mpp(patches: ImportedPatches, mpp: float | None) -> float | None:
    """µm per patch pixel."""
    if patches.side is None or patches.patch_px is None:
        return None
    if patches.unit == "µm":
        return patches.side / patches.patch_px
    return patches.side * mpp / patches.patch_px if mpp else None
