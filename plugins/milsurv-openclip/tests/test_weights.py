from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor

from milsurv import WeightsError
from milsurv_openclip.backbones import Conch, ConchTower, QuiltNet

CPU = torch.device("cpu")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def tower() -> ConchTower:
    return ConchTower()


def _refusal(tower: ConchTower, state: State) -> str:
    with pytest.raises(WeightsError) as caught:
        Conch.release.fill(tower, state, Path("some/weights.bin"))
    message = str(caught.value)
    assert message.startswith("weights file some/weights.bin does not fit CONCH: ")
    assert message.endswith(
        "; expected is pytorch_model.bin of MahmoodLab/CONCH, or its tensors in another file"
    )
    assert "\n" not in message
    return message


def test_what_stands_behind_the_embedding_is_not_needed(tower: ConchTower, conch_zeros: State) -> None:
    needed = ("visual.trunk.", "visual.attn_pool_contrast.", "visual.ln_contrast.")
    state = {name: tensor for name, tensor in conch_zeros.items() if name.startswith(needed)}
    Conch.release.fill(tower, {**state, "visual.trunk.norm.bias": torch.arange(768.0)}, Path("weights.bin"))
    assert torch.equal(tower.state_dict()["trunk.norm.bias"], torch.arange(768.0))


@pytest.mark.parametrize(
    "missing",
    [
        "visual.trunk.pos_embed",
        "visual.trunk.blocks.11.mlp.fc2.bias",
        "visual.attn_pool_contrast.attn.k_proj_weight",
        "visual.ln_contrast.bias",
    ],
)
def test_a_missing_tensor_is_named(tower: ConchTower, conch_zeros: State, missing: str) -> None:
    state = {name: tensor for name, tensor in conch_zeros.items() if name != missing}
    assert f"tensor {missing} is missing" in _refusal(tower, state)


def test_the_first_tensor_of_another_shape_is_named(tower: ConchTower, conch_zeros: State) -> None:
    """A ViT-B/16 for 224 pixels."""
    state = {
        **conch_zeros,
        "visual.trunk.pos_embed": torch.zeros(1, 197, 768),
        "visual.ln_contrast.bias": torch.zeros(3),
    }
    assert "visual.trunk.pos_embed has shape (1, 197, 768) instead of (1, 785, 768)" in _refusal(tower, state)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(
    tower: ConchTower, conch_zeros: State, number: float
) -> None:
    broken = torch.zeros(512)
    broken[7] = number
    state = {**conch_zeros, "visual.ln_contrast.weight": broken}
    assert "visual.ln_contrast.weight contains NaN or infinity" in _refusal(tower, state)


def test_numbers_that_are_not_of_floating_point_are_refused(tower: ConchTower, conch_zeros: State) -> None:
    state = {**conch_zeros, "visual.trunk.norm.bias": torch.zeros(768, dtype=torch.int8)}
    assert "visual.trunk.norm.bias has type torch.int8 instead of torch.float32" in _refusal(tower, state)


def test_a_vision_tensor_that_the_tower_lacks_is_refused(tower: ConchTower, conch_zeros: State) -> None:
    state = {**conch_zeros, "visual.trunk.blocks.12.norm1.weight": torch.zeros(768)}
    assert "visual.trunk.blocks.12.norm1.weight is not in the model" in _refusal(tower, state)


def test_a_file_of_another_architecture_is_refused(
    tower: ConchTower, conch_zeros: State, tmp_path: Path
) -> None:
    assert "tensor visual.trunk.cls_token is missing" in _refusal(
        tower, {"visual.conv1.weight": torch.zeros(1)}
    )
    file = tmp_path / "conch.pth"
    torch.save(conch_zeros, file)
    with pytest.raises(
        WeightsError, match=r"conch\.pth does not fit QuiltNet-B-32: .* visual\.class_embedding is missing"
    ):
        QuiltNet(QuiltNet.Config(weights=file)).load(CPU, torch.float32)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_a_pickle_that_carries_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.bin"
    torch.save({"visual.trunk.cls_token": _Payload()}, file)
    with pytest.raises(WeightsError, match=r"weights\.bin cannot be read: .*could execute code"):
        Conch(Conch.Config(weights=file)).load(CPU, torch.float32)
    assert "code ran" not in capsys.readouterr().out


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    backbone = Conch(Conch.Config(weights=tmp_path / "none.bin"))
    with pytest.raises(WeightsError, match=r"none\.bin not found"):
        backbone.weights_id()
    with pytest.raises(WeightsError, match=r"none\.bin not found"):
        backbone.load(CPU, torch.float32)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, in an empty folder; the hub itself cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "hub"


@pytest.mark.usefixtures("hub")
def test_without_a_network_the_error_says_what_to_do() -> None:
    with pytest.raises(WeightsError) as caught:
        Conch(Conch.Config()).load(CPU, torch.float32)
    message = str(caught.value)
    assert "\n" not in message
    assert "weights of MahmoodLab/CONCH cannot be downloaded from the hub" in message
    assert "request access at https://huggingface.co/MahmoodLab/CONCH" in message
    assert "HF_TOKEN" in message
    assert "local copy of its pytorch_model.bin" in message
    assert "backbone.weights: FILE" in message
    with pytest.raises(
        WeightsError, match=r"the model is open.*open_clip_pytorch_model\.bin.*backbone\.weights: FILE"
    ):
        QuiltNet(QuiltNet.Config()).load(CPU, torch.float32)


def test_a_file_in_the_hubs_cache_is_used(hub: Path, conch_zeros: State) -> None:
    """The bias of the last normalisation is all that is left of zeros."""
    revision = "f9ca9f877171a28ade80228fb195ac5d79003357"
    snapshot = hub / "models--MahmoodLab--CONCH" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    bias = torch.arange(512.0)
    torch.save({**conch_zeros, "visual.ln_contrast.bias": bias}, snapshot / "pytorch_model.bin")
    encoder = Conch(Conch.Config(input_px=32)).load(CPU, torch.float32)
    with torch.inference_mode():
        assert torch.equal(encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)), bias.unsqueeze(0))


class _Gate(BaseHTTPRequestHandler):
    """Answers as the hub does for a gated repository without access."""

    def do_HEAD(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to model MahmoodLab/CONCH is restricted.")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def gate() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Gate)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_without_access_to_a_gated_model_the_error_says_where_to_ask(
    gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    template = f"{gate}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(WeightsError) as caught:
        Conch.release.fetch()
    message = str(caught.value)
    assert "\n" not in message
    assert "GatedRepoError" in message
    assert "request access at https://huggingface.co/MahmoodLab/CONCH, create a token" in message
