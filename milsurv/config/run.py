"""The run configuration: what a YAML file may say. Reading one from a file is in ``milsurv.config.loading``.

Paths are relative to the folder in which the command runs.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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
from milsurv.config.section import AbsolutePath, Section
from milsurv.config.training import Executor, Training
from milsurv.plugin.base import PluginSection

T = TypeVar("T")


def _distinct(values: tuple[T, ...], what: str) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"each {what} must stand once")
    return values


class Splits(Section):
    """Who trains, who chooses the epoch, who is reported."""

    scheme: Literal["k_fold", "monte_carlo"] = "k_fold"
    """Each case is reported in one fold, or each fold draws its reported cases anew."""
    folds: int = Field(default=5, ge=2, le=1000)
    repeats: int = Field(default=1, ge=1, le=1000)
    """How often ``k_fold`` is drawn; folds are numbered on."""
    test: float | None = Field(default=None, gt=0, le=0.5)
    """Share of the cases that ``monte_carlo`` reports in each fold; null: a fifth."""
    stratify: Literal["event", "event_and_time"] = "event"
    """What is balanced between folds: events, or events in each quarter of event times."""
    group_by: str | None = None
    """Cases that stay together: ``site`` keeps those of a TCGA tissue source site on one side of each split; else a
    regular expression with one group that cuts the group out of a case id."""
    seed: NonNegativeInt = 1
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of each fold's training cases held out to choose the epoch, stratified alike."""
    files: AbsolutePath | None = None
    """A table of ``case_id, fold[, role]``, or a folder of ``splits_<k>.csv`` with columns ``train`` and ``val``."""

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
            raise ValueError(f"splits.files brings its own folds; remove {', '.join(asked)}, or the files")
        if self.scheme == "monte_carlo" and self.repeats != 1:
            raise ValueError("splits.scheme: monte_carlo draws as often as splits.folds says; remove repeats")
        if self.scheme == "k_fold" and self.test is not None:
            raise ValueError(
                "splits.test is for scheme: monte_carlo; k_fold reports each case once; remove it"
            )
        return self

    @property
    def count(self) -> int:
        """Folds that are drawn."""
        return self.folds * self.repeats


class Tiling(Section):
    """The aligned grid of patches."""

    magnifications: tuple[PositiveInt, ...] = (20, 10, 5)
    patch_px: int = Field(default=256, ge=16, le=8192)
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    """A patch of the finest magnification is kept when at least this share of it is tissue."""
    min_sharpness: PositiveFloat | None = None
    """Leave out patches of the finest magnification whose Laplacian varies less: what is in focus depends on
    scanner and stain, so look at a few first. The next two leave out those with more white or black pixels."""
    max_white: float | None = Field(default=None, ge=0, lt=1)
    max_black: float | None = Field(default=None, ge=0, lt=1)
    resolution_tolerance: float = Field(default=0.05, ge=0, lt=0.5)
    """Within this of an integer fraction of the slide's resolution, the integer is taken instead of resampling."""

    @field_validator("magnifications")
    @classmethod
    def _nested(cls, magnifications: tuple[int, ...]) -> tuple[int, ...]:
        ordered = tuple(sorted(magnifications, reverse=True))
        if not ordered or len(set(ordered)) != len(ordered):
            raise ValueError("give at least one magnification, each once")
        for finer, coarser in pairwise(ordered):
            if finer % coarser:
                raise ValueError(
                    f"each magnification must divide the next finer one; {coarser} does not divide {finer}"
                )
        return ordered


class Extraction(Section):
    """How features are computed; nothing here changes them beyond rounding."""

    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Patches of all magnifications and slides in hand that go through the backbone together; halved when the
    device's memory does not hold them. auto: 32 on a CPU, 256 on a GPU."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type in which the backbone computes; auto: the narrowest that the backbone allows and the device is fast in."""
    compile: bool = False
    """Compile the backbone with torch.compile: a minute more at the start, faster afterwards on a GPU."""
    decoding_threads: PositiveInt | Literal["auto"] = "auto"
    """Threads that read each slide; auto: one on a CPU, where each core has a worker, all cores beside a GPU."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type in which features are stored."""


