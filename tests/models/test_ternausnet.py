"""TernausNet: published sizes, the authors' keys, a classifier as its encoder."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise import build
from pixelwise.models import ternausnet
from pixelwise.models.ternausnet import TernausNet, from_ternausnet, load_vgg_encoder, ternausnet11

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def small() -> TernausNet:
    return ternausnet11(2, width=4)


@pytest.mark.parametrize("name, parameters", [("ternausnet11", 22_927_393), ("ternausnet16", 29_306_465)])
def test_parameters_are_those_of_the_authors_package(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build(name, 1)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["ternausnet11", "ternausnet16"])
def test_every_image_size_is_scored(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 2, width=4).eval()
        for size in ((32, 32), (33, 63), (47, 101), (64, 96)):
            assert model(torch.empty(1, 3, *size)).coarse.shape == (1, 2, *size)


# Output channels of VGG11's and VGG16's convolutions, an eighth of the published ones, and what the decoder's
# blocks take, have inside and give.
VGG11 = ((8,), (16,), (32, 32), (64, 64), (64, 64))
VGG16 = ((8, 8), (16, 16), (32, 32, 32), (64, 64, 64), (64, 64, 64))
ROWS = {
    11: [(64, 64, 32), (96, 64, 32), (96, 64, 16), (48, 32, 8), (24, 16, 4)],
    16: [(64, 64, 32), (96, 64, 32), (96, 64, 32), (64, 32, 8), (24, 16, 4)],
}


def authors(widths: tuple[tuple[int, ...], ...], rows: list[tuple[int, ...]], transposed: bool) -> Weights:
    """Random weights with the keys of the authors' package: convolutions of the encoder twice."""
    weights: Weights = {}

    def add(key: str, c_out: int, c_in: int, kernel: int = 3, *, turned: bool = False) -> None:
        shape = (c_in, c_out) if turned else (c_out, c_in)
        weights[f"{key}.weight"] = torch.randn(*shape, kernel, kernel) / (c_in * kernel**2 / 2) ** 0.5
        weights[f"{key}.bias"] = 0.1 * torch.randn(c_out)

    c, place = 3, 0
    for number, stage in enumerate(widths, 1):
        for i, width in enumerate(stage):
            add(f"encoder.{place}", width, c)
            for part in ("weight", "bias"):
                weights[f"conv{number}.{2 * i}.{part}"] = weights[f"encoder.{place}.{part}"]
            c, place = width, place + 2
        place += 1
    for name, (c_in, c_inner, c_out) in zip(("center", "dec5", "dec4", "dec3", "dec2"), rows, strict=True):
        add(f"{name}.block.{0 if transposed else 1}.conv", c_inner, c_in)
        if transposed:
            add(f"{name}.block.1", c_out, c_inner, turned=True)
        else:
            add(f"{name}.block.2.conv", c_out, c_inner)
    add("dec1.conv", rows[-1][-1], widths[0][-1] + rows[-1][-1])
    add("final", 2, rows[-1][-1], 1)
    return weights


def scored(w: Weights, widths: tuple[tuple[int, ...], ...], image: Tensor) -> Tensor:
    """What the authors' network makes of an image, written as plain functions."""

    def convolve(x: Tensor, key: str) -> Tensor:
        return F.relu(F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], padding=1))

    x, skips, place = image, [], 0
    for stage in widths:
        for _ in stage:
            x, place = convolve(x, f"encoder.{place}"), place + 2
        place += 1
        skips.append(x)
        x = F.max_pool2d(x, 2)
    for name in ("center", "dec5", "dec4", "dec3", "dec2"):
        if f"{name}.block.2.conv.weight" in w:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = convolve(convolve(x, f"{name}.block.1.conv"), f"{name}.block.2.conv")
        else:
            x = convolve(x, f"{name}.block.0.conv")
            x = F.conv_transpose2d(x, w[f"{name}.block.1.weight"], w[f"{name}.block.1.bias"], 2, 1, 1).relu()
        x = torch.cat([x, skips.pop()], 1)
    return F.conv2d(convolve(x, "dec1.conv"), w["final.weight"], w["final.bias"])


@pytest.mark.parametrize("size", [11, 16])
def test_the_authors_weights_give_the_authors_scores(size: int) -> None:
    widths = VGG11 if size == 11 else VGG16
    weights = authors(widths, ROWS[size], transposed=size == 11)
    model = from_ternausnet({f"module.{key}": tensor for key, tensor in weights.items()})
    assert model.built_by is not None
    assert model.built_by.builder == f"ternausnet{size}"
    assert not model.training
    image = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        expected, found = scored(weights, widths, model.normalize(image)), model(image).logits
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spoil", ["encoder.0.weight", "final.weight", "dec3.block.1.bias", "encoder.3.bias"])
def test_weights_that_are_not_the_authors_are_refused(spoil: str) -> None:
    weights = {key: tensor.to("meta") for key, tensor in authors(VGG11, ROWS[11], transposed=True).items()}
    del weights[spoil]
    with torch.device("meta"), pytest.raises(ValueError, match="state_dict"):
        from_ternausnet(weights)


def test_the_encoder_begins_with_a_classifier(small: TernausNet, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = {
        key.replace("encoder", "features"): tensor
        for key, tensor in authors(VGG11, ROWS[11], transposed=True).items()
        if key.startswith("encoder")
    }
    asked: list[str] = []

    def fetch(name: str) -> Weights:
        asked.append(name)
        return {**classifier, "classifier.0.weight": torch.rand(2, 2)}

    monkeypatch.setattr(ternausnet, "fetch", fetch)
    model = ternausnet11(2, pretrained=True, in_channels=1, width=8)
    assert asked == ["vgg11"]
    assert torch.equal(model.encoder[4][1][0].weight, classifier["features.18.weight"])
    summed = classifier["features.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.encoder[0][0][0].weight.data, summed)


def test_another_vgg_is_refused(small: TernausNet) -> None:
    with pytest.raises(ValueError, match="not that of the model's VGG"):
        load_vgg_encoder(small, {"features.0.weight": torch.rand(64, 3, 3, 3)})
