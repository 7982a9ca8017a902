"""A run's folder as a model: complete, with its plugins, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from milsurv.errors import MilsurvError
from milsurv.models.trained import load_trained
from milsurv.runs.inputs import feature_source
from milsurv.runs.session import open_session
from milsurv.storage.checksums import write_checked
from milsurv.storage.run_files import METRICS, TRAINING_FOLLOW_UP, TRAINING_SLIDES
from tests.conftest import COLOUR_BACKBONE
from tests.sessions import QUIET


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run, tmp_path / "runs" / "small" / "abc")


def test_models_stand_by_seed_and_fold(run: Path) -> None:
    trained = load_trained(run.parent, plugin_files=[COLOUR_BACKBONE])
    assert [(m.seed, m.fold) for m in trained.models] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert trained.name == "small/abc"


def test_a_run_that_is_not_finished_is_refused(run: Path) -> None:
    (run / METRICS).unlink()
    with pytest.raises(MilsurvError, match=r"no finished run .* run its milsurv command again"):
        load_trained(run, plugin_files=[COLOUR_BACKBONE])


def test_a_run_of_an_older_version_is_refused(run: Path) -> None:
    (run / TRAINING_SLIDES).unlink()
    with pytest.raises(
        MilsurvError,
        match=rf"{TRAINING_SLIDES} is missing: the run was made by an older milsurv.* run its milsurv command again",
    ):
        load_trained(run, plugin_files=[COLOUR_BACKBONE])


def test_a_run_of_another_version_that_cannot_be_read_is_named(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    write_checked(run / "config.yaml", yaml.safe_dump({**config, "quantum": True}))
    environment = json.loads((run / "environment.json").read_text())
    write_checked(run / "environment.json", json.dumps({**environment, "milsurv": "7.0"}))
    with pytest.raises(
        MilsurvError,
        match=r"made by milsurv 7\.0; milsurv .* cannot read its configuration .*; pip install milsurv==7\.0",
    ):
        load_trained(run, plugin_files=[COLOUR_BACKBONE])


def test_a_run_without_models_is_refused(run: Path) -> None:
    for file in run.glob("seed_*/fold_*/model.safetensors"):
        file.unlink()
    with pytest.raises(MilsurvError, match=r"0 of 6 files seed_\*/fold_\*/model"):
        _ = load_trained(run, plugin_files=[COLOUR_BACKBONE]).models


def test_a_model_brings_no_code(run: Path) -> None:
    assert str(COLOUR_BACKBONE) in (run / "config.yaml").read_text()
    with pytest.raises(
        MilsurvError, match=r"'colour' is from the local file colour_backbone\.py, .* --plugin"
    ):
        load_trained(run)


def change_plugin(run: Path, kind: str, **values: object) -> None:
    plugins = json.loads((run / "plugins.json").read_text())
    for plugin in plugins:
        if plugin["kind"] == kind:
            plugin.update(values)
    write_checked(run / "plugins.json", json.dumps(plugins))


def test_a_plugin_with_other_content_is_refused(run: Path) -> None:
    change_plugin(run, "backbone", origin="of other lines", own_origin="of other lines")
    said = r"backbone 'colour' was trained with the local file colour_backbone\.py, .* is different; use the code"
    with pytest.raises(MilsurvError, match=said):
        load_trained(run, plugin_files=[COLOUR_BACKBONE])


def test_other_code_of_milsurv_is_a_warning(run: Path) -> None:
    assert load_trained(run, plugin_files=[COLOUR_BACKBONE]).warnings == ()
    change_plugin(run, "aggregator", origin="of other lines")
    change_plugin(run, "backbone", origin="of other lines of milsurv")
    features = json.loads((run / "features.json").read_text())
    features["origins"]["milsurv"] = "of other lines"
    write_checked(run / "features.json", json.dumps(features))
    (warning,) = load_trained(run, plugin_files=[COLOUR_BACKBONE]).warnings
    assert (
        "the code of backbone 'colour', aggregator 'crossfusion', extracting features in milsurv" in warning
    )


def test_a_plugin_file_that_is_broken_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "unfinished.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(MilsurvError, match=r"unfinished\.py is broken: ModuleNotFoundError"):
        load_trained(run, plugin_files=[tmp_path / "unfinished.py"])


def test_a_model_trained_by_an_executor_that_is_not_here_is_used_on_this_machine(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["executor"] = {"name": "cluster", "partition": "gpu", "threads": 3}
    write_checked(run / "config.yaml", yaml.safe_dump(config))
    executor = load_trained(run, plugin_files=[COLOUR_BACKBONE]).config.executor
    assert (executor.name, executor.settings["threads"]) == ("local", 3)
    executor = load_trained(run, ["executor.workers=2"], [COLOUR_BACKBONE]).config.executor
    assert (executor.name, executor.settings["workers"]) == ("local", 2)


def test_a_plugin_that_is_not_installed_is_named_with_its_version(run: Path) -> None:
    change_plugin(run, "aggregator", name="graphmil", distribution="milsurv-graphmil", version="0.3")
    with pytest.raises(
        MilsurvError, match=r"aggregator 'graphmil' of milsurv-graphmil 0\.3 is not installed .* pip"
    ):
        load_trained(run, plugin_files=[COLOUR_BACKBONE])


def read_all(folder: Path) -> None:
    trained = load_trained(folder, plugin_files=[COLOUR_BACKBONE])
    with open_session(trained.config, trained.registry, QUIET) as session:
        trained.require_same_features(feature_source(session))
    _ = trained.cohort, trained.times


@pytest.mark.parametrize(
    "name", ["config.yaml", "plugins.json", "features.json", "cohort.json", "metrics.json"]
)
def test_a_damaged_file_is_named(run: Path, name: str) -> None:
    written = (run / name).read_text()
    (run / name).write_text(written.replace("e", "E", 1))
    with pytest.raises(MilsurvError, match=rf"{name} is damaged or was edited"):
        read_all(run)
    write_checked(run / name, "[}")
    with pytest.raises(MilsurvError, match=rf"{name} is damaged[:( ]"):
        read_all(run)


@pytest.mark.parametrize("name", [TRAINING_SLIDES, TRAINING_FOLLOW_UP])
def test_a_table_that_lost_rows_is_refused(run: Path, name: str) -> None:
    lines = (run / name).read_text().splitlines()
    write_checked(run / name, "\n".join(lines[:-1]) + "\n")
    with pytest.raises(MilsurvError, match=rf"{name} has \d+ rows instead of \d+"):
        _ = load_trained(run, plugin_files=[COLOUR_BACKBONE]).training_cases


def test_what_belongs_to_training_cannot_be_set(run: Path) -> None:
    with pytest.raises(MilsurvError, match=r"--set training\.bag=case: training is fixed by training"):
        load_trained(run, ["training.bag=case"], [COLOUR_BACKBONE])
