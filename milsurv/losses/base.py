"""The contract of a survival loss: what a model's outputs mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from milsurv.plugin.base import PluginConfig


class Loss(ABC):
    """Reads a model's outputs as survival. Rows are cases.

    ``time`` is in the cohort's unit; ``event`` is 1 for an observed event, 0 for a censored case; both ``(n,)``,
    float. Everything fitted is fitted on training cases and stands in :meth:`state_dict`.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    couples_cases: ClassVar[bool] = False
    """True when a case's loss depends on the other cases of the batch (Cox)."""
    n_outputs: int
    """Width of the model's output; valid after :meth:`fit`."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks of ``milsurv.testing`` that this class may fail, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig):
        """Keep the settings; nothing is fitted yet."""

    @abstractmethod
    def fit(self, time: Tensor, event: Tensor) -> None:
        """Fit what must be known before training (bin edges, …) on the training cases."""

    @abstractmethod
    def __call__(self, outputs: Tensor, time: Tensor, event: Tensor) -> Tensor:
        """``outputs (n, n_outputs)`` -> scalar: the mean over rows (Cox: over events)."""

    @abstractmethod
    def risk(self, outputs: Tensor) -> Tensor:
        """``(n, n_outputs)`` -> ``(n,)``; higher is worse."""

    def fit_baseline(self, outputs: Tensor, time: Tensor, event: Tensor) -> None:  # noqa: B027
        """Fit what survival needs beyond the outputs, on the training cases, after training. Default: nothing."""

    @abstractmethod
    def survival(self, outputs: Tensor, times: Tensor) -> Tensor:
        """``(n, n_outputs)``, ``(k,)`` -> ``(n, k)``: probability to live beyond each time, non-increasing."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, so that a saved model can predict."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state_dict` gave."""
