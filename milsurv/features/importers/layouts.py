"""Where others keep patch features: the folders of each layout, by magnification, and the slides' files in them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from milsurv.cohort.ids import FEATURE_SUFFIXES
from milsurv.cohort.locate import SlideFolder, index_slides
from milsurv.config.run import FeatureImport, Tiling
from milsurv.errors import MilsurvError, nearest

TRIDENT_FOLDER = re.compile(r"(?P<magnification>\d+)x_(?P<patch_px>\d+)px_(?P<overlap>\d+)px_overlap")
TRIDENT_FEATURES = "features_"


@dataclass(frozen=True)
class FeatureFolders:
    """The folders with features made elsewhere."""

    name: str
    """Stands for the encoder: TRIDENT's name of it, else the name of a folder."""
    by_magnification: Mapping[int, tuple[Path, ...]]
    """Magnification, finest first -> folders in which a slide's file is looked for, in this order."""

    def index(self) -> SlideFolder:
        """A file of every slide that has features at any magnification: of the finest one that it has."""
        first: dict[Path, Path] = {}
        unreadable: list[str] = []
        for folder in self._all:
            found = index_slides(folder, FEATURE_SUFFIXES)
            unreadable += found.unreadable
            for file in sorted(found.files, key=lambda file: FEATURE_SUFFIXES.index(file.suffix.lower())):
                first.setdefault(file.relative_to(folder).with_suffix(""), file)
        common = Path(os.path.commonpath(self._all))
        files = tuple(first[key] for key in sorted(first))
        return SlideFolder(common, files, tuple(unreadable), setting="features.import")

    def files(self, file: Path) -> dict[int, Path]:
        """Magnification -> file of the slide to which ``file`` of :meth:`index` belongs, where there is one.

        A slide's files have the same name at every magnification.
        """
        home = next(folder for folder in self._all if file.is_relative_to(folder))
        name = file.relative_to(home).with_suffix("")
        found = {}
        for magnification, folders in self.by_magnification.items():
            named = (folder / f"{name}{suffix}" for folder in folders for suffix in FEATURE_SUFFIXES)
            there = next((path for path in named if path.is_file()), None)
            if there is not None:
                found[magnification] = there
        return found

    @property
    def _all(self) -> list[Path]:
        return [folder for folders in self.by_magnification.values() for folder in folders]


def find_folders(section: FeatureImport, tiling: Tiling) -> FeatureFolders:
    """The folders of each of ``tiling.magnifications``. Raises MilsurvError when one is not there or not plain."""
    paths = section.folders if isinstance(section.folders, Mapping) else {None: section.folders}
    for path in paths.values():
        if not path.is_dir():
            raise MilsurvError(f"features.import: {path}: there is no such folder")
    if section.encoder is not None and section.layout != "trident":
        raise MilsurvError(
            f"features.encoder is for layout trident, not {section.layout}; name the encoder's own folder in "
            "features.import"
        )
    if section.layout in ("trident", "authors"):
        if isinstance(section.folders, Mapping):
            raise MilsurvError(
                f"features.import: layout {section.layout} has its magnifications below one folder; name that folder"
            )
        finder = _trident if section.layout == "trident" else _authors
        return finder(section.folders, section.encoder, tiling)
    folders = _by_magnification(section, tiling)
    if section.layout == "clam":
        return FeatureFolders(_name_of(folders), {m: _clam(folder) for m, folder in folders.items()})
    return FeatureFolders(_name_of(folders), {m: (folder,) for m, folder in folders.items()})


def _by_magnification(section: FeatureImport, tiling: Tiling) -> dict[int, Path]:
    """The folder of each magnification, for layouts that hold one magnification in a folder."""
    wanted = tiling.magnifications
    if not isinstance(section.folders, Mapping):
        if len(wanted) > 1:
            raise MilsurvError(
                f"features.import: a folder of layout {section.layout} holds one magnification, but "
                f"tiling.magnifications are {_list(wanted)}: give each a folder, such as "
                f"{{{', '.join(f'{m}: PATH' for m in wanted)}}}, or set tiling.magnifications to the one that it holds"
            )
        return {wanted[0]: section.folders}
    if set(section.folders) != set(wanted):
        raise MilsurvError(
            f"features.import has folders for {_list(sorted(section.folders, reverse=True))}, tiling.magnifications "
            f"are {_list(wanted)}; make them the same"
        )
    return {m: section.folders[m] for m in wanted}


