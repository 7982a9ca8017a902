"""A run's folder: what it is named after, and the files that say what was run."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from milsurv.storage.checksums import read_checked, write_checked
from milsurv.storage.documents import compose_yaml, construct_yaml
from milsurv.storage.run_files import COHORT, CONFIG, EVENTS, FEATURES, METRICS, SLIDES, SPLITS
from milsurv.training.job import FoldJob

SHOWN_SETTINGS = 4
"""How many settings are named in which runs differ."""
TRAINING_CODE = ("milsurv.training.loop",)
"""What of milsurv itself decides a model, beside its plugins."""


@dataclass(frozen=True)
class RunContent:
    """All that a run is made of, once features are there."""

    session: Session
    source: FeatureSource
    cohort: Cohort
    usable: Cohort
    """The cohort with the cases and slides that have features, by id."""
    outcomes: dict[str, SlideOutcome]
    splits: tuple[Split, ...] = ()
    warnings: tuple[str, ...] = ()
    """What was odd about the splits, or about cases that training knows."""
    model_name: str | None = None
    """Of an external validation, the model whose training had other cases."""

    @property
    def config(self) -> RunConfig:
        return self.session.config

    @property
    def plugins(self) -> dict[str, str]:
        """Kind -> name of the plugins that decide features and models."""
        models = {kind: getattr(self.config, kind).name for kind in kinds_that_decide("models")}
        return {**self.source.plugins, **models}

    @property
    def origins(self) -> dict[tuple[str, str], str]:
        """Kind and name of each plugin at work -> the fingerprint of its source."""
        return {(kind, name): self.session.registry.origin(kind, name) for kind, name in self.plugins.items()}

    @property
    def recorded_plugins(self) -> list[tuple[str, str]]:
        """Kind and name of the plugins in ``plugins.json``: those that decide features and models, and metrics."""
        return [*self.plugins.items(), *(("metric", name) for name in self.session.registry.names("metric"))]

    def training_fingerprint(self) -> str:
        """Stands for every setting and every input that changes a model, and for nothing else."""
        config = self.config
        cases = [
            (case.case_id, case.time, case.event, [self._slide_key(slide) for slide in case.slides])
            for case in self.usable.cases
        ]
        return fingerprint(
            {
                "features": self.source.content,
                "cases": cases,
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

    def evaluation_fingerprint(self, times: EvaluationTimes) -> str:
        """Stands for what is asked of the models once they are trained, and for the columns that it takes."""
        settings = self.config.evaluation
        asked = [
            (case.case_id, [case.attributes.get(column) for column in settings.columns])
            for case in self.usable.cases
        ]
        return fingerprint(
            {
                **settings.model_dump(mode="json"),
                "times": times.times,
                "integration": times.integration,
                "columns": asked,
                **metric_origins(self.session.registry),
            }
        )

    def _slide_key(self, slide: SlideRef) -> tuple[str, Any, float | None]:
        return slide.slide_id, self.outcomes[slide.slide_id].made_from, slide.mpp

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What ``cohort.json`` holds."""
        usable = {case.case_id for case in self.usable.cases}
        left_out = [case for case in self.cohort.cases if case.case_id not in usable]
        of_training = {} if self.model_name else self._of_training
        return {
            "external": self.model_name,
            "cases": len(self.usable.cases),
            "events": sum(case.event for case in self.usable.cases),
            "time_unit": self.cohort.time_unit,
            "endpoint": self.cohort.endpoint,
            "synthetic": self.cohort.synthetic,
            "slides": sum(len(case.slides) for case in self.usable.cases),
            "slides_left_out": sum(outcome.reason is not None for outcome in self.outcomes.values()),
            "cases_left_out": [f"case {case.case_id}: {self._why(case)}" for case in left_out],
            "dropped": list(self.cohort.dropped),
            "missing": list(self.cohort.missing),
            "warnings": [*self.cohort.warnings, *self.warnings, *self._slide_warnings],
            **of_training,
            **self.source.summary,
        }

    @property
    def _of_training(self) -> dict[str, Any]:
        return {
            "selection": self.config.training.selection,
            "select_by": self.config.training.select_by,
            "group_by": self.config.splits.group_by,
            "folds": len(self.splits),
            "seeds": list(self.config.seeds),
        }

    @property
    def _slide_warnings(self) -> list[str]:
        return [f"slide {o.slide_id}: {warning}" for o in self.outcomes.values() for warning in o.warnings]

    def _why(self, case: Case) -> str:
        has_features = any(self.outcomes[slide.slide_id].reason is None for slide in case.slides)
        return "every fold of the model learned from it" if has_features else "no usable slide"

    def slides(self) -> pd.DataFrame:
        """A row for each slide of the cohort, used or left out."""
        workspace = self.config.workspace
        rows = []
        for case in self.cohort.cases:
            for slide in case.slides:
                outcome = self.outcomes[slide.slide_id]
                used = outcome.reason is None
                rows.append(
                    {
                        "slide_id": slide.slide_id,
                        "case_id": case.case_id,
                        "status": "used" if used else "left out",
                        "reason": outcome.reason,
                        "doubts": "; ".join(outcome.warnings) or None,
                        "path": slide.path,
                        "mpp": outcome.mpp,
                        "mpp_source": outcome.mpp_source,
                        **{
                            f"patches_{m}x": outcome.patches.get(m, 0)
                            for m in self.config.tiling.magnifications
                        },
                        "features": self.source.path(slide.slide_id).relative_to(workspace) if used else None,
                    }
                )
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class RunFolder:
    """``WORKSPACE/runs/<name>/<fingerprint>``."""

    path: Path

    @classmethod
    def lay_out(cls, content: RunContent, times: EvaluationTimes) -> RunFolder:
        """Make the folder, or find it, and write what says what is run."""
        config = content.config
        name = f"{content.training_fingerprint()}-{content.evaluation_fingerprint(times)}"
        path = config.workspace / "runs" / config.name / name
        describe(content, path)
        write_splits(content.splits, path / SPLITS)
        made_from = {slide_id: outcome.made_from for slide_id, outcome in content.outcomes.items()}
        TrainingCases.of(content.usable, made_from, content.splits).write(path)
        return cls(path)

    def of_fold(self, seed: int, fold: int) -> Path:
        """Where a fold of a seed leaves its model and predictions."""
        return self.path / f"seed_{seed}" / f"fold_{fold}"

    def take_over(self, jobs: Sequence[FoldJob], content: RunContent) -> int:
        """Take what runs with the same training, and another evaluation, have of the folds; gives their number."""
        training = self.path.name.partition("-")[0]
        others = sorted(path for path in self.path.parent.glob(f"{training}-*") if path != self.path)
        found = {}
        for job in jobs:
            if not job.trained:
                folders = {other / job.folder.relative_to(self.path): other for other in others}
                if (giver := job.take_over(list(folders))) is not None:
                    found[job.folder] = folders[giver]
        if found:
            earlier_runs = sorted(set(found.values()))
            record_versions(self.path, content.session.registry, content.recorded_plugins, earlier_runs)
        return len(found)

    def log(self, event: Event) -> None:
        """Add a line to ``events.jsonl``."""
        append_event(self.path / EVENTS, event)


