"""Learning rate schedules."""

from __future__ import annotations

import math

from milsurv.config.training import Training


def learning_rate(settings: Training, epoch: int, share: float) -> float:
    """The learning rate after the fraction ``share`` of an epoch, counted from 1."""
    period = settings.cosine_period / settings.epochs if settings.cosine_period else 1.0
    progress = (epoch - 1 + share) / settings.epochs
    return settings.learning_rate * schedule_factor(settings.schedule, progress, settings.warmup, period)


def schedule_factor(schedule: str, progress: float, warmup: float = 0.0, period: float = 1.0) -> float:
    """Factor of the learning rate at ``progress`` in [0, 1) of the training.

    It increases linearly from 0 during ``warmup``, a fraction of the training, before the schedule begins.
    ``cosine`` decreases from 1 to 0 along half a cosine in ``period``, a fraction of the training, and increases again
    over as long (Loshchilov & Hutter 2017, without restarts); ``one_cycle`` increases from 1/25 to 1 over the first
    30 %, then decreases to 0, both along half a cosine (Smith & Topin 2019).
    """
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _half_cosine(1.0, 0.0, (progress - warmup) / min(period, 1 - warmup))
    progress = (progress - warmup) / (1 - warmup)
    rise = 0.3
    if progress < rise:
        return _half_cosine(1 / 25, 1.0, progress / rise)
    return _half_cosine(1.0, 0.0, (progress - rise) / (1 - rise))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
