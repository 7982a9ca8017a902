"""Events that units report while features are made; slides' outcomes are kept in ``events.jsonl``."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class PatchesEmbedded(TypedDict):
    """Some patches of a slide have features."""

    event: Literal["patches"]
    count: int


class BatchesHalved(TypedDict):
    """The device's memory did not hold a batch."""

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
