"""The folder of a run: its name, and the files that describe the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from milsurv.cohort.cases import Case, Cohort, SlideRef, Split
from milsurv.cohort.splits import write_splits
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.evaluation.plugin_metrics import plugin_metrics
from milsurv.evaluation.times import EvaluationTimes
from milsurv.executors.base import Event
from milsurv.features.source import FeatureSource, SlideOutcome
from milsurv.plugin.kinds import kinds_that_decide
from milsurv.plugin.registry import Registry
from milsurv.plugin.sources import framework_fingerprint
from milsurv.plugin.versions import record_versions
from milsurv.runs.leakage import TrainingCases
from milsurv.runs.session import Session
from milsurv.storage.atomic import append_event, fingerprint, json_text
from milsurv.storage.checksums import read_settings, write_checked
from milsurv.storage.documents import flatten
from milsurv.storage.run_files import COHORT, CONFIG, EVENTS, FEATURES, METRICS, SLIDES, SPLITS
from milsurv.training.job import FoldJob

SHOWN_SETTINGS = 4
"""Number of settings that are listed to distinguish runs."""
BASELINE_CODE = "milsurv.training.mean_features"
TRAINING_CODE = ("milsurv.training.fold",)
"""Modules of milsurv, other than its plugins, that affect a model."""


@dataclass(frozen=True)
class RunContent:
    """All inputs of training or of an external validation, once the features exist."""

    session: Session
    source: FeatureSource
    cohort: Cohort
    usable: Cohort
    """The cases and slides that have features, sorted by id."""
    outcomes: Mapping[str, SlideOutcome]
    times: EvaluationTimes
    splits: tuple[Split, ...] = ()
    warnings: tuple[str, ...] = ()
    """Warnings about the splits, or about overlap with training cases."""
    model_name: str | None = None
    """The trained model, for an external validation."""

    @property
    def config(self) -> RunConfig:
        return self.session.config

    @property
    def plugins(self) -> dict[str, str]:
        """Kind -> name of the plugins that affect features and models."""
        models = {kind: getattr(self.config, kind).name for kind in kinds_that_decide("models")}
        return {**self.source.plugins, **models}

    @property
    def origins(self) -> dict[tuple[str, str], str]:
        """Kind and name of each of these plugins -> fingerprint of its source."""
        return {(kind, name): self.session.registry.origin(kind, name) for kind, name in self.plugins.items()}

    @property
    def recorded_plugins(self) -> list[tuple[str, str]]:
        """Kind and name of the plugins in ``plugins.json``: those that affect features and models, and metrics."""
        return [*self.plugins.items(), *(("metric", name) for name in self.session.registry.names("metric"))]

    @cached_property
    def _case_content(self) -> list[Any]:
        """Follow-up of each usable case, and what the features of its slides were made from."""
        return [
            (
                case.case_id,
                case.time,
                case.event,
                [
                    (slide.slide_id, self.outcomes[slide.slide_id].made_from, slide.mpp)
                    for slide in case.slides
                ],
            )
            for case in self.usable.cases
        ]

    def baseline_fingerprint(self) -> str:
        """Hash of every setting and input that changes the mean-feature baseline, and of nothing else."""
        return fingerprint(
            {
                "features": self.source.content,
                "cases": self._case_content,
                "splits": [(split.fold, sorted(split.train + split.validation)) for split in self.splits],
                "origin": framework_fingerprint(BASELINE_CODE),
                "threads": self.session.executor.config.threads,
            }
        )

    def training_fingerprint(self) -> str:
        """Hash of every setting and input that changes a model, and of nothing else."""
        config = self.config
        return fingerprint(
            {
                "features": self.source.content,
                "cases": self._case_content,
                "splits": [(split.fold, split.train, split.validation, split.test) for split in self.splits],
                "seeds": config.seeds,
                "aggregator": config.aggregator.model_dump(mode="json"),
                "loss": config.loss.model_dump(mode="json"),
                "origins": [*self.origins.values(), framework_fingerprint(*TRAINING_CODE)],
                "training": config.training.model_dump(mode="json"),
                "threads": self.session.executor.config.threads,
                "device": self.session.device.kind,
            }
        )

    def evaluation_fingerprint(self) -> str:
        """Hash of the evaluation's settings and of the table columns that it uses."""
        settings = self.config.evaluation
        columns = [
            (case.case_id, [case.attributes.get(column) for column in settings.columns])
            for case in self.usable.cases
        ]
        return fingerprint(
            {
                **settings.model_dump(mode="json"),
                "baselines": self.config.baselines,
                "times": self.times.times,
                "integration": self.times.integration,
                "columns": columns,
                **metric_origins(self.session.registry),
            }
        )

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``cohort.json``."""
        usable = {case.case_id for case in self.usable.cases}
        training = {
            "selection": self.config.training.selection,
            "select_by": self.config.training.select_by,
            "group_by": self.config.splits.group_by,
            "folds": len(self.splits),
            "seeds": list(self.config.seeds),
        }
        outcomes = self.outcomes.values()
        return {
            "external": self.model_name,
            "cases": len(self.usable.cases),
            "events": sum(case.event for case in self.usable.cases),
            "time_unit": self.cohort.time_unit,
            "endpoint": self.cohort.endpoint,
            "synthetic": self.cohort.synthetic,
            "slides": sum(len(case.slides) for case in self.usable.cases),
            "slides_excluded": sum(outcome.reason is not None for outcome in outcomes),
            "cases_excluded": [
                f"case {case.case_id}: {self._why_excluded(case)}"
                for case in self.cohort.cases
                if case.case_id not in usable
            ],
            "dropped": list(self.cohort.dropped),
            "missing": list(self.cohort.missing),
            "warnings": [
                *self.cohort.warnings,
                *self.warnings,
                *(f"slide {o.slide_id}: {warning}" for o in outcomes for warning in o.warnings),
            ],
            **({} if self.model_name else training),
            **self.source.summary,
        }

    def _why_excluded(self, case: Case) -> str:
        has_features = any(self.outcomes[slide.slide_id].reason is None for slide in case.slides)
        return "every fold of the model was trained on it" if has_features else "no usable slide"

    def slides(self) -> pd.DataFrame:
        """The content of ``slides.csv``: a row for each slide of the cohort, used or excluded."""
        return pd.DataFrame(
            [self._slide_row(case, slide) for case in self.cohort.cases for slide in case.slides]
        )

    def _slide_row(self, case: Case, slide: SlideRef) -> dict[str, Any]:
        outcome, config = self.outcomes[slide.slide_id], self.config
        used = outcome.reason is None
        return {
            "slide_id": slide.slide_id,
            "case_id": case.case_id,
            "status": "used" if used else "excluded",
            "reason": outcome.reason,
            "warnings": "; ".join(outcome.warnings) or None,
            "path": slide.path,
            "mpp": outcome.mpp,
            "mpp_source": outcome.mpp_source,
            **{f"patches_{m}x": outcome.patches.get(m, 0) for m in config.tiling.magnifications},
            "features": self.source.path(slide.slide_id).relative_to(config.workspace) if used else None,
        }


@dataclass(frozen=True)
class RunFolder:
    """``WORKSPACE/runs/<name>/<fingerprint>``."""

    path: Path

    @classmethod
    def create(cls, content: RunContent) -> RunFolder:
        """Create the folder unless it exists, and write the files that describe the run."""
        config = content.config
        name = f"{content.training_fingerprint()}-{content.evaluation_fingerprint()}"
        path = config.workspace / "runs" / config.name / name
        describe(content, path)
        write_splits(content.splits, path / SPLITS)
        made_from = {slide_id: outcome.made_from for slide_id, outcome in content.outcomes.items()}
        TrainingCases.of(content.usable, made_from, content.splits).write(path)
        return cls(path)

    def of_fold(self, seed: int, fold: int) -> Path:
        """Folder of the model and predictions of a fold."""
        return self.path / f"seed_{seed}" / f"fold_{fold}"

    def reuse_folds(self, jobs: Sequence[FoldJob], content: RunContent) -> int:
        """Copy trained folds from runs that differ only in their evaluation settings; returns the number of folds."""
        training = self.path.name.partition("-")[0]
        others = sorted(path for path in self.path.parent.glob(f"{training}-*") if path != self.path)
        found = {}
        for job in jobs:
            if not job.trained:
                folders = {other / job.folder.relative_to(self.path): other for other in others}
                if (other := job.reuse(list(folders))) is not None:
                    found[job.folder] = folders[other]
        if found:
            earlier_runs = sorted(set(found.values()))
            record_versions(self.path, content.session.registry, content.recorded_plugins, earlier_runs)
        return len(found)

    def log(self, event: Event) -> None:
        """Add a line to ``events.jsonl``."""
        append_event(self.path / EVENTS, event)


def describe(content: RunContent, path: Path) -> None:
    """Write the files that describe a run, or an external validation, into ``path``."""
    settings = content.config.model_dump(mode="json", by_alias=True)
    write_checked(path / CONFIG, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    record_versions(path, content.session.registry, content.recorded_plugins)
    write_checked(path / COHORT, json_text(content.summary))
    write_checked(path / FEATURES, json_text(content.source.content))
    write_checked(path / SLIDES, content.slides().to_csv(index=False))


def metric_origins(registry: Registry) -> dict[str, Any]:
    """Fingerprints of the sources of plugins' metrics; empty without any. Raises PluginError for unusable names."""
    metrics = plugin_metrics(registry)
    return (
        {"metrics": {spec.name: registry.origin("metric", spec.name) for spec in metrics}} if metrics else {}
    )


