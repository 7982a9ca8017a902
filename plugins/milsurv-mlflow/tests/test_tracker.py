"""The MLflow run of a run folder, in a real store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

import milsurv
from milsurv_mlflow import plugin
from milsurv_mlflow.tracker import TrackedRun

HISTORY = "epoch,train_loss,validation_loss,chosen\n1,2.5,,0\n2,1.25,,1\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(autouse=True)
def experiment(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment of the test's own, with its artifacts in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return str(request.node.name)


@pytest.fixture
def runs(store: str, experiment: str) -> Callable[[], list[Run]]:
    def runs() -> list[Run]:
        client = MlflowClient(store)
        found = client.get_experiment_by_name(experiment)
        return list(client.search_runs([found.experiment_id])) if found else []

    return runs


def _config(**settings: Any) -> dict[str, Any]:
    return {"name": "kirc", "cohort": {"source": "table", "table": "/data/kirc.csv"}, **settings}


def _lay_out(workspace: Path, config: dict[str, Any]) -> Path:
    folder = workspace / "runs" / str(config["name"]) / "0123456789ab"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


def _finish_fold(folder: Path, seed: int, fold: int) -> Path:
    path = folder / f"seed_{seed}" / f"fold_{fold}"
    path.mkdir(parents=True)
    (path / "history.csv").write_text(HISTORY)
    (path / "predictions.csv").touch()
    return path


def _metrics(value: float | None) -> dict[str, Any]:
    metric = {"value": value, "interval": None, "reason": None}
    return {"pooled": [{"seed": 1, "metrics": {"uno_c_index": metric}}], "summary": {}}


def _finish(run: TrackedRun, folder: Path, value: float) -> None:
    (folder / "metrics.json").write_text(json.dumps(_metrics(value)))
    (folder / "report.html").write_text(f"<p>{value}</p>")
    run.finish(folder, _metrics(value))


def _history(store: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [
        (point.step, point.value) for point in MlflowClient(store).get_metric_history(run.info.run_id, metric)
    ]


def test_a_run_says_what_it_is(store: str, tmp_path: Path, runs: Callable[[], list[Run]]) -> None:
    folder = _lay_out(tmp_path, _config())
    TrackedRun.begin(store, _config(), folder)
    (run,) = runs()
    assert run.info.run_name == "kirc 0123456789ab"
    assert run.info.status == "RUNNING"
    assert run.data.params == {"name": "kirc", "cohort.source": "table", "cohort.table": "/data/kirc.csv"}
    assert {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")} == {
        "milsurv.fingerprint": "0123456789ab",
        "milsurv.folder": str(folder),
        "milsurv.version": milsurv.__version__,
        "milsurv.synthetic": "false",
    }
    assert "mlflow.note.content" not in run.data.tags


def test_more_parameters_than_mlflow_takes_at_once(
    store: str, tmp_path: Path, runs: Callable[[], list[Run]]
) -> None:
    config = _config(aggregator={f"setting_{i}": i for i in range(250)})
    TrackedRun.begin(store, config, _lay_out(tmp_path, config))
    (run,) = runs()
    logged = {key: value for key, value in run.data.params.items() if key.startswith("aggregator.")}
    assert logged == {f"aggregator.setting_{i}": str(i) for i in range(250)}


def test_epochs_that_mlflow_did_not_hear_of_are_taken_from_the_files(
    store: str, tmp_path: Path, runs: Callable[[], list[Run]]
) -> None:
    folder = _lay_out(tmp_path, _config())
    _finish_fold(folder, seed=1, fold=0)
    tracked = TrackedRun.begin(store, _config(), folder)
    tracked.log_epochs(
        folder / "seed_1" / "fold_1", {2: {"train_loss": 1.25, "validation_loss": float("nan")}}
    )
    tracked.log_fold(_finish_fold(folder, seed=1, fold=1))
    (run,) = runs()
    assert sorted(run.data.metrics) == ["seed_1/fold_0/train_loss", "seed_1/fold_1/train_loss"]
    assert _history(store, run, "seed_1/fold_0/train_loss") == [(1, 2.5), (2, 1.25)]
    assert sorted(_history(store, run, "seed_1/fold_1/train_loss")) == [(1, 2.5), (2, 1.25)]


def test_settings_that_change_nothing_may_differ_when_a_run_goes_on(
    store: str, tmp_path: Path, runs: Callable[[], list[Run]]
) -> None:
    before, after = _config(executor={"workers": 1}), _config(executor={"workers": 2, "new": True})
    TrackedRun.begin(store, before, _lay_out(tmp_path, before))
    TrackedRun.begin(store, after, _lay_out(tmp_path, after))
    (run,) = runs()
    assert run.data.params["executor.workers"] == "1"
    assert run.data.params["executor.new"] == "true"
    artifact = MlflowClient(store).download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    assert json.loads(Path(artifact).read_text()) == after


def test_only_results_that_changed_are_logged_again(
    store: str, tmp_path: Path, runs: Callable[[], list[Run]]
) -> None:
    folder = _lay_out(tmp_path, _config())
    for value in (0.5, 0.5, 0.75):
        _finish(TrackedRun.begin(store, _config(), folder), folder, value)
    (run,) = runs()
    assert run.data.metrics == {"seed_1/pooled/uno_c_index": 0.75}
    assert sorted(_history(store, run, "seed_1/pooled/uno_c_index")) == [(0, 0.5), (0, 0.75)]


def test_the_same_run_in_another_workspace_is_a_run_of_its_own(
    store: str, tmp_path: Path, runs: Callable[[], list[Run]]
) -> None:
    folders = [_lay_out(tmp_path / name, _config()) for name in ("here", "it's there")]
    for folder in folders * 2:
        TrackedRun.begin(store, _config(), folder)
    assert sorted(run.data.tags["milsurv.folder"] for run in runs()) == [str(folder) for folder in folders]


def test_a_deleted_run_is_not_taken_up(store: str, tmp_path: Path, runs: Callable[[], list[Run]]) -> None:
    folder = _lay_out(tmp_path, _config())
    TrackedRun.begin(store, _config(), folder)
    (first,) = runs()
    MlflowClient(store).delete_run(first.info.run_id)
    TrackedRun.begin(store, _config(), folder)
    (second,) = runs()
    assert second.info.run_id != first.info.run_id


def test_an_experiment_that_another_run_creates_at_the_same_time(
    store: str,
    tmp_path: Path,
    runs: Callable[[], list[Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = MlflowClient.get_experiment_by_name

    def look_and_be_overtaken(client: MlflowClient, name: str) -> Experiment | None:
        found = look(client, name)
        if found is None:
            client.create_experiment(name)
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look_and_be_overtaken)
    TrackedRun.begin(store, _config(), _lay_out(tmp_path, _config()))
    assert len(runs()) == 1


def test_the_experiment_is_milsurv_by_default(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    TrackedRun.begin(store, _config(), _lay_out(tmp_path, _config()))
    assert MlflowClient(store).get_experiment_by_name("milsurv") is not None


@pytest.mark.parametrize("uri", [None, ""])
def test_without_a_store_nothing_is_written(
    uri: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = _lay_out(tmp_path, _config())
    fold = _finish_fold(folder, seed=1, fold=0)
    before = sorted(tmp_path.rglob("*"))
    plugin.milsurv_run_started(_config(), folder)
    plugin.milsurv_epoch_finished(1, {"train_loss": 2.5}, fold)
    plugin.milsurv_fold_finished(fold)
    plugin.milsurv_run_finished(folder, _metrics(0.5))
    assert sorted(tmp_path.rglob("*")) == before
