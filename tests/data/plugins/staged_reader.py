"""A reader, for tests of what happens to slides and processes while slides are read.

A slide named "cut while read" loses its second half, one named "grown while read" gains a byte, when its patches are
first read. With STAGE in the environment, a file, each slide whose patches are read is noted there with the process
that drives the run. STAGE_MEET=n waits at each slide until n such processes are noted, STAGE_BLOCK waits for ever.
The slide that STAGE_EMPTY names is emptied when it is closed.
"""

import os
import time
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milsurv import Register, hookimpl
from milsurv.slides.reader import OpenSlideReader, OpenSlideSlide


class StagedReader(OpenSlideReader):
    """Reads as OpenSlide does."""

    def open(self, path: Path, mpp: float | None = None) -> OpenSlideSlide:
        return StagedSlide(path, mpp)


class StagedSlide(OpenSlideSlide):
    _begun = False

    def read(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        if not self._begun:
            self._begun = True
            _begin(self.path)
        return super().read(x, y, width, height, size)

    def close(self) -> None:
        super().close()
        if self._begun and self.path.stem == os.environ.get("STAGE_EMPTY"):
            os.truncate(self.path, 0)


def _begin(path: Path) -> None:
    if path.stem == "cut while read":
        os.truncate(path, path.stat().st_size // 2)
    if path.stem == "grown while read":
        with path.open("ab") as file:
            file.write(b"\0")
    if "STAGE" not in os.environ:
        return
    stage = Path(os.environ["STAGE"])
    driver = parent_process()
    with stage.open("a") as file:
        file.write(f"{driver.pid if driver else os.getpid()} {path.stem}\n")
    while "STAGE_BLOCK" in os.environ or _drivers(stage) < int(os.environ.get("STAGE_MEET", "1")):
        time.sleep(0.02)


def _drivers(stage: Path) -> int:
    return len({line.split(" ")[0] for line in stage.read_text().splitlines()})


@hookimpl
def milsurv_register_readers(register: Register) -> None:
    register("staged", f"{__name__}:StagedReader", summary="OpenSlide with incidents, for tests")
