"""Piecewise training of CNN potentials: boxes, pairs, losses, and mean field against its definition."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from pixelwise.losses import make_criterion
from pixelwise.models import PiecewiseLogits, piecewise_crf
from pixelwise.models.piecewise_crf import Box, mean_field, pairs_of_labels
from pixelwise.types import Batch, ClassTable

SIZE = (4, 5)


def pairs_by_definition(reach: int, above: bool) -> list[tuple[int, int, int]]:
    """Node, place in its box, other node; all those within the map."""
    height, width = SIZE
    rows = range(-2 * reach - 1, 0) if above else range(-reach, reach + 1)
    offsets = [(dy, dx) for dy in rows for dx in range(-reach, reach + 1) if (dy, dx) != (0, 0)]
    return [
        (y * width + x, place, (y + dy) * width + x + dx)
        for y, x in itertools.product(range(height), range(width))
        for place, (dy, dx) in enumerate(offsets)
        if 0 <= y + dy < height and 0 <= x + dx < width
    ]


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("reach", [1, 2])
def test_a_box_holds_the_nodes_around_or_above(reach: int, above: bool) -> None:
    box = Box(reach, above=above)
    numbers = torch.arange(1.0, 21).view(1, 1, *SIZE)
    found = box.neighbours(numbers)[0, 0]  # m n
    expected = torch.zeros_like(found)
    for node, place, other in pairs_by_definition(reach, above):
        expected[place, node] = other + 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize("above", [False, True])
def test_returning_is_the_transpose_of_looking(above: bool) -> None:
    box = Box(1, above=above)
    x, y = torch.randn(2, 3, *SIZE), torch.randn(2, 3, 9 if above else 8, 20)
    torch.testing.assert_close((box.neighbours(x) * y).sum(), (x * box.returned(y, SIZE)).sum())


def test_mean_field_is_that_of_the_graph() -> None:
    torch.manual_seed(11)
    k, reach = 3, 1
    unary = torch.randn(1, k, *SIZE, dtype=torch.double)
    boxes = [Box(reach, above=False), Box(reach, above=True)]
    pairwise = [(box, torch.randn(1, k, k, len(box.others), 20, dtype=torch.double)) for box in boxes]
    scores = unary[0].flatten(1)
    for _ in range(3):
        q, scores = scores.softmax(0), unary[0].flatten(1).clone()
        for (_, potentials), above in zip(pairwise, (False, True), strict=True):
            for node, place, other in pairs_by_definition(reach, above):
                table = potentials[0, :, :, place, node]
                scores[:, node] += table @ q[:, other]
                scores[:, other] += table.T @ q[:, node]
    found = mean_field(unary, pairwise)[0].flatten(1)
    torch.testing.assert_close(found, scores)


def test_pairs_are_numbered_by_both_labels_and_unknown_ones_do_not_count() -> None:
    labels = torch.tensor([[[0, 1, 2, 1, 0], [2, 2, 255, 0, 1], [1, 0, 0, 2, 2], [0, 1, 1, 1, 0]]])
    flat = labels.flatten()
    for above in (False, True):
        box = Box(1, above=above)
        found = pairs_of_labels(labels, box, 3)[0]
        expected = torch.full_like(found, -1)
        for node, place, other in pairs_by_definition(1, above):
            if flat[node] < 3 and flat[other] < 3:
                expected[place, node] = flat[node] * 3 + flat[other]
        assert torch.equal(found, expected)


def test_training_gives_every_potential_a_loss_of_its_own_without_being_told() -> None:
    model = piecewise_crf(3, encoder="tiny", width=4).train()
    labels = torch.randint(0, 3, (2, 64, 80))
    labels[:, :9] = 255
    batch = Batch.of(torch.rand(2, 3, 64, 80), labels)
    criterion = make_criterion("cross_entropy", ClassTable.of("a", "b", "c"))
    output = model(batch.image)
    assert isinstance(output, PiecewiseLogits)
    parts = criterion.parts(output, batch)
    assert list(parts)[-2:] == ["surrounding", "above"]
    nodes = F.interpolate(labels[:, None].float(), output.coarse.shape[2:], mode="nearest-exact")[:, 0].long()
    pairs = pairs_of_labels(nodes, model.above.box, 3)
    expected = F.cross_entropy(output.above.flatten(1, 2), pairs, ignore_index=-1)
    torch.testing.assert_close(parts["above"], expected)
    criterion(output, batch).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


def test_evaluation_answers_after_mean_field_and_adds_no_loss() -> None:
    model = piecewise_crf(3, encoder="tiny", width=4).eval()
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        output = model(image)
        features = model.features(image)
        pairwise = [(net.box, net(features)) for net in (model.surrounding, model.above)]
        torch.testing.assert_close(output.coarse, mean_field(model.unary(features), pairwise))
    assert output.logits.shape == (1, 3, 65, 97)
    batch = Batch.of(image, torch.zeros(1, 65, 97, dtype=torch.long))
    criterion = make_criterion("cross_entropy", ClassTable.of("a", "b", "c"))
    expected = F.cross_entropy(output.logits, batch.labels)
    torch.testing.assert_close(criterion(output, batch), expected)


def test_pairwise_scores_know_which_node_comes_first() -> None:
    torch.manual_seed(12)
    net = piecewise_crf(3, encoder="tiny", width=4).surrounding
    features = torch.randn(1, net.first.in_channels, 3, 3)
    with torch.no_grad():
        found = net(features)[0]
        one, other = features[0, :, 1, 1], features[0, :, 1, 2]
        hidden = F.relu(
            net.first.weight[:, :, 0, 0] @ one + net.first.bias + net.second.weight[:, :, 0, 0] @ other
        )
        expected = (net.scores.weight[:, :, 0, 0] @ hidden + net.scores.bias).view(3, 3)
    place = len(net.box.others) // 2  # right behind the middle, which is left out
    torch.testing.assert_close(found[:, :, place, 4], expected)


@pytest.mark.slow  # as all large networks in the contract of models
@pytest.mark.compile
def test_a_program_exported_once_equals_eager_at_other_sizes() -> None:
    torch.manual_seed(13)
    model = piecewise_crf(3, encoder="tiny", width=4).eval()
    sizes = {2: torch.export.Dim("H", min=64, max=4096), 3: torch.export.Dim("W", min=64, max=4096)}
    program = torch.export.export(
        model, (torch.rand(1, 3, 97, 131),), dynamic_shapes={"image": sizes}
    ).module()
    for size in ((64, 96), (75, 107)):
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(image).coarse, model(image).coarse, atol=1e-5, rtol=1e-4)
