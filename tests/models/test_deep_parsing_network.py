"""Deep Parsing Network: its four extra layers are one update of mean field."""

import itertools

import pytest
import torch

from pixelwise.models import deep_parsing_network
from pixelwise.models.deep_parsing_network import MeanFieldPass, TriplePenalty


def test_vgg16_and_the_contexts_are_all_its_parameters() -> None:
    with torch.device("meta"):
        model = deep_parsing_network(21)
    vgg = 14_714_688 + (49 * 512 + 1) * 4096 + 4097 * 4096 + 4097 * 21
    assert sum(p.numel() for p in model.parameters()) == vgg + 9 * 9 * 21 * 105 + 2


def penalty_by_definition(
    layer: TriplePenalty, p: torch.Tensor, image: torch.Tensor, window: int
) -> torch.Tensor:
    """sum_z d(j, z) p_z, pixel by pixel."""
    _, height, width = p.shape
    result = torch.zeros_like(p)
    offsets = range(-(window // 2), window - window // 2)
    for y, x in itertools.product(range(height), range(width)):
        for dy, dx in itertools.product(offsets, offsets):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                color = ((image[:, y, x] - image[:, y + dy, x + dx]) ** 2).sum()
                place = (dy**2 + dx**2) / window**2
                result[:, y, x] += (layer.weights[0] * color + layer.weights[1] * place) * p[
                    :, y + dy, x + dx
                ]
    return result / window**2


@pytest.mark.parametrize("window", [4, 5])
def test_one_pass_equals_one_update_of_mean_field(window: int) -> None:
    torch.manual_seed(window)
    k, height, width, context, mixtures = 3, 6, 7, 3, 2
    layers = MeanFieldPass(k, window, context, mixtures).double()
    with torch.no_grad():
        layers.contexts.weight.normal_()
        layers.penalty.weights.copy_(torch.tensor([0.7, 1.3]))
        scores = torch.randn(1, k, height, width, dtype=torch.double)
        image = torch.rand(1, 3, height, width, dtype=torch.double)
        p = scores[0].sigmoid()
        far = penalty_by_definition(layers.penalty, p, image[0], window)
        mu = layers.contexts.weight.unflatten(0, (k, mixtures))  # u mixture v dy dx
        costs = torch.zeros(k, mixtures, height, width, dtype=torch.double)
        for y, x, dy, dx in itertools.product(range(height), range(width), (-1, 0, 1), (-1, 0, 1)):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                pairs = p[:, y + dy, x + dx] * far[:, y + dy, x + dx]  # p_j^v sum_z d(j, z) p_z^v
                costs[:, :, y, x] += mu[:, :, :, dy + 1, dx + 1] @ pairs
        expected = (p.log() - costs.amin(1)).softmax(0)
        found = layers(scores, image)[0].softmax(0)
    torch.testing.assert_close(found, expected)


def test_the_penalty_over_50_pixels_is_exact_in_single_precision() -> None:
    torch.manual_seed(2)
    layer = TriplePenalty(50)
    p, image = torch.rand(1, 2, 20, 21), torch.rand(1, 3, 20, 21)
    with torch.no_grad():
        found = layer(p, image)[0]
        offset = torch.arange(20)[:, None] - 10, torch.arange(21) - 9
        color = (image[0] - image[0, :, 10:11, 9:10]).square().sum(0)
        distance = color + (offset[0] ** 2 + offset[1] ** 2) / 50**2
    expected = (distance * p[0]).sum((1, 2)) / 50**2  # the whole image lies within the window
    torch.testing.assert_close(found[:, 10, 9], expected, atol=1e-6, rtol=1e-4)


def test_without_contexts_only_the_unary_term_counts() -> None:
    layers = MeanFieldPass(3, 50, 9, 5)
    torch.nn.init.zeros_(layers.contexts.weight)
    scores = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(layers(scores, torch.rand(1, 3, 12, 12)), scores.sigmoid().log())
