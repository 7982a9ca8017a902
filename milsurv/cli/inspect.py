"""``milsurv inspect``: shows how a run would process a slide, or each slide of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milsurv.cli.common import MppOption, PluginOption, SetOption, new_app, new_table
from milsurv.errors import WeightsError, size
from milsurv.progress import PlainConsole, RunProgress, duration

if TYPE_CHECKING:
    from milsurv.features.preview import SlideInspection
    from milsurv.runs.session import Session

app = new_app()
DPI = 130
FILE_WIDTH = 140
"""Columns of a table that is not printed on a terminal."""


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="SLIDE|FOLDER", help="A slide, or a folder of slides.")],
    config: Annotated[
        str,
        typer.Option(
            "--config", "-c", metavar="CONFIG", help="Configuration with reader, tissue, tiling and backbone."
        ),
    ] = "demo",
    overrides: SetOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for a picture (PNG) and the tissue outline (GeoJSON) of each slide "
            "(default: the current folder for a slide, none for a folder).",
        ),
    ] = None,
    mpp: MppOption = None,
    plugin: PluginOption = None,
) -> None:
    """Show how a run would process a slide: resolution, reader, tissue, patches, time and disk space.

    For a folder, print a table in which slides that would be excluded are red. The exit status is 1 if there are any.
    """
    from milsurv.config.loading import load_config
    from milsurv.features.preview import inspect_slide, slides_to_inspect
    from milsurv.runs.session import open_session

    progress = RunProgress()
    loaded, registry = load_config(config, overrides or [], plugin or [])
    slides = slides_to_inspect(path, loaded, mpp)
    with open_session(loaded, registry, progress) as session:
        estimate = Estimate(session)
    if len(slides) == 1 and not path.is_dir():
        ((file, given),) = slides.items()
        found = inspect_slide(file, given, loaded, registry)
        _print_slide(found, estimate, progress)
        _write(found, output or Path(), progress)
        raise typer.Exit(int(found.reason is not None))
    inspected = []
    with progress.stage("inspecting", len(slides), "slides") as stage:
        for file, given in slides.items():
            inspected.append(inspect_slide(file, given, loaded, registry))
            if output is not None:
                _write(inspected[-1], output, progress)
            stage.advance()
    _print_folder(path, inspected, estimate, progress)
    raise typer.Exit(int(any(found.reason is not None for found in inspected)))


class Estimate:
    """Estimated time and disk space of feature extraction on this machine."""

    def __init__(self, session: Session):
        from milsurv.features.extraction import Extraction
        from milsurv.features.preview import embedding_seconds

        config, registry = session.config, session.registry
        self.device, self.workers = session.device.name, session.executor.workers
        self.name = config.extracting_backbone.name
        self._dim = registry.create("backbone", config.extracting_backbone).dim
        self._dtype = config.extraction.dtype
        self.unknown: str | None = None
        """Why the backbone's time is unknown."""
        self._per_patch = 0.0
        try:
            with session.context() as context:
                settings = Extraction.of(config, registry, session.device)
                self._per_patch = embedding_seconds(context, settings)
        except WeightsError as error:
            self.unknown = str(error)

    def seconds(self, found: SlideInspection) -> float:
        """Time of one worker to read and embed a slide."""
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
    for warning in found.warnings:
        progress.warn(warning)
    if found.reason is not None:
        progress.error(f"would be excluded: {found.reason}")


def _source(found: SlideInspection) -> str:
    return {
        "table": "the cohort table or --mpp",
        "properties": "the slide's properties",
        "objective power": "the objective power (the slide has no µm/px)",
    }[str(found.mpp_source)]


def _time(found: SlideInspection, estimate: Estimate) -> str:
    reading = f"about {duration(found.read_seconds or 0.0)} to read"
    if estimate.unknown is not None:
        return f"{reading}; the time of {estimate.name} is unknown: {estimate.unknown}"
    return f"about {duration(estimate.seconds(found))} with {estimate.name} on {estimate.device}, {reading}"


def _print_folder(
    path: Path, inspected: Sequence[SlideInspection], estimate: Estimate, progress: RunProgress
) -> None:
    magnifications = sorted({m for found in inspected for m in found.patches}, reverse=True)
    table = new_table()
    table.add_column("slide", overflow="fold", min_width=16)
    for heading in ("µm/px", "from", "mm² tissue", *(f"{m}x" for m in magnifications), "time", "disk"):
        table.add_column(heading, justify="right")
    table.add_column("read by")
    for found in inspected:
        is_usable = found.reason is None
        cells = [
            found.path.relative_to(path).as_posix(),
            "" if found.mpp is None else f"{found.mpp:.4g}",
            found.mpp_source or "",
            "" if found.tissue_mm2 is None else f"{found.tissue_mm2:.1f}",
            *(f"{found.patches[m]:,}" if is_usable else "" for m in magnifications),
            duration(estimate.seconds(found)) if is_usable else "",
            size(estimate.disk(found)) if is_usable else "",
            found.read_by if is_usable else "excluded",
        ]
        table.add_row(*cells, style=None if is_usable else "red")
    console = PlainConsole()
    console.width = console.width if console.is_terminal else FILE_WIDTH
    console.print(table)
    for found in inspected:
        name = found.path.relative_to(path).as_posix()
        for warning in found.warnings:
            progress.warn(f"{name}: {warning}")
        if found.reason is not None:
            progress.warn(f"{name} would be excluded: {found.reason}")
    usable = [found for found in inspected if found.reason is None]
    seconds = sum(map(estimate.seconds, usable)) / estimate.workers
    progress.say(
        f"{len(usable)} of {len(inspected)} slides can be used; about {duration(seconds)} with {estimate.workers} "
        f"worker(s) and {estimate.name} on {estimate.device}, {size(sum(map(estimate.disk, usable)))} of features"
    )
    if estimate.unknown is not None:
        progress.warn(f"the time includes only reading: {estimate.unknown}")


def _write(found: SlideInspection, folder: Path, progress: RunProgress) -> None:
    """Write a PNG and the tissue outline as GeoJSON; an existing GeoJSON is kept, because it may have been edited."""
    from milsurv.explain.figures import inspect_figure
    from milsurv.explain.view import Patches, SlideView
    from milsurv.slides.outlines import write_geojson

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
        progress.say(f"outline    {outline} exists and is kept")
        return
    write_geojson(found.mask, outline, found.qupath_origin)
    progress.say(f"outline    {outline}")
