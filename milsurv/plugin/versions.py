"""Which versions took part in a run: those of its last start, and earlier ones that differ."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from milsurv._version import __version__
from milsurv.plugin.registry import Registry
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import CHECKSUMS, read_json, write_checked
from milsurv.storage.run_files import ENVIRONMENT, PLUGINS

EARLIER = "earlier"
"""Key of what earlier starts had, oldest first: environments, or versions of a plugin; empty when nothing changed."""
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
    folder: Path, registry: Registry, plugins: Mapping[str, str], givers: Sequence[Path] = ()
) -> None:
    """Write ``environment.json`` and ``plugins.json`` of a start into a run's folder.

    ``plugins`` has the names of those at work by kind. What earlier starts had is kept; so is what the folders
    ``givers`` tell, of runs whose models were taken over.
    """
    folders = [*givers, folder]
    environments = [
        found
        for told in _read(folders, ENVIRONMENT)
        for found in (*told.get(EARLIER, ()), {key: value for key, value in told.items() if key != EARLIER})
    ]
    here = _environment()
    write_checked(folder / ENVIRONMENT, json_text({**here, EARLIER: _different(environments, here)}))
    rows = [row for table in _read(folders, PLUGINS) for row in table]
    told = []
    for kind, name in plugins.items():
        info = registry.find(kind, name)
        versions = [v for row in rows if row["kind"] == kind for v in (*row.get(EARLIER, ()), row["version"])]
        told.append(
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
    write_checked(folder / PLUGINS, json_text(told))


def _read(folders: Sequence[Path], name: str) -> list[Any]:
    """What the folders tell, of a milsurv that kept checksums."""
    paths = [folder / name for folder in folders if (folder / CHECKSUMS).is_file()]
    return [read_json(path) for path in paths if path.is_file()]


def _different(values: Sequence[Any], present: Any) -> list[Any]:
    """Each value once, but for the present one."""
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
