"""Where the features of a run come from: one contract for extraction from slides and for import from other tools."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from milsurv._version import __version__
from milsurv.cohort.cases import SlideRef
from milsurv.cohort.locate import SlideFolder
from milsurv.config.run import RunConfig
from milsurv.errors import TABLE_ADVICE, MilsurvError, SlideError, SlideFaultError, slide_reason
from milsurv.executors.base import Context, Resources, Unit
from milsurv.executors.devices import Device
from milsurv.features.bag import Bag
from milsurv.features.events import SlideFinished
from milsurv.features.store import MagnificationFeatures, read_attributes, write_features
from milsurv.plugin.registry import Registry, get_registry
from milsurv.slides.opening import slide_faults


@dataclass(frozen=True)
class SlideOutcome:
    """The result of making a slide's feature file. ``reason`` is None when the file exists."""

    slide_id: str
    patches: dict[int, int] = field(default_factory=dict)
    """Magnification -> number of patches."""
    mpp: float | None = None
    mpp_source: str | None = None
    reason: str | None = None
    """Why the slide is excluded."""
    fault: str | None = None
    """Type and source line of an unexpected exception, if that is the reason."""
    warnings: tuple[str, ...] = ()
    """Warnings about a slide that is used."""
    made_from: Any = None
    """Hashes of the files that the features were made from, JSON-able; for the run's fingerprint."""

    @classmethod
    def excluded(cls, slide_id: str, error: SlideError, mpp_advice: str = TABLE_ADVICE) -> SlideOutcome:
        """The outcome of a slide that cannot be used."""
        fault = error.fault if isinstance(error, SlideFaultError) else None
        return cls(slide_id, reason=slide_reason(error, mpp_advice), fault=fault)


@dataclass(frozen=True)
class SlideCheck:
    """Result of checking the headers of a slide's files, before its features are made."""

    to_do: bool = False
    """Whether its features are still to be extracted."""
    bytes: float = 0.0
    """Upper limit of the size of its feature file, if that is still to be written."""
    warnings: tuple[str, ...] = ()
    dims: Mapping[int, int] = field(default_factory=dict)
    """Magnification -> length of its feature vectors, if known from the headers."""


