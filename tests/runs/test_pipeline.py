from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from milsurv.config.loading import load_config
from milsurv.errors import CohortError, MilsurvError
from milsurv.runs.folder import find_run
from milsurv.runs.pipeline import RunResult
from milsurv.storage.checksums import write_checked
from milsurv.storage.run_files import REFIT_STATE, STATE
from tests.conftest import COLOUR_BACKBONE, DATA, WriteConfig, small_config
from tests.sessions import run


def _run(config_file: Path, *overrides: str, only_fold: int | None = None) -> RunResult:
    config, registry = load_config(str(config_file), overrides)
    return run(config, registry, only_fold)


def _content(folder: Path) -> dict[str, bytes]:
    """Every file of a run that does not tell when, where and by how many workers it was made."""
    free = {"events.jsonl", "environment.json", "config.yaml", "slides.csv", "report.html", "checksums.txt"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in free
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_cohort: Path) -> RunResult:
    """A run of the small cohort with two seeds, one slide excluded."""
    folder = tmp_path_factory.mktemp("run")
    cohort = folder / "cohort"
    shutil.copytree(small_cohort, cohort)
    (cohort / "slides" / "P02-2.svs").write_text("this is no slide")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(folder / "workspace", cohort)))
    return _run(config, "seeds=[1, 2]")


def test_the_files_that_others_read(finished: RunResult) -> None:
    predictions = pd.read_csv(finished.folder / "predictions.csv")
    assert list(predictions.columns[:5]) == ["case_id", "fold", "time", "event", "risk"]
    assert len(predictions) == 2 * 15
    assert predictions.groupby("seed")["case_id"].nunique().tolist() == [15, 15]
    survival = predictions.filter(like="survival_at_")
    assert survival.shape[1] >= 20
    assert survival.to_numpy().min() >= 0
    assert survival.to_numpy().max() <= 1
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    for account in metrics["folds"] + metrics["pooled"]:
        for name, metric in account["metrics"].items():
            assert metric["value"] is not None or metric["reason"], name
    assert {"harrell_c_index", "uno_c_index", "integrated_brier_score"} <= set(
        metrics["pooled"][0]["metrics"]
    )
    assert metrics["cohort"]["slides_excluded"] == 1


def test_the_run_folder_holds_what_was_run(finished: RunResult) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "config.yaml",
        "plugins.json",
        "environment.json",
        "cohort.json",
        "splits.csv",
        "slides.csv",
        "predictions.csv",
        "metrics.json",
        "report.html",
        "figures",
        "events.jsonl",
        "seed_1",
        "seed_2",
    }
    fold = finished.folder / "seed_2" / "fold_0"
    assert {path.name for path in fold.iterdir()} == {
        "checksums.txt",
        "model.safetensors",
        "history.csv",
        "probabilities.json",
        "training_risks.csv",
        "predictions.csv",
    }
    plugins = json.loads((finished.folder / "plugins.json").read_text())
    assert [plugin["name"] for plugin in plugins] == ["jpeg_tiles", "otsu", "colour", "crossfusion", "nll"]
    assert finished.folder.parent.name == "small"


def test_a_slide_that_does_not_open_is_left_out_with_its_reason(finished: RunResult) -> None:
    slides = pd.read_csv(finished.folder / "slides.csv").set_index("slide_id")
    assert slides["status"]["P02-2"] == "excluded"
    assert "cannot be opened" in str(slides["reason"]["P02-2"])
    assert (slides.drop("P02-2")["status"] == "used").all()
    assert finished.slides_excluded == 1
    assert "P02-2" in (finished.folder / "report.html").read_text()
    assert "P02" in set(pd.read_csv(finished.folder / "predictions.csv")["case_id"])


def test_the_report_names_the_numbers_of_the_metrics(finished: RunResult) -> None:
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    page = (finished.folder / "report.html").read_text()
    assert f"{metrics['pooled'][0]['metrics']['harrell_c_index']['value']:.3f}" in page


