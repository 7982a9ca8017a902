"""The contract of a survival loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from milsurv.plugin.base import PluginConfig

RIDGE = 1e-6
"""Weight of the squared size of constant outputs, which keeps them finite."""
STEPS = 500
"""Maximum number of steps of the search for them."""


class Loss(ABC):
    """Defines what a model's outputs mean: loss, risk and survival. Rows are cases.

    ``time`` is in the unit of the cohort; ``event`` is 1 for an observed event, 0 for a censored case; both are
    ``(n,)`` floats. Everything is fitted on training cases, and is part of :meth:`state_dict`.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    couples_cases: ClassVar[bool] = False
    """Whether the loss of a case depends on the other cases of the batch (Cox)."""
    n_outputs: int
    """Size of the model's output; valid after :meth:`fit`."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Checks of ``milsurv.testing`` that this class may fail, each with the reason."""

    @abstractmethod
    def __init__(self, config: PluginConfig):
        """Store the settings; nothing is fitted yet."""

    @abstractmethod
    def fit(self, time: Tensor, event: Tensor) -> None:
        """Fit what is needed before training, such as bin edges, on the training cases."""

    @abstractmethod
    def __call__(self, outputs: Tensor, time: Tensor, event: Tensor) -> Tensor:
        """``outputs (n, n_outputs)`` -> scalar: the mean over cases (Cox: over events)."""

    def constant_outputs(self, time: Tensor, event: Tensor) -> Tensor:
        """The output with the lowest loss if it is the same for all cases, ``(n_outputs,)`` float64; after :meth:`fit`.

        A model that knows nothing but the follow-up of the training cases predicts it, so training can start there
        (``training.output_offset``). Default: found from zeros by L-BFGS, with a ridge of 1e-6 that keeps it finite.
        Zeros where the loss does not depend on a constant (Cox), and if the search fails.
        """
        time, event = time.detach().double().cpu(), event.detach().double().cpu()
        constant = torch.zeros(self.n_outputs, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS(
            [constant],
            max_iter=STEPS,
            tolerance_grad=1e-10,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def penalised() -> Tensor:
            return self(constant.expand(len(time), -1), time, event) + RIDGE / 2 * constant.square().sum()

        def closure() -> Tensor:
            search.zero_grad()
            value = penalised()
            value.backward()
            return value

        with torch.enable_grad():
            at_zeros = penalised().item()
            search.step(closure)
            lower = penalised().item() <= at_zeros
        found = constant.detach()
        return found if lower and bool(found.isfinite().all()) else torch.zeros_like(found)

    @abstractmethod
    def risk(self, outputs: Tensor) -> Tensor:
        """``(n, n_outputs)`` -> ``(n,)``; higher is worse."""

    def fit_baseline(self, outputs: Tensor, time: Tensor, event: Tensor) -> None:  # noqa: B027
        """Fit what :meth:`survival` needs, on the training cases, after training. Default: nothing."""

    @abstractmethod
    def survival(self, outputs: Tensor, times: Tensor) -> Tensor:
        """``(n, n_outputs)``, ``(k,)`` -> ``(n, k)``: probability of surviving beyond each time, non-increasing."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as needed to predict with a saved model."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned."""
