"""``milsurv inspect``: what a run would make of a slide, or of each slide in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from milsurv.config.loading import load_config
from milsurv.errors import WeightsError, size
from milsurv.explain.figures import inspect_figure
from milsurv.explain.view import Patches, SlideView
from milsurv.features.preview import SlideInspection, embedding_seconds, inspect_slide, slides_to_inspect
from milsurv.progress import PlainConsole, RunProgress, duration
from milsurv.runs.session import Session, open_session
from milsurv.slides.outlines import write_geojson

DPI = 130
WIDTH_OF_FILES = 140
"""Columns of a table that is not printed on a terminal."""


def inspect_command(
    path: Path,
    source: str,
    overrides: Sequence[str],
    plugins: Sequence[Path],
    output: Path | None,
    mpp: float | None,
) -> int:
    """Exit status: 0; 1 when a slide would be left out."""
    progress = RunProgress()
    config, registry = load_config(source, overrides, plugins)
    slides = slides_to_inspect(path, config, mpp)
    with open_session(config, registry, progress) as session:
        estimate = Estimate(session)
    if len(slides) == 1 and not path.is_dir():
        ((file, given),) = slides.items()
        found = inspect_slide(file, given, config, registry)
        _print_slide(found, estimate, progress)
        _write(found, output or Path(), progress)
        return int(found.reason is not None)
    inspected = []
    with progress.stage("inspecting", len(slides), "slides") as stage:
        for file, given in slides.items():
            inspected.append(inspect_slide(file, given, config, registry))
            if output is not None:
                _write(inspected[-1], output, progress)
            stage.advance()
    _print_folder(path, inspected, estimate, progress)
    return int(any(found.reason is not None for found in inspected))


class Estimate:
    """Time and disk of extraction with a configuration's backbone, on this machine."""

    def __init__(self, session: Session):
        config, registry = session.config, session.registry
        self.device, self.workers = session.device, session.workers
        self.name = config.extracting_backbone.name
        self._dim = registry.create("backbone", config.extracting_backbone).dim
        self._dtype = config.extraction.dtype
        self.without: str | None = None
        """Why the backbone's time is not known."""
        self._per_patch = 0.0
        try:
            self._per_patch = embedding_seconds(config, registry, self.device)
        except WeightsError as error:
            self.without = str(error)

    def seconds(self, found: SlideInspection) -> float:
        """To read and embed a slide, by one worker."""
        return (found.read_seconds or 0.0) + self._per_patch * sum(found.patches.values())

    def disk(self, found: SlideInspection) -> int:
        return found.disk_bytes(self._dim, self._dtype)


def _print_slide(found: SlideInspection, estimate: Estimate, progress: RunProgress) -> None:
    def line(name: str, text: str) -> None:
        progress.say(f"{name:<11}{text}")

    line("slide", f"{found.path}")
    if found.dimensions is not None and found.mpp is not None:
        width, height = found.dimensions
        line("resolution", f"{found.mpp:.4g} µm/px, from {_source(found)}")
        line(
            "size",
            f"{width} × {height} px, {width * found.mpp / 1000:.3g} × {height * found.mpp / 1000:.3g} mm",
        )
        line("levels", ", ".join(f"{w} × {h}" for w, h in found.levels))
        line("reader", f"{found.read_by}: {found.read_by_reason}")
    if found.mask is not None:
        line("tissue", f"{found.tissue_mm2:.1f} mm², {found.mask.fraction:.0%} of the slide")
    if found.grid is not None:
        for index, (m, magnification) in enumerate(found.grid.magnifications.items()):
            count = found.patches[m]
            line("" if index else "patches", f"{m}x: {count:,} at {magnification.mpp:.4g} µm/px")
        line("time", _time(found, estimate))
        line("disk", f"{size(estimate.disk(found))} of features")
    for doubt in found.doubts:
        progress.warn(doubt)
    if found.reason is not None:
        progress.error(f"would be left out: {found.reason}")


def _source(found: SlideInspection) -> str:
    return {
        "table": "the cohort table or --mpp, which win over the slide",
        "properties": "the slide's properties",
        "objective power": "the objective power, as the slide has no µm/px",
    }[str(found.mpp_source)]


def _time(found: SlideInspection, estimate: Estimate) -> str:
    reading = f"about {duration(found.read_seconds or 0.0)} to read"
    if estimate.without is not None:
        return f"{reading}; that of {estimate.name} is not known: {estimate.without}"
    return f"about {duration(estimate.seconds(found))} with {estimate.name} on {estimate.device}, {reading}"


def _print_folder(
    path: Path, inspected: Sequence[SlideInspection], estimate: Estimate, progress: RunProgress
) -> None:
    magnifications = sorted({m for found in inspected for m in found.patches}, reverse=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("slide", overflow="fold", min_width=16)
    for heading in ("µm/px", "from", "mm² tissue", *(f"{m}x" for m in magnifications), "time", "disk"):
        table.add_column(heading, justify="right")
    table.add_column("read by")
    for found in inspected:
        whole = found.reason is None
        cells = [
            found.path.relative_to(path).as_posix(),
            "" if found.mpp is None else f"{found.mpp:.4g}",
            found.mpp_source or "",
            "" if found.tissue_mm2 is None else f"{found.tissue_mm2:.1f}",
            *(f"{found.patches[m]:,}" if whole else "" for m in magnifications),
            duration(estimate.seconds(found)) if whole else "",
            size(estimate.disk(found)) if whole else "",
            found.read_by if whole else "left out",
        ]
        table.add_row(*cells, style=None if whole else "red")
    console = PlainConsole()
    console.width = console.width if console.is_terminal else WIDTH_OF_FILES
    console.print(table)
    for found in inspected:
        name = found.path.relative_to(path).as_posix()
        for doubt in found.doubts:
            progress.warn(f"{name}: {doubt}")
        if found.reason is not None:
            progress.warn(f"{name} would be left out: {found.reason}")
    usable = [found for found in inspected if found.reason is None]
    seconds = sum(map(estimate.seconds, usable)) / estimate.workers
    progress.say(
        f"{len(usable)} of {len(inspected)} slides can be used; about {duration(seconds)} with {estimate.workers} "
        f"worker(s) and {estimate.name} on {estimate.device}, {size(sum(map(estimate.disk, usable)))} of features"
    )
    if estimate.without is not None:
        progress.warn(f"the time is that of reading alone: {estimate.without}")


def _write(found: SlideInspection, folder: Path, progress: RunProgress) -> None:
    """A PNG and the tissue's GeoJSON; a GeoJSON that is there stays, for it may have been edited."""
    if found.thumbnail is None or found.mask is None or found.mpp is None or found.dimensions is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{found.path.stem}.png"
    grid = found.grid
    patches = (
        {m: Patches(grid.coords[m], grid.magnifications[m].patch_level0) for m in grid.coords} if grid else {}
    )
    downsample = found.dimensions[0] / found.thumbnail.shape[1]
    view = SlideView(
        found.path.name, "", found.thumbnail, downsample, found.mpp, patches, outlines=found.mask.outlines()
    )
    inspect_figure(view).savefig(picture, dpi=DPI)
    progress.say(f"picture    {picture}")
    outline = folder / f"{found.path.stem}.geojson"
    if not found.mask.mask.any():
        return
    if outline.exists():
        progress.say(f"outline    {outline} is there already and stays as it is")
        return
    write_geojson(found.mask, outline, found.qupath_origin)
    progress.say(f"outline    {outline}")
