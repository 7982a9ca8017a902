"""Trained models of a finished run or its export, for use on other slides."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from milsurv._version import __version__
from milsurv.cohort.cases import SlideRef
from milsurv.cohort.ids import IdError, extract_id, extract_slide_id
from milsurv.config.loading import load_config
from milsurv.config.run import RunConfig, plugin_name
from milsurv.errors import ConfigError, MilsurvError, PluginError, first_line
from milsurv.features.source import FeatureSource, SlideOutcome
from milsurv.plugin.kinds import kinds_that_decide
from milsurv.plugin.registry import LOCAL, Registry, get_registry
from milsurv.plugin.sources import framework_fingerprint
from milsurv.runs.folder import find_run
from milsurv.runs.inputs import kind_of_source
from milsurv.runs.leakage import TrainingCases, TrainingOverlap, name_prefixes
from milsurv.storage.checksums import read_checked, read_json, read_settings
from milsurv.storage.documents import flatten
from milsurv.storage.run_files import (
    COHORT,
    CONFIG,
    ENVIRONMENT,
    FEATURES,
    METRICS,
    MODEL,
    PLUGINS,
    SLIDES,
    TRAINING_FOLLOW_UP,
    TRAINING_SLIDES,
)

NEEDED = (CONFIG, PLUGINS, ENVIRONMENT, COHORT, FEATURES, TRAINING_SLIDES, TRAINING_FOLLOW_UP)
OF_TRAINING = ("training", "aggregator", "loss", "seeds", "splits")
"""Sections of the configuration that a trained model keeps."""
MPP_ADVICE = (
    "give the µm per level-0 pixel with --mpp VALUE (milsurv predict also takes a table: --table FILE)"
)


@dataclass(frozen=True)
class FoldModel:
    """The model of one fold and seed."""

    seed: int
    fold: int
    file: Path


@dataclass(frozen=True)
class TrainedModel:
    """The models of all folds and seeds, and what is needed to use them."""

    folder: Path
    config: RunConfig
    """The configuration of training, with the given plugin files and overrides."""
    registry: Registry
    warnings: tuple[str, ...] = ()
    """Changes of milsurv's own code since training."""

    @property
    def name(self) -> str:
        """Name of the run with its fingerprint, or of the export's folder."""
        parts = self.folder.absolute().parts
        return "/".join(parts[-2:]) if parts[-2] == self.config.name else parts[-1]

    @cached_property
    def models(self) -> tuple[FoldModel, ...]:
        """Sorted by seed and fold. Raises MilsurvError when some are missing."""
        found = [
            FoldModel(int(match[1]), int(match[2]), file)
            for file in self.folder.glob(f"seed_*/fold_*/{MODEL}")
            if (match := re.search(r"/seed_(\d+)/fold_(\d+)$", file.parent.as_posix()))
        ]
        expected = self.cohort["folds"] * len(self.cohort["seeds"])
        if len(found) != expected:
            raise MilsurvError(
                f"{self.folder}: {len(found)} of {expected} files seed_*/fold_*/{MODEL} exist; copy or export the "
                "whole run again"
            )
        return tuple(sorted(found, key=lambda model: (model.seed, model.fold)))

    @cached_property
    def cohort(self) -> dict[str, Any]:
        """``cohort.json`` of the training cohort."""
        summary: dict[str, Any] = read_json(self.folder / COHORT)
        return summary

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Evaluation times of the run."""
        return tuple(read_json(self.folder / METRICS)["times"])

    @cached_property
    def training_cases(self) -> TrainingCases:
        """The training cases of the models. Raises MilsurvError when rows are missing."""
        found = TrainingCases.read(self.folder)
        for name, rows, expected in (
            (TRAINING_SLIDES, len(found.slides), self.cohort["slides"]),
            (TRAINING_FOLLOW_UP, len(found.follow_up.time), self.cohort["cases"]),
        ):
            if rows != expected:
                raise MilsurvError(
                    f"{self.folder / name} has {rows} rows instead of {expected}; copy or export the whole run again"
                )
        return found

    def slide(self, path: Path) -> SlideRef:
        """The slide in a file, with the id that training would give it. Raises MilsurvError when there is none."""
        if not path.exists():
            raise MilsurvError(f"{path}: no such slide file")
        try:
            slide_id = extract_slide_id(path.name, self.config.cohort.slide_pattern)
        except IdError as error:
            raise MilsurvError(f"{path}: {error}; rename the file") from error
        row = self.slides.get(slide_id, {})
        return SlideRef(slide_id, path, float(row["mpp"]) if row.get("mpp_source") == "table" else None)

    @cached_property
    def slides(self) -> dict[str, dict[str, str]]:
        """Rows of the run's ``slides.csv`` by slide id; empty for an exported model, which names no slides."""
        path = self.folder / SLIDES
        if not path.is_file():
            return {}
        rows = pd.read_csv(StringIO(read_checked(path)), dtype=str, keep_default_na=False).to_dict("records")
        return {row["slide_id"]: {str(key): value for key, value in row.items()} for row in rows}

    def overlap(self, slide: SlideRef, outcome: SlideOutcome, case_id: str | None = None) -> TrainingOverlap:
        """The overlap of a slide with the training cases.

        Without ``case_id`` its case is searched in the slide's id and, where training extracted case ids with a
        pattern, in the name of its file.
        """
        names = [case_id] if case_id is not None else self._possible_cases(slide)
        folds = sorted({model.fold for model in self.models})
        found = self.training_cases.overlap(slide.slide_id, outcome.made_from, names, folds)
        if found.reason is not None and self.cohort["selection"] == "reported_fold":
            return replace(found, reason=f"{found.reason} and to select its epoch (optimistic)")
        return found

    def _possible_cases(self, slide: SlideRef) -> list[str]:
        names = name_prefixes(slide.slide_id)
        pattern = self.config.cohort.case_pattern
        if pattern is not None and slide.path is not None:
            with suppress(IdError):
                names += name_prefixes(extract_id(slide.path.name, pattern, "case_pattern"))
        return names

    def require_same_features(self, source: FeatureSource) -> None:
        """Raise MilsurvError, naming the settings, when features would differ from those of training."""
        trained, here = (
            flatten({**content, "origins": {}})  # the sources of plugins are compared separately
            for content in (read_json(self.folder / FEATURES), json.loads(json.dumps(source.content)))
        )
        differing = [
            f"{key.replace('.', ' ')} was {trained.get(key)} and is {here.get(key)}"
            for key in sorted({*trained, *here})
            if trained.get(key) != here.get(key)
            and key not in source.free_settings
            and not _is_path(here.get(key))
        ]
        if differing:
            raise MilsurvError(
                f"{self.folder}: the models were trained on different features: {'; '.join(differing)}; restore the "
                "settings of training, or train again"
            )


