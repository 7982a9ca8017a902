"""The real client of the hub, without the hub: a cache made by hand, no network, or a server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from milsurv.backbones.base import FoundWeights
from milsurv.backbones.hub import fetch_weights, find_weights
from milsurv.errors import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = """
import sys
from milsurv.backbones.base import FoundWeights
from milsurv.backbones.hub import fetch_weights, find_weights
from milsurv.errors import WeightsError
try:
    fetch_weights("owner/name", "main", gated=sys.argv[1] == "gated")
except WeightsError as error:
    print(error)
"""


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the one commit of ``owner/name`` in an otherwise empty cache; there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--owner--name"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_in_the_cache_is_found_without_a_network(snapshot: Path, file: str, revision: str) -> None:
    (snapshot / file).write_bytes(b"weights")
    assert fetch_weights("owner/name", revision, gated=True).read_bytes() == b"weights"


def test_safetensors_go_first(snapshot: Path) -> None:
    for file in ("pytorch_model.bin", "model.safetensors"):
        (snapshot / file).write_text(file)
    assert fetch_weights("owner/name", "main", gated=False).name == "model.safetensors"


def test_another_revision_is_not_taken_for_it(snapshot: Path) -> None:
    (snapshot / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(WeightsError, match=r"the weights of owner/name cannot be downloaded from the hub"):
        fetch_weights("owner/name", "v2", gated=False)


def _message(cache: Path, kind: str, **environment: str) -> str:
    """What ``fetch_weights`` says, in one line, in a process of its own that prints nothing else."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, kind],
        env=inherited | {"HF_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return line


def _is_advice_on_a_gated_model(message: str) -> None:
    assert message.startswith("the weights of owner/name cannot be downloaded from the hub (")
    assert "request access at https://huggingface.co/owner/name" in message
    assert "HF_TOKEN" in message
    assert (
        "or use a local copy of its model.safetensors or pytorch_model.bin: backbone.weights: FILE" in message
    )


def test_without_a_network_a_gated_model_says_how_to_get_it(tmp_path: Path) -> None:
    _is_advice_on_a_gated_model(_message(tmp_path, "gated", HF_HUB_OFFLINE="1"))


def test_without_a_network_an_open_model_does_not_speak_of_tokens(tmp_path: Path) -> None:
    message = _message(tmp_path, "open", HF_HUB_OFFLINE="1")
    assert "the model is open: https://huggingface.co/owner/name" in message
    assert "backbone.weights: FILE" in message
    assert "token" not in message.lower()


class _Gated(BaseHTTPRequestHandler):
    """Answers as the hub does for a file of a gated repository."""

    status = 401

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to model owner/name is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(params=[401, 403])
def gated_hub(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (_Gated,), {"status": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_refusal_of_the_hub_says_how_to_get_access(tmp_path: Path, gated_hub: str) -> None:
    message = _message(tmp_path, "gated", HF_ENDPOINT=gated_hub, NO_PROXY="127.0.0.1")
    _is_advice_on_a_gated_model(message)
    assert "GatedRepoError" in message


class _Open(_Gated):
    """Has ``pytorch_model.bin`` alone, of 12 MB."""

    def do_HEAD(self) -> None:
        there = self.path.endswith("pytorch_model.bin")
        self.send_response(200 if there else 404)
        if there:
            self.send_header("ETag", '"abc"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "12000000")
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
        self.end_headers()


class _Silent(_Gated):
    """Never answers."""

    def do_HEAD(self) -> None:
        ENDED.wait()


ENDED = Event()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, snapshot: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A hub of this process, its handler the test's parameter, and the folder of a commit in the cache."""
    ENDED.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield snapshot
        ENDED.set()
        server.shutdown()


@pytest.mark.parametrize("hub", [_Open], indirect=True)
def test_what_would_be_downloaded_is_told_and_not_downloaded(hub: Path) -> None:
    found = find_weights("owner/name", "main", gated=False)
    assert found == FoundWeights(
        note="pytorch_model.bin of owner/name (12 MB) will be downloaded from the hub before the first slide"
    )
    assert list(hub.iterdir()) == []
    with pytest.raises(WeightsError, match=r"cannot be downloaded from the hub .*EntryNotFound"):
        find_weights("owner/name", "main", gated=False, files=("model.safetensors",))
    (hub / "model.safetensors").write_bytes(b"weights")
    assert find_weights("owner/name", "main", gated=False) == FoundWeights(hub / "model.safetensors")


@pytest.mark.parametrize("hub", [_Gated], indirect=True)
def test_a_model_without_access_is_known_before_anything_is_fetched(hub: Path) -> None:
    with pytest.raises(WeightsError) as refused:
        find_weights("owner/name", "main", gated=True)
    _is_advice_on_a_gated_model(str(refused.value))
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("hub", [_Silent], indirect=True)
def test_a_hub_that_does_not_answer_is_not_waited_for(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr("milsurv.backbones.hub.PROBE_SECONDS", 0.2)
    with pytest.raises(WeightsError, match=r"cannot be downloaded from the hub \(.*[Tt]imeout"):
        find_weights("owner/name", "main", gated=False)


def test_without_a_network_what_is_not_in_the_cache_cannot_be_had(snapshot: Path) -> None:
    with pytest.raises(WeightsError) as fetched:
        fetch_weights("owner/name", "main", gated=True)
    with pytest.raises(WeightsError) as found:
        find_weights("owner/name", "main", gated=True)
    assert str(found.value) == str(fetched.value)
    (snapshot / "pytorch_model.bin").write_bytes(b"weights")
    assert find_weights("owner/name", "main", gated=True).file == snapshot / "pytorch_model.bin"
