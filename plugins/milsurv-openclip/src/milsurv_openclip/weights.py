"""Published checkpoints: where they are, and filling a vision tower from one without leaving anything to chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from milsurv import WeightsError


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
        """The file in the hub's cache, downloaded when it is not there yet.

        Raises WeightsError when it cannot be had: no network, no access, no such file.
        """
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repo, self.file, revision=self.revision))
        except Exception as error:
            page = f"https://huggingface.co/{self.repo}"
            access = (
                f"the model is gated: ask for access at {page} and give your token in the environment variable HF_TOKEN"
                if self.gated
                else f"the model is open to all at {page}, a token is not needed"
            )
            reason = str(error).strip().partition("\n")[0]
            raise WeightsError(
                f"the weights of {self.model} cannot be fetched from the hub ({type(error).__name__}: {reason}); "
                f"{access}; a local copy of its {self.file} will do as well: backbone.weights: FILE"
            ) from error

    def fill(self, tower: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
        """Put the checkpoint's vision tensors, ``visual.*``, into ``tower``; text tensors are left alone.

        Args:
            tower: named as the checkpoint below ``visual.``.
            state: the checkpoint's tensors by name.
            source: the file that they were read from, for messages.

        Raises WeightsError that names the first tensor that is missing, of another shape, not of floating point, not
        finite, or unknown to the tower.
        """
        vision = {
            name.removeprefix("visual."): tensor
            for name, tensor in state.items()
            if name.startswith("visual.")
        }
        needed = {name: tensor for name, tensor in vision.items() if not name.startswith(self.beyond)}
        expected = tower.state_dict()
        names = dict.fromkeys((*expected, *needed))
        faults = (_fault(name, needed.get(name), expected.get(name)) for name in names)
        fault = next((text for text in faults if text), None)
        if fault:
            raise WeightsError(
                f"weights file {source} does not fit {self.model}: tensor visual.{fault}; expected is "
                f"{self.file} of {self.repo}, or its tensors in another file"
            )
        tower.load_state_dict(needed)


def _fault(name: str, found: Tensor | None, expected: Tensor | None) -> str | None:
    """What is wrong with a tensor, beginning with its name; None when it fits."""
    if found is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is none of the model's"
    if found.shape != expected.shape:
        return f"{name} has shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if not found.is_floating_point():
        return f"{name} has type {found.dtype} instead of floating point"
    if not bool(found.isfinite().all()):
        return f"{name} holds NaN or infinity"
    return None
