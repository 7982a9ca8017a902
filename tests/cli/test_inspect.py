from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from milsurv.cli import app
from milsurv.explain.render import GRID, OUTLINE
from tests.conftest import COLOUR_BACKBONE
from tests.slides.make_slides import glass, with_tissue, write_jpeg_slide, write_slide

COLOUR = ["--plugin", str(COLOUR_BACKBONE), "--set", "backbone={name: colour}"]
NAME = "a <b>$slide$ ä.svs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_jpeg_slide(folder / NAME, with_tissue(2048, 1536, [(512, 256, 1024, 768)]))
    write_slide(folder / "blank.svs", glass(1024, 1024), mpp=0.5)
    (folder / "empty.svs").touch()
    return folder


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments), *COLOUR], catch_exceptions=False)
    return done.exit_code, done.output


def test_a_slide(folder: Path, tmp_path: Path) -> None:
    code, printed = run(folder / NAME, "-o", tmp_path)
    assert code == 0
    for line in (
        "resolution 0.5 µm/px, from the slide's properties",
        "size       2048 × 1536 px, 1.02 × 0.768 mm",
        "reader     JPEG tiles at full scale: probed tiles equal OpenSlide's",
        "tissue     0.2 mm², 25% of the slide",
        "patches    20x: 12 at 0.5 µm/px",
        "           5x: 2 at 2 µm/px",
    ):
        assert line in printed.splitlines()
    assert "with colour on cpu" in printed
    picture = cv2.imread(str(tmp_path / NAME.replace(".svs", ".png")))
    assert picture is not None
    for colour in (OUTLINE, GRID):
        assert (np.abs(picture.astype(int) - colour[::-1]).max(axis=2) < 12).sum() > 500


def test_an_edited_outline_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    run(folder / NAME, "-o", tmp_path)
    outline = tmp_path / NAME.replace(".svs", ".geojson")
    assert json.loads(outline.read_text())["type"] == "FeatureCollection"
    outline.write_text("edited")
    code, printed = run(folder / NAME, "-o", tmp_path)
    assert code == 0
    assert "exists and is kept" in printed
    assert outline.read_text() == "edited"


def test_a_folder_flags_what_will_fail(folder: Path, tmp_path: Path) -> None:
    code, printed = run(folder, "-o", tmp_path)
    assert code == 1
    lines = printed.splitlines()
    assert any(line.startswith(f"{NAME} ") and "JPEG tiles" in line for line in lines)
    assert any(line.startswith("blank.svs ") and line.rstrip().endswith("excluded") for line in lines)
    assert any("blank.svs would be excluded: no tissue" in line for line in lines)
    assert any("empty.svs would be excluded: cannot be opened: the file is empty" in line for line in lines)
    assert any(line.startswith("1 of 3 slides can be used") for line in lines)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".geojson", ".png", ".png"]
