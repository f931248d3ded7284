"""PointRend: where points lie, what is rendered there, and what is learned from them."""

import pytest
import torch
from torch.nn import functional as F

from pixelwise.losses import make_criterion
from pixelwise.models import pointrend
from pixelwise.models.pointrend import (
    UNKNOWN,
    PointLogits,
    labels_at,
    most_uncertain,
    read,
    training_points,
    uncertainty,
)
from pixelwise.types import Batch, ClassMasks, ClassTable

CLASSES = ClassTable.of("a", "b", "c")


def test_values_are_read_between_the_centres_of_cells() -> None:
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    points = torch.tensor([[[1 / 6, 0.25], [0.5, 0.5], [5 / 6, 0.75]]])
    torch.testing.assert_close(read(maps, points), torch.tensor([[[0.0, 2.5, 5.0]]]))
    corners = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])  # as if the outer cells went on
    torch.testing.assert_close(read(maps, corners), torch.tensor([[[0.0, 5.0]]]))


def test_a_point_is_uncertain_where_two_classes_are_equally_good() -> None:
    scores = torch.tensor([[[3.0, 1.0], [3.0, 4.0], [-9.0, 2.0]]])
    assert uncertainty(scores).tolist() == [[0.0, -2.0]]
    assert uncertainty(torch.tensor([[[-3.0, 0.5]]])).tolist() == [[-3.0, -0.5]]


def test_most_points_of_training_lie_where_classes_meet() -> None:
    step = torch.linspace(-1, 1, 64).expand(2, 1, 16, 64)
    coarse = torch.cat([step, -step], 1)  # the classes meet in the middle
    points = training_points(coarse, 400)
    assert points.shape == (2, 400, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    away = (points[:, :300, 0] - 0.5).abs()
    # 1200 are drawn, evenly: the 300 most uncertain lie within an eighth of the width
    assert away.max() < 0.16
    assert (points[:, 300:, 0] - 0.5).abs().max() > 0.4


def test_the_most_uncertain_cells_are_found_with_their_centres() -> None:
    scores = torch.randn(2, 3, 5, 7)
    index, points = most_uncertain(scores, 6)
    for image in range(2):
        doubt = uncertainty(scores)[image].flatten()
        assert set(index[image].tolist()) == set(doubt.sort(descending=True).indices[:6].tolist())
        for number, (x, y) in zip(index[image].tolist(), points[image].tolist(), strict=True):
            assert x == pytest.approx((number % 7 + 0.5) / 7)
            assert y == pytest.approx((number // 7 + 0.5) / 5)
    assert most_uncertain(scores, 99)[0].shape == (2, 35)


@pytest.mark.parametrize(("features", "steps"), [("fpn", 2), ("deeplabv3", 4)])
def test_every_doubling_renders_only_the_most_uncertain_pixels(features, steps: int) -> None:
    model = pointrend(3, encoder="tiny", features=features, num_points=40).eval()
    torch.nn.init.normal_(model.head.out.weight, std=0.3)
    image = torch.rand(1, 3, 65, 50)
    assert model.steps == steps
    with torch.no_grad():
        coarse, fine = model.scores(model.encoder(image))
        expected = coarse
        for step in reversed(range(steps)):
            size = ((65 + 2**step - 1) // 2**step, (50 + 2**step - 1) // 2**step)
            expected = (
                F.interpolate(expected, size, mode="bilinear") if expected.shape[2:] != size else expected
            )
            expected = expected.clone()
            best = expected[0].sort(dim=0, descending=True).values
            for number in (best[0] - best[1]).flatten().sort(stable=True).indices[:40].tolist():
                row, column = divmod(number, size[1])
                point = torch.tensor([[[(column + 0.5) / size[1], (row + 0.5) / size[0]]]])
                expected[0, :, row, column] = model.head(read(fine, point), read(coarse, point))[0, :, 0]
        output = model(image)
        plain = F.interpolate(coarse, (65, 50), mode="bilinear")
    assert expected.shape[2:] == (65, 50)
    torch.testing.assert_close(output.coarse, expected, atol=1e-4, rtol=1e-3)
    assert (output.coarse - plain).abs().max() > 1e-3


def test_the_label_of_a_point_is_that_of_its_pixel() -> None:
    labels = torch.tensor([[[0, 1, 255], [2, 7, 1]]])
    points = torch.tensor([[[0.1, 0.1], [0.5, 0.4], [0.99, 0.2], [0.2, 0.9], [0.5, 0.9], [1.0, 1.0]]])
    assert labels_at(labels, points, 3).tolist() == [[0, 1, UNKNOWN, 2, UNKNOWN, 1]]
    masks = torch.tensor([[[[0, 1]], [[1, 255]]]])
    points = torch.tensor([[[0.2, 0.5], [0.7, 0.5]]])
    assert labels_at(masks, points, 2).tolist() == [[[0, 1], [1, UNKNOWN]]]


def test_the_loss_of_points_comes_with_the_model() -> None:
    labels = torch.randint(0, 3, (2, 9, 11))
    labels[:, 0] = 255
    points, point_logits = torch.rand(2, 50, 2), torch.randn(2, 3, 50)
    batch = Batch.of(torch.rand(2, 3, 9, 11), labels)
    output = PointLogits(torch.randn(2, 3, 4, 5), (9, 11), points=points, point_logits=point_logits)
    parts = make_criterion("dice", CLASSES).parts(output, batch)
    target = labels_at(labels, points, 3)
    torch.testing.assert_close(parts["points"], F.cross_entropy(point_logits, target, ignore_index=UNKNOWN))
    without = PointLogits(output.coarse, (9, 11))
    assert "points" not in make_criterion("dice", CLASSES).parts(without, batch)


@pytest.mark.parametrize("exclusive", [True, False])
def test_points_train_head_and_features(exclusive: bool) -> None:
    model = pointrend(3, encoder="tiny", train_points=64).train()
    torch.nn.init.normal_(model.head.out.weight, std=0.3)
    labels = torch.randint(0, 3, (1, 64, 65))
    target = labels if exclusive else ClassMasks(torch.randint(0, 2, (1, 3, 64, 65)))
    classes = ClassTable(CLASSES.names, CLASSES.colors, exclusive=exclusive)
    output = model(torch.rand(1, 3, 64, 65))
    assert output.points.shape == (1, 64, 2)
    assert not output.points.requires_grad
    batch = Batch.of(torch.rand(1, 3, 64, 65), target)
    make_criterion("cross_entropy", classes).parts(output, batch)["points"].backward()
    assert all(p.grad is not None for p in model.head.parameters())
    assert model.scores.pyramid.out[0].weight.grad.any()
