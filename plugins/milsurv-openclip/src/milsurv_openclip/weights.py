"""Published checkpoints: where they are, and filling a vision tower from one without leaving anything to chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from milsurv import FoundWeights, WeightsError, fetch_weights, fill_network, find_weights

VISION = "visual."
"""How the names of the vision tower's tensors begin in a checkpoint."""


@dataclass(frozen=True)
class Release:
    """A checkpoint as its authors published it on the Hugging Face hub."""

    model: str
    repo: str
    revision: str
    """The commit, so that the same name always means the same tensors."""
    file: str
    gated: bool
    beyond: tuple[str, ...] = ()
    """Beginnings of the names, below ``visual.``, of tensors that stand behind the embedding and are not needed."""

    @property
    def id(self) -> str:
        """What identifies the weights in fingerprints."""
        return f"hub:{self.repo}@{self.revision}"

    def fetch(self) -> Path:
        """The file in the hub's cache, downloaded when it is not there yet. Raises WeightsError as fetch_weights."""
        return fetch_weights(self.repo, self.revision, self.gated, files=(self.file,))

    def find(self) -> FoundWeights:
        """Where :meth:`fetch` would find the file. Raises WeightsError as find_weights."""
        return find_weights(self.repo, self.revision, self.gated, files=(self.file,))

    def fill(self, tower: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
        """Put the checkpoint's vision tensors, ``visual.*``, into ``tower``; text tensors are left alone.

        Args:
            tower: named as the checkpoint below ``visual.``.
            state: the checkpoint's tensors by name.
            source: the file that they were read from, for messages.

        Raises WeightsError as fill_network, which also says which file is expected.
        """
        vision = {
            name.removeprefix(VISION): value for name, value in state.items() if name.startswith(VISION)
        }
        needed = {name: value for name, value in vision.items() if not name.startswith(self.beyond)}
        try:
            fill_network(tower, needed, self.model, source, prefix=VISION)
        except WeightsError as error:
            raise WeightsError(
                f"{error}; expected is {self.file} of {self.repo}, or its tensors in another file"
            ) from None
