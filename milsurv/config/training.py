"""The ``training`` section: settings of the training loop."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from milsurv.config.section import Section

RECIPES: dict[str, dict[str, Any]] = {
    "small_cohort": {
        "epochs": 25,
        "batch_cases": 16,
        "optimizer": "adamw",
        "learning_rate": 3e-4,
        "weight_decay": 1e-2,
        "schedule": "one_cycle",
        "selection": "last_epoch",
        "standardize": True,
        "linear_path": True,
    }
}
"""Values of the keys that are not given, by recipe."""


class Training(Section):
    """The training loop."""

    recipe: Literal["small_cohort"] | None = None
    """Values for the keys that are not given. ``small_cohort``, for some hundred cases: a linear path, standardised
    features, AdamW with a gentle one-cycle schedule of 25 epochs, the last epoch. null: the defaults of the keys."""
    epochs: int = Field(default=30, ge=1, le=1_000_000)
    """Number of epochs."""
    batch_cases: PositiveInt = 64
    """Cases per optimizer step; gradients are accumulated bag by bag."""
    rows: Literal["case", "slide"] = "case"
    """Rows of the loss: cases, with the mean output of their bags, or slides, as in the released CrossFusion code (not
    with a loss that couples cases). Metrics are always computed per case."""
    bag: Literal["slide", "case"] = "slide"
    """One bag per slide, or one bag with the patches of all slides of a case, without a grid."""
    max_patches: PositiveInt | None = None
    """Maximum number of patches of the finest magnification in a training bag, sampled in each epoch together with the
    coarser patches around them; null: all. Predictions use all patches."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """``balanced`` samples the cases of an epoch with replacement, by the inverse frequency of their event and quartile
    of event times (not with a loss that couples cases)."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """``torch.optim.Adam`` or ``AdamW``."""
    learning_rate: PositiveFloat = 1e-4
    """Maximum learning rate."""
    weight_decay: NonNegativeFloat = 1e-5
    """Weight decay of the optimizer."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    """Learning rate schedule."""
    cosine_period: PositiveInt | None = None
    """Epochs in which ``cosine`` decreases to 0, before it increases again over as many; null: the whole training."""
    warmup: float = Field(default=0, ge=0, lt=1)
    """Fraction of the training in which the learning rate increases linearly from 0 (not with ``one_cycle``)."""
    clip_norm: PositiveFloat | None = None
    """Maximum gradient norm; larger gradients are scaled down. null: no clipping."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model (autocast); float16 uses loss scaling."""
    compile: bool = False
    """Compile the model with ``torch.compile``: takes minutes, then runs faster on a GPU."""
    deterministic: bool = False
    """Bitwise reproducible training on a GPU, at some cost of speed; on a CPU it always is."""

    selection: Literal["inner_validation", "last_epoch", "reported_fold", "both"] = "inner_validation"
    """Epoch whose model is used: the best one on inner validation cases, or the last. ``reported_fold`` selects the
    best one on the test cases, as many papers do; its results are marked "optimistic". ``both`` selects two epochs of
    one training, one by inner validation and one by the test cases."""
    select_by: Literal["loss", "c_index"] = "loss"
    """Selection criterion: lowest loss or highest C-index; of equal epochs the earlier."""
    select_after: NonNegativeInt = 0
    """Number of epochs at the start that cannot be selected."""
    patience: PositiveInt | None = None
    """Stop after this many epochs without improvement; null: never."""
    refit: bool = False
    """After selection by inner validation, train a new model on all training cases up to the selected epoch."""
    recalibrate: bool = True
    """Recalibrate predicted survival by a proportional-hazards model of the risk, fitted to inner validation cases.
    Without them, a fold is trained again without each third of its training cases: three times as long in all."""
    standardize: bool = False
    """Standardise features by mean and standard deviation of the training patches, per magnification."""
    output_offset: bool = True
    """Add the best constant output for the training cases, by the loss, to the output of the aggregator: training
    starts from the survival of the whole cohort instead of learning it first."""
    linear_path: bool = False
    """Add a linear model of mean features, fitted before training as by aggregator ``mean_cox``, to the output of the
    aggregator, which then learns what the linear model leaves."""

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, given: Any) -> Any:
        recipe = given.get("recipe") if isinstance(given, dict) else None
        return {**RECIPES[recipe], **given} if isinstance(recipe, str) and recipe in RECIPES else given

    @field_validator("warmup")
    @classmethod
    def _one_rise(cls, warmup: float, info: ValidationInfo) -> float:
        if warmup and info.data.get("schedule") == "one_cycle":
            raise ValueError("one_cycle has its own warmup; remove warmup, or use another schedule")
        return warmup

    @field_validator("cosine_period")
    @classmethod
    def _period_of_cosine(cls, period: int | None, info: ValidationInfo) -> int | None:
        if period is not None and info.data.get("schedule") not in ("cosine", None):
            raise ValueError("applies only to schedule: cosine; remove it, or use that schedule")
        return period

    @field_validator("bag")
    @classmethod
    def _bag_of_row(cls, bag: str, info: ValidationInfo) -> str:
        if bag == "case" and info.data.get("rows") == "slide":
            raise ValueError("bag: case needs rows: case")
        return bag

    @field_validator("select_after")
    @classmethod
    def _something_to_select(cls, epochs: int, info: ValidationInfo) -> int:
        if epochs and epochs >= info.data.get("epochs", epochs + 1):
            raise ValueError("no epoch could be selected; it must be less than training.epochs")
        return epochs

    @field_validator("refit")
    @classmethod
    def _refit_of_choice(cls, refit: bool, info: ValidationInfo) -> bool:
        if refit and info.data.get("selection") not in ("inner_validation", None):
            raise ValueError("needs selection: inner_validation")
        return refit
