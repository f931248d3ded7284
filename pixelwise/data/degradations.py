"""Changes of pixels and voxels for training, as poor cameras and scanners make them; annotations stay.

Each is a function of an image or volume with values in [0, 1], of any number of channels and axes unless it
says otherwise, that draws its strength from PyTorch's generator. The ranges of blur, noise, low resolution
and gamma are about those of nnU-Net (Isensee et al., Nature Methods 2021, Supplementary Note 4).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..kernels.images.resampling import blurred
from ..kernels.images.values import byte_pixels, unit_planes
from ..types import Sample
from .formats.direct import as_jpeg

Pixels = Float[Tensor, "c *grid"]

_SIGMA = (0.5, 1.5)  # pixels
_NOISE = 0.1  # largest standard deviation
_QUALITY = (30, 95)
_GAMMA = (0.7, 1.5)
_FIELD, _POINTS = 0.25, 3  # standard deviation of the logarithm, points along each axis
_ZOOM = (0.5, 1.0)


class Sometimes:
    """Change the image of a sample now and then.

    Attributes:
        draws_from_torch: the changes of this file draw from PyTorch's generator alone, see `Augmented`.

    Args:
        change: of the image.
        share: of the samples that are changed, in [0, 1].
    """

    def __init__(self, change: Callable[[Pixels], Pixels], share: float) -> None:
        self.change, self.share = change, share
        self.draws_from_torch = change.__module__ == __name__

    def __call__(self, sample: Sample) -> Sample:
        """The sample, changed or not."""
        if torch.rand(()) >= self.share:
            return sample
        return replace(sample, image=self.change(sample.image))


def blur(image: Pixels) -> Pixels:
    """Blurred by a Gaussian of a standard deviation of 0.5 to 1.5 pixels."""
    return gaussian_blur(image, _drawn(*_SIGMA))


def gaussian_blur(image: Pixels, sigma: float) -> Pixels:
    """Blurred along every axis; beyond the border, the pixels at the border go on.

    Args:
        image: to blur.
        sigma: standard deviation in pixels, above 0.
    """
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = weights / weights.sum()
    if image.ndim == 3:
        planes = image.float().contiguous().numpy()
        return torch.from_numpy(blurred(planes, kernel.numpy())).clamp_(0, 1)
    for axis in range(1, image.ndim):
        lines = image.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        image = F.conv1d(flat, kernel[None, None]).view(lines.shape).movedim(-1, axis)
    return image.clamp(0, 1).contiguous()


def noise(image: Pixels) -> Pixels:
    """Normal noise of a standard deviation of up to 0.1."""
    return torch.randn_like(image).mul_(_drawn(0.0, _NOISE)).add_(image).clamp_(0, 1)


def jpeg(image: Float[Tensor, "c H W"]) -> Float[Tensor, "c H W"]:
    """Written as JPEG of a quality of 30 to 95 and read again.

    Raises:
        ValueError: if it has not one or three channels.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"jpeg is for images of one or three channels, got {tuple(image.shape)}")
    quality = round(_drawn(*_QUALITY))
    return torch.from_numpy(unit_planes(as_jpeg(byte_pixels(image.float().contiguous().numpy()), quality)))


def gamma(image: Pixels) -> Pixels:
    """To a power of 0.7 to 1.5, darker as often as brighter."""
    low, high = _GAMMA
    return image ** math.exp(_drawn(math.log(low), math.log(high)))


def bias_field(image: Pixels) -> Pixels:
    """Brighter here and darker there, as the coils of an MR scanner make it.

    The logarithm of the factor is normal with a standard deviation of 0.25 on a grid of 3 points along each
    axis and linear in between; all channels have the same.
    """
    grid = image.shape[1:]
    coarse = torch.randn(1, 1, *[_POINTS] * len(grid)) * _FIELD
    field = F.interpolate(coarse, grid, mode=_LINEAR[len(grid)], align_corners=True)[0]
    return (image * field.exp_()).clamp_(0, 1)


def low_resolution(image: Pixels) -> Pixels:
    """Down to 0.5 to 1 of the size, and up again: every so many-th pixel is kept, linear in between."""
    zoom, grid = _drawn(*_ZOOM), image.shape[1:]
    size = [max(1, round(zoom * side)) for side in grid]
    small = F.interpolate(image[None], size, mode="nearest-exact")
    return F.interpolate(small, grid, mode=_LINEAR[len(grid)])[0]


_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of axes


def _drawn(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()
