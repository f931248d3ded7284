"""The few bricks that belong to no paper."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; odd kernels keep the size at stride 1."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False),
            BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on one value per channel, where no variance exists.

    After global pooling a batch of one image leaves a single value per channel; PyTorch refuses it. Here
    such a batch is normalised with the running statistics and does not change them.
    """

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise each channel."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every pixel of a map."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise each pixel."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Normalize(nn.Module):
    """(image - mean) / std per channel. Part of the model, so that input in [0, 1] is all a user needs.

    Args:
        mean: one number per channel of the image.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
        """Normalise each channel."""
        return (image - self.mean) / self.std


def resize(
    x: Float[Tensor, "b c _ _"], size: tuple[int, int], *, align_corners: bool = False
) -> Float[Tensor, "b c _ _"]:
    """Bilinear resize of `x` to `size` (height, width); nothing changes where it has that size."""
    # An exported program must serve other sizes than the traced one, so it compares none.
    if not torch.compiler.is_exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def resize_like(
    x: Float[Tensor, "b c _ _"], like: Float[Tensor, "b _ H W"], *, align_corners: bool = False
) -> Float[Tensor, "b c H W"]:
    """Bilinear resize of `x` to the height and width of `like`."""
    return resize(x, (like.shape[-2], like.shape[-1]), align_corners=align_corners)


def enlarge(
    x: Float[Tensor, "b c h w"], factor: int, *, align_corners: bool = False
) -> Float[Tensor, "b c _ _"]:
    """Bilinear resize of `x` to `factor` times its height and width."""
    size = (factor * x.shape[-2], factor * x.shape[-1])
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def fit(x: Float[Tensor, "b c _ _"], size: tuple[int, int], *, offset: int = 0) -> Float[Tensor, "b c _ _"]:
    """The part of `x` that has `size`; rows and columns beyond the end of `x` repeat its last.

    Args:
        x: any maps.
        size: height and width of the result.
        offset: first row and first column of `x` that is taken.
    """
    rows, columns = (offset + length for length in size)
    if torch.compiler.is_exporting():  # slices and pads would hold for the traced size only
        y = torch.arange(offset, rows, device=x.device).clamp(max=x.shape[-2] - 1)
        z = torch.arange(offset, columns, device=x.device).clamp(max=x.shape[-1] - 1)
        return x[:, :, y][..., z]
    x = x[:, :, offset:rows, offset:columns]
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), mode="replicate")


def without_padding(
    x: Float[Tensor, "b c h w"],
    size: tuple[int, int],
    padded: tuple[int, int],
    *,
    align_corners: bool = False,
) -> Float[Tensor, "b c h w"]:
    """A coarse map of an image that was padded at its end, drawn out to cover the image alone.

    Resized to `size`, the result shows what `x`, resized to `padded`, shows of the image, smoothed by at
    most one interpolation. Nothing changes where nothing was padded.

    Args:
        x: the map.
        size: height and width of the image in pixels.
        padded: height and width with the padding.
        align_corners: how the map is going to be resized.

    >>> without_padding(torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]]), (4, 12), (4, 16))[0, 0]
    tensor([[0.0000, 0.6250, 1.3750, 2.1250]])
    """
    if not torch.compiler.is_exporting() and tuple(size) == tuple(padded):
        return x
    for axis, length, whole in ((2, size[0], padded[0]), (3, size[1], padded[1])):
        count = x.shape[axis]
        cells = torch.arange(count, device=x.device, dtype=x.dtype)
        if align_corners:
            at = cells * (length - 1) / (whole - 1)
        else:
            at = ((cells + 0.5) * length / whole - 0.5).clamp(min=0)
        before = at.floor()
        share = (at - before).view(-1, *(1,) * (3 - axis))
        first = before.long().clamp(max=count - 1)
        second = (first + 1).clamp(max=count - 1)
        x = torch.lerp(x.index_select(axis, first), x.index_select(axis, second), share)
    return x


def at_least(size: int, least: int) -> int:
    """The larger of two sizes, also where an exported program must serve more than the traced one.

    Programs for all sizes cannot be exported where a map is one cell long at the traced size: such a length
    is taken for a constant.

    >>> at_least(2, 3)
    3
    """
    return cast(int, torch.sym_max(size, least))


def max_pool_up(
    x: Float[Tensor, "b c h w"], window: int = 2
) -> tuple[Float[Tensor, "b c _ _"], Integer[Tensor, "b c _ _"]]:
    """Maxima of windows of 2x2 (or 3x3) pixels, two apart, and their positions in `x` (`max_unpool`).

    Sizes are rounded up as with `ceil_mode=True`, whose rounding torch.export cannot follow at sizes it was
    not traced with. Positions count in a map that has one more row and column.
    """
    padded = F.pad(x, (0, 1, 0, 1), value=-torch.inf)
    return F.max_pool2d(padded, window, 2, return_indices=True)


def max_unpool(
    x: Float[Tensor, "b c _ _"], indices: Integer[Tensor, "b c _ _"], size: tuple[int, int]
) -> Float[Tensor, "b c _ _"]:
    """The values of `x` where `max_pool_up` found them, in a map of `size` (height, width) zero elsewhere."""
    height, width = size[0] + 1, size[1] + 1
    flat = x.new_zeros(*x.shape[:2], height * width).scatter(2, indices.flatten(2), x.flatten(2))
    return flat.unflatten(2, (height, width))[:, :, :-1, :-1]


def size_of(image: Float[Tensor, "b c H W"], minimum: int) -> tuple[int, int]:
    """Height and width of `image`.

    Raises:
        ValueError: if one of them is below `minimum`.
    """
    height, width = image.shape[-2], image.shape[-1]
    if height < minimum or width < minimum:
        raise ValueError(
            f"this model needs images of at least {minimum} x {minimum} pixels, got {height} x {width}"
        )
    return height, width


class FittedImages(NamedTuple):
    """Images as a network sees them that works at one scale: resized, and padded to one size.

    Attributes:
        images: each at the upper left of its map.
        image_sizes: height and width of each before.
        seen_sizes: height and width of each now.
    """

    images: Float[Tensor, "b c h w"]
    image_sizes: tuple[tuple[int, int], ...]
    seen_sizes: tuple[tuple[int, int], ...]


def fit_images(
    image: Float[Tensor, "b c H W"],
    sizes: Sequence[tuple[int, int]],
    fill: Float[Tensor, "1 c 1 1"],
    *,
    min_size: int | None,
    max_size: int,
    multiple: int = 32,
) -> FittedImages:
    """Resize each image of a batch to one scale, as detectors do, and pad to a multiple of the stride.

    The shorter side becomes `min_size` pixels, unless the longer one became more than `max_size`.

    Args:
        image: images that may be padded.
        sizes: height and width of each without its padding.
        fill: colour of the padding.
        min_size: None to leave every image as large as it is.
        max_size: in pixels.
        multiple: of which height and width of the result are.

    >>> image, black = torch.rand(1, 3, 10, 30), torch.zeros(1, 3, 1, 1)
    >>> seen = fit_images(image, [(10, 30)], black, min_size=20, max_size=48)
    >>> seen.seen_sizes, tuple(seen.images.shape[2:])
    (((16, 48),), (32, 64))
    """
    wanted = []
    for height, width in sizes:
        shorter, longer = min(height, width), max(height, width)
        scale = 1.0 if min_size is None else min(min_size / shorter, max_size / longer)
        wanted.append((math.floor(height * scale), math.floor(width * scale)))
    padded = [-(-max(side) // multiple) * multiple for side in zip(*wanted, strict=True)]
    canvas = fill.to(image).expand(len(image), image.shape[1], *padded).contiguous()
    for own, one, old, new in zip(canvas, image, sizes, wanted, strict=True):
        own[:, : new[0], : new[1]] = resize(one[None, :, : old[0], : old[1]], new)[0]
    return FittedImages(canvas, tuple(sizes), tuple(wanted))


def volume_size(volume: Float[Tensor, "b c D H W"], minimum: int) -> tuple[int, int, int]:
    """Depth, height and width of `volume`.

    Raises:
        ValueError: if one of them is below `minimum`.
    """
    depth, height, width = volume.shape[-3], volume.shape[-2], volume.shape[-1]
    if depth < minimum or height < minimum or width < minimum:
        raise ValueError(
            f"this model needs volumes of at least {minimum} x {minimum} x {minimum} voxels, "
            f"got {depth} x {height} x {width}"
        )
    return depth, height, width


def extend_to_multiple(x: Float[Tensor, "b c *grid"], multiple: int) -> Float[Tensor, "b c *_"]:
    """Repeat the border at the end of each axis until `multiple` divides its length.

    >>> extend_to_multiple(torch.tensor([[[1.0, 2.0, 3.0]]]), 4)
    tensor([[[1., 2., 3., 3.]]])
    """
    padding: list[int] = []
    for length in x.shape[:1:-1]:
        padding += [0, -length % multiple]
    return F.pad(x, padding, mode="replicate") if any(padding) else x
