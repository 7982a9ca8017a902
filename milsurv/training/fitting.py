"""What a model fits to its training cases before it is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from milsurv.errors import MilsurvError
from milsurv.executors.memory import out_of_memory_explained
from milsurv.training.data import files_of, follow_up
from milsurv.training.job import FoldJob
from milsurv.training.outputs import Outputs
from milsurv.training.seeds import seed_torch


def fit_model(outputs: Outputs, job: FoldJob) -> None:
    """Fit the offset of the outputs, the standardisation, the linear path, and what the aggregator does not train.

    Raises MilsurvError, naming the fold, if the aggregator cannot be fitted.
    """
    model, settings, rows = outputs.model.eval(), job.config.training, job.rows
    time, event = follow_up(rows)
    if settings.output_offset:
        model.offset.copy_(outputs.loss.constant_outputs(time, event))
    offset = model.offset.double().cpu()

    def loss(values: Tensor, time: Tensor, event: Tensor) -> Tensor:
        return outputs.loss(values + offset, time, event)

    with torch.no_grad(), out_of_memory_explained(outputs.too_large):
        if settings.standardize:
            files = files_of(rows)
            outputs.bags.expect(files)
            model.fit_standardization(outputs.bags.read(file) for file in files)
        seed_torch(outputs.device, job.seed, job.fold, "fit")
        try:
            if model.linear_path is not None:
                model.linear_path.fit(outputs.standardized_bags(rows), time, event, loss)
                outputs.corrections = dict(zip(rows, model.linear_path.correction, strict=True))
            model.aggregator.fit(outputs.standardized_bags(rows), time, event, loss)
        except MilsurvError as error:
            raise MilsurvError(f"{job.id}: {error}") from error
