"""The schema of a run configuration. ``milsurv.config.loading`` reads one from a YAML file.

Paths are relative to the current folder.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from milsurv.config.cohort import Cohort, SyntheticCohort, TableCohort, with_one_group
from milsurv.config.section import AbsolutePath, Distinct, Section
from milsurv.config.training import Training
from milsurv.plugin.base import PluginSection


class Splits(Section):
    """Training, inner validation and test cases of each fold."""

    scheme: Literal["k_fold", "monte_carlo"] = "k_fold"
    """``k_fold``: each case is a test case in exactly one fold. ``monte_carlo``: each fold draws its own test cases."""
    folds: int = Field(default=5, ge=2, le=1000)
    """Number of folds, or of random splits."""
    repeats: int = Field(default=1, ge=1, le=1000)
    """Repetitions of ``k_fold``, each with a new partition; folds are numbered consecutively."""
    test: float | None = Field(default=None, gt=0, le=0.5)
    """Fraction of test cases in each ``monte_carlo`` split; null means 0.2."""
    stratify: Literal["event", "event_and_time"] = "event"
    """Balance the event rate between folds, or the event rate within quartiles of the event times."""
    group_by: str | None = None
    """Keep groups of cases on one side of every split. ``site``: TCGA tissue source site; otherwise a regular
    expression with one group that extracts the group from a case id."""
    seed: NonNegativeInt = 1
    """Seed of the splits."""
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    """Fraction of each fold's training cases that is held out for inner validation (epoch selection), stratified."""
    files: AbsolutePath | None = None
    """Predefined splits: a table ``case_id, fold[, role]``, or a folder of ``splits_<k>.csv`` with columns ``train``
    and ``val`` (``val`` are the test cases)."""

    @field_validator("group_by")
    @classmethod
    def _site_or_pattern(cls, group_by: str | None) -> str | None:
        return group_by if group_by in (None, "site") else with_one_group(group_by)

    @model_validator(mode="after")
    def _no_contradiction(self) -> Splits:
        drawn = {
            "scheme": self.scheme != "k_fold",
            "repeats": self.repeats != 1,
            "test": self.test is not None,
        }
        asked = [key for key, differs in drawn.items() if differs]
        if self.files is not None and asked:
            raise ValueError(f"splits.files defines the folds; remove either {', '.join(asked)} or files")
        if self.scheme == "monte_carlo" and self.repeats != 1:
            raise ValueError("with scheme: monte_carlo the number of splits is splits.folds; remove repeats")
        if self.scheme == "k_fold" and self.test is not None:
            raise ValueError(
                "test applies only to scheme: monte_carlo; with k_fold each case is a test case once; remove it"
            )
        return self

    @property
    def count(self) -> int:
        """Number of folds drawn."""
        return self.folds * self.repeats


class Tiling(Section):
    """The aligned grids of patches."""

    magnifications: tuple[PositiveInt, ...] = (20, 10, 5)
    """Magnifications, 20 meaning 0.5 µm per pixel (10 / magnification). Each must divide the next finer one."""
    patch_px: int = Field(default=256, ge=16, le=8192)
    """Side length of a patch in pixels at its magnification."""
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    """Minimum tissue fraction of a patch of the finest magnification."""
    min_sharpness: PositiveFloat | None = None
    """Minimum variance of the Laplacian of a patch of the finest magnification. Suitable values depend on scanner and
    stain, so check a few patches first."""
    max_white: float | None = Field(default=None, ge=0, lt=1)
    """Maximum fraction of white pixels in a patch of the finest magnification."""
    max_black: float | None = Field(default=None, ge=0, lt=1)
    """Maximum fraction of black pixels in a patch of the finest magnification."""
    resolution_tolerance: float = Field(default=0.05, ge=0, lt=0.5)
    """Relative tolerance for using an integer downsampling factor instead of exact resampling."""

    @field_validator("magnifications")
    @classmethod
    def _nested(cls, magnifications: tuple[int, ...]) -> tuple[int, ...]:
        ordered = tuple(sorted(magnifications, reverse=True))
        if not ordered or len(set(ordered)) != len(ordered):
            raise ValueError("give at least one magnification, each once")
        for finer, coarser in pairwise(ordered):
            if finer % coarser:
                raise ValueError(
                    f"each magnification must divide the next finer one, but {coarser} does not divide {finer}"
                )
        return ordered


