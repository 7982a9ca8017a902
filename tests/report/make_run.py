"""The folder of a finished run whose predictions are made up: follow-up and risks are random numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from milsurv.config.run import Evaluation, RunConfig
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import evaluation_times, survival_column
from milsurv.features.store import MagnificationFeatures, write_features
from milsurv.losses.discrete import NLL
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import get_registry
from milsurv.slides.grid import make_grid
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import write_checked
from milsurv.training.model import build_model, save_model

EPOCHS = 12
FEATURE_DIM = 16


def make_config(workspace: Path, **sections: Any) -> RunConfig:
    """A run over ``workspace``; keyword arguments replace sections."""
    settings: dict[str, Any] = {
        "name": "made-up",
        "workspace": workspace,
        "cohort": {"source": "synthetic"},
        "backbone": {"name": "efficientnet_lite0"},
        "aggregator": {"name": "crossfusion", "embed_dim": 16, "num_heads": 2},
        "training": {"epochs": EPOCHS},
        "evaluation": {"bootstraps": 100},
        "tiling": {"patch_px": 128},
    }
    return RunConfig.model_validate(settings | sections)


def make_follow_up(cases: int, folds: int, event_rate: float = 0.6) -> pd.DataFrame:
    """``case_id, fold, time, event, true_risk``: times shorten with the true risk."""
    rng = np.random.default_rng(7)
    true_risk = rng.normal(size=cases)
    return pd.DataFrame(
        {
            "case_id": [f"CASE-{i:03d}" for i in range(cases)],
            "fold": np.arange(cases) % folds,
            "time": (40 * rng.exponential(np.exp(-true_risk)) + 0.5).round(2),
            "event": (rng.random(cases) < event_rate).astype(int),
            "true_risk": true_risk,
        }
    )


def predict(follow_up: pd.DataFrame, seeds: Sequence[int], times: Sequence[float]) -> pd.DataFrame:
    """Predictions under each seed: the true risk and noise, and survival that falls with it."""
    tables = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        risk = follow_up["true_risk"] + rng.normal(size=len(follow_up))
        table = follow_up.assign(risk=risk, seed=seed, high_risk=(risk > risk.median()).astype(int))
        table["standardized_risk"] = (risk - risk.median()) / risk.std()
        for t in times:
            table[survival_column(t)] = np.exp(-t / 40 * np.exp(0.5 * risk))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def make_run(
    folder: Path,
    config: RunConfig,
    follow_up: pd.DataFrame,
    slides: pd.DataFrame | None = None,
    **cohort: Any,
) -> pd.DataFrame:
    """Lay out the folder and return its predictions; keyword arguments replace keys of ``cohort.json``."""
    folder.mkdir(parents=True)
    times = evaluation_times(follow_up["time"], follow_up["event"], config.evaluation)
    predictions = predict(follow_up, config.seeds, times.all)
    cohort = _cohort(follow_up, config) | cohort
    if not cohort["synthetic"]:
        predictions = predictions.drop(columns="true_risk")
    slides = make_slide_table(follow_up) if slides is None else slides
    training = {fold: _training(follow_up, fold) for fold in follow_up["fold"].unique()}
    settings = Evaluation(bootstraps=config.evaluation.bootstraps, seed=config.evaluation.seed)
    write_checked(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    packages = {"torch": "2.4.0", "openslide-bin": "4.0.0.6", "numpy": "1.26.0"}
    _write_json(
        folder / "environment.json",
        {"milsurv": "0.1.0", "python": "3.11.9", "platform": "Linux", "packages": packages},
    )
    _write_json(
        folder / "plugins.json",
        [_plugin(config, kind) for kind in ("reader", "tissue", "aggregator", "loss")],
    )
    _write_json(folder / "cohort.json", cohort)
    optimistic = None
    if config.training.selection == "both":
        flattered = predictions.assign(risk=predictions["risk"] - 0.05 * predictions["time"])
        optimistic = evaluate(flattered, training, times, settings)
    honest = evaluate(predictions, training, times, settings)
    _write_json(folder / "metrics.json", {"cohort": cohort, **honest, "optimistic": optimistic})
    write_checked(folder / "predictions.csv", predictions.to_csv(index=False))
    write_checked(folder / "slides.csv", slides.to_csv(index=False))
    write_checked(folder / "splits.csv", _splits(follow_up).to_csv(index=False))
    for seed in config.seeds:
        for fold in follow_up["fold"].unique():
            path = folder / f"seed_{seed}" / f"fold_{fold}" / "history.csv"
            history = make_history(seed, int(fold), config.training.selection)
            write_checked(path, history.to_csv(index=False))
            if config.training.recalibrate:
                _write_json(path.parent / "probabilities.json", make_probabilities(seed, int(fold)))
    return predictions


def _write_json(path: Path, content: Any) -> None:
    write_checked(path, json_text(content))


def make_external(folder: Path, config: RunConfig, follow_up: pd.DataFrame) -> None:
    """The folder of an external validation: one fold, nothing trained, nothing selected."""
    make_run(folder, config, follow_up.assign(fold=0), external=True)
    for path in folder.glob("seed_*/fold_*/*.*"):
        path.unlink()
    (folder / "splits.csv").unlink()
    cohort = json.loads((folder / "cohort.json").read_text())
    for key in ("selection", "select_by", "group_by"):
        del cohort[key]
    _write_json(folder / "cohort.json", cohort)


def make_slide_table(follow_up: pd.DataFrame) -> pd.DataFrame:
    """A used slide for each case, with file names that lead nowhere."""
    return pd.DataFrame(
        {
            "slide_id": follow_up["case_id"] + "-S1",
            "case_id": follow_up["case_id"],
            "status": "used",
            "reason": None,
            "path": "/nowhere/" + follow_up["case_id"] + ".svs",
            "mpp": 0.5,
            "mpp_source": "properties",
            "patches_20x": 84,
            "patches_10x": 25,
            "patches_5x": 9,
            "features": "features/none/" + follow_up["case_id"] + ".h5",
        }
    )


def make_probabilities(seed: int, fold: int) -> dict[str, Any]:
    """A ``probabilities.json`` of a model that is better than Kaplan-Meier."""
    return {
        "seed": seed,
        "fold": fold,
        "epoch": 8,
        "integrated_brier_score": 0.18,
        "integrated_brier_score_kaplan_meier": 0.2,
        "reason": None,
        "worse_than_kaplan_meier": False,
        "recalibrated_on": 9,
        "slope": 0.25 + 0.5 * fold,
    }


def make_history(seed: int, fold: int, selection: str) -> pd.DataFrame:
    """A ``history.csv`` whose validation loss turns up again."""
    rng = np.random.default_rng([seed, fold])
    epoch = np.arange(1, EPOCHS + 1)
    validation = 1.3 + 0.006 * (epoch - 8) ** 2 + 0.03 * rng.normal(size=EPOCHS)
    history = pd.DataFrame(
        {
            "epoch": epoch,
            "learning_rate": 1e-3,
            "train_loss": 1.9 * np.exp(-epoch / 12) + 0.02 * rng.normal(size=EPOCHS),
            "train_c_index": 0.5 + 0.4 * (1 - np.exp(-epoch / 6)),
            "validation_loss": validation,
            "validation_c_index": 0.6 + 0.05 * rng.normal(size=EPOCHS),
        }
    )
    if selection == "last_epoch":
        history[["validation_loss", "validation_c_index"]] = np.nan
    if selection in ("reported_fold", "both"):
        history["reported_loss"] = validation + 0.1
        history["reported_c_index"] = 0.55 + 0.05 * rng.normal(size=EPOCHS)
    if selection == "reported_fold":
        history[["validation_loss", "validation_c_index"]] = np.nan
    if selection == "both":
        history["optimistic_chosen"] = (history["reported_c_index"] == history["reported_c_index"].max()) * 1
    kept = EPOCHS - 1 if selection == "last_epoch" else validation.argmin()
    return history.assign(chosen=(history.index == kept).astype(int))


def add_slide(
    slides: pd.DataFrame, config: RunConfig, case_id: str, path: Path, mpp: float | None = None
) -> pd.DataFrame:
    """The slide table with a real slide for ``case_id``, and its feature file with random features."""
    registry = get_registry()
    features = Path("features") / f"{case_id}.h5"
    with registry.create("reader", config.reader).open(path, mpp) as slide:
        mask = registry.create("tissue", config.tissue).segment(slide)
        grid = make_grid(slide.dimensions, slide.mpp, mask, config.tiling)
        rng = np.random.default_rng(3)
        by_magnification = {
            m: MagnificationFeatures(
                rng.normal(size=(len(grid.coords[m]), FEATURE_DIM)).astype(np.float16),
                grid.coords[m],
                grid.grid[m],
                magnification.mpp,
                magnification.patch_level0,
            )
            for m, magnification in grid.magnifications.items()
        }
        row = {
            "path": str(path),
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "features": str(features),
            **{f"patches_{m}x": len(grid.coords[m]) for m in grid.magnifications},
        }
    write_features(config.workspace / features, by_magnification, {})
    slides = slides.copy()
    for column, value in row.items():
        slides.loc[slides["case_id"] == case_id, column] = value
    return slides


def add_model(folder: Path, config: RunConfig, fold: int) -> None:
    """A model with random weights for ``fold`` under the first seed."""
    torch.manual_seed(0)
    loss = NLL(NLL.Config())
    loss.fit(torch.tensor([5.0, 10.0, 20.0, 30.0, 40.0]), torch.ones(5))
    dims = dict.fromkeys(config.tiling.magnifications, FEATURE_DIM)
    model = build_model(get_registry(), config.aggregator, dims, loss.n_outputs)
    about = {"aggregator": _dumped(config.aggregator), "loss": _dumped(config.loss)}
    save_model(folder / f"seed_{config.seeds[0]}" / f"fold_{fold}" / "model.safetensors", model, loss, about)


def _dumped(section: PluginSection) -> dict[str, Any]:
    return section.model_dump(mode="json")


def _plugin(config: RunConfig, kind: str) -> dict[str, Any]:
    name = getattr(config, kind).name
    return {"kind": kind, "name": name, "distribution": "milsurv", "version": "0.1.0", "origin": None}


def _training(follow_up: pd.DataFrame, fold: int) -> TrainingFollowUp:
    others = follow_up[follow_up["fold"] != fold]
    if others.empty:
        others = make_follow_up(len(follow_up), 1)
    return TrainingFollowUp(others["time"].to_numpy(), others["event"].to_numpy())


def _splits(follow_up: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for fold in follow_up["fold"].unique():
        others = follow_up.index[follow_up["fold"] != fold]
        inner = dict(zip(others, ["validation", *6 * ["train"]] * len(others), strict=False))
        role = [inner.get(case, "test") for case in follow_up.index]
        rows.append(pd.DataFrame({"case_id": follow_up["case_id"], "fold": fold, "role": role}))
    return pd.concat(rows)


def _cohort(follow_up: pd.DataFrame, config: RunConfig) -> dict[str, Any]:
    return {
        "cases": len(follow_up),
        "events": int(follow_up["event"].sum()),
        "time_unit": "months",
        "endpoint": "OS",
        "synthetic": config.cohort.source == "synthetic",
        "slides": len(follow_up),
        "slides_excluded": 0,
        "cases_excluded": [],
        "dropped": [],
        "missing": [],
        "warnings": [],
        "selection": config.training.selection,
        "precision": "bfloat16",
        "select_by": config.training.select_by,
        "group_by": config.splits.group_by,
    }
