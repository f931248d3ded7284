"""Deep supervision: which labels meet which map, and with which weight."""

import pytest
import torch
from monai.losses import DeepSupervisionLoss
from torch import Tensor
from torch.nn import functional as F

from pixelwise.losses import CrossEntropy, Dice
from pixelwise.losses.deep_supervision import DeepSupervision, deep_supervision, nearest_labels
from pixelwise.types import Batch, DenseLogits

IGNORE = 255


def levels(*grid: int) -> tuple[list[Tensor], Tensor]:
    maps = [torch.randn(2, 3, *[side // 2**i for side in grid]) for i in range(3)]
    labels = torch.randint(0, 3, (2, *grid))
    labels[0, :3] = IGNORE
    return maps, labels


@pytest.mark.parametrize("grid", [(17,), (13, 18), (9, 12, 7)])
def test_labels_are_taken_under_the_centres_of_cells(grid: tuple[int, ...]) -> None:
    labels = torch.randint(0, 9, (2, *grid))
    for size in ([side // 2 for side in grid], [side // 3 + 1 for side in grid], [2 * side for side in grid]):
        theirs = F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()
        assert torch.equal(nearest_labels(labels, tuple(size)), theirs)


@pytest.mark.parametrize("grid", [(16, 12), (8, 12, 8)])
def test_labels_brought_down_are_those_of_monai(grid: tuple[int, ...]) -> None:
    maps, labels = levels(*grid)

    class Loss(torch.nn.CrossEntropyLoss):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            return super().forward(logits, labels[:, 0].long())

    theirs = DeepSupervisionLoss(Loss(ignore_index=IGNORE), weights=[1.0, 0.5, 0.25])(
        maps, labels[:, None].float()
    )
    ours = deep_supervision(CrossEntropy(), maps, labels, weights=[1.0, 0.5, 0.25])
    torch.testing.assert_close(sum(ours), theirs)


@pytest.mark.parametrize("grid", [(16, 12), (8, 12, 8)])
def test_maps_brought_up_meet_all_labels(grid: tuple[int, ...]) -> None:
    maps, labels = levels(*grid)
    mode = "bilinear" if len(grid) == 2 else "trilinear"
    ours = deep_supervision(Dice(), maps, labels, weights=[1.0, 2.0, 3.0], resize="maps")
    for weight, level, part in zip((1, 2, 3), maps, ours, strict=True):
        theirs = weight * Dice()(F.interpolate(level, grid, mode=mode, align_corners=False), labels)
        torch.testing.assert_close(part, theirs)


def test_ignored_stay_ignored_and_nothing_is_mixed() -> None:
    _, labels = levels(16, 12)
    small = nearest_labels(labels, (8, 6))
    assert set(small.unique().tolist()) <= {0, 1, 2, IGNORE}
    assert (small[0, 0] == IGNORE).all()


def test_classes_that_are_not_exclusive_are_brought_down_one_by_one() -> None:
    labels = torch.randint(0, 2, (2, 3, 8, 8))
    parts = deep_supervision(CrossEntropy(exclusive=False), [torch.zeros(2, 3, 4, 4)], labels, weights=[1.0])
    assert parts[0].item() == pytest.approx(0.6931472)


@pytest.mark.parametrize("resize", ["labels", "maps"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_criterion_serves_auxiliary_maps(resize: str, align_corners: bool) -> None:
    maps, labels = levels(16, 12)
    batch = Batch.of(torch.rand(2, 3, 16, 12), labels)
    output = DenseLogits(maps[0], (16, 12), aux=tuple(maps[1:]), align_corners=align_corners)
    criterion = DeepSupervision(CrossEntropy(), [0.5, 0.3, 0.2], resize=resize)
    parts = criterion.parts(output, batch)
    assert list(parts) == ["level_0", "level_1", "level_2"]
    torch.testing.assert_close(criterion(output, batch), torch.stack(list(parts.values())).sum())
    expected = [0.5 * CrossEntropy()(maps[0], labels)]
    for weight, small, big in zip((0.3, 0.2), maps[1:], output.aux_logits, strict=True):
        said = labels if resize == "maps" else nearest_labels(labels, tuple(small.shape[2:]))
        expected.append(weight * CrossEntropy()(big if resize == "maps" else small, said))
    torch.testing.assert_close(list(parts.values()), expected)
    alone = DenseLogits(maps[0], (16, 12), align_corners=align_corners)  # as in evaluation
    torch.testing.assert_close(criterion(alone, batch), expected[0])


def test_the_breakdown_tells_the_weight_of_each_level() -> None:
    maps, labels = levels(16, 12)
    batch = Batch.of(torch.rand(2, 3, 16, 12), labels)
    output = DenseLogits(maps[0], (16, 12), aux=(maps[1],))
    criterion = DeepSupervision(CrossEntropy(), [1.0, 0.5])
    lines = criterion.breakdown(output, batch).splitlines()
    assert [line.split()[2] for line in lines[1:3]] == ["1", "0.5"]
    unweighted = CrossEntropy()(maps[1], nearest_labels(labels, (8, 6))).item()
    assert float(lines[2].split()[1]) == pytest.approx(unweighted, abs=1e-4)
    assert float(lines[2].split()[3]) == pytest.approx(0.5 * unweighted, abs=1e-4)


def test_bad_arguments_are_named() -> None:
    maps, labels = levels(16, 12)
    with pytest.raises(ValueError, match="2 weights serve 1 to 2 levels, got 3"):
        deep_supervision(CrossEntropy(), maps, labels, weights=[1.0, 0.5])
    with pytest.raises(ValueError, match="deep supervision needs weights of at least 0"):
        DeepSupervision(CrossEntropy(), [1.0, -0.5])
    with pytest.raises((ValueError, TypeError), match="resize"):
        DeepSupervision(CrossEntropy(), [1.0], resize="both")
