"""What ``mean_cox`` is fitted to: log-hazards of mean features, and a loss on cross-fitted log-hazards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from milsurv.aggregators.cox_regression import fit_components_cox
from milsurv.aggregators.mean_cox import RIDGE, MeanCox, MeanCoxConfig
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.losses.cox import Cox, CoxConfig
from milsurv.losses.discrete import NLL, DiscreteTimeConfig, kaplan_meier

DIMS = {20: 7, 5: 4}


def _cohort(n: int, effect: float) -> tuple[list[list[Bag]], Tensor, Tensor]:
    """Cases with one or two slides, whose mean features change the hazard."""
    random = torch.Generator().manual_seed(5)
    risk = torch.randn(n, generator=random)
    cases = []
    for case in range(n):
        bags = []
        for _ in range(1 + case % 2):
            features = {m: torch.randn(5 + case % 3, dim, generator=random) for m, dim in DIMS.items()}
            features[5][:, 0] += 2 * risk[case]
            bags.append(Bag(features))
        cases.append(bags)
    event_time = torch.empty(n).exponential_(generator=random) / (effect * risk).exp()
    censored = torch.empty(n).exponential_(0.5, generator=random)
    return cases, torch.minimum(event_time, censored), (event_time <= censored).float()


def _fitted(
    n: int = 90, effect: float = 1.0, n_outputs: int = 1
) -> tuple[MeanCox, list[list[Bag]], NLL | Cox]:
    cases, time, event = _cohort(n, effect)
    loss: NLL | Cox = Cox(CoxConfig()) if n_outputs == 1 else NLL(DiscreteTimeConfig(bins=n_outputs))
    loss.fit(time, event)
    model = MeanCox(MeanCoxConfig(), DIMS, n_outputs)
    torch.manual_seed(3)
    model.fit(iter(cases), time, event, loss)
    return model, cases, loss


def _means(cases: list[list[Bag]]) -> np.ndarray:
    """The mean over slides of the slides' means, at 20x and then 5x."""
    return np.stack(
        [
            np.mean([np.concatenate([b.features[m].numpy().mean(0) for m in (20, 5)]) for b in bags], 0)
            for bags in cases
        ]
    )


@pytest.mark.parametrize("n_outputs", [1, 4])
def test_outputs_are_linear_in_the_log_hazard_of_mean_features(n_outputs: int) -> None:
    model, cases, _ = _fitted(n_outputs=n_outputs)
    _, time, event = _cohort(90, 1.0)
    torch.manual_seed(3)
    seed = int(torch.randint(2**31, ()))
    reference = fit_components_cox(_means(cases), time.double().numpy(), event.numpy() == 1, seed)
    log_hazard = torch.from_numpy(reference.risk(_means(cases)))[:, None].float()
    outputs = torch.stack([torch.stack([model(bag) for bag in bags]).mean(0) for bags in cases])
    torch.testing.assert_close(outputs, model.offset + model.slope * log_hazard, rtol=1e-3, atol=1e-3)


def test_offset_and_slope_minimise_the_loss_of_cross_fitted_log_hazards() -> None:
    model, cases, loss = _fitted(n_outputs=4)
    _, time, event = _cohort(90, 1.0)
    torch.manual_seed(3)
    seed = int(torch.randint(2**31, ()))
    reference = fit_components_cox(_means(cases), time.double().numpy(), event.numpy() == 1, seed)
    crossed = torch.from_numpy(reference.cross_fitted)[:, None]

    def objective(values: np.ndarray) -> float:
        offset, slope = torch.from_numpy(values).reshape(2, 4)
        return float(loss(offset + slope * crossed, time, event)) + RIDGE * float((values**2).sum())

    best = minimize(objective, np.zeros(8), method="BFGS", options={"gtol": 1e-7})
    found = torch.stack([model.offset, model.slope]).flatten().numpy()
    np.testing.assert_allclose(found, best.x, atol=2e-3)


def test_features_that_say_nothing_predict_kaplan_meier() -> None:
    model, cases, loss = _fitted(n=200, effect=0.0, n_outputs=4)
    _, time, event = _cohort(200, 0.0)
    outputs = torch.stack([model(bags[0]) for bags in cases])
    times = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    event_times, curve = kaplan_meier(time.double(), event)
    expected = curve[torch.searchsorted(event_times, times, right=True) - 1]
    survival = loss.survival(outputs, times)
    torch.testing.assert_close(survival.double().mean(0), expected, rtol=0, atol=0.03)
    assert float(survival.std(0).max()) < 0.05


def test_without_events_it_cannot_be_fitted() -> None:
    cases, time, event = _cohort(20, 1.0)
    with pytest.raises(MilsurvError, match="20 cases and 0 events"):
        MeanCox(MeanCoxConfig(), DIMS, 1).fit(cases, time, event * 0, Cox(CoxConfig()))
