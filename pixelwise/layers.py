"""The few bricks that belong to no paper."""

import torch
from jaxtyping import Float
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
    """Bilinear resize of `x` to `size` (height, width); nothing happens where it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def resize_like(
    x: Float[Tensor, "b c _ _"], like: Float[Tensor, "b _ H W"], *, align_corners: bool = False
) -> Float[Tensor, "b c H W"]:
    """Bilinear resize of `x` to the height and width of `like`."""
    return resize(x, (like.shape[-2], like.shape[-1]), align_corners=align_corners)


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