class Extraction(Section):
    """How features are computed. These settings change features by rounding only."""

    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Patches per forward pass of the backbone; halved when the device runs out of memory. auto: 32 on a CPU, 256 on a
    GPU."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the backbone. auto: the narrowest type that the backbone allows and the device is fast in."""
    compile: bool = False
    """Compile the backbone with ``torch.compile``: takes about a minute, then runs faster on a GPU."""
    decoding_threads: PositiveInt | Literal["auto"] = "auto"
    """Threads that read patches of one slide. auto: 1 on a CPU (there is one worker per core), all cores with a GPU."""
    dtype: Literal["float16", "float32"] = "float16"
    """Data type of the stored features."""


def _folder_or_folders(value: Any) -> Any:
    """Validate one folder, or a mapping of magnification to folder."""
    if isinstance(value, str | Path):
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError("must be a folder, or one folder per magnification, such as {20: a, 10: b}")
    if not all(isinstance(folder, str | Path) for folder in value.values()):
        raise ValueError("must have one folder per magnification, such as {20: a, 10: b}")
    if not all(re.fullmatch(r"[1-9]\d*x?", str(magnification)) for magnification in value):
        raise ValueError("keys must be magnifications, such as {20: a, 10: b}")
    return {int(str(magnification).removesuffix("x")): folder for magnification, folder in value.items()}


class FeatureImport(Section):
    """Features extracted by another tool, instead of slides and a backbone."""

    folders: Annotated[
        AbsolutePath | dict[int, AbsolutePath], BeforeValidator(_folder_or_folders), Field(alias="import")
    ]
    """Folder with the features. With ``clam`` and ``stamp`` also one folder per magnification: ``{20: a, 10: b}``."""
    layout: str
    """Tool whose file layout the folder has; ``authors`` is the CrossFusion authors' code."""
    encoder: str | None = None
    """Encoder to use, if a TRIDENT folder has features of several encoders."""

    @property
    def place(self) -> str:
        """The folder or folders, for display."""
        if isinstance(self.folders, Path):
            return str(self.folders)
        return ", ".join(f"{folder} at {magnification}x" for magnification, folder in self.folders.items())


class Evaluation(Section):
    """Metrics and their confidence intervals. Changes here do not retrain models."""

    times: tuple[PositiveFloat, ...] | None = None
    """Times at which AUC and survival probabilities are computed; by default the quartiles of the cohort's event
    times."""
    bootstraps: int = Field(default=1000, ge=0)
    """Bootstrap resamples for confidence intervals; 0 computes none."""
    seed: NonNegativeInt = 1
    """Seed of the bootstrap."""
    truncation: PositiveFloat | None = None
    """Truncation time of Uno's C; by default the 80th percentile of the event times of each fold's training cases."""
    subgroups: Distinct[str] = ()
    """Columns of the cohort table; metrics are also computed for the cases of each of their values."""
    clinical: Distinct[str] = ()
    """Clinical columns of the cohort table; a Cox model of them is compared and combined with the image risk."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the cohort table used for evaluation, without duplicates."""
        return tuple(dict.fromkeys(self.subgroups + self.clinical))


class ExecutorSection(PluginSection):
    """Where units of work run; without a name, on this machine."""

    name: str = "local"


def plugin_name(kind: str, section: dict[str, Any]) -> Any:
    """The plugin that a section of the file names; only ``executor`` has a default."""
    return section.get("name", ExecutorSection().name if kind == "executor" else None)


