"""What the sections of a configuration share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A path of the configuration, made absolute against the current folder."""


class Section(BaseModel):
    """A section of the YAML: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
