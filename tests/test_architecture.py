"""The shape of the house: rooms import only from rooms before them, and the door opens without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import milsurv

PACKAGE = Path(milsurv.__file__).parent
HALLWAY = {
    "_version",
    "artifacts",
    "checksums",
    "claims",
    "config",
    "config_cohort",
    "config_training",
    "documents",
    "errors",
    "executors",
    "interrupts",
    "plugin",
    "versions",
}
ROOMS = [
    "cohort",
    "slides",
    "backbones",
    "features",
    "aggregators",
    "losses",
    "evaluation",
    "training",
    "report",
]
FRONT = {
    "checks",
    "inspection",
    "cli",
    "comparison",
    "interop",
    "leakage",
    "loading",
    "new_slides",
    "measuring",
    "pipeline",
    "planning",
    "progress",
    "run_folder",
    "sample",
    "scaffold",
    "testing",
    "trained",
    "training_cases",
    "prediction",
    "external",
    "exporting",
    "heatmap",
    "finished_run",
    "__init__",
    "__main__",
}


def _imports(path: Path) -> set[str]:
    """Top-level parts of milsurv that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("milsurv.")}
    return found


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_module_stands_in_a_known_part() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in _modules()}
    assert parts <= HALLWAY | set(ROOMS) | FRONT


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(room: str) -> None:
    allowed = HALLWAY | set(ROOMS[: ROOMS.index(room) + 1])
    for path in (PACKAGE / room).rglob("*.py"):
        assert _imports(path) <= allowed, path


def test_modules_have_one_job() -> None:
    too_long = {
        path.name: count for path in _modules() if (count := len(path.read_text().splitlines())) > 400
    }
    assert too_long == {}


def test_functions_have_one_job() -> None:
    too_long = {}
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                too_long[f"{path.name}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert too_long == {}


@pytest.mark.parametrize("command", [["--help"], ["list-plugins", "--json"]])
def test_the_door_opens_without_heavy_libraries(command: list[str]) -> None:
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
