"""torchvision's DeepLabV3 models with random weights give the same scores here."""

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from pixelwise.layers import IMAGENET_MEAN, IMAGENET_STD
from pixelwise.models import from_torchvision_deeplabv3
from pixelwise.registry import build

SIZES = [(64, 96), (65, 97), (120, 88)]


def peer(name: str, *, aux: bool) -> nn.Module:
    torch.manual_seed(5)
    model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=4, aux_loss=aux)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def normalized(image: torch.Tensor) -> torch.Tensor:
    return (image - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.mark.parametrize("aux", [True, False], ids=["aux", "no aux"])
@pytest.mark.parametrize(
    "name",
    [
        "deeplabv3_mobilenet_v3_large",
        pytest.param("deeplabv3_resnet50", marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet101", marks=pytest.mark.slow),
    ],
)
def test_scores_equal_those_of_torchvision(name: str, aux: bool) -> None:
    theirs = peer(name, aux=aux)
    ours = from_torchvision_deeplabv3(theirs.state_dict())
    for size in SIZES:
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            expected, logits = theirs(normalized(image)), ours(image).logits
        assert expected["out"].abs().mean() > 1e-2
        assert (logits - expected["out"]).abs().max() <= 1e-4
        if aux:
            with torch.no_grad():
                scores = ours.aux_head(ours.encoder(image)[ours.aux_stage])
                scores = nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)
            assert (scores - expected["aux"]).abs().max() <= 1e-4
    assert (ours.aux_head is not None) == aux


def test_a_converted_model_can_be_built_again() -> None:
    theirs = peer("deeplabv3_mobilenet_v3_large", aux=True)
    ours = from_torchvision_deeplabv3(theirs.state_dict())
    again = build(ours.built_by.builder, **ours.built_by.arguments)
    again.load_state_dict(ours.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(image).logits, ours(image).logits)


def test_other_weights_are_refused() -> None:
    fcn = segmentation.fcn_resnet50(weights=None, weights_backbone=None)
    with pytest.raises(ValueError, match="not that of a DeepLabV3 from torchvision"):
        from_torchvision_deeplabv3(fcn.state_dict())