def test_a_second_run_does_nothing_again_and_a_new_workspace_gives_the_same_bytes(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config()
    first = _run(config)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.safetensors")}
    for name in (STATE, REFIT_STATE):  # left by a kill after a fold's last write
        (first.folder / "seed_1" / "fold_1" / name).touch()
    again = _run(config)
    assert again.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.safetensors")} == before
    elsewhere = _run(config, f"workspace={tmp_path / 'elsewhere'}", "executor.workers=2")
    assert elsewhere.folder.name == first.folder.name
    assert _content(elsewhere.folder) == _content(first.folder)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, small_cohort: Path) -> tuple[Path, Path]:
    """A configuration with one quick fold, and the folder of its run."""
    folder = tmp_path_factory.mktemp("named")
    config = small_config(folder / "workspace", small_cohort)
    config |= {"training": {"epochs": 1}, "evaluation": {"bootstraps": 0}}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, _run(path, only_fold=0).folder


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("training.epochs=2", False),
        ("seeds=[2]", False),
        ("splits.seed=2", False),
        ("aggregator.embed_dim=4", False),
        ("evaluation.bootstraps=10", False),
        ("executor.workers=2", True),
        ("max_failed_slides=3", True),
    ],
)
def test_a_run_is_named_after_what_changes_it(named: tuple[Path, Path], override: str, same: bool) -> None:
    config, folder = named
    assert (_run(config, override, only_fold=0).folder == folder) == same


