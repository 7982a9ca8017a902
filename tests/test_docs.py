"""The documentation agrees with the code."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import milsurv
from milsurv import testing
from milsurv.plugin import spec
from milsurv.testing import describe_checks

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "plugins" / "reference.md").read_text()
HOOKS = {
    name: hook
    for name, hook in {**vars(spec), **vars(spec.REGISTERING)}.items()
    if name.startswith("milsurv_")
}


def test_every_hook_has_a_section_with_its_exact_signature_and_docstring() -> None:
    sections = dict(re.findall(r"^### `(milsurv_\w+)`\n(.*?)(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL))
    assert sections.keys() == HOOKS.keys()
    for name, hook in HOOKS.items():
        signature = f"def {name}{inspect.signature(hook)}".replace("'", "")
        assert sections[name].split("```")[1].removeprefix("python").strip() == signature
        text = " ".join(sections[name].split("```")[2].split())
        assert text == " ".join(str(hook.__doc__).replace("``", "`").split())


def test_every_hook_has_a_test_of_its_own() -> None:
    tests = (ROOT / "tests" / "plugin" / "test_hooks.py").read_text()
    assert [name for name in HOOKS if f"def test_{name}(" not in tests] == []


@pytest.mark.parametrize("kind", ["aggregator", "loss", "backbone"])
def test_every_check_stands_in_the_reference(kind: str) -> None:
    (table,) = re.findall(rf"^### {kind}\n\n(.*?)(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert rows == {name: meaning.replace("``", "`") for name, meaning in describe_checks(kind).items()}


def test_every_public_name_stands_in_the_reference() -> None:
    (table,) = re.findall(r"^## Public names\n\n(.*?)(?=^##)", REFERENCE, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(\w+)`", table))
    assert set(milsurv.__all__) <= named
    assert named - set(milsurv.__all__) - {"Config", "coords", "grid", "register"} <= set(testing.__all__)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_reference_pages_are_those_of_the_code(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "docs.generate", tmp_path], cwd=ROOT, check=True)
    generated, committed = (
        {path.name: path.read_text().split() for path in folder.iterdir()}  # typer decides where lines break
        for folder in (tmp_path, ROOT / "docs" / "reference")
    )
    assert generated == committed, "docs/reference is out of date; run: nox -s reference"


def test_every_key_of_the_configuration_has_a_meaning() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 100
    assert [key for key, meaning in rows if len(meaning.split()) < 2] == []
