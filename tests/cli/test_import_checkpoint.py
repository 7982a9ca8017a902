"""Released checkpoints as model files; that their numbers are right is in aggregators/test_parity.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from milsurv.cli import app
from milsurv.errors import MilsurvError
from milsurv.features.bag import Bag
from milsurv.plugin.registry import get_registry
from milsurv.training.model import METADATA_KEY, load_model
from tests.command import run_milsurv
from tests.conftest import DATA


def _case(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The released state under its own names, and the whole case."""
    tensors = load_file(DATA / "parity" / f"{name}.safetensors")
    return {key[6:]: tensor for key, tensor in tensors.items() if key.startswith("param.")}, tensors


def _bag(case: dict[str, Tensor]) -> Bag:
    return Bag({m: case[f"input.x{m}"][0] for m in (20, 10, 5) if f"input.x{m}" in case})


def _import(*arguments: object) -> str:
    done = CliRunner().invoke(
        app, ["import-checkpoint", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize(
    ("case", "model", "options"),
    [
        ("crossfusion_b", "CrossFusion", ["--heads", "2"]),
        ("crossfusion_concat", "CrossFusionConcat", ["--heads", "4"]),
        ("crossfusion_single", "CrossFusionSingle", ["--heads", "4"]),
        ("amil", "AMIL", []),
        ("dsmil", "DSMIL", []),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_model_file_gives_the_released_logits_and_risk(
    tmp_path: Path, case: str, model: str, options: list[str], suffix: str
) -> None:
    state, expected = _case(case)
    checkpoint, output = tmp_path / f"released{suffix}", tmp_path / "model.safetensors"
    if suffix == ".pt":
        torch.save(state, checkpoint)
    else:
        save_file(state, checkpoint)
    printed = _import(checkpoint, "--model", model, *options, "-o", output)
    assert str(output) in printed
    loaded, loss, about, _ = load_model(output, get_registry(), "cpu")
    with torch.no_grad():
        logits = loaded(_bag(expected)).unsqueeze(0)
    torch.testing.assert_close(logits, expected["output.logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(loss.risk(logits), expected["output.risk"], rtol=0, atol=1e-5)
    assert about["imported_from"]["model"] == model
    with safe_open(output, "pt") as file:
        assert list(file.metadata()) == [METADATA_KEY]


def test_survival_waits_for_bins(tmp_path: Path) -> None:
    state, expected = _case("crossfusion_b")
    torch.save(state, tmp_path / "released.pt")
    _import(
        tmp_path / "released.pt", "--model", "CrossFusion", "--heads", 2, "-o", tmp_path / "m.safetensors"
    )
    model, loss, _, _ = load_model(tmp_path / "m.safetensors", get_registry(), "cpu")
    with torch.no_grad():
        logits = model(_bag(expected)).unsqueeze(0)
    with pytest.raises(MilsurvError, match="the loss is not fitted"):
        loss.survival(logits, torch.tensor([1.0]))
    loss.fit(torch.tensor([10.0, 20, 30, 40, 50]), torch.tensor([1.0, 1, 1, 1, 0]))
    edges = loss.state_dict()["edges"]
    assert loss.survival(logits, edges).isfinite().all()
    loss.load_state_dict({"edges": edges})
    torch.testing.assert_close(
        loss.survival(logits, edges[1:]), expected["output.survival"], rtol=0, atol=1e-5
    )


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_the_command_itself(tmp_path: Path) -> None:
    """In processes of their own: a model file, the same bytes again over it, and a pickle that carries code."""
    state, _ = _case("crossfusion_a")
    checkpoint, output = tmp_path / "released.pt", tmp_path / "model.safetensors"
    torch.save({"state_dict": state}, checkpoint)
    arguments = ("import-checkpoint", checkpoint, "--model", "CrossFusion", "--heads", 4, "-o", output)
    done = run_milsurv(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "crossfusion: embed_dim 32, num_layers 1, num_heads 4" in done.stdout
    assert "48 at 20x, 48 at 10x, 48 at 5x; 4 time bins" in done.stdout
    written = output.read_bytes()
    output.write_bytes(b"old")
    assert run_milsurv(*arguments, cwd=tmp_path).returncode == 0
    assert output.read_bytes() == written

    torch.save({"cls_token": _Payload()}, checkpoint)
    refused = run_milsurv(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "code ran" not in refused.stdout
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: weights file {checkpoint} cannot be read")
    assert output.read_bytes() == written


def test_wrong_use_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    state, _ = _case("crossfusion_a")
    amil, _ = _case("amil")
    checkpoint, other = tmp_path / "released.pt", tmp_path / "amil.pt"
    torch.save(state, checkpoint)
    torch.save(amil, other)
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:1000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    one_output = {
        k: t[:1] if k.startswith("classifiers") or "attention_c" in k else t for k, t in amil.items()
    }
    torch.save(one_output, tmp_path / "one.pt")
    before = sorted(tmp_path.iterdir())
    output = tmp_path / "model.safetensors"
    wrong: list[tuple[list[object], str]] = [
        (
            [checkpoint, "--model", "Crosfusion"],
            r"unknown model 'Crosfusion' \(did you mean 'CrossFusion'\?\)",
        ),
        ([other, "--model", "CrossFusion"], "not a CrossFusion checkpoint"),
        ([checkpoint, "--model", "AMIL"], "not a AMIL checkpoint"),
        ([checkpoint, "--model", "CrossFusion", "--heads", 5], "32 is not a multiple of 5"),
        ([other, "--model", "AMIL", "--heads", 4], "only to CrossFusion models, not to AMIL"),
        ([tmp_path / "none.pt", "--model", "AMIL"], r"none\.pt not found"),
        ([tmp_path / "list.pt", "--model", "AMIL"], "does not contain named tensors"),
        ([tmp_path / "cut.pt", "--model", "AMIL"], r"cut\.pt cannot be read"),
        ([tmp_path / "cut.safetensors", "--model", "AMIL"], r"cut\.safetensors cannot be read"),
        ([tmp_path / "one.pt", "--model", "AMIL"], "has 1 output"),
    ]
    for arguments, message in wrong:
        with pytest.raises(MilsurvError, match=message) as caught:
            _import(*arguments, "-o", output)
        assert "\n" not in str(caught.value)
    with pytest.raises(MilsurvError, match="is the checkpoint itself"):
        _import(checkpoint, "--model", "CrossFusion", "-o", checkpoint)
    with pytest.raises(MilsurvError, match="cannot write"):
        _import(checkpoint, "--model", "CrossFusion", "-o", tmp_path)
    assert sorted(tmp_path.iterdir()) == before
