"""The largest pathology transformers at full depth, with weights made at random: saved, read back, embedding patches.

One for each way to write the weights and to make an embedding; all others are tested at one block.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from milsurv.backbones.timm_hub import HubConfig
from milsurv.backbones.vision_transformers import GigaPath, PathologyTransformer, PhikonV2, Virchow2

pytestmark = pytest.mark.acceptance
MOST_MEMORY = 12 * 2**30


@pytest.mark.parametrize("preset", [Virchow2, GigaPath, PhikonV2])
def test_the_whole_network_embeds_from_a_file(preset: type[PathologyTransformer], tmp_path: Path) -> None:
    started = time.monotonic()
    file = tmp_path / "weights.safetensors"
    _save_random(preset, file)
    encoder = preset(HubConfig(weights=file)).load(torch.device("cpu"), torch.float32)
    file.unlink()
    patches = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8, generator=torch.manual_seed(1))
    with torch.inference_mode():
        together = encoder(patches)
        alone = torch.cat([encoder(patch.unsqueeze(0)) for patch in patches])
    assert together.shape == (2, preset.dim)
    assert bool(together.isfinite().all())
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{preset.__name__}: {time.monotonic() - started:.0f} s, up to {peak / 2**30:.1f} GiB in this process"
    )
    assert peak < MOST_MEMORY


def _save_random(preset: type[PathologyTransformer], file: Path) -> None:
    """A file of small random numbers; scales around 1, as a network has before it is trained."""
    with torch.device("meta"):
        layout = preset(HubConfig()).build().state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in layout.items():
        values = torch.randn(tensor.shape, generator=generator).mul_(0.02)
        state[name] = values.add_(1) if name.endswith("gamma") or "norm" in name else values
    save_file(state, file)
