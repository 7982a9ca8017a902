"""Export of a trained model as a folder: the files that ``predict`` and ``evaluate`` read, and a model card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milsurv.errors import MilsurvError, PluginError
from milsurv.evaluation.metrics import HARRELL
from milsurv.models.trained import TrainedModel, load_trained
from milsurv.plugin.kinds import SECTIONS
from milsurv.plugin.registry import LOCAL
from milsurv.report.formatting import with_interval
from milsurv.report.rendering import line, lines
from milsurv.report.results import RunResults
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import read_checked, read_json, write_checked
from milsurv.storage.run_files import (
    COHORT,
    CONFIG,
    ENVIRONMENT,
    FEATURES,
    METRICS,
    MODEL,
    PLUGINS,
    TRAINING_FOLLOW_UP,
    TRAINING_SLIDES,
)

COPIED = (ENVIRONMENT, TRAINING_FOLLOW_UP, TRAINING_SLIDES)
CARD = "README.md"


def export_model(run: Path, folder: Path, plugin_files: Sequence[Path] = ()) -> Path:
    """Write the model of a finished run to the new ``folder``, completely or not at all.

    The export contains no patient ids and no local paths; digests of the ids identify training cases. Raises
    MilsurvError if the run is not finished or ``folder`` is not empty.
    """
    folder = folder.absolute()
    trained = load_trained(run, plugin_files=plugin_files)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MilsurvError(f"{folder}: folder exists and is not empty; choose a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        _fill(trained, made)
        made.replace(folder)
    return folder


def _fill(trained: TrainedModel, folder: Path) -> None:
    for name in COPIED:
        write_checked(folder / name, read_checked(trained.folder / name))
    for model in trained.models:
        target = folder / f"seed_{model.seed}" / f"fold_{model.fold}" / MODEL
        target.parent.mkdir(parents=True)
        shutil.copyfile(model.file, target)
    settings = _without_paths(trained)
    write_checked(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    plugins = read_json(trained.folder / PLUGINS)
    for plugin in plugins:
        if plugin["version"] == LOCAL:
            plugin["distribution"] = Path(plugin["distribution"]).name
    metrics = read_json(trained.folder / METRICS)
    metrics["cohort"] = _without_ids(metrics["cohort"])
    for name, content in (
        (PLUGINS, plugins),
        (COHORT, _without_ids(trained.cohort)),
        (FEATURES, _named_alone(read_json(trained.folder / FEATURES))),
        (METRICS, metrics),
    ):
        write_checked(folder / name, json_text(content))
    (folder / CARD).write_text(model_card(trained, RunResults.read(trained.folder)), encoding="utf-8")


def _without_paths(trained: TrainedModel) -> dict[str, Any]:
    """The configuration without the workspace, and with the names of files and folders in place of paths."""
    settings = trained.config.model_dump(mode="json", by_alias=True)
    settings.pop("workspace")
    settings["plugins"] = []
    settings["splits"]["files"] = None
    if settings["features"] is not None:
        settings["features"]["import"] = "SET-WITH---set-features.import=FOLDER"
    for section in ("cohort", *SECTIONS):
        settings[section] = _named_alone(settings[section])
    return settings


def _named_alone(content: Any) -> Any:
    """Nested settings with absolute paths replaced by their last part."""
    if isinstance(content, dict):
        return {key: _named_alone(value) for key, value in content.items()}
    return Path(content).name if isinstance(content, str) and Path(content).is_absolute() else content


def _without_ids(cohort: dict[str, Any]) -> dict[str, Any]:
    """A cohort's summary, with counts in place of the entries that name cases or slides."""
    named = {key: [f"{len(cohort[key])}, not listed in an export"] if cohort[key] else [] for key in _NAMING}
    return {**cohort, **named}


_NAMING = ("cases_excluded", "dropped", "warnings")


def model_card(trained: TrainedModel, results: RunResults) -> str:
    """A model card in the layout of the Hugging Face hub: front matter with results, then intended use and limits."""
    config = trained.config
    account = results.metrics["ensemble"] or results.metrics["pooled"][0]
    c_index = account["metrics"][HARRELL.name]["value"]
    measured = [] if c_index is None else [_result(trained, c_index)]
    data = ModelCardData(
        library_name="milsurv",
        tags=[
            "survival-analysis",
            "computational-pathology",
            "whole-slide-images",
            "multiple-instance-learning",
        ],
        model_name=config.name,
        eval_results=measured or None,
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    card: str = environment.get_template("card.md").render(
        front_matter=data.to_yaml(),
        name=config.name,
        config=config,
        cohort=trained.cohort,
        headline=line("summary.txt", "headline", results=results),
        metrics=[
            (results.heading(name), with_interval(metric)) for name, metric in account["metrics"].items()
        ],
        limits=lines("summary.txt", "limits", results=results, views=0),
        models=len(trained.models),
        slopes=results.slopes,
        magnifications=", ".join(f"{m}x" for m in config.tiling.magnifications),
        licence=_licence(trained),
        plugins=results.plugins,
        local=LOCAL,
        version=results.environment["milsurv"],
    )
    return card


def _result(trained: TrainedModel, c_index: float) -> EvalResult:
    optimistic = trained.cohort["selection"] == "reported_fold"
    return EvalResult(
        task_type="survival-prediction",
        dataset_type="synthetic" if trained.cohort["synthetic"] else "private",
        dataset_name="synthetic cohort"
        if trained.cohort["synthetic"]
        else f"{trained.cohort['cases']} cases",
        metric_type="c-index",
        metric_value=round(c_index, 4),
        metric_name=f"{HARRELL.title}, cross-validated" + ", optimistic" * optimistic,
    )


def _licence(trained: TrainedModel) -> str | None:
    """The backbone's licence; None if features were imported, or if the backbone does not state one."""
    if trained.config.backbone is None:
        return None
    try:
        backbone = trained.registry.create("backbone", trained.config.backbone)
    except PluginError:
        return None
    return getattr(backbone, "licence", None)
