"""The benchmarks run, and what they compare with computes the same thing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.generated import follow_up, write_cases
from benchmarks.plain_crossfusion import PlainCrossFusion
from benchmarks.plain_training import bin_edges, nll
from milsurv.features.bag import Bag
from milsurv.models.interop import from_authors_checkpoint
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import get_registry
from milsurv.training import data

ROOT = Path(__file__).parents[1]
NUMBER = r"[\d,.]+"


def test_a_line_has_ours_plain_and_their_ratio() -> None:
    command = [sys.executable, "-m", "benchmarks", "start", "patches", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^\d+ cores, load [\d., ]+; Python [\d.]+, torch ", printed)
    start, patches = printed.split("\n\n")[1:]
    assert start.startswith("start: ")
    assert patches.startswith("patches: ")
    seconds = rf"{NUMBER} s +{NUMBER} s +{NUMBER}"
    for what in ("milsurv --help, wall time", "milsurv list-plugins, CPU time"):
        assert re.search(rf"^{what} +{seconds}$", start, re.MULTILINE)
    rates = re.findall(
        rf"^240 px tiles: .*? +({NUMBER}) /s +({NUMBER}) /s +({NUMBER})$", patches, re.MULTILINE
    )
    assert len(rates) == 4
    for ours, plain, ratio in rates:
        rate, plain_rate = (float(number.replace(",", "")) for number in (ours, plain))
        assert abs(rate / plain_rate / float(ratio) - 1) < 0.02


def test_the_plain_loop_trains_on_what_ours_trains_on(tmp_path: Path) -> None:
    """The same bins and loss."""
    table, _ = follow_up("blca")
    cases = write_cases(tmp_path, table.iloc[:24], side=8, dim=4)
    loss = get_registry().create("loss", PluginSection(name="nll"))
    time, event = data.follow_up(cases)
    loss.fit(time, event)
    edges = bin_edges(cases)
    torch.testing.assert_close(edges, loss.state_dict()["edges"][1:-1], rtol=1e-5, atol=0)
    labels = loss.labels(time)
    logits = torch.randn(len(cases), 4, generator=torch.Generator().manual_seed(0))
    plain = [nll(*values) for values in zip(logits, labels.tolist(), event.long().tolist(), strict=True)]
    torch.testing.assert_close(torch.stack(plain).mean(), loss(logits, time, event))


def test_an_unknown_name_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "dence"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "dence" in done.stderr


def test_the_plain_crossfusion_is_the_same_model() -> None:
    """Every parameter, its gradient and the output; without dropout."""
    torch.manual_seed(0)
    plain = PlainCrossFusion(10, dim=8, heads=2, layers=2, dropout=0, attention_dropout=0)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = from_authors_checkpoint("CrossFusion", plain.state_dict(), num_heads=2)
    bag = Bag({m: torch.randn(n, 10) for m, n in ((20, 37), (10, 11), (5, 3))})
    torch.testing.assert_close(ours(bag), plain(bag), rtol=1e-4, atol=1e-5)
    for model in (ours, plain):
        model(bag).square().sum().backward()
    norms = [
        sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
        for model in (ours, plain)
    ]
    assert abs(norms[0] / norms[1] - 1) < 1e-3