def load_trained(
    path: Path, overrides: Sequence[str] = (), plugin_files: Sequence[Path] = ()
) -> TrainedModel:
    """The model in the folder of a finished run or of an export.

    Models contain no code: only the given plugin files are loaded. If milsurv's own code changed since training, that
    is a warning; a changed plugin is an error. Raises MilsurvError when the run is not finished, lacks files, or needs
    a plugin that is not installed.
    """
    folder = find_run(path)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise MilsurvError(
            f"{folder}: {', '.join(missing)} is missing: the run was made by an older milsurv, or copied in part; run "
            "its milsurv command again (trained folds are kept), or copy the whole folder"
        )
    _refuse_training_settings(overrides)
    read_settings(folder)  # reports a damaged file as such
    try:
        changed = _require_plugins(folder, plugin_files)
        given = [*_local_executor(folder, plugin_files), *overrides, "plugins=[]"]
        config, registry = load_config(str(folder / CONFIG), given, plugin_files)
    except ConfigError as error:
        made_by = read_json(folder / ENVIRONMENT)["milsurv"]
        if made_by == __version__:
            raise
        raise MilsurvError(
            f"{folder}: made by milsurv {made_by}; milsurv {__version__} cannot read its configuration "
            f"({first_line(error)}); pip install milsurv=={made_by}"
        ) from error
    return TrainedModel(folder, config, registry, _warnings(folder, config, changed))


def _refuse_training_settings(overrides: Sequence[str]) -> None:
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0].strip()
        if section in OF_TRAINING:
            raise MilsurvError(f"--set {override}: {section} is fixed by training; remove it")


def _registry(plugin_files: Sequence[Path]) -> Registry:
    return get_registry(file.expanduser() for file in plugin_files)


def _local_executor(folder: Path, plugin_files: Sequence[Path]) -> list[str]:
    """Overrides that select the local executor, for a model trained with an executor that is not installed."""
    section = read_settings(folder).get("executor", {})
    try:
        _registry(plugin_files).find("executor", plugin_name("executor", section))
    except PluginError:
        return ["executor.name=local", f"executor.threads={section.get('threads', 1)}"]
    return []


def _require_plugins(folder: Path, plugin_files: Sequence[Path]) -> list[str]:
    """The plugins in which only milsurv's own code changed since training."""
    registry = _registry(plugin_files)
    broken = [info for info in registry.plugins if info.version == LOCAL and info.status != "ok"]
    if broken:
        raise MilsurvError(f"plugin file {broken[0].distribution} is broken: {broken[0].reason}")
    changed = []
    for trained in read_json(folder / PLUGINS):
        kind = trained["kind"]
        if kind not in kinds_that_decide("features", "models"):
            continue
        name = f"{kind} '{trained['name']}'"
        local = trained["version"] == LOCAL
        file = Path(trained["distribution"]).name
        try:
            origin = registry.origin(kind, trained["name"])
        except PluginError as error:
            if local:
                raise MilsurvError(
                    f"{folder}: {name} is from the local file {file}, and models contain no code; pass the file with "
                    "--plugin FILE"
                ) from error
            raise MilsurvError(
                f"{folder}: {name} of {trained['distribution']} {trained['version']} is not installed ({error}); "
                "install it with pip"
            ) from error
        if origin == trained["origin"]:
            continue
        if registry.own_origin(kind, trained["name"]) == trained.get("own_origin"):
            changed.append(name)
            continue
        source = f"the local file {file}" if local else f"{trained['distribution']} {trained['version']}"
        raise MilsurvError(
            f"{folder}: {name} was trained with {source}, but the code of {registry.describe(kind, trained['name'])} "
            "is different; use the code of training, or train again"
        )
    return changed


def _warnings(folder: Path, config: RunConfig, changed: list[str]) -> tuple[str, ...]:
    """A warning when milsurv's own code changed since training."""
    origins = read_json(folder / FEATURES).get("origins", {})
    source = kind_of_source(config)
    if origins.get("milsurv") != framework_fingerprint(*source.code):
        changed = [*changed, f"{source.verb} features"]
    if not changed:
        return ()
    made_by = read_json(folder / ENVIRONMENT)["milsurv"]
    return (
        f"the code of {', '.join(changed)} in milsurv {__version__} differs from milsurv {made_by}, which trained this "
        "model, so predictions can differ; to be sure, train again or use the milsurv of training",
    )


def _is_path(value: Any) -> bool:
    """Paths may differ; the contents of the files are part of each slide's identity."""
    return isinstance(value, str) and Path(value).is_absolute()