def test_one_fold_alone_then_the_rest_gives_the_run(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config()
    alone = _run(config, only_fold=1)
    assert alone.report is None
    assert [fold["fold"] for fold in alone.metrics["folds"]] == [1]
    assert not (alone.folder / "report.html").exists()
    whole = _run(config)
    assert whole.folder == alone.folder
    undisturbed = _run(config, f"workspace={tmp_path / 'undisturbed'}")
    assert _content(whole.folder) == _content(undisturbed.folder)
    with pytest.raises(MilsurvError, match=r"--fold 3: there are folds 0, 1, 2"):
        _run(config, only_fold=3)


def test_splits_read_back_reproduce_the_run(write_config: WriteConfig) -> None:
    first = _run(write_config())
    again = _run(write_config(splits={"files": str(first.folder / "splits.csv")}))
    assert again.folder == first.folder


def test_the_last_epoch_trains_on_the_validation_cases_too(write_config: WriteConfig) -> None:
    training = {"epochs": 2, "batch_cases": 4, "selection": "last_epoch"}
    result = _run(write_config(training=training))
    history = pd.read_csv(result.folder / "seed_1" / "fold_0" / "history.csv")
    assert history["chosen"].tolist() == [0, 1]
    assert history["validation_loss"].isna().all()
    splits = pd.read_csv(result.folder / "splits.csv")
    assert set(splits["role"]) == {"train", "test"}


def test_a_cohort_without_a_usable_slide_is_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    table = tmp_path / "follow_up.csv"
    table.write_text("case_id,slide_id,time,event\na,a1,3,1\nb,b1,4,0\nc,c1,5,1\n")
    for slide in ("a1", "b1"):
        (slides / f"{slide}.svs").write_text(f"{slide} is no slide")
    with pytest.raises(
        CohortError, match=r"no case has a usable slide; the reasons: .*cannot be opened.*no file"
    ):
        _run(write_config(cohort={"table": str(table), "slides": str(slides)}))


def _without_events(small_cohort: Path, folder: Path, cases: slice) -> dict[str, str]:
    table = pd.read_csv(small_cohort / "follow_up.csv")
    table.loc[table["case_id"].isin(sorted(set(table["case_id"]))[cases]), "event"] = 0
    table.to_csv(folder / "follow_up.csv", index=False)
    return {"table": str(folder / "follow_up.csv"), "slides": str(small_cohort / "slides")}


def test_a_fold_without_events_has_its_metrics_null_with_a_reason(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    cohort = _without_events(small_cohort, tmp_path, slice(0, 5))
    folds = pd.DataFrame({"case_id": [f"P{n:02d}" for n in range(15)], "fold": [n // 5 for n in range(15)]})
    folds.to_csv(tmp_path / "folds.csv", index=False)
    result = _run(write_config(cohort=cohort, splits={"files": str(tmp_path / "folds.csv")}))
    assert result.report is not None
    first, *others = result.metrics["folds"]
    assert first["events"] == 0
    assert first["metrics"]["harrell_c_index"] == {"value": None, "interval": None, "reason": "no events"}
    assert all(fold["metrics"]["harrell_c_index"]["value"] is not None for fold in others)
    assert "no events" in result.report.read_text()


def test_a_cohort_without_events_is_refused(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    cohort = _without_events(small_cohort, tmp_path, slice(0, 15))
    with pytest.raises(MilsurvError, match="no training case has an event"):
        _run(write_config(cohort=cohort))


def test_trackers_are_told_in_the_driving_process(write_config: WriteConfig) -> None:
    diary = DATA / "plugins" / "diary.py"
    config = write_config(plugins=[str(COLOUR_BACKBONE), str(diary)], executor={"workers": 2})
    result = _run(config)
    notes = [json.loads(line) for line in (result.folder / "diary.jsonl").read_text().splitlines()]
    assert {note["process"] for note in notes} == {os.getpid()}
    hooks = [note["hook"] for note in notes]
    assert hooks[0] == "run started"
    assert hooks[-1] == "run finished"
    assert hooks.count("fold finished") == 3
    assert all(note["whole"] for note in notes if note["hook"] == "fold finished")
    for fold in range(3):
        history = pd.read_csv(result.folder / "seed_1" / f"fold_{fold}" / "history.csv")
        told = [n for n in notes if n["hook"] == "epoch finished" and n["fold"] == fold]
        assert [n["epoch"] for n in told] == [1, 2, 3]
        assert [n["loss"] for n in told] == pytest.approx(history["train_loss"].tolist())


def _with_mpp(small_cohort: Path, path: Path, mpp: float) -> dict[str, object]:
    pd.read_csv(small_cohort / "follow_up.csv").assign(mpp=mpp).to_csv(path, index=False)
    return {"table": str(path), "slides": str(small_cohort / "slides"), "columns": {"mpp": "mpp"}}


def test_another_resolution_is_another_run(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    first = _run(write_config(cohort=_with_mpp(small_cohort, tmp_path / "a.csv", 0.5)), only_fold=0)
    second = _run(write_config(cohort=_with_mpp(small_cohort, tmp_path / "b.csv", 0.4)), only_fold=0)
    assert second.folder != first.folder


def test_the_order_of_the_tables_rows_is_no_other_run(
    named: tuple[Path, Path], small_cohort: Path, tmp_path: Path
) -> None:
    config, folder = named
    pd.read_csv(small_cohort / "follow_up.csv").iloc[::-1].to_csv(tmp_path / "reversed.csv", index=False)
    assert _run(config, f"cohort.table={tmp_path / 'reversed.csv'}", only_fold=0).folder == folder


def test_events_are_json_without_nan(write_config: WriteConfig) -> None:
    result = _run(write_config(training={"epochs": 1, "selection": "last_epoch"}), only_fold=0)
    events = [json.loads(line) for line in (result.folder / "events.jsonl").read_text().splitlines()]
    (epoch,) = [event for event in events if event["event"] == "epoch"]
    assert epoch["validation_loss"] is None
    assert "NaN" not in (result.folder / "events.jsonl").read_text()


def test_a_tracker_that_fails_is_reported_once_and_spoils_nothing(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = tmp_path / "failing_tracker.py"
    failing.write_text(
        "from milsurv import hookimpl\n\n@hookimpl\ndef milsurv_epoch_finished(epoch):\n"
        "    raise ValueError(f'no disk in epoch {epoch}')\n"
        "\n@hookimpl\ndef milsurv_run_finished(folder):\n    (folder / 'told').touch()\n"
    )
    diary = DATA / "plugins" / "diary.py"
    result = _run(write_config(plugins=[str(COLOUR_BACKBONE), str(failing), str(diary)]))
    assert result.report is not None
    warnings = [line for line in capsys.readouterr().err.splitlines() if "failing_tracker" in line]
    assert len(warnings) == 1
    assert "failed in milsurv_epoch_finished" in warnings[0]
    assert "ValueError: no disk in epoch 1" in warnings[0]
    assert not (result.folder / "told").exists()
    told = (result.folder / "diary.jsonl").read_text().splitlines()
    assert len(told) == 1 + 3 * 3 + 3 + 1
    events = [json.loads(line) for line in (result.folder / "events.jsonl").read_text().splitlines()]
    (switched_off,) = [event for event in events if event["event"] == "plugin switched off"]
    assert "raise ValueError(f'no disk" in switched_off["traceback"]


def test_subgroups_are_measured_without_training_again(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(small_cohort / "follow_up.csv")
    codes = table["case_id"].str[1:].astype(int)
    table.assign(arm=(codes % 2).map({0: "A", 1: None}), word=table["case_id"]).to_csv(
        tmp_path / "t.csv", index=False
    )
    cohort = {"table": str(tmp_path / "t.csv"), "slides": str(small_cohort / "slides")}
    first = _run(write_config(cohort=cohort))
    before = _content(first.folder)
    again = _run(write_config(cohort=cohort, evaluation={"bootstraps": 5, "subgroups": ["arm"]}))
    assert again.folder != first.folder
    assert _content(first.folder) == before
    assert _trained_epochs(again.folder) == 0
    told = [(e["seed"], e["column"], e["value"], e["cases"]) for e in again.metrics["subgroups"]]
    assert told == [(1, "arm", "A", 8), (1, "arm", "missing", 7)]
    assert again.report is not None
    assert "arm: missing" in again.report.read_text()
    with pytest.raises(MilsurvError, match=r"evaluation.subgroups: column 'word' has 15 distinct values"):
        _run(write_config(cohort=cohort, evaluation={"subgroups": ["word"]}))
    with pytest.raises(CohortError, match="no column 'sex'"):
        _run(write_config(cohort=cohort, evaluation={"subgroups": ["sex"]}))


def _trained_epochs(folder: Path) -> int:
    events = folder / "events.jsonl"
    lines = events.read_text().splitlines() if events.exists() else []
    return sum(json.loads(line)["event"] == "epoch" for line in lines)


def test_other_evaluation_settings_keep_the_models_and_the_earlier_results(write_config: WriteConfig) -> None:
    """Against a run of another name, which trains by itself; the first is killed in its last fold."""
    config = write_config(training={"epochs": 2, "selection": "both", "batch_cases": 4})
    begun = _run(config, only_fold=0)
    folders = [begun.folder]
    for override in ("evaluation.times=[6, 12.5]", "evaluation.bootstraps=7", "evaluation.seed=4"):
        result = _run(config, override)
        folders.append(result.folder)
        own = 4 if override.startswith("evaluation.times") else 0
        assert _trained_epochs(result.folder) == own, "of the two folds that were not trained before"
        assert result.report is not None
    assert len(set(folders)) == 4
    fresh = _run(config, "name=fresh", "evaluation.times=[6, 12.5]")
    assert fresh.folder.name == folders[1].name
    assert _content(fresh.folder) == _content(folders[1])
    with pytest.raises(MilsurvError, match=r"contains several finished runs; .*evaluation\.bootstraps=7.*, "):
        find_run(begun.folder.parent)
    assert _run(config).folder == begun.folder
    assert _trained_epochs(begun.folder) == 2


def test_clinical_variables_are_compared_with_training_risks_where_there_are_any(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(small_cohort / "follow_up.csv")
    age = 50 + table["case_id"].str[1:].astype(int) * 7 % 20
    table.assign(age=age, event=1).to_csv(tmp_path / "t.csv", index=False)
    cohort = {"table": str(tmp_path / "t.csv"), "slides": str(small_cohort / "slides")}
    config = write_config(cohort=cohort, evaluation={"bootstraps": 5, "clinical": ["age"]})
    first = _run(config)
    (with_own,) = first.metrics["clinical"]
    assert with_own["harrell_c_index"]["both"]["value"] is not None
    for file in first.folder.rglob("training_risks.csv"):
        file.unlink()
    (without,) = _run(config).metrics["clinical"]
    assert without["columns"] == ["age"]
    assert without["harrell_c_index"]["clinical"]["value"] is not None
    assert (
        without["harrell_c_index"]["both"]["reason"]
        == "fold 0: the run has no image risk of its training cases"
    )
    splits = pd.read_csv(first.folder / "splits.csv")
    for fold, rows in splits[splits["role"] != "test"].groupby("fold"):
        risks = rows[["case_id"]].assign(risk=[n % 4 / 3 for n in range(len(rows))])
        file = first.folder / "seed_1" / f"fold_{fold}" / "training_risks.csv"
        write_checked(file, risks.to_csv(index=False))
    again = _run(config)
    assert again.folder == first.folder
    (with_risks,) = again.metrics["clinical"]
    assert with_risks["harrell_c_index"]["both"]["value"] is not None
    assert with_risks["harrell_c_index"]["clinical"] == without["harrell_c_index"]["clinical"]
    assert again.report is not None
    page = again.report.read_text()
    assert "Image risk and clinical variables (age)" in page
    assert "Both − clinical" in page