class RunConfig(Section):
    """A run, from slides to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and its folder; by default the name of the YAML file."""
    workspace: AbsolutePath = Field(default=Path("milsurv-workspace"), validate_default=True)
    """Folder for features and runs."""
    plugins: tuple[AbsolutePath, ...] = ()
    """Python files that register plugins."""
    device: str = "auto"
    """``auto`` (all GPUs, else the CPU), ``cpu``, ``cuda`` (all GPUs) or one GPU such as ``cuda:1``."""
    seeds: Distinct[Annotated[int, Field(ge=0, lt=2**32)]] = Field((1,), min_length=1, max_length=1000)
    """Training seeds; every fold is trained once with each."""
    max_failed_slides: NonNegativeInt | None = None
    """Exit with status 1 if more slides than this are excluded; null: no limit."""
    features: FeatureImport | None = None
    """Import features extracted by another tool."""
    cohort: Cohort
    """Cases, follow-up and slides."""
    splits: Splits = Splits()
    """Cross-validation splits."""
    reader: PluginSection = PluginSection(name="jpeg_tiles")
    """Slide reader."""
    tissue: PluginSection = PluginSection(name="otsu")
    """Tissue segmentation."""
    tiling: Tiling = Tiling()
    """Patch grids."""
    backbone: PluginSection | None = Field(default=None, validate_default=True)
    """Backbone that extracts patch features; required unless features are imported."""
    extraction: Extraction = Extraction()
    """Feature extraction."""
    aggregator: PluginSection = PluginSection(name="crossfusion")
    """Model that aggregates the patch features of a slide."""
    loss: PluginSection = PluginSection(name="nll")
    """Survival loss."""
    training: Training = Training()
    """Training loop."""
    baselines: Distinct[Literal["mean_features", "clinical"]] = ("mean_features", "clinical")
    """Simple models that are fitted on the same folds and compared with the model: a Cox model of the principal
    components of mean-pooled features, and a Cox model of evaluation.clinical, if given. []: none."""
    evaluation: Evaluation = Evaluation()
    """Metrics and confidence intervals."""
    executor: ExecutorSection = ExecutorSection()
    """Where and how units of work run."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d{0,2}))?", device, re.ASCII):
            raise ValueError("must be auto, cpu, cuda or one GPU such as cuda:1")
        return device

    @property
    def reads_slides(self) -> bool:
        """Whether features are computed from slides; otherwise they are imported."""
        return self.features is None

    @property
    def has_pictures(self) -> bool:
        """Whether slides are pictures that maps can be drawn on; those of a synthetic scenario are not."""
        scenario = isinstance(self.cohort, SyntheticCohort) and self.cohort.scenario is not None
        return self.reads_slides and not scenario

    @property
    def extracting_backbone(self) -> PluginSection:
        """The backbone. Raises TypeError if features are imported."""
        if self.backbone is None:
            raise TypeError("a run that imports features has no backbone")
        return self.backbone

    @field_validator("cohort")
    @classmethod
    def _slides_or_features(cls, cohort: TableCohort | SyntheticCohort, info: ValidationInfo) -> Any:
        if "features" not in info.data:
            return cohort
        imported = info.data["features"] is not None
        if isinstance(cohort, SyntheticCohort):
            if imported:
                raise ValueError(
                    "features.import requires a cohort table; a synthetic cohort has its own slides"
                )
        elif imported and cohort.slides is not None:
            raise PydanticCustomError(
                "slides", "slides are not read if features are imported; remove this key"
            )
        elif not imported and cohort.slides is None:
            raise PydanticCustomError("slides", "this key is missing")
        return cohort

    @field_validator("backbone")
    @classmethod
    def _backbone_or_features(
        cls, backbone: PluginSection | None, info: ValidationInfo
    ) -> PluginSection | None:
        if "features" not in info.data:
            return backbone
        imported = info.data["features"] is not None
        if imported and backbone is not None:
            raise PydanticCustomError(
                "backbone", "features.import replaces the backbone; remove one of the two"
            )
        if not imported and backbone is None:
            raise PydanticCustomError(
                "backbone",
                "this key is missing; give a backbone, or features.import to use existing features",
            )
        return backbone
