"""Slides that a trained model judges, with what the command line and a table say of them."""

from pathlib import Path

import pandas as pd
import pytest

from milsurv.cohort.cases import parse_mpp
from milsurv.errors import MilsurvError
from milsurv.models.new_slides import find_new_slides
from milsurv.models.trained import TrainedModel, load_trained
from tests.conftest import COLOUR_BACKBONE
from tests.sessions import QUIET, find_slide, predict_slides
from tests.slides.make_slides import with_tissue, write_slide

PICTURE = with_tissue(700, 700, [(50, 50, 600, 600)])


@pytest.fixture
def trained(small_run: Path, tmp_path: Path) -> TrainedModel:
    return load_trained(small_run, [f"workspace={tmp_path / 'workspace'}"], [COLOUR_BACKBONE])


@pytest.fixture
def unresolved(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "unresolved.tif", PICTURE)


def test_a_slide_without_resolution_says_where_to_give_it_and_is_judged_with_it(
    trained: TrainedModel, unresolved: Path, tmp_path: Path
) -> None:
    (without,) = predict_slides(trained, [unresolved])
    assert without.row["note"] == (
        "excluded: unknown resolution: the slide has neither µm/px nor objective power; give the µm per level-0 "
        "pixel with --mpp VALUE (milsurv predict also takes a table: --table FILE)"
    )
    with pytest.raises(MilsurvError, match="with --mpp VALUE"):
        find_slide(trained, str(unresolved))
    resolved = write_slide(tmp_path / "resolved.svs", PICTURE, mpp=0.5)
    table = tmp_path / "new.csv"
    table.write_text("slide_id,mpp,case_id\nunresolved.tif,0.5,P00\nresolved.svs,,somebody\n")
    by_option, expected = predict_slides(trained, [unresolved, resolved], mpp=0.5)
    assert (by_option.row["models"], expected.row["models"]) == (6, 6)
    assert by_option.row["risk"] == expected.row["risk"]
    by_table, of_nobody = predict_slides(trained, [unresolved, resolved], mpp=0.5, table=table)
    assert (by_table.row["models"], of_nobody.row["models"]) == (2, 6)
    assert "its case was used in training" in by_table.row["note"]
    drawn = find_slide(trained, str(unresolved), mpp=0.5)
    assert drawn.features == by_table.features


def test_the_table_wins_over_the_option(trained: TrainedModel, unresolved: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("slide_id,mpp\nunresolved,0.3\nelsewhere,0.4\n")
    (found,) = find_new_slides(trained, [unresolved], QUIET, 0.5, table)
    assert (found.slide.mpp, found.case_id) == (0.3, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("slide_id,mpp\nunresolved,0.025\n", r"row 2: '0\.025' is not a valid µm/px; allowed: 0\.05 to 20"),
        ("slide_id,mpp\nunresolved,nan_\n", "row 2: 'nan_' is not a valid µm/px"),
        (
            "slide_id,mpp\nunresolved,0.5\nunresolved,0.4\n",
            "row 3: another row has different values",
        ),
        ("slide,mpp\nunresolved,0.5\n", "needs columns 'slide_id', and 'mpp' or 'case_id' or both"),
        ("slide_id\nunresolved\n", "or both; it has: slide_id"),
        ("slide_id,mpp\n,0.5\n", "row 2: slide id ''"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(
    trained: TrainedModel, unresolved: Path, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(MilsurvError, match=said):
        find_new_slides(trained, [unresolved], QUIET, None, tmp_path / "new.csv")


def test_slides_of_the_run_are_not_drawn_at_another_resolution(small_run: Path) -> None:
    own = load_trained(small_run, [], [COLOUR_BACKBONE])
    slide = pd.read_csv(small_run / "slides.csv")["slide_id"][0]
    with pytest.raises(MilsurvError, match=r"the run read slide .* at its own µm/px, not at --mpp 0\.3"):
        find_slide(own, slide, mpp=0.3)


@pytest.mark.parametrize("text", ["0", "-1", "21", "0.04", "inf", "nan", "x", "0,25"])
def test_a_cell_that_is_no_resolution_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        parse_mpp(text)