def describe(content: RunContent, path: Path) -> None:
    """Write into ``path`` what says what is run, and on whom."""
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
        raise MilsurvError(f"{path}: there is no such folder; name that of a run, WORKSPACE/runs/NAME")
    inside = sorted(folder.parent for folder in path.glob(f"*/{METRICS}"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise MilsurvError(f"{path}: several runs are finished here; name one of {_told_apart(inside)}")
    raise MilsurvError(
        f"{path}: no finished run is here (no {METRICS}); run its milsurv command again to finish it"
    )


def _told_apart(folders: Sequence[Path]) -> str:
    """Runs with the settings in which they differ."""
    settings = [_flat_settings(folder / CONFIG) for folder in folders]
    keys = sorted({key for one in settings for key in one})
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1]
    told = []
    for folder, one in zip(folders, settings, strict=True):
        values = [f"{key}={json.dumps(one.get(key))}" for key in differing]
        told.append(f"{folder.name} ({', '.join(values[:SHOWN_SETTINGS])})" if values else folder.name)
    return ", ".join(told)


def _flat_settings(path: Path) -> dict[str, Any]:
    """``section.key`` -> value; nothing when the file is damaged or not there."""
    try:
        sections = construct_yaml(compose_yaml(read_checked(path)))
        flat = {}
        for name, section in sections.items():
            for key, value in section.items() if isinstance(section, dict) else [("", section)]:
                flat[f"{name}.{key}".rstrip(".")] = value
    except (MilsurvError, AttributeError):
        return {}
    return flat
