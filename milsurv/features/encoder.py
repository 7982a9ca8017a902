"""A backbone in a separate thread, whose batches are filled from all magnifications and slides being read."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milsurv.backbones.base import Backbone, Precision
from milsurv.config.run import Extraction
from milsurv.errors import MilsurvError, first_line
from milsurv.executors.memory import out_of_memory, out_of_memory_explained, release_device_memory

QUEUED_BATCHES = 3
"""Limit of batches of patches that wait for the network."""
AUTOMATIC_BATCH = {"cpu": 32, "cuda": 256}
STOP_CHECK_SECONDS = 1.0
"""Interval at which a waiting reader checks whether it should stop."""
TYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Piece:
    """Patches of one magnification of a slide, queued for the network."""

    slide: SlideFeatures
    magnification: int
    rows: NDArray[np.int64]
    patches: NDArray[np.uint8]
    """``(k, h, w, 3)``."""

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, at: int) -> tuple[Piece, Piece]:
        """The first ``at`` patches, and the rest."""
        return (
            replace(self, rows=self.rows[:at], patches=self.patches[:at]),
            replace(self, rows=self.rows[at:], patches=self.patches[at:]),
        )


@dataclass(eq=False)
class SlideFeatures:
    """The features of a slide, filled in as the network computes them."""

    name: str
    """The slide, for errors."""
    coords: dict[int, NDArray[np.int64]]
    features: dict[int, NDArray[Any]]
    """Magnification -> ``(n, dim)``."""
    embedded: dict[int, NDArray[np.bool_]]
    """Magnification -> ``(n,)``: which patches have features."""
    raise_if_stopped: Callable[[], None]
    """Called while its reader waits."""
    waiting: int = 0
    error: BaseException | None = None

    def take(self, piece: Piece, vectors: NDArray[np.float32], backbone: str) -> None:
        """Store the vectors of a piece. Raises MilsurvError when one is not finite, or not in the stored type."""
        features = self.features[piece.magnification]
        with np.errstate(over="ignore"):
            stored = vectors.astype(features.dtype)
        for values, advice in (
            (vectors, "compute in a wider type with extraction.precision: float32, or repair the weights"),
            (stored, f"they are beyond {features.dtype}: store wider ones with extraction.dtype: float32"),
        ):
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                x, y = self.coords[piece.magnification][piece.rows[bad.argmax()]]
                raise MilsurvError(
                    f"{backbone} returned features that are not finite for the {piece.magnification}x patch at "
                    f"({x}, {y}) of {self.name}; {advice}"
                )
        features[piece.rows] = stored
        self.embedded[piece.magnification][piece.rows] = True


@dataclass
class _Launched:
    """A batch whose vectors are being computed."""

    pieces: list[Piece]
    vectors: Tensor | None = None
    """float32 on the host; from a GPU, they are valid once they have ``arrived``."""
    arrived: torch.cuda.Event | None = None
    error: BaseException | None = None


class Encoder:
    """A network in a separate thread, fed by the threads that read slides.

    A batch is computed as soon as it is full, or when no slide is being read that could add to it. While a batch is on
    a GPU, the next one is gathered and the vectors of the last one are collected.

    Attributes:
        batch_size: patches per batch; halved when a batch does not fit into the device's memory.
    """

    def __init__(
        self,
        backbone: Backbone,
        name: str,
        device: torch.device,
        precision: Precision,
        settings: Extraction,
        threads: int = 1,
    ):
        """Load the network. ``name``: the backbone with its distribution, for errors. Raises WeightsError."""
        self.backbone, self.name, self.device, self.precision = backbone, name, device, precision
        automatic = AUTOMATIC_BATCH["cpu" if device.type == "cpu" else "cuda"]
        self.batch_size = automatic if settings.batch_size == "auto" else settings.batch_size
        self._known_size = self.batch_size
        with out_of_memory_explained(self._too_large):
            network: Any = backbone.load(device, torch.float32).to(memory_format=torch.channels_last)
        self._network = torch.compile(network, dynamic=True) if settings.compile else network
        self._threads = threads
        self._pieces: deque[Piece] = deque()
        self._queued = 0
        self._reading = 0
        self._changed = threading.Condition()
        self._pinned: list[Tensor] = []
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """End the thread after the current batch: Python must not exit while the network is running."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def _too_many(self) -> str:
        return (
            f"a batch of {self.batch_size} patches does not fit into the host's memory; use a smaller "
            "extraction.batch_size, fewer extraction.decoding_threads or fewer executor.workers"
        )

    def _too_large(self) -> str:
        return (
            f"{self.name} and one patch do not fit into the memory of {self.device}; use a smaller backbone, another "
            "device, or fewer executor.workers"
        )

    @contextmanager
    def slide(
        self,
        name: str,
        coords: dict[int, NDArray[np.int64]],
        dtype: str,
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> Iterator[SlideFeatures]:
        """Within the block, ``put`` may be called with the slide; all patches have features when the block has ended.

        ``raise_if_stopped`` is called every second of waiting; an exception from it abandons the slide.
        """
        dim = self.backbone.dim
        slide = SlideFeatures(
            name,
            coords,
            {m: np.empty((len(places), dim), dtype) for m, places in coords.items()},
            {m: np.zeros(len(places), bool) for m, places in coords.items()},
            raise_if_stopped,
        )
        try:
            with self._reads():
                yield slide
            with self._changed:
                self._wait_for(lambda: slide.waiting == 0, slide)
            _raise(slide)
        except BaseException:
            self._forget(slide)
            raise

    @contextmanager
    def _reads(self) -> Iterator[None]:
        """Within the block, the network waits for full batches."""
        with self._changed:
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def _wait_for(self, condition: Callable[[], bool], slide: SlideFeatures) -> None:
        while not self._changed.wait_for(condition, STOP_CHECK_SECONDS):
            slide.raise_if_stopped()

    def put(
        self, slide: SlideFeatures, magnification: int, rows: NDArray[np.int64], patches: NDArray[np.uint8]
    ) -> None:
        """Queue patches ``(k, h, w, 3)``; waits while the queue is full. Raises the error of earlier ones, if any."""
        if not len(rows):
            return
        most = QUEUED_BATCHES * self.batch_size
        with self._changed:
            self._wait_for(lambda: self._queued < most or slide.error is not None, slide)
            _raise(slide)
            self._pieces.append(Piece(slide, magnification, rows, patches))
            self._queued += len(rows)
            slide.waiting += len(rows)
            self._changed.notify_all()

    def smaller_batches(self) -> int | None:
        """The size to which batches were halved since the last call, or None."""
        with self._changed:
            known, self._known_size = self._known_size, self.batch_size
        return self.batch_size if self.batch_size < known else None

    def _forget(self, slide: SlideFeatures) -> None:
        with self._changed:
            self._pieces = deque(piece for piece in self._pieces if piece.slide is not slide)
            self._queued = sum(map(len, self._pieces))

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        under_way: _Launched | None = None
        while not self._closing:
            pieces = self._gather(wait=under_way is None)
            launched = self._launch(pieces) if pieces else None
            if under_way is not None:
                self._collect(under_way)
            under_way = launched

    def _gather(self, wait: bool) -> list[Piece]:
        """The next batch; empty when there is none yet and ``wait`` is False."""

        def ready() -> bool:
            return self._queued >= self.batch_size or (self._reading == 0 and self._queued > 0)

        with self._changed:
            if wait:
                self._changed.wait_for(lambda: ready() or self._closing)
            elif not ready():
                return []
            batch, room = [], self.batch_size
            while room and self._pieces:
                piece, rest = self._pieces.popleft().cut(room)
                if len(rest):
                    self._pieces.appendleft(rest)
                batch.append(piece)
                room -= len(piece)
            self._queued -= sum(map(len, batch))
            self._changed.notify_all()
            return batch

    def _launch(self, pieces: list[Piece]) -> _Launched:
        try:
            with out_of_memory_explained(self._too_many):
                patches = self._together(pieces)
            vectors = self.vectors(patches)
            expected = (len(patches), self.backbone.dim)
            if vectors.shape != expected:
                raise MilsurvError(
                    f"{self.name} returned shape {tuple(vectors.shape)} for {len(patches)} patches; expected "
                    f"{expected}: it fails the check 'dimension'"
                )
            if self.device.type == "cpu":
                return _Launched(pieces, vectors.float())
            with out_of_memory_explained(self._too_many):
                host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(vectors.float(), non_blocking=True)
            return _Launched(pieces, host, torch.cuda.current_stream(self.device).record_event())
        except BaseException as error:
            return _Launched(pieces, error=error)

    def _together(self, pieces: Sequence[Piece]) -> Tensor:
        """uint8 ``(n, h, w, 3)``; for a GPU in pinned memory."""
        patches = [torch.from_numpy(piece.patches) for piece in pieces]
        if self.device.type == "cpu":
            return torch.cat(patches)
        shape = (self.batch_size, *patches[0].shape[1:])
        if not self._pinned or self._pinned[0].shape != shape:
            self._pinned = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._pinned.reverse()  # the other buffer may still be in use by a copy
        pinned = self._pinned[0][: sum(map(len, patches))]
        torch.cat(patches, out=pinned)
        return pinned

    def vectors(self, patches: Tensor) -> Tensor:
        """uint8 ``(n, h, w, 3)`` -> ``(n, dim)`` on the encoder's device, computed in its precision.

        If memory is short, the batch size is halved for this and all following batches.
        """
        narrow = self.precision != "float32"
        with torch.inference_mode(), torch.autocast(self.device.type, TYPES[self.precision], enabled=narrow):
            return self._forward(patches)

    def _forward(self, patches: Tensor) -> Tensor:
        try:
            pixels = patches.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # channels last
            vectors: Tensor = self._network(pixels)
            return vectors
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(patches) == 1:
                raise MilsurvError(f"{self._too_large()} ({first_line(error)})") from error
        release_device_memory()
        self.batch_size = min(self.batch_size, len(patches) // 2)
        return torch.cat([self._forward(some) for some in patches.split(self.batch_size)])

    def _collect(self, batch: _Launched) -> None:
        error, values = batch.error, None
        if batch.vectors is not None:
            try:
                if batch.arrived is not None:
                    batch.arrived.synchronize()
                values = batch.vectors.numpy()
            except BaseException as problem:
                error = problem
        start = 0
        for piece in batch.pieces:
            failed = error
            if values is not None:
                try:
                    piece.slide.take(piece, values[start : start + len(piece)], self.name)
                except BaseException as problem:
                    failed = problem
            start += len(piece)
            with self._changed:
                piece.slide.waiting -= len(piece)
                piece.slide.error = piece.slide.error or failed
                self._changed.notify_all()


def _raise(slide: SlideFeatures) -> None:
    if slide.error is not None:
        raise slide.error
