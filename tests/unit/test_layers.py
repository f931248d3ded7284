"""The few shared bricks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.layers import BatchNorm2d, ConvNormAct, Normalize, max_pool_up, resize, resize_like, size_of


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 6), (5, 2), (7, 1)])
def test_a_convolution_keeps_the_size_at_stride_1(kernel: int, dilation: int) -> None:
    block = ConvNormAct(2, 4, kernel, dilation=dilation)
    assert block(torch.rand(2, 2, 9, 13)).shape == (2, 4, 9, 13)


def test_a_convolution_halves_rounding_up_and_takes_groups() -> None:
    block = ConvNormAct(4, 8, stride=2, groups=4)
    assert block(torch.rand(2, 4, 9, 14)).shape == (2, 8, 5, 7)
    assert block[0].weight.shape == (8, 1, 3, 3)
    assert block[0].bias is None


def test_batch_norm_is_the_usual_one_where_there_is_a_variance() -> None:
    ours, usual = BatchNorm2d(3), nn.BatchNorm2d(3)
    for shape in ((1, 3, 1, 2), (2, 3, 1, 1), (2, 3, 4, 4)):
        x = torch.rand(shape)
        assert torch.equal(ours(x), usual(x))
    assert torch.equal(ours.running_mean, usual.running_mean)
    assert ours.num_batches_tracked == 3


def test_batch_norm_trains_on_one_value_and_keeps_its_statistics() -> None:
    norm = BatchNorm2d(3).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.rand(1, 3, 1, 1, requires_grad=True)
    y = norm(x)
    expected = (x - torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)) / (1 + norm.eps) ** 0.5
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert (x.grad != 0).all()
    assert norm.weight.grad is not None
    assert norm.running_mean.tolist() == [1, 2, 3]
    assert norm.num_batches_tracked == 0


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel() -> None:
    normalize = Normalize((0.5, 0.1), (0.5, 0.2))
    image = torch.tensor([[[[1.0]], [[0.5]]]])
    torch.testing.assert_close(normalize(image).flatten(), torch.tensor([1.0, 2.0]))
    assert set(normalize.state_dict()) == {"mean", "std"}


def test_resize_interpolates_between_pixel_centres_or_corners() -> None:
    x = torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]])
    assert resize(x, (4, 4))[0, 0, 0].tolist() == [10, 12.5, 17.5, 20]
    assert resize(x, (3, 3), align_corners=True)[0, 0, 1].tolist() == [20, 25, 30]


def test_resize_to_the_same_size_is_the_same_tensor() -> None:
    x = torch.rand(1, 2, 3, 4)
    assert resize(x, (3, 4)) is x
    assert resize_like(x, torch.rand(1, 5, 3, 4)) is x
    assert resize_like(x, torch.rand(1, 5, 6, 7)).shape == (1, 2, 6, 7)


def test_an_image_below_the_minimum_is_refused_with_both_sizes() -> None:
    assert size_of(torch.rand(1, 3, 32, 40), 32) == (32, 40)
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got 40 x 31"):
        size_of(torch.rand(1, 3, 40, 31), 32)


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("size", [(3, 4), (5, 8), (6, 7)])
def test_pooling_rounds_up_as_ceil_mode_does(window: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    found, _ = max_pool_up(x, window)
    assert torch.equal(found, F.max_pool2d(x, window, 2, ceil_mode=True))
