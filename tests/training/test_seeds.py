from __future__ import annotations

import torch

from milsurv.training.seeds import seed_of, seed_torch


def test_draws_follow_from_what_they_are_for() -> None:
    seed_torch(torch.device("cpu"), 1, "slide")
    drawn = torch.rand(3)
    torch.manual_seed(seed_of(1, "slide"))
    assert torch.equal(drawn, torch.rand(3))


def test_a_process_without_a_gpu_remembers_no_seed_for_one() -> None:
    before = len(torch.cuda._queued_calls)
    seed_torch(torch.device("cpu"), 1)
    assert len(torch.cuda._queued_calls) == before
