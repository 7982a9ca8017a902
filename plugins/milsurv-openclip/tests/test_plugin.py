from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from milsurv.testing import Check, checks_of, describe_checks, plugins_of
from milsurv_openclip.backbones import Conch, QuiltNet


@pytest.fixture(scope="module")
def checks(conch_file: Path, quiltnet_file: Path) -> dict[tuple[str, str], Check]:
    """At a small input size: at 448 pixels a patch takes seconds on one core."""
    subjects = [
        (Conch, Conch.Config(weights=conch_file, input_px=64)),
        (QuiltNet, QuiltNet.Config(weights=quiltnet_file, input_px=64)),
    ]
    return {
        (cls.__name__, check.name): check for cls, config in subjects for check in checks_of((cls, config))
    }


@pytest.mark.parametrize("check", describe_checks("backbone"))
@pytest.mark.parametrize("name", ["Conch", "QuiltNet"])
def test_contract(checks: dict[tuple[str, str], Check], name: str, check: str) -> None:
    checks[name, check]()


def test_the_distribution_registers_both_backbones() -> None:
    assert plugins_of("milsurv-openclip") == [Conch, QuiltNet]


def test_registering_imports_nothing_heavy() -> None:
    script = (
        "import json, sys\n"
        "import milsurv_openclip.plugin\n"
        "print(json.dumps([m for m in ('torch', 'timm', 'open_clip', 'huggingface_hub') if m in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
