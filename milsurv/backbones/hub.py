"""Fetches published weights from the Hugging Face hub, or says what to do when they cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from milsurv.backbones.base import FoundWeights
from milsurv.errors import WeightsError, first_line, size

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a repository keeps its weights, the first that is there."""
PROBE_SECONDS = 5.0
"""How long the hub may take to say whether it has a file."""


def fetch_weights(repo: str, revision: str, gated: bool, files: Sequence[str] = WEIGHT_FILES) -> Path:
    """The weights of a repository of the hub in the hub's cache, downloaded when they are not there yet.

    Args:
        repo: ``owner/name``.
        revision: branch, tag or commit.
        gated: whether access has to be asked for.
        files: where the repository may keep its weights; the first that is there is taken.

    Raises WeightsError when they cannot be had, no network, no access, no such file: it says what to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        for file in files[:-1]:
            try:
                return Path(hf_hub_download(repo, file, revision=revision))
            except EntryNotFoundError:  # in the repository, or without a network in the cache
                continue
        return Path(hf_hub_download(repo, files[-1], revision=revision))
    except Exception as error:
        raise WeightsError(_advice(repo, gated, files, error)) from error
    finally:
        set_verbosity(before)


def find_weights(repo: str, revision: str, gated: bool, files: Sequence[str] = WEIGHT_FILES) -> FoundWeights:
    """Where :func:`fetch_weights` with the same arguments would find the weights; nothing is downloaded.

    The cache is looked through first. If they are not in it, the hub is asked whether it has them and gives access.
    Raises WeightsError when it does not, does not answer in time, or may not be asked (``HF_HUB_OFFLINE``).
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for file in files:
        cached = try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(cached, str):
            return FoundWeights(Path(cached))
    if constants.HF_HUB_OFFLINE:
        return FoundWeights(fetch_weights(repo, revision, gated, files))  # raises what a run would
    missing: Exception | None = None
    for file in files:
        url = hf_hub_url(repo, file, revision=revision)
        try:
            count = get_hf_file_metadata(url, timeout=PROBE_SECONDS).size
        except EntryNotFoundError as error:
            missing = error
            continue
        except Exception as error:
            raise WeightsError(_advice(repo, gated, files, error)) from error
        much = f" ({size(count)})" if count else ""
        return FoundWeights(note=f"{file} of {repo}{much} is downloaded from the hub before the first slide")
    assert missing is not None
    raise WeightsError(_advice(repo, gated, files, missing)) from missing


def _advice(repo: str, gated: bool, files: Sequence[str], error: Exception) -> str:
    page = f"https://huggingface.co/{repo}"
    access = (
        f"the model is gated: ask for access at {page}, make a token at https://huggingface.co/settings/tokens and "
        "give it in the environment variable HF_TOKEN"
        if gated
        else f"the model is open to all at {page}"
    )
    return (
        f"the weights of {repo} cannot be fetched from the hub ({type(error).__name__}: {first_line(error)}); "
        f"{access}; a local copy of its {' or '.join(files)} will do as well: backbone.weights: FILE"
    )
