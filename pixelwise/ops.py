"""The field's operators as plain functions, each with an example worked by hand.

They are here to be read and tried. Where PyTorch has the same operator, models use PyTorch's, and a test
shows that the two agree. Letters in shapes are those of `types.py`; k is also the side of a kernel.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .types import DenseLogits, DenseModel

# --- making a map larger --------------------------------------------------------------------------


def nearest_upsample(x: Shaped[Tensor, "*b h w"], factor: int) -> Shaped[Tensor, "*b {factor}*h {factor}*w"]:
    """Repeat every value `factor` times along both axes.

    >>> nearest_upsample(torch.tensor([[1, 2], [3, 4]]), 2)
    tensor([[1, 1, 2, 2],
            [1, 1, 2, 2],
            [3, 3, 4, 4],
            [3, 3, 4, 4]])
    """
    return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def bed_of_nails(x: Shaped[Tensor, "*b h w"], factor: int) -> Shaped[Tensor, "*b {factor}*h {factor}*w"]:
    """Put every value at the upper left of a square of side `factor` that is zero elsewhere.

    >>> bed_of_nails(torch.tensor([[1, 2], [3, 4]]), 2)
    tensor([[1, 0, 2, 0],
            [0, 0, 0, 0],
            [3, 0, 4, 0],
            [0, 0, 0, 0]])
    """
    height, width = x.shape[-2:]
    bed = x.new_zeros(*x.shape[:-2], factor * height, factor * width)
    bed[..., ::factor, ::factor] = x
    return bed


def bilinear_upsample(
    x: Float[Tensor, "*b h w"], size: tuple[int, int], *, align_corners: bool = False
) -> Float[Tensor, "*b H W"]:
    """Resize by straight lines between neighbours, along one axis and then along the other.

    Position i of the result looks at position (i + 1/2) n/N - 1/2 of the n given ones, where pixels are
    squares and their centres carry the values. Where `align_corners`, pixels are points, the first and the
    last stay first and last, and the position is i (n - 1)/(N - 1). Beyond the outermost centres the border
    is repeated.

    Args:
        x: any number of maps.
        size: height and width of the result.
        align_corners: which of the two rules holds.

    >>> bilinear_upsample(torch.tensor([[10.0, 20.0], [30.0, 40.0]]), (4, 4))
    tensor([[10.0000, 12.5000, 17.5000, 20.0000],
            [15.0000, 17.5000, 22.5000, 25.0000],
            [25.0000, 27.5000, 32.5000, 35.0000],
            [30.0000, 32.5000, 37.5000, 40.0000]])

    >>> nine = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    >>> bilinear_upsample(nine, (5, 5), align_corners=True)
    tensor([[1.0000, 1.5000, 2.0000, 2.5000, 3.0000],
            [2.5000, 3.0000, 3.5000, 4.0000, 4.5000],
            [4.0000, 4.5000, 5.0000, 5.5000, 6.0000],
            [5.5000, 6.0000, 6.5000, 7.0000, 7.5000],
            [7.0000, 7.5000, 8.0000, 8.5000, 9.0000]])
    """
    vertical = _lines_between(x.shape[-2], size[0], align_corners).to(x)
    horizontal = _lines_between(x.shape[-1], size[1], align_corners).to(x)
    return vertical @ x @ horizontal.T


def _lines_between(given: int, wanted: int, align_corners: bool) -> Float[Tensor, "_ _"]:
    """The matrix that resizes a line of `given` values to `wanted` ones; each row sums to 1."""
    i = torch.arange(wanted, dtype=torch.float64)
    if align_corners:
        position = i * (given - 1) / max(wanted - 1, 1)
    else:
        position = ((i + 0.5) * given / wanted - 0.5).clamp(0, given - 1)
    # A value reaches as far as its neighbours: a hat of height 1 and half-width 1 around its position.
    return (1 - (position[:, None] - torch.arange(given)).abs()).clamp(min=0)


def pixel_shuffle(x: Shaped[Tensor, "*b c h w"], factor: int) -> Shaped[Tensor, "*b _ {factor}*h {factor}*w"]:
    """Lay the channels out in space: C r^2 x H x W -> C x rH x rW.

    Channel c r^2 + i r + j becomes row i, column j of the squares of side r of channel c (Shi et al. 2016,
    Eq. 4).

    >>> pixel_shuffle(torch.tensor([[[1]], [[2]], [[3]], [[4]]]), 2)
    tensor([[[1, 2],
             [3, 4]]])
    """
    *b, channels, h, w = x.shape
    if channels % factor**2:
        raise ValueError(
            f"pixel_shuffle by {factor} needs a multiple of {factor**2} channels, got {channels}"
        )
    x = x.reshape(*b, channels // factor**2, factor, factor, h, w)
    x = x.movedim((-4, -3), (-3, -1))  # *b c h r w r
    return x.reshape(*b, channels // factor**2, factor * h, factor * w)


# --- max pooling that remembers -------------------------------------------------------------------


class Pooled(NamedTuple):
    """The largest value of every window and where it was.

    Attributes:
        values: of the windows.
        indices: row * width + column in the map that was pooled.
    """

    values: Float[Tensor, "*b c h w"]
    indices: Integer[Tensor, "*b c h w"]


def max_pool_with_indices(x: Float[Tensor, "*b c H W"], window: int = 2) -> Pooled:
    """Max pooling over squares of side `window`, cut off at the right and bottom where the map ends.

    >>> x = torch.tensor([[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]])
    >>> max_pool_with_indices(x)
    Pooled(values=tensor([[[5., 6.],
             [7., 8.]]]), indices=tensor([[[ 5,  2],
             [12, 15]]]))
    """
    return Pooled(*F.max_pool2d(x, window, ceil_mode=True, return_indices=True))


def max_unpool(
    x: Shaped[Tensor, "*b c h w"], indices: Integer[Tensor, "*b c h w"], size: tuple[int, int]
) -> Shaped[Tensor, "*b c H W"]:
    """Put every value where the maximum of its window was, zeros elsewhere.

    Args:
        x: one value per window.
        indices: row * width + column of the place of each value.
        size: height and width of the result: that of the map which was pooled.

    >>> x = torch.tensor([[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]])
    >>> max_unpool(torch.tensor([[[1, 2], [3, 4]]]), max_pool_with_indices(x).indices, (4, 4))
    tensor([[[0, 0, 2, 0],
             [0, 1, 0, 0],
             [0, 0, 0, 0],
             [3, 0, 0, 4]]])
    """
    flat = x.new_zeros(*x.shape[:-2], size[0] * size[1])
    return flat.scatter(-1, indices.flatten(-2), x.flatten(-2)).unflatten(-1, size)


# --- convolutions ---------------------------------------------------------------------------------


def convolution_matrix(
    kernel: Float[Tensor, "*k"], size: Sequence[int], *, stride: int = 1, padding: int = 0
) -> Float[Tensor, "n_out n_in"]:
    """The matrix X that convolves: X @ x.flatten() is the convolution of x. Its transpose undoes the shape.

    X.T @ y is the transposed convolution of y: it has the shape of x, though not its values. The kernel is
    not flipped, as everywhere in deep learning.

    Args:
        kernel: one axis or two.
        size: of x, one number per axis.
        stride: of the kernel.
        padding: zeros on each side of x; they are part of the convolution, not of x.

    Kernel (x, y, z) = (1, 10, 100) over four values between two zeros, and the way back:

    >>> convolution_matrix(torch.tensor([1.0, 10.0, 100.0]), [6]).int()
    tensor([[  1,  10, 100,   0,   0,   0],
            [  0,   1,  10, 100,   0,   0],
            [  0,   0,   1,  10, 100,   0],
            [  0,   0,   0,   1,  10, 100]], dtype=torch.int32)
    >>> a, b, c, d = 1.0, 2.0, 3.0, 4.0
    >>> convolution_matrix(torch.tensor([1.0, 10.0, 100.0]), [6]).T @ torch.tensor([a, b, c, d])
    tensor([  1.,  12., 123., 234., 340., 400.])
    """
    if kernel.ndim not in (1, 2) or len(size) != kernel.ndim:
        raise ValueError(
            f"the kernel must have one or two axes and size one number for each, got {kernel.ndim} and {size}"
        )
    convolve = F.conv1d if kernel.ndim == 1 else F.conv2d
    n = torch.Size(size).numel()
    # Column j of a matrix is what it makes of unit vector j.
    units = torch.eye(n, dtype=kernel.dtype, device=kernel.device).view(n, 1, *size)
    return convolve(units, kernel[None, None], stride=stride, padding=padding).flatten(1).T


def convolution_size(size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Length of what a convolution (or an unpadded pooling) makes of `size` values.

    >>> convolution_size(227, 11, stride=4)
    55
    """
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def transposed_convolution_size(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
) -> int:
    """Length of what a transposed convolution makes of `size` values.

    (I - 1) S + K without padding; padding P takes 2 P away.

    >>> transposed_convolution_size(4, 3, stride=2)
    9
    >>> transposed_convolution_size(7, 4, stride=2, padding=1)  # kernel 2 S, padding S/2: S times as long
    14
    """
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def overlap_pattern(size: int, kernel: int, stride: int) -> Integer[Tensor, " n"]:
    """How many inputs write to each output of a transposed convolution of `size` values.

    Unless the stride divides the kernel, the numbers differ inside too, and so does the strength of the
    output: in two dimensions, where they multiply, a checkerboard (Odena et al. 2016).

    >>> overlap_pattern(5, kernel=3, stride=2)
    tensor([1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1])
    >>> overlap_pattern(4, kernel=4, stride=3)
    tensor([1, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1])
    >>> overlap_pattern(4, kernel=4, stride=2)
    tensor([1, 1, 2, 2, 2, 2, 2, 2, 1, 1])
    """
    count = F.conv_transpose1d(torch.ones(1, 1, size), torch.ones(1, 1, kernel), stride=stride)
    return count[0, 0].round().long()


