"""The model of a selected epoch: its risks, the quality of its own probabilities, and their recalibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from milsurv.config.run import Evaluation
from milsurv.evaluation.brier import integrated_scores
from milsurv.evaluation.intervals import NotComputableError
from milsurv.evaluation.recalibration import HeldOutRisks, Recalibration
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import evaluation_times
from milsurv.training.checkpoint import Best
from milsurv.training.data import TrainingCase, exact_follow_up, follow_up
from milsurv.training.job import FoldJob
from milsurv.training.outputs import Outputs

CHOOSING = {"inner_validation": "inner validation cases", "reported_fold": "test cases"}


@dataclass(frozen=True)
class OwnScores:
    """Integrated Brier scores of a model's own probabilities and of Kaplan-Meier, on the cases that selected it."""

    model: float | None = None
    kaplan_meier: float | None = None
    reason: str | None = None
    """Why there are none."""

    @property
    def worse(self) -> bool:
        """Whether the model is worse than Kaplan-Meier."""
        return self.model is not None and self.kaplan_meier is not None and self.model > self.kaplan_meier

    def as_json(self) -> dict[str, Any]:
        """Keys as in metrics.json."""
        return {
            "integrated_brier_score": self.model,
            "integrated_brier_score_kaplan_meier": self.kaplan_meier,
            "reason": self.reason,
            "worse_than_kaplan_meier": self.worse,
        }


@dataclass(frozen=True)
class ChosenModel:
    """A selected model, loaded into ``outputs``, with its loss's baseline fitted to the training cases."""

    job: FoldJob
    outputs: Outputs
    epoch: int
    risk: Tensor
    """Risks of the training cases, ``(n,)``."""
    validation: Tensor | None
    """Outputs for the inner validation cases, ``(m, n_outputs)``; None without any."""

    @classmethod
    def of(cls, job: FoldJob, outputs: Outputs, best: Best) -> Self:
        """Load the weights and predict the training and validation cases."""
        outputs.model.load_state_dict(best.weights)
        training = outputs.of_cases(job.train)
        outputs.loss.fit_baseline(training, *follow_up(job.train))
        validation = outputs.of_cases(job.validation) if job.validation else None
        return cls(job, outputs, best.epoch, outputs.risk(training), validation)

    @property
    def median(self) -> float:
        """Of the risks of the training cases."""
        return float(self.risk.median())

    @property
    def deviation(self) -> float:
        """Standard deviation of the risks of the training cases."""
        return float(self.risk.std(correction=0))

    def validation_risks(self) -> HeldOutRisks:
        """Standardised risks of the inner validation cases."""
        assert self.validation is not None
        time, event = exact_follow_up(self.job.validation)
        risk = (self.outputs.risk(self.validation).double() - self.median) / (self.deviation or 1.0)
        return HeldOutRisks(risk, time, event, event * 0)

    def recalibration(self, held_out: HeldOutRisks | None) -> Recalibration:
        """Fitted to ``held_out`` and the follow-up of the fold's training and inner validation cases."""
        follow_up = exact_follow_up(self.job.train + self.job.validation)
        return Recalibration.fit(held_out, *follow_up, self.median, self.deviation)

    def own_scores(self, selection: str) -> OwnScores:
        """Scores of the model's probabilities, not recalibrated, on the cases that selected its epoch.

        They are integrated over a grid up to the 80th percentile of the event times of the training cases.
        """
        if selection not in CHOOSING:
            return OwnScores(reason="no cases selected the epoch")
        cases, predicted = self.job.validation, self.validation
        if selection == "reported_fold":
            cases, predicted = self.job.test, self.outputs.of_cases(self.job.test)
        assert predicted is not None
        training = TrainingFollowUp(*_arrays(self.job.train))
        times = evaluation_times(training.time, training.event, Evaluation()).integration
        survival = self.outputs.survival(predicted, times).double().numpy()
        try:
            return OwnScores(*integrated_scores(survival, times, *_arrays(cases), training))
        except NotComputableError as reason:
            return OwnScores(reason=str(reason))


def _arrays(cases: tuple[TrainingCase, ...]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.array([case.time for case in cases]), np.array([case.event for case in cases])
