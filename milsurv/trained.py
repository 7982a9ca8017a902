"""A finished run, or the folder that was exported of one, as a model to be used on other slides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from milsurv._version import __version__
from milsurv.cohort.cases import SlideRef
from milsurv.cohort.ids import IdError, cut_id, cut_slide_id
from milsurv.config import RunConfig, TableCohort
from milsurv.errors import ConfigError, MilsurvError, PluginError, first_line
from milsurv.features.extract import ExtractedSlide
from milsurv.loading import load_config
from milsurv.plugin.registry import LOCAL, Registry, get_registry
from milsurv.run_folder import FEATURES, FeatureSettings, find_run, kinds
from milsurv.training.job import MODEL
from milsurv.training_cases import FOLLOW_UP, SLIDES, Acquaintance, TrainingCases

NEEDED = ("config.yaml", "plugins.json", "environment.json", "cohort.json", FEATURES, SLIDES, FOLLOW_UP)
ROUNDING_ALONE = ("precision", "dtype")
"""Settings of the features that may differ from training's: they change no more than rounding."""


@dataclass(frozen=True)
class FoldModel:
    """The model of one fold under one seed."""

    seed: int
    fold: int
    file: Path


@dataclass(frozen=True)
class TrainedModel:
    """The models of all folds and seeds, and what must be known to use them."""

    folder: Path
    config: RunConfig
    """Training's, with the plugin files and overrides of whoever uses it now."""
    registry: Registry

    @property
    def name(self) -> str:
        """The run's name with its fingerprint, or the export's folder."""
        parts = self.folder.absolute().parts
        return "/".join(parts[-2:]) if parts[-2] == self.config.name else parts[-1]

    @cached_property
    def models(self) -> tuple[FoldModel, ...]:
        """By seed and fold."""
        found = [
            FoldModel(
                int(file.parts[-3].removeprefix("seed_")), int(file.parts[-2].removeprefix("fold_")), file
            )
            for file in self.folder.glob(f"seed_*/fold_*/{MODEL}")
        ]
        if not found:
            raise MilsurvError(
                f"{self.folder}: no {MODEL} is in seed_*/fold_*; copy or export the whole run again"
            )
        return tuple(sorted(found, key=lambda model: (model.seed, model.fold)))

    @cached_property
    def cohort(self) -> dict[str, Any]:
        """``cohort.json``: the cohort that trained it."""
        summary: dict[str, Any] = _json(self.folder / "cohort.json")
        return summary

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Evaluation times of the run."""
        return tuple(_json(self.folder / "metrics.json")["times"])

    @cached_property
    def training_cases(self) -> TrainingCases:
        """Whom the models learned from."""
        return TrainingCases.read(self.folder)

    def slide(self, path: Path) -> SlideRef:
        """The slide in a file, under the id that training would give it. Raises MilsurvError when it can have none."""
        pattern = self.config.cohort.slide_pattern if isinstance(self.config.cohort, TableCohort) else None
        if not path.exists():
            raise MilsurvError(f"{path}: there is no such slide file")
        try:
            return SlideRef(cut_slide_id(path.name, pattern), path)
        except IdError as error:
            raise MilsurvError(f"{path}: {error}; rename the file") from error

    def acquaintance(
        self, slide: SlideRef, outcome: ExtractedSlide, case_id: str | None = None
    ) -> Acquaintance:
        """Which folds' models may judge a slide; its case is cut out of its file's name where training did so."""
        pattern = self.config.cohort.case_pattern if isinstance(self.config.cohort, TableCohort) else None
        if case_id is None and pattern is not None and slide.path is not None:
            try:
                case_id = cut_id(slide.path.name, pattern, "case_pattern")
            except IdError:
                case_id = None
        folds = sorted({model.fold for model in self.models})
        return self.training_cases.acquaintance(slide.slide_id, outcome.made_from, case_id, folds)

    def require_same_features(self, settings: FeatureSettings) -> None:
        """Raise MilsurvError naming what makes features differ from those that the models were trained on."""
        trained = _flat(_json(self.folder / FEATURES))
        here = _flat(json.loads(json.dumps(settings.content)))
        differing = [
            f"{key.replace('.', ' ')} was {trained.get(key)} and is {here.get(key)}"
            for key in sorted({*trained, *here})
            if trained.get(key) != here.get(key) and key not in ROUNDING_ALONE
        ]
        if differing:
            raise MilsurvError(
                f"{self.folder}: the models were trained on other features than these would be: "
                f"{'; '.join(differing)}; give back what training had, or train anew"
            )


def load_trained(
    path: Path, overrides: Sequence[str] = (), plugin_files: Sequence[Path] = ()
) -> TrainedModel:
    """The model in the folder of a finished run, or of an export.

    No code comes with it: of plugin files those alone are loaded that are given. Raises MilsurvError when the run is
    not finished, was made by a milsurv that kept less, or needs a plugin that is not here or is another one.
    """
    folder = find_run(path)
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if lacking:
        raise MilsurvError(
            f"{folder}: {', '.join(lacking)} is missing: an older milsurv made this run, or a part of it was copied; "
            "run its milsurv command again (what is trained is kept), or copy the whole folder"
        )
    try:
        _require_plugins(folder, plugin_files)
        config, registry = load_config(str(folder / "config.yaml"), [*overrides, "plugins=[]"], plugin_files)
    except (ConfigError, ValidationError) as error:
        made_by = _json(folder / "environment.json")["milsurv"]
        if made_by == __version__:
            raise
        raise MilsurvError(
            f"{folder}: made by milsurv {made_by}, and this is {__version__}, which does not read its configuration "
            f"({first_line(error)}); pip install milsurv=={made_by}"
        ) from error
    return TrainedModel(folder, config, registry)


def _require_plugins(folder: Path, plugin_files: Sequence[Path]) -> None:
    registry = get_registry(tuple(dict.fromkeys(file.expanduser().absolute() for file in plugin_files)))
    broken = [info for info in registry.plugins if info.version == LOCAL and info.status != "ok"]
    if broken:
        raise MilsurvError(f"plugin file {broken[0].distribution} is broken: {broken[0].reason}")
    config = RunConfig.model_validate(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    recorded = {row["kind"]: row for row in _json(folder / "plugins.json")}
    for kind in kinds(config):
        trained = recorded[kind]
        name = f"{kind} '{trained['name']}'"
        local = trained["version"] == LOCAL
        file = Path(trained["distribution"]).name
        try:
            origin = registry.origin(kind, trained["name"])
        except PluginError as error:
            if local:
                raise MilsurvError(
                    f"{folder}: {name} came from the local file {file}, and a model brings no code; name the file with "
                    "--plugin FILE"
                ) from error
            raise MilsurvError(
                f"{folder}: {name} of {trained['distribution']} {trained['version']} is not here ({error}); install "
                "it with pip"
            ) from error
        if origin != trained["origin"]:
            source = f"the local file {file}" if local else f"{trained['distribution']} {trained['version']}"
            raise MilsurvError(
                f"{folder}: {name} was trained as {source} has it, and is {registry.describe(kind, trained['name'])} "
                "with other content here; use the same version"
            )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``section.key``; plugins' sources are left out, they are compared as plugins are."""
    return dict(_pairs({key: value for key, value in content.items() if key != "origins"}, prefix))


def _pairs(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
