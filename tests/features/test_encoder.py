from __future__ import annotations

import gc
import random
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from milsurv.backbones.base import Backbone, PatchEncoder, Precision
from milsurv.backbones.efficientnet_lite0 import EfficientNetLite0
from milsurv.backbones.resnet import ResNet18, ResNetConfig
from milsurv.config.run import Extraction
from milsurv.errors import MilsurvError
from milsurv.executors.base import Stopped
from milsurv.executors.devices import Device, cpu_has_bfloat16
from milsurv.features.embedding import choose_precision
from milsurv.features.encoder import Encoder

CPU = torch.device("cpu")
SIDE = 4
ROOT = Path(__file__).parents[2]


class Colours(Backbone):
    """Mean colours, by a network that notes its batches and can be made to fail."""

    dim = 3
    input_px = SIDE
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    licence = "none"
    gated = False
    magnification = 20

    def __init__(self, trouble: Callable[[Tensor], Tensor] = lambda vectors: vectors):
        self.batches: list[int] = []
        self.trouble = trouble

    def weights_id(self) -> str:
        return "none"

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        backbone = self

        class Network(nn.Module):
            def forward(self, patches: Tensor) -> Tensor:
                backbone.batches.append(len(patches))
                return backbone.trouble(patches.to(device, dtype).mean((2, 3)))

        return Network()


def _encoder(backbone: Backbone, batch_size: int = 8, precision: Precision = "float32") -> Encoder:
    return Encoder(
        backbone, "backbone 'colours' of a test", CPU, precision, Extraction(batch_size=batch_size)
    )


