"""CCL: contrast with the surroundings, and the gated sum against a plain one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.encoders import blocks_of, make_encoder, maps_of_blocks
from pixelwise.models import ccl, ccl_resnet101
from pixelwise.models.ccl import ContextContrastedLocal, GatedSum, scored_blocks, upsampling


def shaken(module: nn.Module) -> nn.Module:
    """Weights and statistics that nothing of a layer can hide behind."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def test_the_paper_s_network_scores_21_blocks_and_six_contrasts_of_them() -> None:
    with torch.device("meta"):
        model = ccl_resnet101(171)
    assert {stage: len(blocks) for stage, blocks in blocks_of(model.encoder).items()} == {
        "c2": 3, "c3": 4, "c4": 23, "c5": 3,
    }  # fmt: skip
    assert [len(one.scores) for one in model.sums] == [6 + 3, 12, 4]
    assert scored_blocks(36)[:3] == [35, 33, 30]  # ResNet-152, as the authors' code counts


def test_where_local_and_context_weigh_alike_a_uniform_place_has_no_contrast() -> None:
    block = shaken(ContextContrastedLocal(3))
    block.context.load_state_dict(block.local.state_dict())
    with torch.no_grad():
        uniform = block(torch.ones(1, 3, 31, 33))
        spot = torch.zeros(1, 3, 31, 33)
        spot[:, :, 15, 15] = 5
        found = block(spot)
    assert uniform[:, :, 8:-8, 8:-8].abs().max() < 1e-5
    assert found[:, :, 14:17, 14:17].max() > 1


def test_the_surroundings_are_averages_five_apart_that_leave_out_the_border() -> None:
    block = shaken(ContextContrastedLocal(2))
    x = torch.randn(1, 2, 9, 12)
    with torch.no_grad():
        found = block(x)
        y = block.norm(x)
        padded, inside = F.pad(y, (2, 2, 2, 2)), F.pad(torch.ones_like(y), (2, 2, 2, 2))
        sums = sum(padded[:, :, i : i + 9, j : j + 12] for i in range(5) for j in range(5))
        counts = sum(inside[:, :, i : i + 9, j : j + 12] for i in range(5) for j in range(5))
        averages = F.pad(sums / counts, (5, 5, 5, 5))
        context = block.context.bias.view(1, -1, 1, 1) + sum(
            torch.einsum("oc,bchw->bohw", block.context.weight[:, :, i, j], window)
            for i in range(3)
            for j in range(3)
            for window in [averages[:, :, 5 * i : 5 * i + 9, 5 * j : 5 * j + 12]]
        )
        torch.testing.assert_close(found, (block.local(y) - context).clamp(min=0), atol=1e-4, rtol=1e-4)


def gated_sum_by_hand(layer: GatedSum, maps: list[Tensor], step: nn.Conv2d, coarser: list[Tensor]) -> Tensor:
    """Pixel by pixel, as the recurrence and the softmax are written down."""
    scores = [score(x) for score, x in zip(layer.scores, maps, strict=True)]
    gates = [gate(x) for gate, x in zip(layer.gates, maps, strict=True)]
    b, k, h, w = scores[0].shape
    if coarser:
        scores.insert(0, layer.up_scores(coarser[0])[:, :, :h, :w])
        state = layer.up_state(coarser[1])[:, :, :h, :w]
        states = [state]
    else:
        states = [torch.tanh(layer.first.weight.item() * gates[0] + layer.first.bias.item())]
        gates = gates[1:]
    a, c = step.weight.flatten().tolist()
    for gate in gates:
        states.append(torch.tanh(a * states[-1] + c * gate + step.bias.item()))
    stacked = torch.cat(states, 1)
    refined = stacked + layer.refine(stacked)
    total = torch.zeros(b, k, h, w)
    for row in range(h):
        for column in range(w):
            share = refined[:, :, row, column].exp()
            share = share / share.sum(1, keepdim=True) * len(scores)
            for i, score in enumerate(scores):
                total[:, :, row, column] += share[:, i, None] * score[:, :, row, column]
    return total


@pytest.mark.parametrize("carries", [False, True])
def test_the_gated_sum_is_that_of_the_definition(carries: bool) -> None:
    layer, step = shaken(GatedSum([3, 5, 5], 4, 2, carries=carries)), shaken(nn.Conv2d(2, 1, 1))
    maps = [torch.randn(2, c, 5, 7) for c in (3, 5, 5)]
    coarser = [torch.randn(2, 2, 3, 4), torch.rand(2, 1, 3, 4)] if carries else []
    with torch.no_grad():
        found, _ = layer(maps, step, coarser)
        expected = gated_sum_by_hand(layer, maps, step, coarser)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_equal_gates_give_the_plain_sum() -> None:
    layer, step = shaken(GatedSum([3, 3], 4, 2, carries=False)), shaken(nn.Conv2d(2, 1, 1))
    maps = [torch.randn(1, 3, 4, 4) for _ in range(2)]
    nn.init.zeros_(step.weight), nn.init.zeros_(step.bias)
    nn.init.zeros_(layer.first.weight), nn.init.zeros_(layer.first.bias)
    nn.init.zeros_(layer.refine[1].weight), nn.init.zeros_(layer.refine[1].bias)
    with torch.no_grad():
        plain = layer.scores[0](maps[0]) + layer.scores[1](maps[1])
        torch.testing.assert_close(layer(maps, step)[0], plain)


def test_upsampling_begins_bilinear() -> None:
    x = torch.rand(1, 3, 6, 6)
    fine = F.interpolate(x, scale_factor=2, mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(upsampling(3)(x)[:, :, 2:-2, 2:-2], fine[:, :, 2:-2, 2:-2])


def test_blocks_of_a_resnet_end_in_the_maps_of_its_stages() -> None:
    encoder = make_encoder("resnet18", stages=("c3", "c5")).eval()
    image = torch.rand(1, 3, 65, 43)
    with torch.no_grad():
        maps, stages = maps_of_blocks(encoder, image), encoder(image)
    assert {stage: len(one) for stage, one in maps.items()} == {"c3": 2, "c5": 2}
    assert all(torch.equal(one[-1], stages[stage]) for stage, one in maps.items())
    tiny = make_encoder("tiny").eval()
    assert blocks_of(tiny) == {}
    assert [len(one) for one in maps_of_blocks(tiny, image).values()] == [1] * 5


def test_scores_of_every_block_reach_the_result() -> None:
    model = ccl(3, encoder="resnet18", width=8).train()
    for gated_sum in model.sums:
        for score in gated_sum.scores:
            nn.init.normal_(score[3].weight, std=0.1)
    model(torch.rand(2, 3, 64, 64)).logits.square().mean().backward()
    assert [len(one.scores) for one in model.sums] == [6 + 2, 2, 2]
    assert all(score[3].weight.grad.any() for one in model.sums for score in one.scores)
