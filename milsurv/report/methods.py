"""The methods of a run as text for a paper, with the works that it cites."""

from __future__ import annotations

from dataclasses import dataclass

from milsurv.config.run import RunConfig
from milsurv.evaluation.times import time_text
from milsurv.plugin.base import PluginSection
from milsurv.report.citations import SOFTWARE, Citations
from milsurv.report.formatting import listed
from milsurv.report.rendering import page, paragraphs
from milsurv.report.results import RunResults, with_earlier

OF_SLIDES = ("timm", "openslide-python")
"""Software that a run with imported features does not use."""


@dataclass(frozen=True)
class Methods:
    """Paragraphs of plain text, in which [1] refers to the first of ``citations``."""

    paragraphs: list[str]
    citations: list[str]


def methods(config: RunConfig, results: RunResults) -> Methods:
    """The methods of a run, from its settings and the versions of its software."""
    cite = Citations()
    unused = () if config.reads_slides else OF_SLIDES
    text = page(
        "methods.txt",
        config=config,
        results=results,
        cohort=results.cohort,
        cite=cite,
        settings=_settings,
        scales=listed([f"{m}x ({10 / m:g} µm per pixel)" for m in config.tiling.magnifications]),
        folds=len(results.folds),
        seeds=len(results.metrics["seeds"]),
        times=[time_text(t) for t in results.metrics["times"]],
        versions=[
            f"{name} {with_earlier(environment[name.lower()] for environment in results.environments)}"
            for name in ("milsurv", "Python")
        ],
        software=[
            (name, package, key)
            for package, (name, key) in SOFTWARE.items()
            if results.versions(package) and package not in unused
        ],
    )
    return Methods(paragraphs(text), cite.works)


def _settings(section: PluginSection) -> str:
    """`` (embed_dim 16, num_heads 2)``: the settings given to a plugin."""
    given = [f"{key} {value}" for key, value in section.settings.items() if value is not None]
    return f" ({', '.join(given)})" if given else ""
