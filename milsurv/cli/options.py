"""Options and arguments that several commands have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from milsurv.cohort.mpp import ALLOWED_MPP, MPP_RANGE, possible_mpp
from milsurv.errors import MilsurvError

ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A YAML file, or a configuration that comes with milsurv: demo, synthetic."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the configuration: --set training.epochs=5."
    ),
]
PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="A Python file that registers plugins.")
]
WorkspaceOption = Annotated[
    Path | None, typer.Option(help="Where features and runs are kept (default: ./milsurv-workspace).")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a finished run, WORKSPACE/runs/NAME[/FINGERPRINT], or of an export."
    ),
]
ModelSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Say where something is here: --set backbone.weights=FILE."
    ),
]


MppOption = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        metavar="VALUE",
        help=f"µm per level-0 pixel, {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}; wins over what the file says.",
    ),
]


def require_mpp(mpp: float | None) -> float | None:
    """``--mpp`` as given. Raises MilsurvError for a value that no slide has."""
    if mpp is not None and not possible_mpp(mpp):
        raise MilsurvError(f"--mpp {mpp:g}: allowed are {ALLOWED_MPP}")
    return mpp


def join_overrides(overrides: list[str] | None, workspace: Path | None, device: str | None) -> list[str]:
    """``--set`` with what other options set, as it sets them."""
    options = {"workspace": workspace, "device": device}
    return [
        *(overrides or []),
        *(f"{key}={json.dumps(str(value))}" for key, value in options.items() if value is not None),
    ]
