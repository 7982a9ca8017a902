"""What a YAML file may say of the training and of where it runs."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from milsurv.config.section import Section


class Training(Section):
    """The training loop."""

    epochs: int = Field(default=30, ge=1, le=1_000_000)
    """Number of epochs."""
    batch_cases: PositiveInt = 64
    """Cases per optimiser step; gradients are accumulated bag by bag."""
    rows: Literal["case", "slide"] = "case"
    """What a row of the loss is: a case, with the mean of its bags' outputs, or each slide by itself as in the
    released CrossFusion code; not with a loss that couples cases. What is reported is always the case."""
    bag: Literal["slide", "case"] = "slide"
    """``case`` puts the patches of all slides of a case into one bag, without a grid."""
    max_patches: PositiveInt | None = None
    """Patches of the finest magnification that a bag has at most in training: drawn anew in each epoch, with the
    coarser patches around them. Cases are predicted from all of their patches."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """``balanced`` draws each epoch's cases with replacement, by the inverse frequency of their quarter of event
    times and event; not with a loss that couples cases."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """``torch.optim.Adam`` or ``AdamW``."""
    learning_rate: PositiveFloat = 1e-4
    """Maximum learning rate."""
    weight_decay: NonNegativeFloat = 1e-5
    """Weight decay of the optimizer."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    """Learning rate schedule."""
    cosine_period: PositiveInt | None = None
    """Epochs in which ``cosine`` falls to 0, to rise again in as many; null: it falls over the whole training."""
    warmup: float = Field(default=0, ge=0, lt=1)
    """Share of the training over which the rate first rises linearly from 0; ``one_cycle`` has a rise of its own."""
    clip_norm: PositiveFloat | None = None
    """Norm to which a step's gradient is scaled down when it is larger."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the model computes where that is safe (autocast); float16 scales the loss."""
    compile: bool = False
    """Compile the model with torch.compile: minutes more at the start, faster afterwards on a GPU."""
    deterministic: bool = False
    """The same bytes every time on a GPU too, where it costs some speed; on a CPU they are so anyway."""

    selection: Literal["inner_validation", "last_epoch", "reported_fold", "both"] = "inner_validation"
    """Which epoch is kept: the one that is best on inner validation cases, or the last. ``reported_fold`` lets the
    cases choose that are reported, as many papers do: everything made with it says "optimistic". ``both`` keeps two
    epochs of one training, one chosen by inner validation and one by the reported cases."""
    select_by: Literal["loss", "c_index"] = "loss"
    """What is best on the cases that choose: the lowest loss, or the highest C-index; the earlier of equals."""
    select_after: NonNegativeInt = 0
    """Epochs at the start that cannot be chosen."""
    patience: PositiveInt | None = None
    """Stop when no better epoch has come for so many epochs."""
    refit: bool = False
    """Once the epoch is chosen by inner validation, train anew on all training cases up to that epoch."""
    standardize: bool = False
    """Standardise features by mean and deviation over training patches, by magnification."""

    @field_validator("warmup")
    @classmethod
    def _one_rise(cls, warmup: float, info: ValidationInfo) -> float:
        if warmup and info.data.get("schedule") == "one_cycle":
            raise ValueError("one_cycle has a rise of its own; leave warmup out, or take another schedule")
        return warmup

    @field_validator("cosine_period")
    @classmethod
    def _period_of_cosine(cls, period: int | None, info: ValidationInfo) -> int | None:
        if period is not None and info.data.get("schedule") not in ("cosine", None):
            raise ValueError("only schedule: cosine has a period; leave it out, or take that schedule")
        return period

    @field_validator("bag")
    @classmethod
    def _bag_of_row(cls, bag: str, info: ValidationInfo) -> str:
        if bag == "case" and info.data.get("rows") == "slide":
            raise ValueError("a bag of all slides of a case makes one row of it; set rows to case")
        return bag

    @field_validator("select_after")
    @classmethod
    def _something_to_select(cls, epochs: int, info: ValidationInfo) -> int:
        if epochs and epochs >= info.data.get("epochs", epochs + 1):
            raise ValueError("no epoch could be chosen; it must be less than training.epochs")
        return epochs

    @field_validator("refit")
    @classmethod
    def _refit_of_choice(cls, refit: bool, info: ValidationInfo) -> bool:
        if refit and info.data.get("selection") not in ("inner_validation", None):
            raise ValueError("only with selection: inner_validation are there cases to train on once more")
        return refit


class Executor(Section):
    """Where units of work run, and what they keep at hand; of all this only ``threads`` changes a number."""

    workers: PositiveInt | Literal["auto"] = "auto"
    """Processes side by side, in turn on each GPU; auto: one per core, at most 8 (one per GPU on GPUs)."""
    threads: PositiveInt = 1
    """Threads of each unit of work; sums differ between counts, so it is part of a run's fingerprint."""
    cache: Literal["auto", "device", "host", "none"] = "auto"
    """Where a worker keeps the bags that it has read: on the GPU, or in the host's memory; what is not kept is read
    ahead each time. auto: on the GPU if all bags fit, else on the host."""
    cache_gb: PositiveFloat | None = None
    """Most that all workers keep together on the host, or on one GPU, in 10⁹ bytes; null: half of what there is."""
