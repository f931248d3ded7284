"""DPT with weights of transformers and of SMP, drawn at random, gives their logits."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DPTConfig, DPTForSemanticSegmentation

from pixelwise.models import from_smp_dpt, from_transformers_dpt

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 64, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 12, 16, 24],
    "fusion_hidden_size": 8, "num_labels": 5, "use_batch_norm_in_fusion_residual": True,
}  # fmt: skip


def redrawn(network: nn.Module, seed: int = 3) -> nn.Module:
    """Weights and statistics that all matter."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=(module.weight[0].numel()) ** -0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    for key, parameter in network.named_parameters():
        if key.endswith(("cls_token", "position_embeddings", "pos_embed", "reg_token")):
            nn.init.normal_(parameter, std=0.5)
    return network.eval()


def transformers_dpt(**changes: Any) -> nn.Module:
    return redrawn(DPTForSemanticSegmentation(DPTConfig(**{**SMALL, **changes})))


@pytest.mark.parametrize("size", [64, 96, 80, 112])  # transformers' DPT takes squares; 80 and 112: odd grids
def test_logits_are_those_of_transformers(size: int) -> None:
    theirs = transformers_dpt()
    ours = from_transformers_dpt(theirs.state_dict(), theirs.config.to_dict())
    image = torch.rand(2, 3, size, size)
    with torch.no_grad():
        wanted = theirs(ours.encoder.normalize(image)).logits
        coarse = ours(image).coarse
        found = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert wanted.std() > 0.1
    if size % 32 == 0:
        torch.testing.assert_close(ours(image).logits, wanted, atol=1e-4, rtol=1e-4)


def test_what_is_built_is_told_and_carried_over() -> None:
    theirs = transformers_dpt(use_auxiliary_head=False, image_size=96, num_channels=4)
    ours = from_transformers_dpt(theirs.state_dict())
    assert ours.built_by.builder == "dpt"
    assert ours.built_by.arguments == {
        "num_classes": 5, "encoder": "tiny", "in_channels": 4, "image_size": 96,
        "channels": [8, 12, 16, 24], "width": 8, "aux": False,
    }  # fmt: skip
    theirs = transformers_dpt()
    ours = from_transformers_dpt(theirs.state_dict())
    assert torch.equal(ours.aux_head[2].weight, theirs.auxiliary_head.head[4].weight)


@pytest.mark.slow
def test_logits_of_the_hybrid_are_those_of_transformers() -> None:
    theirs = redrawn(
        DPTForSemanticSegmentation(
            DPTConfig(
                is_hybrid=True, neck_hidden_sizes=[256, 512, 768, 768], num_labels=5,
                reassemble_factors=[1, 1, 1, 0.5], use_batch_norm_in_fusion_residual=True,
                fusion_hidden_size=16,
            )
        )
    )  # fmt: skip
    ours = from_transformers_dpt(theirs.state_dict(), theirs.config.to_dict())
    assert ours.built_by.arguments["encoder"] == "vit_base_r50_s16_384"
    image = torch.rand(1, 3, 384, 384)
    with torch.no_grad():
        wanted = theirs(ours.encoder.normalize(image)).logits
        torch.testing.assert_close(ours(image).logits, wanted, atol=1e-4, rtol=1e-4)


def test_other_weights_and_settings_are_refused() -> None:
    theirs = transformers_dpt()
    with pytest.raises(ValueError, match="not that of a DPT of transformers"):
        from_transformers_dpt(nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match="num_attention_heads 2 for this network, got 4"):
        from_transformers_dpt(theirs.state_dict(), {"num_attention_heads": 4})
    with pytest.raises(ValueError, match="readout_type 'project' for this network, got 'add'"):
        from_transformers_dpt(theirs.state_dict(), {"readout_type": "add"})
    plain = transformers_dpt(use_batch_norm_in_fusion_residual=False)
    with pytest.raises(ValueError, match="not that of a DPT of transformers"):
        from_transformers_dpt(plain.state_dict())
    with pytest.raises(ValueError, match="must be 'tu-' and the name of a ViT"):
        from_smp_dpt({}, encoder="resnet18")
    with pytest.raises(ValueError, match="not that of a DPT of SMP"):
        from_smp_dpt(theirs.state_dict(), encoder="tu-vit_tiny_patch16_224")


@pytest.mark.parametrize(
    "encoder",
    ["tu-vit_tiny_patch16_224", pytest.param("tu-vit_small_patch16_dinov3", marks=pytest.mark.slow)],
)
def test_logits_are_those_of_smp(encoder: str) -> None:
    theirs = redrawn(
        smp.DPT(
            encoder, encoder_weights=None, classes=4, dynamic_img_size=True, decoder_fusion_channels=8,
            decoder_intermediate_channels=(8, 8, 16, 16),
        )
    )  # fmt: skip
    ours = from_smp_dpt(theirs.state_dict(), encoder=encoder)
    for size in ((64, 96), (96, 32)):
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            wanted = theirs(ours.encoder.normalize(image))
            coarse = ours(image).coarse
        found = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        assert wanted.std() > 0.1
    assert ours.built_by.builder == "smp_dpt"
