"""Base class and types shared by all sections of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

T = TypeVar("T")
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A path, made absolute relative to the current folder."""


def _without_duplicates(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not contain duplicates")
    return values


Distinct = Annotated[tuple[T, ...], AfterValidator(_without_duplicates)]
"""A list without duplicates."""


class Section(BaseModel):
    """A section of the YAML. Unknown keys are rejected; the docstring below a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
