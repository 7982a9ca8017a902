"""Versions used by a run: those of its last start, and different ones of earlier starts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from milsurv._version import __version__
from milsurv.plugin.registry import Registry
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import CHECKSUMS, read_json, write_checked
from milsurv.storage.run_files import ENVIRONMENT, PLUGINS

EARLIER = "earlier"
"""Key of the different environments, or versions of a plugin, of earlier starts, oldest first."""
PACKAGES = (
    "torch",
    "timm",
    "numpy",
    "pandas",
    "openslide-python",
    "openslide-bin",
    "simplejpeg",
    "lifelines",
    "torchsurv",
    "h5py",
)


def record_versions(
    folder: Path, registry: Registry, plugins: Iterable[tuple[str, str]], earlier_runs: Sequence[Path] = ()
) -> None:
    """Write ``environment.json`` and ``plugins.json`` of a start into a run's folder.

    ``plugins`` are the kind and name of the plugins in use. Versions of earlier starts are kept, and so are those of
    ``earlier_runs``, folders of runs whose models were reused.
    """
    folders = [*earlier_runs, folder]
    environments = [
        found
        for recorded in _read(folders, ENVIRONMENT)
        for found in (
            *recorded.get(EARLIER, ()),
            {key: value for key, value in recorded.items() if key != EARLIER},
        )
    ]
    here = _environment()
    write_checked(folder / ENVIRONMENT, json_text({**here, EARLIER: _different(environments, here)}))
    rows = [row for table in _read(folders, PLUGINS) for row in table]
    recorded = []
    for kind, name in plugins:
        info = registry.find(kind, name)
        same = [row for row in rows if (row["kind"], row["name"]) == (kind, name)]
        versions = [version for row in same for version in (*row.get(EARLIER, ()), row["version"])]
        recorded.append(
            {
                "kind": kind,
                "name": name,
                "distribution": info.distribution,
                "version": info.version,
                "origin": registry.origin(kind, name),
                "own_origin": registry.own_origin(kind, name),
                EARLIER: _different(versions, info.version),
            }
        )
    write_checked(folder / PLUGINS, json_text(recorded))


def _read(folders: Sequence[Path], name: str) -> list[Any]:
    """The files of that name in the folders, except of versions of milsurv that wrote no checksums."""
    paths = [folder / name for folder in folders if (folder / CHECKSUMS).is_file()]
    return [read_json(path) for path in paths if path.is_file()]


def _different(values: Sequence[Any], present: Any) -> list[Any]:
    """Each value once, except the present one."""
    kept: list[Any] = []
    for value in values:
        if value != present and value not in kept:
            kept.append(value)
    return kept


def _environment() -> dict[str, Any]:
    return {
        "milsurv": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
