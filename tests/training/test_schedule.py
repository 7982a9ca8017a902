from __future__ import annotations

import pytest
import torch

from milsurv.config.training import Training
from milsurv.training.schedule import learning_rate, schedule_factor


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0.7, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("one_cycle", 0.0, 1 / 25),
        ("one_cycle", 0.3, 1.0),
        ("one_cycle", 0.65, 0.5),
        ("one_cycle", 1.0, 0.0),
    ],
)
def test_schedules(schedule: str, progress: float, factor: float) -> None:
    assert schedule_factor(schedule, progress) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0.0, 0.0),
        ("constant", 0.05, 0.5),
        ("constant", 0.1, 1.0),
        ("cosine", 0.1, 1.0),
        ("cosine", 0.55, 0.5),
    ],
)
def test_the_rate_first_rises_linearly(schedule: str, progress: float, factor: float) -> None:
    assert schedule_factor(schedule, progress, warmup=0.1) == pytest.approx(factor)


def test_a_periodic_cosine_is_that_of_torch() -> None:
    settings = Training(epochs=34, learning_rate=3e-4, cosine_period=10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for epoch in range(1, 35):
        assert learning_rate(settings, epoch, 0) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15
        )
        optimizer.step()
        schedule.step()
