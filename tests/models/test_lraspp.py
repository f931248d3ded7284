"""LR-ASPP: torchvision's network, and any encoder."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from pixelwise.models import from_torchvision_lraspp, lraspp


def peer(num_classes: int = 5) -> nn.Module:
    """A random network of torchvision whose batch norms have seen something."""
    torch.manual_seed(7)
    network: nn.Module = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    return network.eval()


def test_parameters_are_as_many_as_torchvision_has() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in lraspp(21).parameters()) == 3_221_538


def test_logits_are_those_of_torchvision_at_any_size() -> None:
    theirs = peer()
    ours = from_torchvision_lraspp(theirs.state_dict())
    for size in ((64, 96), (65, 97), (50, 33)):
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            wanted = theirs(ours.encoder.normalize(image))["out"]
            torch.testing.assert_close(ours(image).logits, wanted, atol=1e-4, rtol=1e-4)
        assert wanted.std() > 0.01
    assert ours.built_by.arguments == {"num_classes": 5, "in_channels": 3, "width": 128}


def test_the_gate_sees_the_whole_image() -> None:
    model = lraspp(3, encoder="tiny", width=8).double().eval()
    image = torch.rand(1, 3, 32, 320, dtype=torch.float64)
    changed = image.clone()
    changed[..., 192:] = 0  # beyond what a convolution sees from the first columns
    with torch.no_grad():
        before, after = model(image).logits[..., :32], model(changed).logits[..., :32]
        assert (before - after).abs().max() > 1e-9
        seen, then = model.encoder(image).c5, model.encoder(changed).c5
    assert torch.equal(seen[..., :4], then[..., :4])


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="not that of an LR-ASPP of torchvision"):
        from_torchvision_lraspp(nn.Linear(2, 2).state_dict())
    weights = peer().state_dict()
    del weights["classifier.low_classifier.weight"]
    with pytest.raises(ValueError, match="not that of an LR-ASPP of torchvision"):
        from_torchvision_lraspp(weights)
