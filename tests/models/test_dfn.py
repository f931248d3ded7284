"""DFN: the authors' numbers, its attention, and the loss on borders."""

import pytest
import torch
from torch import nn

from pixelwise.losses import make_criterion
from pixelwise.models import DFNLogits, dfn, dfn_resnet101
from pixelwise.models.dfn import BORDER_WEIGHT, UNKNOWN, ChannelAttention, borders_of
from pixelwise.types import Batch, ClassMasks, ClassTable

CLASSES = ClassTable.of("a", "b", "c")


def test_parameters_are_as_many_as_the_authors_code_has() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in dfn_resnet101(19).parameters())
    # Theirs builds, and never uses, a residual block of 21 channels on the finest level of the border net.
    assert count == 90_217_888 - (21 * 21 * (1 + 2 * 9) + 2 * 21)


def slow_borders(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Borders of one label map, pixel by pixel."""
    height, width = labels.shape
    label = labels.tolist()
    lines = []
    for y in range(height):
        for x in range(width):
            for v, u in ((y, x + 1), (y + 1, x)):
                inside = v < height and u < width
                if inside and max(label[y][x], label[v][u]) < num_classes and label[y][x] != label[v][u]:
                    lines.append((y, x))
    found = torch.zeros_like(labels)
    for y in range(height):
        for x in range(width):
            near = any(abs(y - v) <= 3 and abs(x - u) <= 3 for v, u in lines)
            found[y, x] = UNKNOWN if label[y][x] >= num_classes else int(near)
    return found


def test_borders_are_where_labels_meet() -> None:
    labels = torch.zeros(2, 14, 17, dtype=torch.long)
    labels[0, 4:, 9:] = 1
    labels[0, 6:8, :6] = 255
    labels[1, 12, 3] = 2
    found = borders_of(labels, 3)
    expected = torch.stack([slow_borders(one, 3) for one in labels])[:, None]
    assert torch.equal(found, expected)
    assert {0, 1, UNKNOWN} == set(found[0].unique().tolist())


def test_borders_of_classes_that_are_not_exclusive_are_those_of_any_of_them() -> None:
    masks = torch.zeros(1, 2, 12, 20, dtype=torch.long)
    masks[0, 0, :, 4:] = 1
    masks[0, 1, 6:] = 1
    masks[0, 1, 0, 19] = 255
    found = borders_of(masks, 2)
    each = torch.cat([borders_of(masks[:, k], 2) for k in range(2)], 1)
    known = (each != UNKNOWN).all(1)
    assert torch.equal(found[:, 0], torch.where(known, each.clamp(max=1).amax(1), UNKNOWN))


def test_the_border_loss_is_the_focal_loss_of_every_level_and_comes_with_the_model() -> None:
    labels = torch.zeros(1, 16, 20, dtype=torch.long)
    labels[:, :, 10:] = 2
    labels[:, :2] = 255
    batch = Batch.of(torch.rand(1, 3, 16, 20), labels)
    borders = (torch.randn(1, 1, 16, 20), torch.randn(1, 1, 16, 20))
    output = DFNLogits(torch.randn(1, 3, 4, 5), (16, 20), borders=borders)
    parts = make_criterion("cross_entropy", CLASSES).parts(output, batch)
    expected = 0.0
    target = borders_of(labels, 3)[0, 0]
    known = target != UNKNOWN
    for scores in borders:
        p = scores[0, 0].sigmoid()[known]
        there = target[known] == 1
        sure = torch.where(there, p, 1 - p)
        alpha = torch.where(there, torch.tensor(0.25), torch.tensor(0.75))
        expected += (-alpha * (1 - sure) ** 2 * sure.log()).mean()
    torch.testing.assert_close(parts["border"], BORDER_WEIGHT * expected)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_border_network_learns_and_is_not_there_in_evaluation(exclusive: bool) -> None:
    model = dfn(3, encoder="tiny", width=8)
    image = torch.rand(1, 3, 64, 65)
    labels = torch.randint(0, 3, (1, 64, 65))
    target = labels if exclusive else ClassMasks(torch.randint(0, 2, (1, 3, 64, 65)))
    classes = ClassTable(CLASSES.names, CLASSES.colors, exclusive=exclusive)
    output = model.train()(image)
    assert [map.shape[-2:] for map in output.borders] == [(16, 17)] * 4
    assert len(output.aux) == 3
    criterion = make_criterion("cross_entropy", classes)
    parts = criterion.parts(output, Batch.of(image, target))
    parts["border"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.border.parameters())
    model.border = nn.Identity()
    with torch.no_grad():
        output = model.eval()(image)
    assert output.borders == output.aux == ()
    assert "border" not in criterion.parts(output, Batch.of(image, target))


def test_the_coarser_map_chooses_channels_of_the_finer_one() -> None:
    block = ChannelAttention(3)
    low, high = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        means = torch.cat([low.mean((2, 3)), high.mean((2, 3))], 1)[..., None, None]
        gate = block.gate[3](block.gate[1](means).relu()).sigmoid()
        torch.testing.assert_close(block(low, high), low * gate + high)