def resize_convolution(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c_out c k k"],
    factor: int,
    *,
    bilinear: bool = True,
) -> Float[Tensor, "b c_out {factor}*h {factor}*w"]:
    """Resize by `factor`, then convolve: the cure of the checkerboard, since every output has equal weights.

    Args:
        x: the map.
        weight: of the convolution, of odd side; the border of the map is repeated around it.
        factor: how much larger the result is.
        bilinear: whether to resize by lines; otherwise values are repeated.

    >>> resize_convolution(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3), 2)[0, 0]
    tensor([[9., 9., 9., 9.],
            [9., 9., 9., 9.],
            [9., 9., 9., 9.],
            [9., 9., 9., 9.]])
    """
    size = (factor * x.shape[-2], factor * x.shape[-1])
    larger = bilinear_upsample(x, size) if bilinear else nearest_upsample(x, factor)
    margin = weight.shape[-1] // 2
    return F.conv2d(F.pad(larger, (margin,) * 4, mode="replicate"), weight)


def dilated_convolution(
    image: Float[Tensor, "h w"], kernel: Float[Tensor, "k k"], dilation: int
) -> Float[Tensor, "_ _"]:
    """(F *_l k)(p) = sum over s + l t = p of F(s) k(t), with dilation l (Yu and Koltun 2016, Eq. 2).

    p runs over all places where something is added up, so the result is l (k - 1) larger than F. As in the
    equation, the kernel is flipped with respect to `nn.Conv2d`.

    >>> dilated_convolution(torch.ones(1, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 2)
    tensor([[1., 0., 2.],
            [0., 0., 0.],
            [3., 0., 4.]])
    """
    (h, w), side = image.shape, kernel.shape[0]
    grown = dilation * (side - 1)
    total = image.new_zeros(h + grown, w + grown)
    for i in range(side):
        for j in range(side):
            y, x = dilation * i, dilation * j
            total[y : y + h, x : x + w] += kernel[i, j] * image
    return total


