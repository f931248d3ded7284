"""Making a map larger."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


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


def pillow_resize(levels: Float[Tensor, "*b h w"], size: tuple[int, int]) -> Float[Tensor, "*b H W"]:
    """Resize an image of 256 levels as `PIL.Image.resize(..., BILINEAR)` does, to the last bit.

    Each axis in turn: a triangle as wide as a pixel of the coarser image weighs the pixels below it, and the
    sum is rounded to a level. Weights are rounded to 1 / 2^22, as in Pillow's fixed-point numbers. PyTorch's
    own antialiasing differs by one level in some pixels. Rows come first; images that are several times as
    tall as wide may differ by one level, since some versions of Pillow begin with the columns there.

    Args:
        levels: whole numbers from 0 to 255.
        size: height and width of the result.

    >>> pillow_resize(torch.tensor([[0.0, 100.0], [0.0, 100.0]]), (2, 4))
    tensor([[  0.,  25.,  75., 100.],
            [  0.,  25.,  75., 100.]])
    """
    if levels.shape[-1] != size[1]:  # columns as rows: whole rows are gathered faster
        turned = levels.transpose(-1, -2).contiguous()
        levels = _pillow_resize_rows(turned, size[1]).transpose(-1, -2).contiguous()
    if levels.shape[-2] != size[0]:
        levels = _pillow_resize_rows(levels, size[0])
    return levels


def _pillow_resize_rows(levels: Float[Tensor, "*b h w"], length: int) -> Float[Tensor, "*b length w"]:
    """Along the columns; every pixel of the result is a sum over its taps, in whole numbers below 2^31."""
    count, unit = levels.shape[-2], 1 << 22
    scale = count / length
    reach = max(scale, 1.0)
    centre = (torch.arange(length, dtype=torch.float64) + 0.5) * scale
    first = (centre - reach + 0.5).long().clamp(min=0)
    behind = (centre + reach + 0.5).long().clamp(max=count)
    tap = first[:, None] + torch.arange(int((behind - first).max()))
    weight = (1 - ((tap - centre[:, None] + 0.5) * (1 / reach)).abs()).clamp(min=0)
    weight = torch.where(tap < behind[:, None], weight, 0.0)
    weight = (weight * (1 / weight.sum(1, keepdim=True)) * unit + 0.5).int().to(levels.device)
    tap = tap.clamp(max=count - 1).to(levels.device)
    whole = levels.int()
    total = torch.tensor(unit // 2, dtype=torch.int32, device=levels.device)
    for index, own in zip(tap.T, weight.T, strict=True):
        total = total + whole.index_select(-2, index) * own[:, None]
    return (total >> 22).to(levels.dtype)


def bilinear_transposed(channels: int, kernel: int, *, stride: int) -> nn.ConvTranspose2d:
    """Transposed convolution that begins as bilinear upsampling of each channel by itself (FCN, Sec. 3.3)."""
    layer = nn.ConvTranspose2d(channels, channels, kernel, stride, bias=False)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[range(channels), range(channels)] = bilinear_kernel(kernel)
    return layer
