"""The loss of heatmaps: published value, what counts, intermediate supervision."""

import pytest
import torch

from pixelwise.losses import HeatmapLoss, heatmap_loss, loss_parts
from pixelwise.types import Batch, Heatmaps, Keypoints


def person(points: torch.Tensor, visible: torch.Tensor) -> Keypoints:
    box, no = torch.tensor([[0.0, 0, 48, 64]]), torch.zeros(1, dtype=torch.bool)
    return Keypoints(points[None], visible[None], torch.ones(1), torch.tensor([3000.0]), box, no)


def batch() -> Batch:
    people = [person(48 * torch.rand(3, 2), torch.tensor([2.0, 1.0, 0.0])) for _ in range(2)]
    return Batch.of(torch.rand(2, 3, 64, 48), people)


def test_the_loss_is_that_of_the_authors() -> None:
    # One joint after the other: half the mean squared error of the weighted maps, then the mean over joints.
    data, maps = batch(), torch.rand(2, 3, 16, 12)
    criterion = HeatmapLoss()
    target = criterion.target(Heatmaps(maps, (64, 48)), data)
    weight = target.counts.float()
    total = 0.0
    for j in range(3):
        w = weight[:, j, None, None]
        total += 0.5 * torch.nn.functional.mse_loss(maps[:, j] * w, target.maps[:, j] * w)
    torch.testing.assert_close(criterion(Heatmaps(maps, (64, 48)), data), total / 3)


def test_joints_that_nobody_annotated_have_no_gradient() -> None:
    maps = torch.rand(2, 3, 16, 12, requires_grad=True)
    HeatmapLoss()(Heatmaps(maps, (64, 48)), batch()).backward()
    assert not maps.grad[:, 2].any()
    assert maps.grad[:, :2].any()


def test_the_loss_is_zero_at_the_target_and_nowhere_else() -> None:
    data, criterion = batch(), HeatmapLoss(sigma=1.5, unbiased=True)
    target = criterion.target(Heatmaps(torch.zeros(2, 3, 16, 12), (64, 48)), data)
    assert heatmap_loss(target.maps, target) == 0
    assert heatmap_loss(target.maps + 0.1, target) > 0


def test_every_stack_is_supervised_with_the_same_weight() -> None:
    data, maps = batch(), torch.rand(3, 2, 3, 16, 12)
    alone = [HeatmapLoss()(Heatmaps(one, (64, 48)), data) for one in maps]
    output = Heatmaps(maps[0], (64, 48), aux=(maps[1], maps[2]))
    parts = loss_parts(output, data)
    torch.testing.assert_close(parts["heatmap"], alone[0])
    torch.testing.assert_close(parts["aux"], alone[1] + alone[2])
    torch.testing.assert_close(HeatmapLoss()(output, data), sum(alone))


def test_a_target_of_another_kind_is_named() -> None:
    output = Heatmaps(torch.zeros(1, 3, 16, 12), (64, 48))
    labels = Batch.of(torch.rand(1, 3, 64, 48), torch.zeros(1, 64, 48, dtype=torch.long))
    with pytest.raises(ValueError, match="targets of this batch are of another kind"):
        loss_parts(output, labels)
    other = Batch.of(torch.rand(1, 3, 64, 48), [person(torch.rand(5, 2), torch.ones(5))])
    with pytest.raises(ValueError, match="one object with 3 joints, got 1 with 5"):
        loss_parts(output, other)
