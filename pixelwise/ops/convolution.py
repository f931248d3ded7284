"""Convolution as a matrix, its transpose, and its relatives."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from .resampling import bilinear_upsample, nearest_upsample


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
