"""External validation: the same models, other cases, nothing fitted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lifelines.utils import concordance_index

from milsurv.config.loading import load_config
from milsurv.errors import CohortError, MilsurvError
from milsurv.models.external import load_for
from milsurv.runs.pipeline import RunResult
from milsurv.storage.checksums import write_checked
from tests.command import run_milsurv
from tests.conftest import COLOUR_BACKBONE
from tests.features.importers.make_foreign import import_config, slide_ids, write_pt, write_table
from tests.sessions import evaluate_external, run


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, small_cohort: Path) -> Path:
    """The small cohort as other people's: other files, other ids, other names of columns."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "slides").mkdir()
    table = pd.read_csv(small_cohort / "follow_up.csv")
    for slide_id in table["slide_id"]:
        (source,) = (small_cohort / "slides").rglob(f"{slide_id}.svs")
        (folder / "slides" / f"X{slide_id}.svs").write_bytes(source.read_bytes() + b"other")
    table = table.assign(case_id="X" + table["case_id"], slide_id="X" + table["slide_id"])
    table["sex"] = ["f" if number % 2 else "m" for number in range(len(table))]
    table["sex"] = table.groupby("case_id")["sex"].transform("first")
    table.rename(columns={"time": "months"}).to_csv(folder / "others.csv", index=False)
    return folder


def validate(run: Path, table: Path, slides: Path, workspace: Path, *overrides: str) -> RunResult:
    given = [f"workspace={workspace}", *overrides]
    return evaluate_external(load_for(run, table, slides, given, [COLOUR_BACKBONE]))


@pytest.fixture(scope="module")
def validated(small_run: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    options = ("cohort.columns.time=months", "evaluation.subgroups=[sex]")
    return validate(
        small_run, others / "others.csv", others / "slides", tmp_path_factory.mktemp("ws"), *options
    )


def test_every_case_is_judged_by_every_model(validated: RunResult) -> None:
    predictions = pd.read_csv(validated.folder / "predictions.csv")
    assert predictions["models"].tolist() == [6] * 15
    assert predictions["case_id"].str.startswith("X").all()
    c_index = validated.metrics["pooled"][0]["metrics"]["harrell_c_index"]["value"]
    expected = concordance_index(predictions["time"], -predictions["risk"], predictions["event"])
    assert c_index == pytest.approx(expected, abs=1e-12)


def test_the_report_is_that_of_a_run(validated: RunResult) -> None:
    assert validated.report is not None
    page = validated.report.read_text()
    assert "external validation" in page.lower()
    assert "<svg" in page
    assert "Censoring weights were fitted to the test cases" in page
    assert "the test cases for every case" in page
    assert "80th percentile of the event times of the test cases" in page
    assert page.count("risk (seen by the model of seed 1, fold 0): case X") == 3
    assert page.count("data:image/jpeg") == 3 * 4
    metrics = json.loads((validated.folder / "metrics.json").read_text())
    assert metrics["cohort"]["external"].startswith("small/")
    assert {group["value"] for group in metrics["subgroups"]} == {"f", "m"}


def test_times_are_those_of_the_run_unless_others_are_asked_for(
    validated: RunResult, small_run: Path, others: Path, tmp_path: Path
) -> None:
    assert validated.metrics["times"] == json.loads((small_run / "metrics.json").read_text())["times"]
    options = ("cohort.columns.time=months", "evaluation.times=[7]")
    asked = validate(small_run, others / "others.csv", others / "slides", tmp_path, *options)
    assert asked.metrics["times"] == [7.0]
    assert asked.folder.name != validated.folder.name


def test_cases_of_training_are_judged_by_the_folds_that_did_not_see_them(
    small_run: Path, small_cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = validate(small_run, small_cohort / "follow_up.csv", small_cohort / "slides", tmp_path)
    assert "15 of 15 cases were used in training" in capfd.readouterr().err
    found = pd.read_csv(result.folder / "predictions.csv").set_index("case_id")
    assert found["models"].tolist() == [2] * 15
    reported = pd.read_csv(small_run / "predictions.csv").groupby("case_id")["standardized_risk"].mean()
    pd.testing.assert_series_equal(found["risk"], reported, check_names=False, rtol=1e-5)


def test_a_cohort_that_every_fold_knows_is_refused(
    small_run: Path, small_cohort: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    known = pd.read_csv(run / "training_slides.csv", dtype=str).assign(unseen_by="")
    write_checked(run / "training_slides.csv", known.to_csv(index=False))
    with pytest.raises(CohortError, match="every fold was trained on every case"):
        validate(run, small_cohort / "follow_up.csv", small_cohort / "slides", tmp_path / "ws")


def test_clinical_models_are_refused(small_run: Path, others: Path) -> None:
    with pytest.raises(
        MilsurvError, match=r"evaluation\.clinical: .* nothing is fitted in an external validation"
    ):
        load_for(
            small_run,
            others / "others.csv",
            others / "slides",
            ["evaluation.clinical=[sex]"],
            [COLOUR_BACKBONE],
        )


def test_times_in_another_unit_are_refused(small_run: Path, others: Path) -> None:
    with pytest.raises(
        MilsurvError, match=r"times are in days, but the model was trained on months; convert"
    ):
        load_for(
            small_run, others / "others.csv", others / "slides", ["cohort.time_unit=days"], [COLOUR_BACKBONE]
        )


def test_imported_features_of_any_folder_but_of_the_same_length(tmp_path: Path) -> None:
    for name, width in (("ours", 6), ("theirs", 6), ("longer", 7)):
        for number, slide in enumerate(slide_ids()):
            features = np.random.default_rng(number).normal(size=(5, width)).astype(np.float32)
            write_pt(tmp_path / name / "pt_files" / f"{name}{slide}.pt", torch.from_numpy(features))
        write_table(tmp_path / f"{name}.csv", [f"{name}{slide}" for slide in slide_ids()])
    settings = import_config(
        tmp_path,
        "clam",
        str(tmp_path / "ours"),
        cohort={"table": str(tmp_path / "ours.csv")},
        tiling={"magnifications": [20]},
        aggregator={"name": "meanpool"},
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    config, registry = load_config(str(tmp_path / "run.yaml"), [])
    folder = run(config, registry).folder

    def of(name: str) -> RunResult:
        given = [f"features.import={tmp_path / name}"]
        return evaluate_external(load_for(folder, tmp_path / f"{name}.csv", None, given, []))

    assert pd.read_csv(of("theirs").folder / "predictions.csv")["models"].tolist() == [2] * len(slide_ids())
    with pytest.raises(
        MilsurvError, match=r"features of 6 values at 20x, but those of slide .* have 7 values at 20x"
    ):
        of("longer")


def test_the_command_says_what_came_of_it(small_run: Path, others: Path, tmp_path: Path) -> None:
    command = ("evaluate", small_run, "--cohort", others / "others.csv", "--slides", others / "slides")
    options = ("--workspace", "ws", "--plugin", COLOUR_BACKBONE)
    refused = run_milsurv(*command, *options, cwd=tmp_path)
    assert refused.returncode == 2
    assert "no column 'time' (cohort.columns.time" in refused.stderr
    done = run_milsurv(*command, *options, "--set", "cohort.columns.time=months", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "15 cases, 10 events, 17 slides used" in done.stdout
    assert Path(done.stdout.rpartition("Report: ")[2].strip()).is_file()
