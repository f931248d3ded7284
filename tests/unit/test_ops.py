"""The operators: the lectures' worked numbers, and agreement with PyTorch where it has the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise import build
from pixelwise.ops import (
    bed_of_nails,
    bilinear_kernel,
    bilinear_transposed,
    bilinear_upsample,
    convolution_matrix,
    convolution_size,
    dilated_convolution,
    max_pool_with_indices,
    max_unpool,
    measured_receptive_field,
    nearest_upsample,
    overlap_pattern,
    pixel_shuffle,
    pointwise_convolution,
    receptive_field,
    resize_convolution,
    transposed_convolution_size,
)

FOUR = torch.tensor([[1, 2], [3, 4]])
VGG16_CHAIN = [layer for n in (2, 2, 3, 3, 3) for layer in [(3, 1)] * n + [(2, 2)]]


def test_nearest_upsampling_repeats_every_value() -> None:
    assert nearest_upsample(FOUR, 2).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(nearest_upsample(x, 3), F.interpolate(x, scale_factor=3, mode="nearest"))


def test_a_bed_of_nails_has_zeros_between_the_values() -> None:
    assert bed_of_nails(FOUR, 2).tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


def test_bilinear_upsampling_with_pixel_centres_gives_the_worked_numbers() -> None:
    given = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    wanted = [[10, 12.5, 17.5, 20], [15, 17.5, 22.5, 25], [25, 27.5, 32.5, 35], [30, 32.5, 37.5, 40]]
    assert bilinear_upsample(given, (4, 4)).tolist() == wanted


def test_bilinear_upsampling_with_aligned_corners_gives_the_worked_numbers() -> None:
    given = torch.arange(1.0, 10.0).view(3, 3)
    wanted = [
        [1, 1.5, 2, 2.5, 3],
        [2.5, 3, 3.5, 4, 4.5],
        [4, 4.5, 5, 5.5, 6],
        [5.5, 6, 6.5, 7, 7.5],
        [7, 7.5, 8, 8.5, 9],
    ]
    assert bilinear_upsample(given, (5, 5), align_corners=True).tolist() == wanted


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(8, 10), (13, 7), (3, 4), (1, 1)])
def test_bilinear_upsampling_is_that_of_pytorch(size: tuple[int, int], align_corners: bool) -> None:
    x = torch.rand(2, 3, 4, 5)
    theirs = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(bilinear_upsample(x, size, align_corners=align_corners), theirs)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_bilinear_transposed_convolution_resizes_exactly_inside(stride: int) -> None:
    x = torch.rand(1, 3, 6, 7)
    layer = bilinear_transposed(3, 2 * stride, stride=stride)
    with torch.no_grad():
        larger = layer(x)[:, :, stride // 2 : -(stride // 2), stride // 2 : -(stride // 2)]
    wanted = bilinear_upsample(x, (6 * stride, 7 * stride))
    assert larger.shape == wanted.shape
    inside = (..., slice(stride, -stride), slice(stride, -stride))
    torch.testing.assert_close(larger[inside], wanted[inside])
    assert not torch.allclose(larger, wanted)  # at the border the kernel meets zeros, resizing repeats


@pytest.mark.parametrize("size", [3, 4, 5, 16, 63, 64])
def test_a_bilinear_kernel_is_symmetric_and_neither_adds_nor_removes(size: int) -> None:
    kernel = bilinear_kernel(size)
    torch.testing.assert_close(kernel, kernel.flip(0))
    torch.testing.assert_close(kernel, kernel.T)
    stride = (size + 1) // 2
    torch.testing.assert_close(kernel.sum(), torch.tensor(float(stride**2)))


def test_pooling_and_unpooling_give_the_worked_numbers() -> None:
    x = torch.tensor([[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]])
    pooled = max_pool_with_indices(x)
    assert pooled.values.tolist() == [[[5, 6], [7, 8]]]
    unpooled = max_unpool(FOUR[None], pooled.indices, (4, 4))
    assert unpooled.tolist() == [[[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]]


def test_unpooling_is_that_of_pytorch_on_odd_sizes_too() -> None:
    x = torch.rand(2, 3, 7, 9)
    values, indices = max_pool_with_indices(x)
    assert values.shape == (2, 3, 4, 5)
    theirs = F.max_unpool2d(values, indices, (2, 2), output_size=(7, 9))
    assert torch.equal(max_unpool(values, indices, (7, 9)), theirs)
    assert torch.equal(theirs[theirs > 0], x[theirs > 0])


def test_the_matrix_of_a_convolution_gives_the_worked_products() -> None:
    x, y, z = 2.0, 3.0, 5.0
    a, b, c, d = 7.0, 11.0, 13.0, 17.0
    matrix = convolution_matrix(torch.tensor([x, y, z]), [6])
    forth = matrix @ torch.tensor([0, a, b, c, d, 0])
    assert forth.tolist() == [y * a + z * b, x * a + y * b + z * c, x * b + y * c + z * d, x * c + y * d]
    back = matrix.T @ torch.tensor([a, b, c, d])
    wanted = [a * x, a * y + b * x, a * z + b * y + c * x, b * z + c * y + d * x, c * z + d * y, d * z]
    assert back.tolist() == wanted


@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)])
def test_a_matrix_and_its_transpose_are_both_convolutions_of_pytorch(stride: int, padding: int) -> None:
    kernel, image = torch.rand(3, 3), torch.rand(7, 7)
    matrix = convolution_matrix(kernel, (7, 7), stride=stride, padding=padding)
    forth = F.conv2d(image[None, None], kernel[None, None], stride=stride, padding=padding)
    torch.testing.assert_close(matrix @ image.flatten(), forth.flatten())
    back = F.conv_transpose2d(forth, kernel[None, None], stride=stride, padding=padding)
    if back.shape[-1] == 7:  # otherwise some rows of the image were out of reach
        torch.testing.assert_close(matrix.T @ forth.flatten(), back.flatten())
    else:
        assert (stride, padding) == (3, 2)


def test_a_kernel_of_three_axes_has_no_matrix() -> None:
    with pytest.raises(ValueError, match="one or two axes"):
        convolution_matrix(torch.rand(3, 3, 3), (7, 7, 7))


@pytest.mark.parametrize(
    "stride, padding, output_padding, dilation", [(1, 0, 0, 1), (2, 1, 1, 1), (3, 2, 0, 2)]
)
def test_sizes_are_those_of_pytorch(stride: int, padding: int, output_padding: int, dilation: int) -> None:
    down = nn.Conv1d(1, 1, 4, stride, padding, dilation)
    up = nn.ConvTranspose1d(1, 1, 4, stride, padding, output_padding, dilation=dilation)
    for size in range(8, 20):
        x = torch.rand(1, 1, size)
        assert down(x).shape[-1] == convolution_size(
            size, 4, stride=stride, padding=padding, dilation=dilation
        )
        assert up(x).shape[-1] == transposed_convolution_size(
            size,
            4,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
        )


def test_overlap_is_even_inside_only_if_the_stride_divides_the_kernel() -> None:
    assert overlap_pattern(5, 3, 2).tolist() == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]
    assert overlap_pattern(4, 4, 3).tolist() == [1, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1]
    for kernel in range(2, 8):
        for stride in range(1, kernel + 1):
            inside = overlap_pattern(12, kernel, stride)[kernel:-kernel]
            assert (len(inside.unique()) == 1) == (kernel % stride == 0)


@pytest.mark.parametrize("bilinear", [False, True])
def test_resizing_before_convolving_shows_no_checkerboard(bilinear: bool) -> None:
    flat, weight = torch.ones(1, 1, 5, 5), torch.rand(1, 1, 3, 3)
    cured = resize_convolution(flat, weight, 2, bilinear=bilinear)
    assert cured.shape == (1, 1, 10, 10)
    torch.testing.assert_close(cured, weight.sum().expand_as(cured))
    uneven = F.conv_transpose2d(flat, weight, stride=2)[..., 3:-3, 3:-3]
    assert uneven.std() > 0.1


def test_pixel_shuffle_is_that_of_pytorch() -> None:
    x = torch.rand(2, 18, 4, 5)
    assert torch.equal(pixel_shuffle(x, 3), F.pixel_shuffle(x, 3))
    with pytest.raises(ValueError, match="a multiple of 4 channels, got 18"):
        pixel_shuffle(x, 2)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_the_dilated_sum_is_a_dilated_convolution_with_a_turned_kernel(dilation: int) -> None:
    image, kernel = torch.rand(9, 8), torch.rand(3, 3)
    theirs = F.conv2d(
        image[None, None], kernel.flip(0, 1)[None, None], padding=2 * dilation, dilation=dilation
    )
    torch.testing.assert_close(dilated_convolution(image, kernel, dilation), theirs[0, 0])


def test_a_pointwise_convolution_is_a_fully_connected_layer_per_pixel() -> None:
    layer, x = nn.Conv2d(6, 4, 1), torch.rand(2, 6, 5, 3)
    with torch.no_grad():
        ours = pointwise_convolution(x, layer.weight[:, :, 0, 0], layer.bias)
        torch.testing.assert_close(ours, layer(x))


# --- receptive fields -----------------------------------------------------------------------------


def test_vgg16_sees_212_pixels_at_pool5_and_404_at_fc7() -> None:
    assert receptive_field(VGG16_CHAIN) == 212
    assert receptive_field([*VGG16_CHAIN, (7, 1), (1, 1)]) == 404


def test_caffenet_turned_convolutional_sees_355_pixels() -> None:
    chain = [(11, 4), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1), (3, 2), (6, 1)]
    assert receptive_field(chain) == 355


def chain_of(layers: list[tuple[int, int, int]], *, pool: bool = False) -> nn.Sequential:
    made: list[nn.Module] = []
    for i, (kernel, stride, dilation) in enumerate(layers):
        if pool and i % 2:
            made.append(nn.MaxPool2d(kernel, stride))
        else:
            made += [nn.Conv2d(2, 2, kernel, stride, dilation=dilation), nn.BatchNorm2d(2), nn.ReLU(True)]
    return nn.Sequential(*made)


@pytest.mark.parametrize(
    "layers",
    [
        [(3, 1, 1)] * 5,
        [(3, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1)],
        [(3, 1, 1), (3, 1, 2), (3, 1, 4), (3, 1, 8)],
        [(7, 2, 1), (3, 1, 3), (5, 1, 2)],
    ],
)
def test_the_measured_field_is_the_computed_one(layers: list[tuple[int, int, int]]) -> None:
    field = receptive_field(layers)
    model = chain_of(layers)
    assert measured_receptive_field(model, (90, 100), in_channels=2) == (field, field)


def test_max_pooling_dead_units_and_zero_weights_hide_nothing() -> None:
    layers = [(3, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1)]
    model = chain_of(layers, pool=True)
    for parameter in model.parameters():
        nn.init.constant_(parameter, -1.0)
    nn.init.zeros_(model[-3].weight)
    field = receptive_field(layers)
    assert measured_receptive_field(model, (80, 80), in_channels=2) == (field, field)


def test_unpooling_is_seen_through_wherever_the_maximum_may_lie() -> None:
    class Unpooling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled, indices = F.max_pool2d(x, 4, return_indices=True)
            return F.max_unpool2d(pooled, indices, (4, 4), output_size=x.shape[-2:])

    assert measured_receptive_field(Unpooling(), (32, 32)) == (4, 4)


def test_global_pooling_sees_the_whole_image() -> None:
    class Gated(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.mean((2, 3), keepdim=True)

    assert measured_receptive_field(Gated(), (40, 56)) == (40, 56)
    assert measured_receptive_field(build("pspnet", 2, encoder="tiny"), (64, 96)) == (64, 96)


def test_an_output_that_ignores_the_image_sees_nothing() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_ones(1, 1, 8, 8)

    assert measured_receptive_field(Constant(), (16, 16)) == (0, 0)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = chain_of([(3, 1, 1), (3, 2, 1)]).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    measured_receptive_field(model, (32, 32), in_channels=2)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
