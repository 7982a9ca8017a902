"""Packages under plugins/ use what milsurv exports, as everybody else's do, and milsurv imports none of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import milsurv

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


def _imports(folder: Path) -> Iterator[tuple[Path, str, str | None]]:
    """File, module and name of everything that the Python files of a folder import."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((file, node.module or "", alias.name) for alias in node.names)


def _is_public(module: str, name: str | None) -> bool:
    if module == "milsurv":
        return name is None or name in milsurv.__all__
    if module in ("milsurv.executors", "milsurv.testing"):
        return name is None or name in import_module(module).__all__
    return not module.startswith("milsurv.")


def test_there_are_packages() -> None:
    assert {path.name for path in PACKAGES} == {"milsurv-mlflow", "milsurv-openclip", "milsurv-patchgcn"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_imports_nothing_but_the_public_api(package: Path) -> None:
    assert [found for found in _imports(package) if not _is_public(found[1], found[2])] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_milsurv_imports_no_package(package: Path) -> None:
    module = package.name.replace("-", "_")
    assert [found for found in _imports(ROOT / "milsurv") if found[1].split(".")[0] == module] == []


def test_every_public_name_is_there() -> None:
    for name in milsurv.__all__:
        assert getattr(milsurv, name) is not None
    for module in (milsurv.executors, milsurv.testing):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_importing_milsurv_loads_no_torch() -> None:
    command = [sys.executable, "-c", "import milsurv, sys; print('torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
