from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from milsurv.cli import app
from milsurv.errors import MilsurvError
from milsurv.loading import bundled_configs, load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_configuration_is_listed_with_its_purpose() -> None:
    printed = CliRunner().invoke(app, ["configs", "ls"], env={"COLUMNS": "200"}).output.splitlines()
    assert [line.split()[0] for line in printed[1:]] == sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    assert any(
        line.startswith("crossfusion_kirc ") and "CrossFusion on TCGA-KIRC" in line for line in printed
    )


def test_a_copy_is_the_same_file_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["configs", "cp", "demo"])
    assert done.exit_code == 0
    assert "milsurv check demo.yaml" in done.output
    copy = tmp_path / "demo.yaml"
    assert copy.read_bytes() == (CONFIGS / "demo.yaml").read_bytes()
    copy.write_text("mine")
    for output, reason in (("demo.yaml", "is there already"), ("none/demo.yaml", "no such folder")):
        with pytest.raises(MilsurvError, match=reason):
            CliRunner().invoke(app, ["configs", "cp", "demo", "-o", output], catch_exceptions=False)
    assert copy.read_text() == "mine"
    with pytest.raises(MilsurvError, match="did you mean 'demo'"):
        CliRunner().invoke(app, ["configs", "cp", "dem"], catch_exceptions=False)


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_is_valid_and_opens_with_its_purpose(file: Path) -> None:
    config, _ = load_config(str(file))
    assert config.name == file.stem
    assert file.read_text().startswith("# ")
    assert bundled_configs()[file.stem] == file
