"""EoMT with weights of transformers, drawn at random, gives its classes and masks."""

import re

import pytest
import torch
from torch import nn
from transformers import EomtConfig, EomtForUniversalSegmentation

from pixelwise.models import from_eomt, from_transformers_eomt


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(3)
    config = EomtConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=96, num_blocks=3,
        num_queries=7, num_labels=5, drop_path_rate=0.0,
    )  # fmt: skip
    network = EomtForUniversalSegmentation(config)
    for key, parameter in network.named_parameters():
        if "norm" in key or "scale" in key:
            nn.init.normal_(parameter, float("bias" not in key), 0.1)
        elif "token" in key or "position" in key or "query" in key:
            nn.init.normal_(parameter, std=0.5)
    return network


@pytest.mark.parametrize("masked", [False, True])
def test_classes_and_masks_are_those_of_transformers(theirs: nn.Module, masked: bool) -> None:
    theirs.eval().attn_mask_probs.fill_(masked)  # as at the start and at the end of training
    ours = from_transformers_eomt(theirs.state_dict(), theirs.config.to_dict()).train(masked)
    image = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        wanted, found = theirs(ours.encoder.normalize(image)), ours(image)
    torch.testing.assert_close(found.class_logits, wanted.class_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.mask_logits, wanted.masks_queries_logits, atol=1e-4, rtol=1e-4)
    assert wanted.masks_queries_logits.std() > 0.01
    assert ours.built_by.arguments == {
        "num_classes": 5, "encoder": "vit_small_patch14_reg4_dinov2", "in_channels": 3, "image_size": 96,
        "num_queries": 7, "blocks": 3,
    }  # fmt: skip


def test_other_weights_are_refused(theirs: nn.Module) -> None:
    weights = theirs.state_dict()
    with pytest.raises(ValueError, match="not that of an EoMT"):
        from_transformers_eomt(nn.Linear(2, 2).state_dict())
    weights.pop("mask_head.fc2.bias")
    with pytest.raises(ValueError, match="not that of an EoMT"):
        from_transformers_eomt(weights)


def test_names_of_the_authors_are_read_as_well(theirs: nn.Module) -> None:
    """Their network is timm's with a few layers more: models/eomt.py of their repository."""
    ours = from_transformers_eomt(theirs.state_dict())
    back = {"queries": "q.weight"}
    authors = {}
    for key, tensor in ours.state_dict().items():
        if ".normalize." in key:
            continue
        name = back.get(key, key).replace("encoder.body.", "encoder.backbone.")
        for number, part in (("0", "conv1"), ("2", "conv2"), ("3", "norm")):
            name = re.sub(rf"^(upscale\.\d)\.{number}\.", rf"\1.{part}.", name)
        authors[f"network.{name}"] = tensor
    authors["network.encoder.pixel_mean"] = authors["network.encoder.pixel_std"] = torch.ones(1, 3, 1, 1)
    authors["criterion.empty_weight"] = torch.ones(6)
    read = from_eomt(authors)
    assert read.built_by == ours.built_by
    state = read.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())
    assert from_eomt(theirs.state_dict()).built_by == ours.built_by
    authors.pop("network.mask_head.2.bias")
    with pytest.raises(ValueError, match="not that of an EoMT"):
        from_eomt(authors)
