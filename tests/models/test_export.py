"""A model to share: the same predictions, nobody's id, no path, and a card that the hub's library reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from milsurv.errors import MilsurvError
from milsurv.models.export import export_model
from milsurv.models.trained import load_trained
from milsurv.storage.checksums import write_checked
from tests.command import run_milsurv
from tests.conftest import COLOUR_BACKBONE
from tests.sessions import predict_slides


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(small_run, tmp_path_factory.mktemp("export") / "model", [COLOUR_BACKBONE])


def test_an_export_predicts_what_its_run_predicts(
    exported: Path, small_run: Path, small_cohort: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.svs"
    new.write_bytes((small_cohort / "slides" / "P06-1.svs").read_bytes() + b"new")
    slides = [new, small_cohort / "slides" / "P02-1.svs"]
    rows = [
        [
            prediction.row
            for prediction in predict_slides(
                load_trained(folder, [f"workspace={tmp_path / name}"], [COLOUR_BACKBONE]),
                slides,
            )
        ]
        for name, folder in (("run", small_run), ("export", exported))
    ]
    pd.testing.assert_frame_equal(pd.DataFrame(rows[0]), pd.DataFrame(rows[1]))
    assert pd.DataFrame(rows[1])["models"].tolist() == [6, 2]


def test_no_id_and_no_path_leaves_the_house(exported: Path, small_run: Path, small_cohort: Path) -> None:
    ids = pd.read_csv(small_cohort / "follow_up.csv")
    names = {*ids["case_id"], *ids["slide_id"]}
    paths = {str(small_cohort), str(small_run.parents[2]), str(COLOUR_BACKBONE.parent)}
    for file in exported.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            if file.suffix == ".safetensors":  # by chance, the bytes of the weights contain short ids
                content = content[: 8 + int.from_bytes(content[:8], "little")]
            assert [text for text in names | paths if text.encode() in content] == [], file


def test_what_was_left_out_is_counted_not_named(small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small" / "abc"
    folder.parent.mkdir(parents=True)
    shutil.copytree(small_run, folder)
    cohort = json.loads((folder / "cohort.json").read_text())
    cohort["dropped"] = ["row 3: Mrs Smith has no time", "row 4: Mr Smith has no time"]
    write_checked(folder / "cohort.json", json.dumps(cohort))
    told = json.loads(
        (export_model(folder, tmp_path / "model", [COLOUR_BACKBONE]) / "cohort.json").read_text()
    )
    assert told["dropped"] == ["2, not listed in an export"]
    assert told["cases_excluded"] == []


def test_the_card_is_one_that_the_hubs_library_reads(exported: Path, small_run: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.library_name == "milsurv"
    (result,) = card.data.eval_results
    metrics = json.loads((small_run / "metrics.json").read_text())
    c_index = metrics["ensemble"]["metrics"]["harrell_c_index"]["value"]
    assert result.metric_value == pytest.approx(c_index, abs=5e-5)
    assert "Not a medical device" in card.text
    assert "must be given with `--plugin`" in card.text
    assert f"{c_index:.3f}" in card.text


def test_the_configuration_has_no_plugin_files(exported: Path) -> None:
    config = yaml.safe_load((exported / "config.yaml").read_text())
    assert config["plugins"] == []
    assert "workspace" not in config
    assert config["cohort"]["table"] == "follow_up.csv"


def test_a_folder_that_is_there_is_left_alone(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(MilsurvError, match="folder exists and is not empty; choose a new one"):
        export_model(small_run, tmp_path / "model", [COLOUR_BACKBONE])
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.txt"]


def test_the_command_says_where_the_model_is(small_run: Path, tmp_path: Path) -> None:
    done = run_milsurv("export", small_run, "-o", "model", "--plugin", COLOUR_BACKBONE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model/README.md" in done.stdout
    (tmp_path / "empty").mkdir()
    unfinished = run_milsurv("export", "empty", "-o", "other", cwd=tmp_path)
    assert unfinished.returncode == 2
    assert "no finished run" in unfinished.stderr
    assert not (tmp_path / "other").exists()