def _patches(count: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def _pieces(count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of pieces of one to ten patches."""
    chance, start = random.Random(seed), 0
    while start < count:
        end = min(count, start + chance.randint(1, 10))
        yield start, end
        start = end


def _embed(encoder: Encoder, counts: dict[int, int], seed: int) -> None:
    """Put a made slide through the encoder and compare with its patches' means."""
    coords = {m: np.arange(2 * count).reshape(count, 2) for m, count in counts.items()}
    patches = {m: _patches(count, seed + m) for m, count in counts.items()}
    with encoder.slide(f"slide {seed}", coords, "float32") as slide:
        for m, count in counts.items():
            for start, end in _pieces(count, seed):
                encoder.put(slide, m, np.arange(start, end), patches[m][start:end])
    for m in counts:
        np.testing.assert_allclose(slide.features[m], patches[m].mean((1, 2)), rtol=1e-6)
        assert slide.embedded[m].all()


def test_slides_side_by_side_fill_each_others_batches_and_get_their_own_vectors() -> None:
    backbone = Colours()
    encoder = _encoder(backbone)
    slides = [{20: 37 + seed, 5: 1 + seed % 3} for seed in range(12)]
    with ThreadPoolExecutor(4) as readers:
        for done in [readers.submit(_embed, encoder, counts, seed) for seed, counts in enumerate(slides)]:
            done.result(timeout=60)
    patches = sum(sum(counts.values()) for counts in slides)
    assert sum(backbone.batches) == patches
    assert max(backbone.batches) == 8
    alone = sum(-(-count // 8) for counts in slides for count in counts.values())
    assert len(backbone.batches) < alone


def test_a_cpus_batches_are_small_unless_said_otherwise() -> None:
    assert Encoder(Colours(), "colours", CPU, "float32", Extraction()).batch_size == 32


def test_one_slide_after_the_other_gives_the_same_batches_each_time() -> None:
    batches = []
    for _ in range(2):
        backbone = Colours()
        encoder = _encoder(backbone)
        for seed in range(3):
            _embed(encoder, {20: 21, 10: 6}, seed)
        batches.append(backbone.batches)
    assert batches[0] == batches[1] == 3 * [8, 8, 8, 3]


def _needs_memory(vectors: Tensor) -> Tensor:
    """Asks for more memory than there is when more than three patches come."""
    if len(vectors) > 3:
        torch.empty(2**55, dtype=torch.uint8)
    return vectors


def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost() -> None:
    backbone = Colours(_needs_memory)
    encoder = _encoder(backbone)
    _embed(encoder, {20: 29}, 0)
    assert encoder.batch_size == 2
    assert encoder.smaller_batches() == 2
    assert encoder.smaller_batches() is None
    backbone.batches.clear()
    _embed(encoder, {20: 9}, 1)
    assert max(backbone.batches) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:30],
)
def test_whatever_says_that_memory_is_short_halves_the_batch(error: Exception) -> None:
    def short(vectors: Tensor) -> Tensor:
        if len(vectors) > 3:
            raise error
        return vectors

    encoder = _encoder(Colours(short))
    _embed(encoder, {20: 29}, 0)
    assert encoder.batch_size == 2


def test_a_network_that_does_not_fit_is_said() -> None:
    class Large(Colours):
        def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:  # noqa: ARG002
            return nn.Linear(2**30, 2**30)

    with pytest.raises(
        MilsurvError, match=r"large and one patch do not fit into the memory of .*; .* \(.*allocate memory"
    ):
        Encoder(Large(), "large", CPU, "float32", Extraction(batch_size=8))


def test_an_encoder_that_is_let_go_frees_its_network() -> None:
    encoder = _encoder(Colours())
    _embed(encoder, {20: 5}, 0)
    network = weakref.ref(encoder._network)
    encoder.close()
    del encoder
    gc.collect()
    assert network() is None


def test_where_not_even_one_patch_fits_it_is_said() -> None:
    def never(_vectors: Tensor) -> Tensor:
        return torch.empty(2**55)

    with pytest.raises(
        MilsurvError, match=r"backbone .colours. of a test and one patch do not fit into the memory of cpu"
    ):
        _embed(_encoder(Colours(never)), {20: 5}, 0)


def test_a_vector_that_is_not_finite_is_named_and_other_slides_go_on() -> None:
    """Both slides wait until their patches are in one batch."""

    def dark_is_nan(vectors: Tensor) -> Tensor:
        return torch.where(vectors == 0, torch.nan, vectors)

    encoder = _encoder(Colours(dark_is_nan))
    together = threading.Barrier(2, timeout=30)
    light = np.full((4, SIDE, SIDE, 3), 200, np.uint8)
    dark = light.copy()
    dark[2] = 0
    coords = {10: np.array([[0, 0], [512, 0], [1024, 512], [0, 512]])}

    def embed(what: str, patches: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        with encoder.slide(what, coords, "float16") as slide:
            encoder.put(slide, 10, np.arange(4), patches)
            together.wait()
        assert (slide.features[10] == 200).all()

    with ThreadPoolExecutor(2) as readers:
        good, bad = readers.submit(embed, "good.svs", light), readers.submit(embed, "bad.svs", dark)
        good.result(timeout=30)
        with pytest.raises(
            MilsurvError,
            match=r"not finite for the 10x patch at \(1024, 512\) of bad\.svs; .*precision: float32",
        ):
            bad.result(timeout=30)


def test_vectors_beyond_the_stored_type_are_refused() -> None:
    encoder = _encoder(Colours(lambda vectors: 1e5 * (1 + vectors)))
    with (
        pytest.raises(MilsurvError, match=r"beyond float16.*extraction\.dtype: float32"),
        encoder.slide("s.svs", {20: np.zeros((1, 2), int)}, "float16") as slide,
    ):
        encoder.put(slide, 20, np.arange(1), _patches(1, 0))


def test_what_the_network_raises_reaches_the_slide_and_not_the_next_one() -> None:
    failing = [True]

    def fail_once(vectors: Tensor) -> Tensor:
        if failing.pop() if failing else False:
            raise ZeroDivisionError("a plugin's bug")
        return vectors

    encoder = _encoder(Colours(fail_once))
    with pytest.raises(ZeroDivisionError, match="a plugin's bug"):
        _embed(encoder, {20: 5}, 0)
    _embed(encoder, {20: 5}, 1)


def test_another_width_than_promised_is_refused() -> None:
    with pytest.raises(MilsurvError, match=r"shape \(5, 6\) for 5 patches.*fails the check 'dimension'"):
        _embed(_encoder(Colours(lambda vectors: torch.cat((vectors, vectors), 1))), {20: 5}, 0)


def test_a_slide_given_up_leaves_nothing_behind() -> None:
    backbone = Colours()
    encoder = _encoder(backbone)

    def give_up() -> None:
        with encoder.slide("s.svs", {20: np.zeros((5, 2), int)}, "float32") as slide:
            encoder.put(slide, 20, np.arange(5), _patches(5, 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    _embed(encoder, {20: 8}, 1)
    assert backbone.batches == [8]


def test_a_reader_that_waits_can_be_stopped() -> None:
    """The network comes back only when the slide has been given up."""
    given_up = threading.Event()

    def wait(vectors: Tensor) -> Tensor:
        assert given_up.wait(timeout=60)
        return vectors

    def stop() -> None:
        raise Stopped

    encoder = _encoder(Colours(wait))

    def read() -> None:
        with encoder.slide("s.svs", {20: np.zeros((3, 2), int)}, "float32", stop) as slide:
            encoder.put(slide, 20, np.arange(3), _patches(3, 0))

    with pytest.raises(Stopped):
        read()
    given_up.set()
    _embed(encoder, {20: 5}, 1)


def test_nothing_is_queued_for_a_place_without_a_patch_of_use() -> None:
    encoder = _encoder(Colours())
    with encoder.slide("s.svs", {20: np.zeros((3, 2), int)}, "float32") as slide:
        encoder.put(slide, 20, np.arange(0), _patches(0, 0))
    assert not slide.embedded[20].any()
    assert not encoder._pieces


def test_a_program_may_end_while_the_network_computes() -> None:
    """Python 3.11 aborts when it ends while a daemon thread comes back from a network."""
    script = """
        import sys, time
        import numpy as np, torch
        from tests.features.test_encoder import Colours, _encoder
        convolution = torch.nn.Conv2d(3, 64, 3, padding=1)
        def long(vectors):
            for _ in range(30):
                convolution(torch.rand(16, 3, 128, 128))
            return vectors
        encoder = _encoder(Colours(long))
        with encoder.slide("s", {20: np.zeros((8, 2), int)}, "float32") as slide:
            encoder.put(slide, 20, np.arange(8), np.zeros((8, 4, 4, 3), np.uint8))
            time.sleep(0.2)
            sys.exit(7)
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (7, "")


def test_precision_follows_the_backbone_and_the_device() -> None:
    assert choose_precision("auto", "float32", Device("cpu")) == "float32"
    assert choose_precision("float16", "float32", Device("cpu")) == "float16"
    fast = "bfloat16" if cpu_has_bfloat16() else "float32"
    assert choose_precision("auto", "float16", Device("cpu")) == fast
    assert choose_precision("auto", "bfloat16", Device("cpu")) == fast
    assert choose_precision("auto", "float16", Device("cuda")) == "float16"


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> ResNet18:
    torch.manual_seed(0)
    file: Path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), file)
    return ResNet18(ResNetConfig(weights=file, input_px=64))


def _features(encoder: Encoder) -> Tensor:
    """Of eight smooth patches of 96 px."""
    ground = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), np.uint8)
    patches = ground.repeat(16, axis=1).repeat(16, axis=2)
    with encoder.slide("s.svs", {20: np.zeros((8, 2), int)}, "float32") as slide:
        encoder.put(slide, 20, np.arange(8), patches)
    return torch.from_numpy(slide.features[20])


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_bfloat16_stays_within_a_hundredth_of_float32(backbone: str, resnet18: ResNet18) -> None:
    """Cosine distance, with random weights and with those of a trained network."""
    network: Backbone = resnet18
    if backbone == "efficientnet_lite0":
        network = EfficientNetLite0(EfficientNetLite0.Config(input_px=64))
    whole, half = (_features(_encoder(network, 8, name)) for name in ("float32", "bfloat16"))
    distance = 1 - nn.functional.cosine_similarity(whole, half)
    assert not torch.equal(whole, half)
    assert float(distance.max()) < 1e-2


def test_the_encoder_gives_what_the_plain_network_gives(resnet18: ResNet18) -> None:
    """Against the same weights in timm's own network, all in one batch, without channels last."""
    plain: Any = timm.create_model("resnet18", checkpoint_path=str(resnet18.weights), num_classes=1000)
    plain.reset_classifier(0)
    encoder = PatchEncoder(plain, resnet18).eval()
    ground = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), np.uint8)
    patches = torch.from_numpy(ground.repeat(16, axis=1).repeat(16, axis=2)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        torch.testing.assert_close(_features(_encoder(resnet18, 3)), encoder(patches), rtol=1e-4, atol=1e-5)


@pytest.mark.acceptance
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_gives_the_same_features(resnet18: ResNet18) -> None:
    compiled = Encoder(resnet18, "resnet18", CPU, "float32", Extraction(batch_size=3, compile=True))
    torch.testing.assert_close(_features(compiled), _features(_encoder(resnet18, 3)), rtol=1e-4, atol=1e-5)
