"""A tracker, for tests: it writes down which hook was called, and in which process."""

import json
import os
from pathlib import Path
from typing import Any

from milsurv import hookimpl


def _note(folder: Path, **entry: Any) -> None:
    with (folder / "diary.jsonl").open("a") as file:
        file.write(json.dumps({"process": os.getpid(), **entry}) + "\n")


@hookimpl
def milsurv_run_started(config: dict[str, Any], folder: Path) -> None:
    _note(folder, hook="run started", name=config["name"])


@hookimpl
def milsurv_epoch_finished(seed: int, fold: int, epoch: int, values: dict[str, float], folder: Path) -> None:
    run = folder.parents[1]
    _note(run, hook="epoch finished", seed=seed, fold=fold, epoch=epoch, loss=values["train_loss"])


@hookimpl
def milsurv_fold_finished(fold: int, folder: Path) -> None:
    _note(folder.parents[1], hook="fold finished", fold=fold, whole=(folder / "predictions.csv").is_file())


@hookimpl
def milsurv_run_finished(folder: Path, metrics: dict[str, Any]) -> None:
    _note(folder, hook="run finished", cases=metrics["pooled"][0]["cases"])
