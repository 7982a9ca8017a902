"""Events that units report while features are made; those with slides' outcomes are written to ``events.jsonl``."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class PatchesEmbedded(TypedDict):
    """Some patches of a slide have features."""

    event: Literal["patches"]
    count: int


class BatchesHalved(TypedDict):
    """A batch did not fit into the device's memory."""

    event: Literal["smaller batches"]
    batch_size: int
    device: str


class SlideFinished(TypedDict):
    """A slide has its feature file, or is excluded."""

    event: Literal["slide"]
    slide: str
    reason: str | None
    """Why the slide is excluded."""
    bytes: int
    """Size of the feature file."""
    traceback: NotRequired[str]
    """Traceback of an unexpected exception, if that is the reason."""
