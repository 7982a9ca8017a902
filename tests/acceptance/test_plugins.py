"""The plugin tutorial as it stands on its page, then the packages of plugins/ in the environment that it made."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "plugins" / "tutorial.md"
PACKAGES = ("milsurv-patchgcn", "milsurv-openclip", "milsurv-mlflow")
SMALL_DEMO = (
    *("run", "demo", "--set", "cohort.cases=20", "--set", "splits.folds=2", "--set", "training.epochs=2"),
    *("--set", "backbone={name: efficientnet_lite0, input_px: 64}"),
)
BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)

pytestmark = pytest.mark.plugins


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core's wheel and those of the packages."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [str(ROOT), *(str(ROOT / "plugins" / name) for name in PACKAGES)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        *sources,
    ]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A package index on this machine: its address, and where it keeps what is uploaded."""
    folder = tmp_path_factory.mktemp("index")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--interface", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "pypiserver", "run", *where, "-P", ".", "-a", ".", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(port)
    yield f"http://127.0.0.1:{port}", folder
    server.terminate()
    server.wait()


def _wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def _script(page: str) -> str:
    """Bash that runs the page from top to bottom: writes its files, runs its commands."""
    steps = ["set -euo pipefail"]
    for block in BLOCK.finditer(page):
        if block["file"]:
            steps.append(f"cat > {block['file']} <<'END OF FILE'\n{block['text']}END OF FILE")
        elif block["language"] == "sh":
            steps.append(block["text"])
        else:
            steps.append(f"cat > block.{block['language']} <<'END OF FILE'\n{block['text']}END OF FILE")
    return "\n".join(steps)


@pytest.fixture(scope="module")
def tutorial(
    tmp_path_factory: pytest.TempPathFactory, wheels: Path, index: tuple[str, Path]
) -> tuple[Path, str]:
    """The folder in which the page was followed, and what its commands printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("MILSURV", "VIRTUAL_ENV"))},
        "PIP_FIND_LINKS": str(wheels),
        "TWINE_REPOSITORY_URL": index[0],
        "TWINE_USERNAME": "somebody",
        "TWINE_PASSWORD": "secret",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "150",
    }
    command = ["bash", "-c", _script(TUTORIAL.read_text())]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


def test_the_tutorial_runs_as_it_stands(tutorial: tuple[Path, str], index: tuple[str, Path]) -> None:
    folder, printed = tutorial
    assert printed.count(" passed") == 2
    assert " failed" not in printed
    assert re.search(r"topk +mean of the k highest patch scores +milsurv-topk 0\.1\.0 +ok", printed)
    assert printed.count("PASSED") == 2
    assert Path(printed.rpartition("Report: ")[2].splitlines()[0].strip()).is_file()
    assert {path.suffix for path in index[1].iterdir()} == {".whl", ".gz"}
    fetched = folder / "fetched"
    pip = [str(folder / ".venv" / "bin" / "pip"), "download", "--quiet", "--no-deps", "--dest", str(fetched)]
    subprocess.run([*pip, "--index-url", f"{index[0]}/simple/", "milsurv-topk"], check=True)
    assert [path.name for path in fetched.iterdir()] == ["milsurv_topk-0.1.0-py3-none-any.whl"]


@pytest.fixture(scope="module")
def python(tutorial: tuple[Path, str], wheels: Path) -> Path:
    """The tutorial's environment with the packages' wheels."""
    python = tutorial[0] / ".venv" / "bin" / "python"
    named = [f"{name}[dev]" for name in PACKAGES]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--find-links", str(wheels)]
    subprocess.run([*pip, *named], check=True)
    return python


@pytest.mark.parametrize("package", PACKAGES)
def test_a_packages_own_tests(python: Path, package: str) -> None:
    folder = ROOT / "plugins" / package
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout[-600:])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def _small_demo(python: Path, folder: Path, *options: str, **environment: str) -> str:
    command = [str(python), "-m", "milsurv", *SMALL_DEMO, *options]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Report: " in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small demos run, one after the other, with the features of the first."""
    return tmp_path_factory.mktemp("demos")


def test_the_small_demo_with_patchgcn(python: Path, folder: Path) -> None:
    assert "model      patchgcn" in _small_demo(python, folder, "--set", "aggregator.name=patchgcn")


def test_the_small_demo_with_quiltnet(python: Path, folder: Path) -> None:
    """With random weights in the released layout: what counts is that the package is at work."""
    make = (
        "import open_clip, torch\n"
        "torch.manual_seed(0)\n"
        "state = open_clip.create_model('ViT-B-32').state_dict()\n"
        "torch.save({k: v for k, v in state.items() if k.startswith('visual.')}, 'quiltnet.pt')\n"
    )
    subprocess.run(
        [str(python), "-c", make], cwd=folder, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    backbone = "backbone={name: quiltnet, weights: quiltnet.pt, input_px: 64}"
    assert "patches of 256 px, quiltnet" in _small_demo(python, folder, "--set", backbone)


def test_the_small_demo_with_mlflow(python: Path, folder: Path) -> None:
    store = f"sqlite:///{folder / 'mlflow.db'}"
    _small_demo(python, folder, MLFLOW_TRACKING_URI=store)
    read = (
        "from mlflow.tracking import MlflowClient\n"
        f"client = MlflowClient({store!r})\n"
        "experiments = [e.experiment_id for e in client.search_experiments()]\n"
        "runs = client.search_runs(experiments)\n"
        "print(len(runs), runs[0].info.status, runs[0].data.params['aggregator.name'])\n"
        "print(sorted(a.path for a in client.list_artifacts(runs[0].info.run_id)))\n"
    )
    done = subprocess.run([str(python), "-c", read], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("1 FINISHED crossfusion\n"), done.stdout + done.stderr[-2000:]
    assert "report.html" in done.stdout