def pointwise_convolution(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c_out c"], bias: Float[Tensor, " c_out"]
) -> Float[Tensor, "b c_out h w"]:
    """A 1x1 convolution, written as what it is: one fully connected layer for all pixels.

    >>> image = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two pixels of two channels: (1, 3) and (2, 4)
    >>> pointwise_convolution(image, torch.tensor([[1.0, 10.0]]), torch.tensor([0.5]))
    tensor([[[[31.5000, 42.5000]]]])
    """
    return F.linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)


def bilinear_kernel(size: int) -> Float[Tensor, "k k"]:
    """The kernel with which a transposed convolution of stride ceil(size / 2) resizes bilinearly.

    A hat along both axes (FCN, Sec. 3.3; Caffe's bilinear filler). Away from the border, a kernel of side
    2 S at stride S, S even, and padding S/2 resizes by S as `bilinear_upsample` does.

    >>> bilinear_kernel(4) * 16
    tensor([[1., 3., 3., 1.],
            [3., 9., 9., 3.],
            [3., 9., 9., 3.],
            [1., 3., 3., 1.]])
    """
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    hat = 1 - (torch.arange(size, dtype=torch.float32) - centre).abs() / factor
    return hat[:, None] * hat


# --- what one output sees -------------------------------------------------------------------------