def _folder_or_folders(value: Any) -> Any:
    """One folder, or a folder for each magnification."""
    if isinstance(value, str | Path):
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError("must be a folder, or a folder for each magnification, such as {20: a, 10: b}")
    if not all(isinstance(folder, str | Path) for folder in value.values()):
        raise ValueError("each magnification must have a folder, such as {20: a, 10: b}")
    if not all(re.fullmatch(r"[1-9]\d*x?", str(magnification)) for magnification in value):
        raise ValueError("the keys must be magnifications, such as {20: a, 10: b}")
    return {int(str(magnification).removesuffix("x")): folder for magnification, folder in value.items()}


class FeatureImport(Section):
    """Features that were made elsewhere, in place of slides and a backbone."""

    folders: Annotated[
        AbsolutePath | dict[int, AbsolutePath], BeforeValidator(_folder_or_folders), Field(alias="import")
    ]
    """The layout's folder; with ``clam`` and ``stamp`` also one for each magnification."""
    layout: Literal["trident", "clam", "authors", "stamp"]
    encoder: str | None = None
    """Whose features are taken, where TRIDENT's folder holds those of several encoders."""

    @property
    def place(self) -> str:
        """The folder or folders in a few words."""
        if isinstance(self.folders, Path):
            return str(self.folders)
        return ", ".join(f"{folder} at {magnification}x" for magnification, folder in self.folders.items())


class Evaluation(Section):
    """What is measured."""

    times: tuple[PositiveFloat, ...] | None = None
    """Times of AUC and survival probabilities; by default the quartiles of the cohort's event times."""
    bootstraps: int = Field(default=1000, ge=0)
    seed: NonNegativeInt = 1
    truncation: PositiveFloat | None = None
    """Time before which Uno's C counts events; by default the 80th percentile of each fold's training event times."""
    subgroups: tuple[str, ...] = ()
    """Columns of the cohort table: the metrics are also given for the cases of each of their values."""
    clinical: tuple[str, ...] = ()
    """Columns of the cohort table whose Cox model is set beside the image risk, and joined with it."""

    @field_validator("subgroups", "clinical")
    @classmethod
    def _each_once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct(columns, "column")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table that are asked for, each once."""
        return tuple(dict.fromkeys(self.subgroups + self.clinical))


class RunConfig(Section):
    """A whole run, from slides to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    workspace: AbsolutePath = Field(default=Path("milsurv-workspace"), validate_default=True)
    plugins: tuple[AbsolutePath, ...] = ()
    device: str = "auto"
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        default=(1,), min_length=1, max_length=1000
    )
    max_failed_slides: NonNegativeInt | None = None
    """Exit status 1 when more slides than this are left out; null: any number."""
    features: FeatureImport | None = None
    cohort: Cohort
    splits: Splits = Splits()
    reader: PluginSection = PluginSection(name="jpeg_tiles")
    tissue: PluginSection = PluginSection(name="otsu")
    tiling: Tiling = Tiling()
    backbone: PluginSection | None = Field(default=None, validate_default=True)
    extraction: Extraction = Extraction()
    aggregator: PluginSection = PluginSection(name="crossfusion")
    loss: PluginSection = PluginSection(name="nll")
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    executor: Executor = Executor()

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d{0,2}))?", device, re.ASCII):
            raise ValueError("must be auto, cpu, cuda, or one GPU such as cuda:1")
        return device

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _distinct(seeds, "seed")

    @property
    def extracting_backbone(self) -> PluginSection:
        """The backbone of a run that extracts its features; there is none when they are imported."""
        if self.backbone is None:
            raise TypeError("features are imported, so there is no backbone")
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
                    "a synthetic cohort has slides of its own; give a table with features.import"
                )
        elif imported and cohort.slides is not None:
            raise PydanticCustomError(
                "slides", "no slide is read when features are imported; remove this key"
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
                "backbone", "features.import brings features that are made already; remove one of the two"
            )
        if not imported and backbone is None:
            raise PydanticCustomError(
                "backbone", "this key is missing; or give features.import, to take features made elsewhere"
            )
        return backbone