@dataclass(frozen=True)
class FeatureSource(ABC):
    """Determines the content of a run's feature files, and makes them. Sent to workers."""

    config: RunConfig
    origins: Mapping[tuple[str, str], str]
    """Kind and name of each plugin that makes features -> fingerprint of its source."""
    mpp_advice: str = field(default=TABLE_ADVICE, kw_only=True)
    """How to specify a missing µm/px, for messages."""

    verb: ClassVar[str]
    """``extracting`` or ``importing``, for progress."""
    code: ClassVar[tuple[str, ...]]
    """Modules of milsurv, other than its plugins, that affect the features."""
    free_settings: ClassVar[tuple[str, ...]] = ()
    """Settings in :attr:`content` that may differ between training and prediction."""
    usable: ClassVar[str]
    """Text of ``check`` about the usable slides: "40 slides …"."""
    size_of: ClassVar[str]
    """What takes disk space, for ``check``."""
    recorded: ClassVar[tuple[str, ...]] = ("patches", "mpp", "mpp_source")
    """Attributes of a feature file that are part of its :class:`SlideOutcome`."""

    @property
    def registry(self) -> Registry:
        """The plugins of this process."""
        return get_registry(self.config.plugins)

    @property
    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Every setting that changes the features, JSON-able: the basis of fingerprints."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of the feature files."""

    def path(self, slide_id: str) -> Path:
        """A slide's feature file."""
        return self.folder / f"{slide_id}.h5"

    @property
    def plugins(self) -> dict[str, str]:
        """Kind -> name of the plugins that make features."""
        return dict(self.origins.keys())

    @property
    @abstractmethod
    def summary(self) -> dict[str, str | None]:
        """What ``cohort.json`` records: ``imported``, a name of imported features, and the backbone's ``precision``."""

    @property
    @abstractmethod
    def content_keys(self) -> Sequence[Callable[[Path], Hashable]]:
        """Functions of a slide's file with equal values for copies of a slide, from the fastest to the most certain."""

    def index(self) -> SlideFolder | None:
        """The files that represent slides; None: those in the cohort's folder of slides."""
        return None

    @abstractmethod
    def identity(self, slide: SlideRef) -> dict[str, Any]:
        """Attributes of a feature file that show whether it was made from this slide file.

        Raises SlideError when the file cannot be read.
        """

    @abstractmethod
    def made_from(self, attributes: Mapping[str, Any]) -> Any:
        """See :attr:`SlideOutcome.made_from`; from the attributes of a feature file."""

    @abstractmethod
    def make(
        self, context: Context, slide: SlideRef
    ) -> tuple[dict[int, MagnificationFeatures], dict[str, Any]]:
        """A slide's features by magnification, and the attributes of its file. Raises SlideError."""

    def resources(self, device: Device) -> Resources:  # noqa: ARG002
        """Resources for making the features of one slide."""
        return Resources()

    def warnings(self, slides: Sequence[SlideRef]) -> Iterator[str]:  # noqa: ARG002
        """Warnings before the features of ``slides`` are made."""
        yield from ()

    @abstractmethod
    def require_own_file(self, slide: SlideRef) -> None:
        """Raise MilsurvError when the feature file of the slide's id was made from another slide."""

    @abstractmethod
    def require_equal_dims(self, dims: Iterable[tuple[str, Mapping[int, int]]]) -> None:
        """Raise MilsurvError when slides (id, magnification -> length of vectors) have features of several encoders."""

    @abstractmethod
    def check_slide(self, slide: SlideRef) -> SlideCheck:
        """Look at the headers of a slide's files. Raises SlideError when the slide cannot be used."""

    @abstractmethod
    def sample(self, slide: SlideRef, choose: Callable[[Bag], Bag]) -> tuple[Bag, NDArray[np.uint8] | None]:
        """The part of a slide's bag that ``choose`` keeps, without making its feature file.

        If features are still to be extracted, they are random, and the pixels ``(n, h, w, 3)`` of the finest patches
        are returned as well. Raises SlideError when the slide cannot be used.
        """

    def check_backbone(
        self,
        context: Context,  # noqa: ARG002
        patches: NDArray[np.uint8] | None,  # noqa: ARG002
    ) -> tuple[list[str], list[str]]:
        """Facts and warnings about the backbone's weights; if available, ``patches`` are embedded as a test."""
        return [], []

    def unit(self, slide: SlideRef, device: Device) -> Unit:
        """The unit of work that makes a slide's feature file."""
        arguments = {"source": self, "slide": slide}
        path = self.path(slide.slide_id)
        return Unit(slide.slide_id, make_feature_file, arguments, path, self.resources(device))

    def done_before(self, slide: SlideRef) -> SlideOutcome | None:
        """The outcome of a slide whose feature file exists; None if it does not exist yet."""
        path = self.path(slide.slide_id)
        if slide.path is None or not path.is_file():
            return None
        try:
            expected = {**self.identity(slide), "table_mpp": slide.mpp}
            attributes = read_attributes(path, (*expected, *self.recorded))
        except (MilsurvError, KeyError, OSError):
            return None
        if any(attributes[name] != value for name, value in expected.items()):
            return None
        return self.outcome(slide.slide_id, attributes)

    def outcome(self, slide_id: str, attributes: Mapping[str, Any]) -> SlideOutcome:
        """The outcome of a slide whose file has these attributes."""
        return SlideOutcome(
            slide_id,
            {int(m): count for m, count in attributes["patches"].items()},
            attributes["mpp"],
            attributes["mpp_source"],
            warnings=tuple(attributes.get("warnings", ())),
            made_from=self.made_from(attributes),
        )


def make_feature_file(context: Context, source: FeatureSource, slide: SlideRef) -> SlideOutcome:
    """Unit of work: make a slide's feature file, unless it exists.

    For a slide that cannot be used, the outcome has a reason and no file is written.
    """
    source.registry.require_origins(source.origins)
    event = SlideFinished(event="slide", slide=slide.slide_id, reason=None, bytes=0)
    path = source.path(slide.slide_id)
    try:
        with slide_faults():
            outcome = source.done_before(slide)
        if outcome is None:
            features, attributes = source.make(context, slide)
            attributes |= {
                "table_mpp": slide.mpp,
                "patches": {str(m): len(of_m.features) for m, of_m in features.items()},
                "settings": source.content,
                "milsurv_version": __version__,
            }
            write_features(path, features, attributes)
            outcome = source.outcome(slide.slide_id, attributes)
        event["bytes"] = path.stat().st_size
    except SlideError as error:
        outcome = SlideOutcome.excluded(slide.slide_id, error, source.mpp_advice)
        event["reason"] = outcome.reason
        if isinstance(error, SlideFaultError):
            event["traceback"] = "".join(traceback.format_exception(error.__cause__))
    context.report(event)
    return outcome
