"""CLAM's layout (``h5_files`` and ``pt_files``) and that of the released CrossFusion code (``x{m}/pt_files``)."""

from __future__ import annotations

from pathlib import Path

from milsurv.config.run import FeatureImport, Tiling
from milsurv.errors import MilsurvError
from milsurv.features.importers.base import FeatureFolders, contents, listed, single_folder
from milsurv.features.importers.files import Hdf5Layout


class Clam(Hdf5Layout):
    """A folder per magnification with ``h5_files``, with coordinates, and ``pt_files``, without."""

    def search_path(self, folder: Path) -> tuple[Path, ...]:
        found = tuple(folder / name for name in ("h5_files", "pt_files") if (folder / name).is_dir())
        if not found:
            raise MilsurvError(
                f"features.import: {folder} has neither h5_files nor pt_files, in which layout clam keeps features; "
                f"{contents(folder)}"
            )
        return found


class Authors(Hdf5Layout):
    """``x20/pt_files``, ``x10/pt_files``, … below one folder, as the released CrossFusion code reads them."""

    def find_folders(self, section: FeatureImport, tiling: Tiling) -> FeatureFolders:
        root = single_folder(section)
        folders = {m: root / f"x{m}" / "pt_files" for m in tiling.magnifications}
        if missing := [folder for folder in folders.values() if not folder.is_dir()]:
            raise MilsurvError(
                f"features.import: there is no folder {missing[0]}; layout authors has "
                f"{', '.join(f'x{m}/pt_files' for m in tiling.magnifications)} below the backbone's folder for "
                f"tiling.magnifications {listed(tiling.magnifications)}; {contents(root)}"
            )
        return FeatureFolders(root.name, {m: (folder,) for m, folder in folders.items()})
