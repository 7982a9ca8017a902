"""The contract of feature layouts: how another tool stores patch features in folders and files."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from milsurv.cohort.locate import SlideFolder, index_slides
from milsurv.config.run import FeatureImport, Tiling
from milsurv.errors import MilsurvError, SlideError

HASHED_ROWS = 16
"""Rows at the start, in the middle and at the end of a feature matrix that its hash covers."""


@dataclass(frozen=True)
class ImportedPatches:
    """The patches of one slide at one magnification, as read from a file of another tool."""

    features: NDArray[np.floating[Any]]
    """``(n, d)`` floating-point, n ≥ 1, one row per patch; stored as float16 or float32."""
    coords: NDArray[np.float64] | None = None
    """``(n, 2)`` (x, y) of the patches' top-left corners in ``unit``, from the slide's top-left corner."""
    unit: Literal["px", "µm"] = "px"
    """Unit of ``coords`` and ``side``; ``px`` are level-0 pixels."""
    side: float | None = None
    """Side of a patch in ``unit``."""
    overlap: bool = False
    """Whether neighbouring patches share pixels."""
    patch_px: int | None = None
    """Side of a patch in its own pixels."""
    level0_magnification: float | None = None
    """Objective power of the slide's level 0."""


@dataclass(frozen=True)
class FeatureFolders:
    """The folders that hold the features of a run."""

    name: str
    """Name of the encoder where the layout records it, else of the folder. Part of a run's fingerprint."""
    by_magnification: Mapping[int, tuple[Path, ...]]
    """Magnification, finest first -> folders that are searched for a slide's file, in this order."""


class FeatureLayout(ABC):
    """How another tool arranges patch features on disk; instances are stateless.

    A subclass defines :meth:`read`, and overrides :meth:`find_folders` when its folders are not simply one per
    magnification. The files of one slide have the same name in every folder; the name without its suffix gives the
    slide id. Methods raise SlideError for a file that cannot be used: that slide is excluded with the message as the
    reason, and the run continues.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".pt")
    """Suffixes of feature files, in lower case; the first that exists is read."""
    names_encoder: ClassVar[bool] = False
    """Whether the folders name the encoder, so that ``features.encoder`` can select one."""

    def find_folders(self, section: FeatureImport, tiling: Tiling) -> FeatureFolders:
        """The folders of each of ``tiling.magnifications``: ``features.import`` itself, or one per magnification.

        Raises MilsurvError when a folder is missing or ambiguous.
        """
        folders = folders_by_magnification(section, tiling)
        common = Path(os.path.commonpath(list(folders.values())))
        return FeatureFolders(
            common.name or "features", {m: self.search_path(folder) for m, folder in folders.items()}
        )

    def search_path(self, folder: Path) -> tuple[Path, ...]:
        """The folders below the ``folder`` of one magnification that are searched for slides' files."""
        return (folder,)

    @abstractmethod
    def read(self, file: Path, magnification: int) -> ImportedPatches:
        """Read one file. The framework checks shape, type and finiteness of the result."""

    def read_shape(self, file: Path, magnification: int) -> tuple[int, int]:
        """``(n, d)`` of a file's features. Override it when the shape can be read without the values."""
        n, d = self.read(file, magnification).features.shape
        return n, d

    def hash_features(self, file: Path, magnification: int) -> str:
        """A hash of a file's features that does not depend on how they are stored; detects copies of a slide."""
        features = self.read(file, magnification).features
        return hash_rows(features.shape, lambda rows: features[rows])


