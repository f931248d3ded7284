"""DeconvNet: published size, unpooling, a classifier as its first half, prediction by proposals."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models.deconvnet import (
    DeconvNet,
    aggregate,
    deconvnet,
    load_vgg16,
    score_proposals,
    select_proposals,
)
from pixelwise.models.vgg import VGG16


@pytest.fixture(scope="module")
def small() -> DeconvNet:
    """Norms that have seen something, and a decoder that is not near zero."""
    torch.manual_seed(0)
    model = deconvnet(3, window=64, width=4)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
        if isinstance(part, nn.ConvTranspose2d):
            nn.init.normal_(part.weight, std=(2 / part.weight[:, 0].numel()) ** 0.5)
    return model.eval()


def test_parameters_are_those_of_the_authors_file() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in deconvnet(21).parameters()) == 251_805_653


def test_a_window_shrinks_to_one_place_and_grows_back() -> None:
    with torch.device("meta"):
        model = deconvnet(21).eval()
        sizes: list[int] = []
        for layer in (*model.encoder, model.fc6, model.fc7, model.fc6_deconv, *model.decoder):
            layer.register_forward_hook(lambda _m, _x, y: sizes.append(y.shape[-1]))
        assert model(torch.empty(1, 3, 333, 500)).coarse.shape == (1, 21, 224, 224)
    assert sizes == [224, 112, 56, 28, 14, 1, 1, 7, 14, 28, 56, 112, 224]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 65)])
def test_every_image_size_is_scored(small: DeconvNet, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert small(torch.rand(1, 3, *size)).logits.shape == (1, 3, *size)


def test_values_return_to_where_they_were_the_largest(small: DeconvNet) -> None:
    given: list[Tensor] = []
    encoded: list[Tensor] = []
    hooks = [
        small.decoder[-1].register_forward_hook(lambda _m, x, _y: given.append(x[0])),
        small.encoder[0].register_forward_hook(lambda _m, _x, y: encoded.append(y)),
    ]
    with torch.no_grad():
        small(torch.rand(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    largest = F.interpolate(F.max_pool2d(encoded[0], 2), scale_factor=2) == encoded[0]
    assert given[0].any()
    assert not given[0][~largest].any()


def test_layers_turned_round_are_transposed_convolutions_with_norm(small: DeconvNet) -> None:
    layers = [part for part in small.decoder.modules() if isinstance(part, nn.ConvTranspose2d)]
    assert len(layers) == 13
    assert all(layer.stride == (1, 1) and layer.padding == (1, 1) for layer in layers)
    fresh = deconvnet(3, window=32, width=4)
    norms = [part for part in fresh.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 13 + 3 + 13
    assert all((norm.bias == 0.001).all() for norm in norms)
    assert fresh.decoder[0][0][0].weight.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("window", [16, 100])
def test_an_impossible_window_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"window must be a multiple of 32 pixels, got {window}"):
        deconvnet(3, window=window, width=4)


# --- a classifier inside --------------------------------------------------------------------------


def classifier() -> dict[str, Tensor]:
    """A VGG16 as state dict; single numbers stand for its big tensors, expanded without memory."""
    weights: dict[str, Tensor] = {}
    c, i = 3, 0
    for widths in VGG16:
        for width in widths:
            weights[f"features.{i}.weight"] = torch.rand(1, 1, 1, 1).expand(width, c, 3, 3)
            weights[f"features.{i}.bias"] = torch.rand(width)
            c, i = width, i + 2
        i += 1
    for name, c_out, c_in in (("classifier.0", 4096, 25088), ("classifier.3", 4096, 4096)):
        weights[f"{name}.weight"] = torch.rand(1, 1).expand(c_out, c_in)
        weights[f"{name}.bias"] = torch.rand(c_out)
    return weights


@pytest.mark.slow
def test_the_first_half_begins_with_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = classifier()
    monkeypatch.setattr(sys.modules[DeconvNet.__module__], "fetch", lambda name: weights)
    model = deconvnet(2, pretrained=True)
    assert torch.equal(model.encoder[4][2][0].bias, weights["features.28.bias"])
    assert model.fc6[0].weight[5, 7, 3, 2] == weights["classifier.0.weight"][0, 0]
    assert torch.equal(model.fc7[0].bias, weights["classifier.3.bias"])


def test_a_classifier_that_does_not_fit_is_refused() -> None:
    weights = classifier()
    with pytest.raises(ValueError, match="for width 64 and windows of 224 pixels"):
        load_vgg16(deconvnet(2, window=32, width=4), weights)
    with torch.device("meta"):
        whole = deconvnet(2)
    del weights["classifier.3.weight"]
    with pytest.raises(ValueError, match=r"state_dict lacks fc7\.0\.weight"):
        load_vgg16(whole, weights)


# --- proposals ------------------------------------------------------------------------------------


def test_small_proposals_and_those_after_the_fiftieth_are_left_out() -> None:
    boxes = torch.tensor([[0, 0, 112, 112], [0, 0, 111, 300], [-20, 5, 300, 200]])
    assert select_proposals(boxes).tolist() == [[0, 0, 112, 112], [-20, 5, 300, 200]]
    assert len(select_proposals(boxes[:1].repeat(60, 1))) == 50
    assert len(select_proposals(boxes, least=1, most=2)) == 2


def test_the_larger_score_counts_pixel_by_pixel() -> None:
    boxes = torch.tensor([[1, 0, 4, 2], [-1, 1, 3, 3], [2, 2, 7, 5]])
    maps = [torch.randn(2, y2 - y1, x2 - x1) for x1, y1, x2, y2 in boxes.tolist()]
    expected = torch.zeros(2, 4, 6)
    for map, (x1, y1, _, _) in zip(maps, boxes.tolist(), strict=True):
        for k in range(2):
            for i in range(map.shape[1]):
                for j in range(map.shape[2]):
                    y, x = y1 + i, x1 + j
                    if 0 <= y < 4 and 0 <= x < 6:
                        expected[k, y, x] = max(expected[k, y, x], map[k, i, j])
    assert torch.equal(aggregate(maps, boxes, (4, 6)), expected)


def test_an_image_is_scored_by_its_proposals(small: DeconvNet) -> None:
    image = torch.rand(3, 70, 90)
    boxes = torch.tensor([[10, 0, 74, 64], [-8, -4, 40, 60], [50, 30, 100, 80]])
    padded = F.pad(image, (20, 20, 20, 20))
    maps = []
    with torch.no_grad():
        for x1, y1, x2, y2 in boxes.tolist():
            crop = padded[None, :, y1 + 20 : y2 + 20, x1 + 20 : x2 + 20]
            window = F.interpolate(crop, (64, 64), mode="bilinear")
            maps.append(small(window).logits[0])
        found = score_proposals(small, image, boxes)
    torch.testing.assert_close(found, aggregate(maps, boxes, (70, 90)), atol=1e-5, rtol=1e-4)
    assert found[:, :, 45:50].any()
    assert not found[:, 64:, :50].any(), "no box lies here"


def test_without_proposals_nothing_is_scored_and_an_empty_one_is_refused(small: DeconvNet) -> None:
    image = torch.rand(3, 8, 9)
    assert not score_proposals(small, image, torch.zeros(0, 4, dtype=torch.long)).any()
    with pytest.raises(ValueError, match="a proposal must hold pixels"):
        score_proposals(small, image, torch.tensor([[3, 3, 3, 5]]))