def find_run(path: Path) -> Path:
    """The folder of a finished run: ``path`` itself, or the one run in it. Raises MilsurvError when there is none."""
    if (path / METRICS).is_file():
        return path
    if not path.is_dir():
        raise MilsurvError(f"{path}: no such folder; give the folder of a run, WORKSPACE/runs/NAME")
    inside = sorted(folder.parent for folder in path.glob(f"*/{METRICS}"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise MilsurvError(f"{path}: contains several finished runs; specify one of {_differences(inside)}")
    raise MilsurvError(f"{path}: no finished run (no {METRICS}); run its milsurv command again to finish it")


def _differences(folders: Sequence[Path]) -> str:
    """Names of runs, each with the settings in which they differ."""
    settings = [_settings(folder) for folder in folders]
    keys = sorted({key for one in settings for key in one})
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1]
    described = []
    for folder, one in zip(folders, settings, strict=True):
        values = [f"{key}={json.dumps(one.get(key))}" for key in differing]
        described.append(f"{folder.name} ({', '.join(values[:SHOWN_SETTINGS])})" if values else folder.name)
    return ", ".join(described)


def _settings(folder: Path) -> dict[str, Any]:
    """``section.key`` -> value; empty when the file is damaged or missing."""
    try:
        return flatten(read_settings(folder))
    except MilsurvError:
        return {}
