"""Fetches published weights from the Hugging Face hub, or says what to do when they cannot be had."""

from __future__ import annotations

import logging
from pathlib import Path

from milsurv.errors import WeightsError, first_line

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a repository keeps its weights, the first that is there."""


def fetch(repo: str, revision: str, gated: bool) -> Path:
    """The weights of ``owner/name`` in the hub's cache, downloaded when they are not there yet.

    Raises WeightsError when they cannot be had: no network, no access, no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        for file in WEIGHT_FILES[:-1]:
            try:
                return Path(hf_hub_download(repo, file, revision=revision))
            except EntryNotFoundError:  # in the repository, or without a network in the cache
                continue
        return Path(hf_hub_download(repo, WEIGHT_FILES[-1], revision=revision))
    except Exception as error:
        raise WeightsError(_advice(repo, gated, error)) from error
    finally:
        set_verbosity(before)


def _advice(repo: str, gated: bool, error: Exception) -> str:
    page = f"https://huggingface.co/{repo}"
    access = (
        f"the model is gated: ask for access at {page}, make a token at https://huggingface.co/settings/tokens and "
        "give it in the environment variable HF_TOKEN"
        if gated
        else f"the model is open to all at {page}"
    )
    return (
        f"the weights of {repo} cannot be fetched from the hub ({type(error).__name__}: {first_line(error)}); "
        f"{access}; a local copy of its weights will do as well: backbone.weights: FILE (safetensors or .pth)"
    )
