"""FCN-32s on AlexNet and GoogLeNet: published sizes, classifiers inside, crops."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import alexnet, googlenet

from pixelwise import build
from pixelwise.models import fcn32s
from pixelwise.models.fcn32s import (
    fcn32s_alexnet,
    fcn32s_googlenet,
    load_alexnet,
    load_googlenet,
)

BUILDERS = {"fcn32s_alexnet": fcn32s_alexnet, "fcn32s_googlenet": fcn32s_googlenet}


@pytest.mark.parametrize("name, millions", [("fcn32s_alexnet", 57), ("fcn32s_googlenet", 6)])
def test_there_are_as_many_parameters_as_the_paper_says(name: str, millions: int) -> None:
    # The paper does not count the upsampling, which it keeps bilinear.
    with torch.device("meta"):
        model = build(name, 21)
    counted = [p.numel() for key, p in model.named_parameters() if not key.startswith("upscore")]
    assert round(sum(counted) / 1e6) == millions


def test_alexnet_is_within_half_a_percent_of_the_authors_file() -> None:
    # Theirs has two columns, with 96, 256, 384, 384 and 256 filters.
    with torch.device("meta"):
        count = sum(p.numel() for p in fcn32s_alexnet(21).parameters())
    assert count == pytest.approx(58_704_590, rel=0.005)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_image_size_is_scored_from_a_single_pixel_on(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 2, width=4).eval()
        sizes = [(1, 1), (2, 33), *((n, n + 1) for n in range(31, 100, 6)), (500, 375), (64, 96), (65, 97)]
        for size in sizes:
            assert model(torch.empty(1, 3, *size)).coarse.shape == (1, 2, *size)


# Kernel, stride and border of every layer up to the last map (3 x 3 branches of GoogLeNet shift nothing).
LAYERS = {
    "fcn32s_alexnet": [(11, 4, 100), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 2, 0), (6, 1, 0)],
    "fcn32s_googlenet": [(7, 2, 100), (3, 2, 0), (3, 1, 1), (3, 2, 0), (3, 2, 0), (2, 2, 0)],
}


@pytest.mark.parametrize("name", BUILDERS)
def test_each_score_lies_in_the_middle_of_its_window(name: str) -> None:
    # Where the middles of the windows lie, in pixels of the image: cell i at first + 32 i.
    first, step = 0.0, 1
    for kernel, stride, border in LAYERS[name]:
        first += step * ((kernel - 1) / 2 - border)
        step *= stride
    assert step == 32
    # Scores that tell these places must tell, once they are upsampled and cropped, the rows of the image.
    model = build(name, 2, width=4).eval()

    def places(_module: nn.Module, _given: object, scores: Tensor) -> Tensor:
        rows = first + step * torch.arange(scores.shape[2], dtype=torch.float32)
        return rows.view(1, 1, -1, 1).expand_as(scores)

    model.score_fr.register_forward_hook(places)
    with torch.no_grad():
        column = model(torch.rand(1, 3, 200, 64)).logits[0, 0, :, 32]
    # AlexNet's outermost windows, as VGG16's, lie within the image: beyond their middles scores fade.
    torch.testing.assert_close(column[13:190], torch.arange(13.0, 190.0))


def redrawn(peer: nn.Module) -> nn.Module:
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return peer.eval()


def peer_of(name: str) -> nn.Module:
    if name == "fcn32s_alexnet":
        return redrawn(alexnet(num_classes=7))
    return redrawn(googlenet(num_classes=7, init_weights=False))


@pytest.mark.slow
def test_an_alexnet_at_224_pixels_is_one_position_of_the_network() -> None:
    peer, model = peer_of("fcn32s_alexnet"), fcn32s_alexnet(2).eval()
    load_alexnet(model, peer.state_dict())
    model.conv1.padding = (2, 2)  # without the border the network is the classifier
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        found = model.map(image)
        features = peer.features(model.normalize(image)).flatten(1)
        # All but the last layer; its dropouts stand before the layers, ours behind.
        torch.testing.assert_close(found.flatten(1), peer.classifier[:6](features), atol=1e-5, rtol=1e-4)


def test_a_googlenet_is_the_classifiers_maps() -> None:
    peer, model = peer_of("fcn32s_googlenet"), fcn32s_googlenet(2).eval()
    load_googlenet(model, peer.state_dict())
    model.encoder.conv1.conv.padding = (3, 3)
    normal = torch.randn(1, 3, 97, 64)
    maps: list[Tensor] = []
    peer.inception5b.register_forward_hook(lambda _m, _x, y: maps.append(y))
    with torch.no_grad():
        peer(normal)
        found = model.encoder(normal)
    assert maps[0].std() > 1e-2
    torch.testing.assert_close(found, maps[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["fcn32s_googlenet", pytest.param("fcn32s_alexnet", marks=pytest.mark.slow)])
def test_pretrained_weights_are_those_of_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, asked = peer_of(name).state_dict(), []

    def fetched(asked_for: str) -> dict[str, Tensor]:
        asked.append(asked_for)
        return weights

    monkeypatch.setattr(fcn32s, "fetch_torchvision", fetched)
    model = BUILDERS[name](2, pretrained=True, in_channels=1)
    assert asked == [name.removeprefix("fcn32s_")]
    key = "features.0.weight" if name == "fcn32s_alexnet" else "conv1.conv.weight"
    first = next(p for p in model.parameters() if p.ndim == 4)
    torch.testing.assert_close(first.data, weights[key].sum(1, keepdim=True))


def test_other_networks_are_refused() -> None:
    with torch.device("meta"):
        model = fcn32s_alexnet(2)
        weights = alexnet(num_classes=2).state_dict()
        del weights["classifier.4.weight"]
        with pytest.raises(ValueError, match=r"state_dict lacks fc7\.weight"):
            load_alexnet(model, weights)
        with pytest.raises(ValueError, match=r"layer1\.0\.weight has no place in it"):
            load_alexnet(model, {"layer1.0.weight": torch.empty(1)})
        with pytest.raises(ValueError, match=r"state_dict lacks conv1\.conv\.weight"):
            load_googlenet(fcn32s_googlenet(2), {"conv1.weight": torch.empty(1)})