def receptive_field(layers: Iterable[tuple[int, int] | tuple[int, int, int]]) -> int:
    """Side in pixels of the square of the image that one output of a chain of layers depends on.

    It grows by dilation * (kernel - 1) steps at each layer, a step being the product of the strides before.

    Args:
        layers: from the image on: kernel, stride and, where it is not 1, dilation of each convolution or
            pooling.

    >>> receptive_field([(3, 1), (3, 1), (3, 1)])
    7
    >>> receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 4)])  # dilation doubles: exponential growth
    15
    """
    field, step = 1, 1
    for kernel, stride, *dilation in layers:
        field += step * (dilation[0] if dilation else 1) * (kernel - 1)
        step *= stride
    return field


def measured_receptive_field(
    model: nn.Module, size: tuple[int, int] = (512, 512), *, in_channels: int = 3
) -> tuple[int, int]:
    """Height and width of the part of an image that the middle pixel of the output depends on.

    The output is asked, by one backward pass, which pixels can reach it. In a network of stride s the answer
    differs by up to s from pixel to pixel. Global pooling, attention over all pixels and norms over the map
    make it the whole image. The model is left as it is.

    Args:
        model: gives `DenseLogits` (its scores at image size are asked) or one tensor "b c h w".
        size: height and width of the image that is tried.
        in_channels: of the image, where `model` is no `DenseModel`.

    Returns:
        Height and width in pixels. An axis that equals `size` was seen from end to end and may go further;
        (0, 0) means that the output does not depend on the image.

    >>> measured_receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 5)), (32, 32))
    (7, 7)
    """
    # The gradient that is sent back is not a number at one pixel and zero at all others. Sums and products
    # keep both facts whatever the weights are, so no path is lost to cancelling, underflow or a zero weight.
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    channels = model.in_channels if isinstance(model, DenseModel) else in_channels
    image = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.enable_grad(), _EveryPathOpen():
        output = model(image)
        scores: Tensor = output.logits if isinstance(output, DenseLogits) else output
    if not scores.requires_grad:
        return 0, 0
    asked = torch.zeros_like(scores)
    asked[..., scores.shape[-2] // 2, scores.shape[-1] // 2] = torch.nan
    (reached,) = torch.autograd.grad(scores, image, asked)
    seen = reached[0].isnan().any(0)
    return _extent(seen.any(1)), _extent(seen.any(0))


def _extent(seen: Tensor) -> int:
    """Length from the first to the last True."""
    (places,) = seen.nonzero(as_tuple=True)
    return int(places[-1] - places[0]) + 1 if len(places) else 0


class _EveryPathOpen(TorchFunctionMode):
    """Replaces operators that pass gradients to some of their inputs only by ones that pass them to all.

    Which inputs these are depends on the image; the receptive field is where they can be.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("relu", "relu_", "hardtanh", "hardtanh_", "hardswish", "hardsigmoid"):
            return args[0]
        if name == "max_pool2d":
            return _mean_pool(*args, **kwargs)
        if name == "max_pool2d_with_indices":
            return _mean_pool(*args, **kwargs), func(*args, **kwargs)[1]
        if name == "max_unpool2d":
            return _spread(*args, **kwargs)
        return func(*args, **kwargs)


def _mean_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode)


def _spread(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    size = output_size or [k * n for k, n in zip(kernel, input.shape[-2:], strict=True)]
    return F.interpolate(input, tuple(size[-2:]), mode="nearest")
