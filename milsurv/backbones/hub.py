"""Published weights from the Hugging Face hub, and advice if they are not available."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from milsurv.backbones.base import FoundWeights
from milsurv.errors import WeightsError, first_line, size

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Possible weights files of a repository; the first that exists is used."""
PROBE_SECONDS = 5.0
"""Timeout for checking whether the hub has a file."""


def fetch_weights(repo: str, revision: str, gated: bool, files: Sequence[str] = WEIGHT_FILES) -> Path:
    """The weights of a repository in the hub's local cache, downloaded if needed.

    Args:
        repo: ``owner/name``.
        revision: branch, tag or commit.
        gated: whether access must be requested.
        files: possible weights files; the first that exists is used.

    Raises WeightsError, with advice, if they are not available: no network, no access, no such file.
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
            except EntryNotFoundError:  # in the repository, or offline in the cache
                continue
        return Path(hf_hub_download(repo, files[-1], revision=revision))
    except Exception as error:
        raise WeightsError(_advice(repo, gated, files, error)) from error
    finally:
        set_verbosity(before)


def find_weights(repo: str, revision: str, gated: bool, files: Sequence[str] = WEIGHT_FILES) -> FoundWeights:
    """Where :func:`fetch_weights` with the same arguments would find the weights, without downloading them.

    If they are not in the cache, the hub is queried for whether they exist and are accessible. Raises WeightsError if
    they are not, or if the hub does not respond in time or must not be used (``HF_HUB_OFFLINE``).
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for file in files:
        cached = try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(cached, str):
            return FoundWeights(Path(cached))
    if constants.HF_HUB_OFFLINE:
        return FoundWeights(fetch_weights(repo, revision, gated, files))  # raises the error of a run
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
        return FoundWeights(
            note=f"{file} of {repo}{much} will be downloaded from the hub before the first slide"
        )
    assert missing is not None
    raise WeightsError(_advice(repo, gated, files, missing)) from missing


def _advice(repo: str, gated: bool, files: Sequence[str], error: Exception) -> str:
    page = f"https://huggingface.co/{repo}"
    access = (
        f"the model is gated: request access at {page}, create a token at https://huggingface.co/settings/tokens and "
        "set it in the environment variable HF_TOKEN"
        if gated
        else f"the model is open: {page}"
    )
    return (
        f"the weights of {repo} cannot be downloaded from the hub ({type(error).__name__}: {first_line(error)}); "
        f"{access}; or use a local copy of its {' or '.join(files)}: backbone.weights: FILE"
    )
