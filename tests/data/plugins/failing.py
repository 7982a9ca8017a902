"""A reader and a tissue segmentation that fail, on slides whose ids say how, with exceptions of the libraries' own."""

import errno
import struct
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from milsurv import Register, hookimpl
from milsurv.plugin.base import PluginConfig
from milsurv.slides.reader import OpenSlideReader, OpenSlideSlide, Slide
from milsurv.slides.tissue import OtsuConfig, OtsuTissue, TissueMask


def fail(how: str) -> None:
    """Raise what the word after the first space names."""
    match how.partition(" ")[2]:
        case "cv2":
            cv2.medianBlur(np.zeros((9, 9), np.uint8), 4)
        case "memory":
            np.empty((10**6, 10**6, 10**6))
        case "struct":
            struct.unpack("<I", b"")
        case "jpeg":
            simplejpeg.decode_jpeg(b"no jpeg")
        case "disk":
            raise OSError(errno.EIO, "Input/output error")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp")
        case "silent":
            raise KeyError


class FailingSlide(OpenSlideSlide):
    def read(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        if self.path.stem.startswith("read"):
            fail(self.path.stem)
        return super().read(x, y, width, height, size)

    def close(self) -> None:
        super().close()
        if self.path.stem.startswith("close"):
            fail(self.path.stem)


class FailingReader(OpenSlideReader):
    """Reads as OpenSlide does."""

    def open(self, path: Path, mpp: float | None = None) -> OpenSlideSlide:
        if path.stem.startswith("open"):
            fail(path.stem)
        slide = FailingSlide(path, mpp)
        if path.stem == "mpp":
            slide.mpp = 0.001
        if path.stem == "huge":
            slide.dimensions = (10**9, 10**9)
        return slide


class FailingConfig(OtsuConfig):
    always: bool = False


class FailingTissue(OtsuTissue):
    Config = FailingConfig

    def __init__(self, config: PluginConfig):
        assert isinstance(config, FailingConfig)
        super().__init__(config)
        self.always = config.always

    def segment(self, slide: Slide) -> TissueMask:
        if self.always:
            raise ValueError(f"no luck with {slide.path.stem}")
        if slide.path.stem.startswith("mask"):
            fail(slide.path.stem)
        return super().segment(slide)


@hookimpl
def milsurv_register_readers(register: Register) -> None:
    register("failing", f"{__name__}:FailingReader", summary="fails as a slide's id says, for tests")


@hookimpl
def milsurv_register_tissue(register: Register) -> None:
    register("failing", f"{__name__}:FailingTissue", summary="fails as a slide's id says, for tests")
