"""torchvision's fcn_resnet50 and fcn_resnet101 load, and score as they do there."""

import re

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from pixelwise import build
from pixelwise.models import from_torchvision_fcn

SIZES = [(64, 96), (65, 97), (120, 88)]


def peer(depth: int = 50, *, aux: bool = True, num_classes: int = 21) -> nn.Module:
    """A network of torchvision whose batch norms do something."""
    torch.manual_seed(0)
    network: nn.Module = getattr(segmentation, f"fcn_resnet{depth}")(
        weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=aux
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            nn.init.normal_(layer.bias, std=0.2)
    return network.eval()


@pytest.mark.parametrize("aux", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_logits_are_those_of_torchvision(aux: bool) -> None:
    theirs = peer(aux=aux)
    ours = from_torchvision_fcn(theirs.state_dict())
    for size in SIZES:
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            wanted = theirs(ours.encoder.normalize(image))
            logits = ours(image).logits
        assert (logits - wanted["out"]).abs().max() <= 1e-4
        assert wanted["out"].std() > 0.01
        if aux:
            with torch.no_grad():
                second = ours.aux_head(ours.encoder(image).c4)
                second = nn.functional.interpolate(second, size, mode="bilinear", align_corners=False)
            assert (second - wanted["aux"]).abs().max() <= 1e-4


def test_the_converted_network_can_be_saved_like_any_other() -> None:
    ours = from_torchvision_fcn(peer(aux=False, num_classes=4).state_dict())
    assert ours.built_by is not None
    assert ours.built_by.builder == "fcn_resnet50"
    again = build("fcn_resnet50", **ours.built_by.arguments)
    again.load_state_dict(ours.state_dict())
    assert again.num_classes == 4


@pytest.mark.slow
def test_the_deeper_network_scores_as_torchvisions() -> None:
    theirs = peer(101)
    ours = from_torchvision_fcn(theirs.state_dict())
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        assert (ours(image).logits - theirs(ours.encoder.normalize(image))["out"]).abs().max() <= 1e-4


@pytest.mark.parametrize("name, parameters", [("fcn_resnet50", 35_322_218), ("fcn_resnet101", 54_314_346)])
def test_parameters_are_those_of_torchvision(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build(name, 21)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_any_encoder_can_be_used_and_trains_with_a_second_head() -> None:
    model = build("fcn", 3, encoder="tiny")
    output = model.train()(torch.rand(1, 3, 64, 96))
    assert [map.shape for map in output.aux] == [(1, 3, 8, 12)]
    assert output.coarse.shape == (1, 3, 8, 12)
    assert build("fcn", 3, encoder="tiny", aux=False).train()(torch.rand(1, 3, 64, 64)).aux == ()


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("it lacks 'classifier.4.bias'")):
        from_torchvision_fcn({"conv1.weight": torch.rand(2)})
    weights = peer(aux=False, num_classes=2).state_dict()
    del weights["backbone.layer4.2.conv3.weight"]
    with pytest.raises(ValueError, match=r"does not fit fcn_resnet50: .*layer4\.2\.conv3"):
        from_torchvision_fcn(weights)