def _name_of(folders: Mapping[int, Path]) -> str:
    """What the folders are called: by the one that holds them all when they are several."""
    common = Path(os.path.commonpath(list(folders.values())))
    return common.name or "features"


def _clam(folder: Path) -> tuple[Path, ...]:
    there = tuple(folder / name for name in ("h5_files", "pt_files") if (folder / name).is_dir())
    if not there:
        raise MilsurvError(
            f"features.import: {folder} has neither h5_files nor pt_files, which layout clam keeps features in; "
            f"{_holds(folder)}"
        )
    return there


def _authors(root: Path, _encoder: str | None, tiling: Tiling) -> FeatureFolders:
    folders = {m: root / f"x{m}" / "pt_files" for m in tiling.magnifications}
    missing = [folder for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise MilsurvError(
            f"features.import: there is no folder {missing[0]}; layout authors has "
            f"{', '.join(f'x{m}/pt_files' for m in tiling.magnifications)} below the backbone's folder for "
            f"tiling.magnifications {_list(tiling.magnifications)}; {_holds(root)}"
        )
    return FeatureFolders(root.name, {m: (folder,) for m, folder in folders.items()})


def _trident(root: Path, encoder: str | None, tiling: Tiling) -> FeatureFolders:
    below = {m: _trident_folder(root, m, tiling.patch_px) for m in tiling.magnifications}
    encoders = {m: _encoders(folder) for m, folder in below.items()}
    common = sorted(set.intersection(*(set(found) for found in encoders.values())))
    everywhere = "; ".join(f"{m}x: {', '.join(found) or 'none'}" for m, found in encoders.items())
    if encoder is None:
        if len(common) != 1:
            what = "several encoders" if common else "no encoder"
            raise MilsurvError(
                f"features.import: {root} has features of {what} at all of {_list(tiling.magnifications)} "
                f"({everywhere}); "
                + ("choose one with features.encoder" if common else "extract what is missing")
            )
        encoder = common[0]
    elif encoder not in common:
        raise MilsurvError(
            f"features.encoder: {root} has no features of '{encoder}'{nearest(encoder, common)} at all of "
            f"{_list(tiling.magnifications)}; there are: {everywhere}"
        )
    return FeatureFolders(
        encoder, {m: (folder / f"{TRIDENT_FEATURES}{encoder}",) for m, folder in below.items()}
    )


def _trident_folder(root: Path, magnification: int, patch_px: int) -> Path:
    """The folder of a magnification; among several the one without overlap whose patches have ``patch_px``."""
    found = [
        (match, folder)
        for folder in sorted(root.iterdir())
        if (match := TRIDENT_FOLDER.fullmatch(folder.name)) and int(match["magnification"]) == magnification
    ]
    if not found:
        raise MilsurvError(
            f"features.import: {root} has no folder such as {magnification}x_256px_0px_overlap, which layout trident "
            f"keeps {magnification}x features in; {_holds(root)}; tiling.magnifications says which are wanted"
        )
    if len(found) > 1:
        fitting = [
            (m, folder) for m, folder in found if int(m["patch_px"]) == patch_px and int(m["overlap"]) == 0
        ]
        if len(fitting) != 1:
            raise MilsurvError(
                f"features.import: {root} has several folders for {magnification}x: "
                f"{', '.join(folder.name for _, folder in found)}; set tiling.patch_px to choose one without overlap"
            )
        found = fitting
    return found[0][1]


def _encoders(folder: Path) -> list[str]:
    return sorted(
        below.name.removeprefix(TRIDENT_FEATURES)
        for below in folder.iterdir()
        if below.is_dir() and below.name.startswith(TRIDENT_FEATURES)
    )


def _list(magnifications: tuple[int, ...] | list[int]) -> str:
    return ", ".join(f"{m}x" for m in magnifications)


def _holds(folder: Path, at_most: int = 5) -> str:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = ", …" if len(names) > at_most else ""
    return f"it holds {', '.join(names[:at_most]) or 'nothing'}{more}"
