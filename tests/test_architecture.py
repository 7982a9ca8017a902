"""The order of the packages: each imports only from those before it, and the command line opens without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import milsurv

PACKAGE = Path(milsurv.__file__).parent
ORDER = [
    "_version",
    "errors",
    "interrupts",
    "storage",
    "progress",
    "plugin",
    "config",
    "executors",
    "cohort",
    "synthetic",
    "slides",
    "backbones",
    "features",
    "aggregators",
    "losses",
    "evaluation",
    "training",
    "explain",
    "report",
    "runs",
    "models",
    "testing",
    "scaffold",
    "cli",
    "__main__",
]
"""Packages and loose modules; ``__init__`` names public classes lazily and is imported by all."""
LOOSE = 6
"""Modules outside of packages, at most."""


def _modules() -> dict[str, Path]:
    """Dotted name -> file."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE / "scaffold" / "templates"
    }


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of milsurv that a module imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules.keys()


def _package(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_package_has_its_place() -> None:
    assert {_package(module) for module in _modules()} - {"__init__"} == set(ORDER)


def test_few_modules_stand_outside_of_packages() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= LOOSE


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_from_those_before_it(package: str) -> None:
    modules = _modules()
    later = set(ORDER[ORDER.index(package) + 1 :])
    wrong = {
        module: backwards
        for module, path in modules.items()
        if _package(module) == package
        and (backwards := {name for name in _imports(path, modules) if _package(name) in later})
    }
    assert wrong == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = _modules()
    graph = {module: _imports(path, modules) for module, path in modules.items() if module != "milsurv"}
    TopologicalSorter(graph).prepare()


def test_modules_have_one_job() -> None:
    too_long = {
        path.name: count
        for path in _modules().values()
        if (count := len(path.read_text().splitlines())) > 350
    }
    assert too_long == {}


def test_functions_have_one_job() -> None:
    too_long = {}
    for path in _modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                too_long[f"{path.name}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert too_long == {}


@pytest.mark.parametrize("command", [["--help"], ["list-plugins", "--json"]])
def test_the_command_line_opens_without_heavy_libraries(command: list[str]) -> None:
    script = (
        "import sys, json, contextlib, io\n"
        f"sys.argv = ['milsurv', *{command!r}]\n"
        "from milsurv.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print(json.dumps([m for m in ('torch', 'pandas', 'numpy', 'cv2', 'timm') if m in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
