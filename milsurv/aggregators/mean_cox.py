"""Cox regression on principal components of mean-pooled features: fitted, not trained by gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from milsurv.aggregators.base import Aggregator, LossFunction, choose_magnifications
from milsurv.aggregators.cox_regression import fit_components_cox
from milsurv.features.bag import Bag
from milsurv.plugin.base import PluginConfig

RIDGE = 1e-3
"""Penalty of the squared offsets and slopes of the outputs, per case."""
MAX_STEPS = 200


class MeanCoxConfig(PluginConfig):
    """Settings of Cox regression on mean features."""

    magnification: PositiveInt | Literal["all"] = "all"
    """Magnification of the patches. ``all``: the mean features of all magnifications side by side."""


class MeanCox(Aggregator):
    """A linear map of mean features, fitted by :func:`~milsurv.aggregators.cox_regression.fit_components_cox`.

    The outputs are ``offset + slope · r`` with the log-hazard ``r``. Offset and slope minimise the loss on the
    cross-fitted log-hazards of the training cases, so that survival is not predicted too extreme.
    """

    Config = MeanCoxConfig

    def __init__(self, config: MeanCoxConfig, feature_dims: dict[int, int], n_outputs: int):
        super().__init__(config, feature_dims, n_outputs)
        self.magnifications = choose_magnifications(feature_dims, config.magnification, "mean_cox")
        self.weights: Tensor
        self.intercept: Tensor
        self.offset: Tensor
        self.slope: Tensor
        self.correction = torch.empty(0, n_outputs)
        """``(n, n_outputs)``: the cross-fitted outputs of the cases of the last fit less their outputs; not saved."""
        self.register_buffer("weights", torch.zeros(sum(feature_dims[m] for m in self.magnifications)))
        self.register_buffer("intercept", torch.zeros(()))
        self.register_buffer("offset", torch.zeros(n_outputs))
        self.register_buffer("slope", torch.zeros(n_outputs))

    def forward(self, bag: Bag) -> Tensor:
        log_hazard = (self._means(bag).float() * self.weights).sum() + self.intercept
        return self.offset + self.slope * log_hazard

    def fit(self, cases: Iterable[Sequence[Bag]], time: Tensor, event: Tensor, loss: LossFunction) -> None:
        """Fit everything; inner folds are drawn with torch's global seed.

        Raises MilsurvError if there are fewer than three cases, or no event.
        """
        means = np.stack([torch.stack([self._means(bag) for bag in bags]).mean(0).cpu() for bags in cases])
        seed = int(torch.randint(2**31, ()))
        model = fit_components_cox(means, time.double().numpy(), event.numpy() == 1, seed)
        self.weights.copy_(torch.from_numpy(model.weights))
        self.intercept.fill_(model.intercept)
        offset, slope = _fit_outputs(torch.from_numpy(model.cross_fitted), time, event, loss, len(self.slope))
        self.offset.copy_(offset)
        self.slope.copy_(slope)
        too_good = torch.from_numpy(model.risk(means) - model.cross_fitted).float()
        self.correction = -too_good[:, None].to(self.slope.device) * self.slope

    def _means(self, bag: Bag) -> Tensor:
        """``(p,)`` float64."""
        return torch.cat([bag.features[m].mean(0, dtype=torch.float64) for m in self.magnifications])


def _fit_outputs(
    log_hazard: Tensor, time: Tensor, event: Tensor, loss: LossFunction, n_outputs: int
) -> tuple[Tensor, Tensor]:
    """Offset and slope of each output, ``(n_outputs,)`` float64."""
    linear = torch.zeros(2, n_outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([linear], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        outputs = linear[0] + log_hazard[:, None] * linear[1]
        value = loss(outputs, time, event) + RIDGE * linear.square().sum()
        torch.autograd.backward(value)
        return value

    with torch.enable_grad():
        optimizer.step(objective)
    offset, slope = linear.detach()
    return offset, slope
