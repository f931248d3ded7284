"""MSCI: its LSTM against PyTorch's, and how far the chains carry what a scale knows."""

import pytest
import torch
from torch import nn

from pixelwise.models import msci, msci_resnet152
from pixelwise.models.msci import Intertwining, LSTMUnit


def test_a_unit_on_one_pixel_is_the_lstm_of_pytorch() -> None:
    unit, cell = LSTMUnit(5), nn.LSTMCell(5, 5)
    with torch.no_grad():
        weight = unit.gates.weight[:, :, 1, 1]
        # ours: keep, take, show, new; PyTorch's: input, forget, cell, output
        keep, take, show, new = weight.chunk(4)
        ordered = torch.cat([take, keep, new, show])
        cell.weight_ih.copy_(ordered[:, :5]), cell.weight_hh.copy_(ordered[:, 5:])
        keep, take, show, new = unit.gates.bias.chunk(4)
        cell.bias_ih.copy_(torch.cat([take, keep, new, show])), cell.bias_hh.zero_()
        message, hidden, memory = torch.randn(3, 4, 5)
        found = unit(*(x[:, :, None, None] for x in (message, hidden, memory)))
        expected = cell(message, (hidden, memory))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one[:, :, 0, 0], other)


@pytest.mark.parametrize("steps", [1, 3])
def test_both_chains_hear_the_step_before_of_the_other(steps: int) -> None:
    pair = Intertwining(3, steps=steps)
    fine, coarse = torch.randn(2, 3, 7, 9), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        found = pair(fine, coarse)
        h, c, g, d = fine, torch.zeros_like(fine), coarse, torch.zeros_like(coarse)
        for _ in range(steps):
            (h, c), (g, d) = (
                pair.fine_unit(pair.up(g)[:, :, :7, :9], h, c),
                pair.coarse_unit(pair.down(h), g, d),
            )
        torch.testing.assert_close(found, fine + h + pair.up(g)[:, :, :7, :9])


def test_information_goes_both_ways_and_further_with_every_step() -> None:
    """What a fine pixel says comes back to fine pixels that its own convolutions cannot reach."""
    reach = []
    for steps in (1, 2, 3):
        pair = Intertwining(2, steps=steps)
        fine = torch.randn(1, 2, 33, 33, requires_grad=True)
        pair(fine, torch.randn(1, 2, 17, 17))[0, :, 16, 16].sum().backward()
        rows = fine.grad[0].abs().sum((0, 2)).nonzero().flatten()
        reach.append(int(rows.max() - rows.min()) + 1)
    assert reach[0] < reach[1] < reach[2]


def test_four_scales_make_a_triangle_of_six_pairs() -> None:
    with torch.device("meta"):
        model = msci_resnet152(21)
    assert [len(level) for level in model.levels] == [3, 2, 1]
    assert {pair.steps for level in model.levels for pair in level} == {3}
    assert model.encoder.strides[1:] == (4, 8, 16, 32)


def test_every_scale_reaches_the_scores_at_an_odd_size() -> None:
    model = msci(3, encoder="tiny", width=4).eval()
    assert model(torch.rand(1, 3, 67, 45)).coarse.shape == (1, 3, 17, 12)
    model.train()(torch.rand(2, 3, 67, 45)).logits.square().mean().backward()
    assert all(reduce[0].weight.grad.any() for reduce in model.reduce)