def hash_rows(shape: tuple[int, ...], read: Callable[[slice], NDArray[Any]]) -> str:
    """SHA-256 of a feature matrix's shape and some of its rows, as float32."""
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    for start in (0, max(0, shape[0] // 2 - HASHED_ROWS // 2), max(0, shape[0] - HASHED_ROWS)):
        with np.errstate(over="ignore"):
            digest.update(read(slice(start, start + HASHED_ROWS)).astype(np.float32).tobytes())
    return digest.hexdigest()


def checked(patches: ImportedPatches, file: Path) -> ImportedPatches:
    """The patches with features as float16 or float32. Raises SlideError if a layout returned invalid patches."""
    values = np.asarray(patches.features)
    if values.dtype.kind != "f":
        raise SlideError(f"{file}: features are {values.dtype}; floating-point numbers (n, d) are expected")
    n, d = matrix_shape(values.shape, file)
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are rejected below
        features = values.reshape(n, d)
        features = features if features.dtype == np.float16 else features.astype(np.float32)
    bad = n - int(np.isfinite(features).all(axis=1).sum())
    if bad:
        raise SlideError(f"{file}: {bad} of {n} patches have features that are NaN or infinite")
    coords = patches.coords
    if coords is not None:
        if np.shape(coords) != (n, 2):
            raise SlideError(f"{file}: coords have shape {np.shape(coords)}; ({n}, 2) is expected")
        if not np.isfinite(coords).all():
            raise SlideError(f"{file}: 'coords' has values that are NaN or infinite")
        if patches.unit == "px" and (coords != np.rint(coords)).any():
            raise SlideError(f"{file}: 'coords' has fractions; whole level-0 pixels are expected")
    return replace(patches, features=np.ascontiguousarray(features))


def matrix_shape(shape: tuple[int, ...] | None, file: Path) -> tuple[int, int]:
    """``(n, d)`` of features of ``shape``, which may have a leading 1, as TRIDENT writes for some encoders."""
    inner = shape[1:] if shape is not None and len(shape) == 3 and shape[0] == 1 else shape
    if inner is None or len(inner) != 2 or 0 in inner:
        raise SlideError(
            f"{file}: features have shape {shape}; (n, d) is expected, a row for each of 1 or more patches, or "
            "(1, n, d)"
        )
    return inner[0], inner[1]


def index_files(folders: FeatureFolders, suffixes: tuple[str, ...]) -> SlideFolder:
    """One file of every slide that has features at any magnification: that of the finest."""
    first: dict[Path, Path] = {}
    unreadable: list[str] = []
    searched = _all(folders)
    for folder in searched:
        found = index_slides(folder, suffixes)
        unreadable += found.unreadable
        for file in sorted(found.files, key=lambda file: suffixes.index(file.suffix.lower())):
            first.setdefault(file.relative_to(folder).with_suffix(""), file)
    common = Path(os.path.commonpath(searched))
    files = tuple(first[key] for key in sorted(first))
    return SlideFolder(common, files, tuple(unreadable), setting="features.import", suffixes=suffixes)


def files_of_slide(folders: FeatureFolders, suffixes: tuple[str, ...], file: Path) -> dict[int, Path]:
    """Magnification -> file of the slide to which ``file`` belongs, where it exists."""
    home = next(folder for folder in _all(folders) if file.is_relative_to(folder))
    name = file.relative_to(home).with_suffix("")
    found = {}
    for magnification, searched in folders.by_magnification.items():
        named = (folder / f"{name}{suffix}" for folder in searched for suffix in suffixes)
        existing = next((path for path in named if path.is_file()), None)
        if existing is not None:
            found[magnification] = existing
    return found


def _all(folders: FeatureFolders) -> list[Path]:
    return [folder for searched in folders.by_magnification.values() for folder in searched]


def folders_by_magnification(section: FeatureImport, tiling: Tiling) -> dict[int, Path]:
    """The folder of each magnification, for layouts whose folders hold one magnification each."""
    wanted = tiling.magnifications
    if not isinstance(section.folders, Mapping):
        if len(wanted) > 1:
            raise MilsurvError(
                f"features.import: a folder of layout {section.layout} holds one magnification, but "
                f"tiling.magnifications are {listed(wanted)}: give each a folder, such as "
                f"{{{', '.join(f'{m}: PATH' for m in wanted)}}}, or set tiling.magnifications to the one that it holds"
            )
        return {wanted[0]: section.folders}
    if set(section.folders) != set(wanted):
        raise MilsurvError(
            f"features.import has folders for {listed(sorted(section.folders, reverse=True))}, "
            f"tiling.magnifications are {listed(wanted)}; make them the same"
        )
    return {m: section.folders[m] for m in wanted}


def single_folder(section: FeatureImport) -> Path:
    """The folder of ``features.import``, for layouts that keep all magnifications below one."""
    if isinstance(section.folders, Mapping):
        raise MilsurvError(
            f"features.import: layout {section.layout} keeps its magnifications below one folder; name that folder"
        )
    return section.folders


def listed(magnifications: Iterable[int]) -> str:
    """Magnifications in a message: ``20x, 10x``."""
    return ", ".join(f"{m}x" for m in magnifications)


def contents(folder: Path, at_most: int = 5) -> str:
    """Content of a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = ", …" if len(names) > at_most else ""
    return f"it holds {', '.join(names[:at_most]) or 'nothing'}{more}"
