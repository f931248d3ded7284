"""SDN: how units pass their maps on, and what each of them is told."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models import sdn, sdn_densenet161
from pixelwise.models.sdn import SDN, DenseBlock, Down

LISTED = 238_500_000  # for the paper's network of three units


def test_three_units_have_about_the_listed_number_of_parameters() -> None:
    with torch.device("meta"):
        model = sdn_densenet161(21, units=3)
        fewer = [sdn(21, encoder="tiny", width=16, units=units) for units in (1, 2, 3)]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(LISTED, rel=0.005)
    counts = [sum(p.numel() for p in one.parameters()) for one in fewer]
    assert counts[0] < counts[1] < counts[2]
    assert model.encoder.channels[1:4] == (384, 768, 2112)  # DenseNet-161 behind its dense blocks


def small(units: int) -> SDN:
    return sdn(3, encoder="tiny", width=16, units=units)


def test_every_decoder_block_is_scored_while_training_only() -> None:
    model, image = small(3), torch.rand(2, 3, 64, 96)
    output = model.train()(image)
    strides = [64 // map.shape[2] for map in (output.coarse, *output.aux)]
    assert strides == [4, 8, 4, 8, 4, 8]
    assert model.eval()(image).aux == ()


def test_a_further_unit_adds_its_scores_to_those_of_the_unit_before() -> None:
    torch.manual_seed(0)
    one = small(1)
    two = small(2)
    two.load_state_dict(one.state_dict(), strict=False)
    for score in (two.scores4[1], two.scores8[1]):
        nn.init.zeros_(score.weight), nn.init.zeros_(score.bias)
    image = torch.rand(1, 3, 65, 43)
    with torch.no_grad():
        first = one.eval()(image).coarse
        assert torch.equal(two.eval()(image).coarse, first)
        nn.init.ones_(two.scores4[1].bias)
        torch.testing.assert_close(two(image).coarse, first + 1)


def test_a_block_is_densely_connected() -> None:
    block = DenseBlock(3, 2, 5).eval()
    x = torch.randn(1, 3, 6, 7)

    def layer(number: int, y: Tensor) -> Tensor:
        norm, _, convolution = block.layers[number]
        return F.conv2d(F.relu(norm(y)), convolution.weight, convolution.bias, padding=1)

    with torch.no_grad():
        first = layer(0, x)
        second = layer(1, torch.cat([x, first], 1))
        expected = block.compress(torch.cat([x, first, second], 1))
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("size", [(3, 4), (4, 4), (4, 3)])
def test_pooling_fits_the_partner_whether_that_rounds_up_or_down(size: tuple[int, int]) -> None:
    block = Down(2, 3, 4, 5)
    assert block(torch.rand(1, 2, 7, 8), torch.rand(1, 3, *size)).shape == (1, 5, *size)


def test_every_unit_looks_at_the_first_encoder_and_at_the_decoder_before() -> None:
    model = small(2).eval()
    seen: dict[str, list[Tensor]] = {}
    for name in ("ups8", "ups4", "downs8", "downs16"):
        for number, block in enumerate(getattr(model, name)):
            block.register_forward_hook(
                lambda _, given, made, key=f"{name}.{number}": seen.update({key: [*given, made]})
            )
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model(image)
        features = model.encoder(image)
    assert torch.equal(seen["ups8.1"][1], features.c3)
    assert torch.equal(seen["ups4.1"][1], features.c2)
    assert seen["downs8.0"][0] is seen["ups4.0"][2]
    assert seen["downs8.0"][1] is seen["ups8.0"][2]
    assert seen["downs16.0"][1] is seen["ups8.0"][0]
