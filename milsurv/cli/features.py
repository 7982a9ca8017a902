"""``milsurv features``: lists, verifies and exports feature files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from milsurv.cli.common import new_app, new_table
from milsurv.progress import PlainConsole, RunProgress

if TYPE_CHECKING:
    from milsurv.features.inventory import FeatureFolder

app = new_app(help="List, verify and export feature files.", no_args_is_help=True)
WORKSPACE = Path("milsurv-workspace")


@app.command("list")
def list_features(
    workspace: Annotated[
        Path, typer.Argument(metavar="WORKSPACE", help="Folder with features and runs.")
    ] = WORKSPACE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List feature folders, one per backbone and settings: slides, patches, size, version of milsurv."""
    from milsurv.features.inventory import list_folders

    folders = list_folders(workspace)
    if as_json:
        typer.echo(json.dumps([folder.as_dict() for folder in folders], indent=2))
    else:
        _print(folders)


def _print(folders: list[FeatureFolder]) -> None:
    table = new_table("folder", "slides", "patches", "MB", "milsurv", "unreadable")
    for folder in folders:
        patches = ", ".join(f"{count} at {m}x" for m, count in sorted(folder.patches.items(), reverse=True))
        cells = (
            folder.folder.name,
            str(folder.slides),
            patches,
            f"{folder.bytes / 1e6:.1f}",
            ", ".join(folder.milsurv_versions),
            str(folder.unreadable or ""),
        )
        table.add_row(*cells, style="red" if folder.unreadable else None)
    PlainConsole().print(table)


@app.command()
def verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Workspaces, feature folders or feature files."),
    ] = None,
) -> None:
    """Verify feature files: checksums, lengths, finite values, attributes, grids. Exit status 1 if one is bad."""
    from milsurv.features.inventory import feature_files, problems_of

    files = [file for path in paths or [WORKSPACE] for file in feature_files(path)]
    progress = RunProgress()
    bad = 0
    for file in files:
        problems = problems_of(file)
        bad += bool(problems)
        for problem in problems:
            progress.error(problem)
    progress.say(f"{len(files) - bad} of {len(files)} feature files are valid")
    raise typer.Exit(1 if bad else 0)


@app.command()
def export(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Feature folder, see milsurv features list.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")],
    layout: Annotated[Literal["trident", "clam"], typer.Option(help="Format of the files.")],
) -> None:
    """Export features in the format of TRIDENT or CLAM."""
    from milsurv.features.export import export_features

    count = sum(1 for _ in export_features(folder, output, layout))
    RunProgress().say(f"{count} slides exported to {output}")
