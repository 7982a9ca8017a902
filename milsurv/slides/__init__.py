"""Pixels: opening slides, their resolution, tissue, and the aligned grid of patches."""

from milsurv.slides.reading import read_patches

__all__ = ["read_patches"]
