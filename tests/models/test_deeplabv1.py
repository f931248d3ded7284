"""DeepLab v1: the published size, the field of view, and where fine features enter."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.models import deeplabv1_largefov, deeplabv1_msc


def test_parameters_are_as_many_as_the_paper_says() -> None:
    with torch.device("meta"):
        model = deeplabv1_largefov(21)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(20.5e6, rel=0.005)  # Table 2
    # the thirteen convolutions of VGG16, and three layers behind them
    assert count == 14_714_688 + (9 * 512 + 1) * 1024 + 1025 * 1024 + 1025 * 21


def test_fine_features_add_640_channels_to_the_classifier() -> None:
    with torch.device("meta"):
        largefov, msc = deeplabv1_largefov(21), deeplabv1_msc(21)
    added = sum(p.numel() for p in msc.parameters()) - sum(p.numel() for p in largefov.parameters())
    branches = sum((9 * c + 1) * 128 + 129 * 128 for c in (3, 64, 128, 256, 512))
    assert added == branches + 640 * 21


def test_the_first_fully_connected_layer_sees_its_cell_and_cells_12_away() -> None:
    context = deeplabv1_largefov(3, encoder="tiny").context.eval()
    x = torch.zeros(1, 16, 40, 40, requires_grad=True)
    context[0](x)[0, :, 20, 20].sum().backward()
    rows, columns = x.grad.abs().sum((0, 1)).nonzero().T.tolist()
    assert sorted(set(rows)) == sorted(set(columns)) == [8, 20, 32]


def test_cells_lie_on_pixels_eight_apart() -> None:
    """As in the release, whose images have 8n+1 pixels."""
    with torch.device("meta"):
        model = deeplabv1_largefov(21).eval()
        assert model(torch.rand(1, 3, 321, 321)).coarse.shape == (1, 21, 41, 41)


def test_the_whole_network_equals_the_layers_of_the_release() -> None:
    torch.manual_seed(3)
    model = deeplabv1_largefov(4).eval()
    for layer in model.encoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias, std=0.1)
    image = torch.rand(1, 3, 41, 57)
    layers = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        x = model.encoder.normalize(image)
        for i, layer in enumerate(layers):
            hole = 2 if i >= 10 else 1
            x = F.relu(F.conv2d(x, layer.weight, layer.bias, padding=hole, dilation=hole))
            if i in (1, 3, 6):
                x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
            elif i in (9, 12):
                x = F.max_pool2d(x, 3, 1, 1)
        x = F.avg_pool2d(x, 3, 1, 1)
        fc6, fc7 = model.context[0], model.context[3]
        x = F.relu(F.conv2d(x, fc6.weight, fc6.bias, padding=12, dilation=12))
        x = F.relu(F.conv2d(x, fc7.weight, fc7.bias))
        expected = F.conv2d(x, model.head.weight, model.head.bias)
        torch.testing.assert_close(model(image).coarse, expected)


def test_msc_is_the_sum_of_one_classifier_per_map() -> None:
    """The release has a classifier for each map and adds their scores."""
    torch.manual_seed(5)
    model = deeplabv1_msc(4, encoder="tiny").eval()
    image = torch.rand(1, 3, 45, 70)
    with torch.no_grad():
        features = model.encoder(image)
        maps = (model.encoder.normalize(image), features.c1, features.c2, features.c3, features.c4)
        coarse = model.context(model.pool(features.c5))
        parts = [coarse, *(layer(map) for layer, map in zip(model.fine, maps, strict=True))]
        widths = [part.shape[1] for part in parts]
        weights = model.head.weight.split(widths, 1)
        scores = sum(F.conv2d(part, weight) for part, weight in zip(parts, weights, strict=True))
        torch.testing.assert_close(model(image).coarse, scores + model.head.bias.view(1, -1, 1, 1))
