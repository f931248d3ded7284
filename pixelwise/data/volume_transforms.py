"""Random changes of volumes for training: patches, turned and scaled, mirrors, intensities.

Patches are needed because a whole volume rarely fits into memory with its gradients. All random numbers are
PyTorch's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional as F

from ..types import LabelMap, Sample
from .transforms import Compose

Transform = Callable[[Sample], Sample]


def volume_transform(
    patch: tuple[int, int, int],
    *,
    foreground: float = 1 / 3,
    flip: float = 0.5,
    intensity: float = 0.2,
    ignore: int = 255,
    rotation: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Transform:
    """The usual changes: a patch, turned and scaled; mirrors along each axis, brightness, contrast and gamma.

    Args:
        patch: depth, height and width in voxels of what comes out.
        foreground: share of patches that are put around a voxel that is not class 0 (nnU-Net: a third).
        flip: probability of mirroring, for each axis.
        intensity: brightness, contrast and gamma change by factors of up to 1 - intensity to 1 + intensity.
        ignore: label of voxels outside of the volume.
        rotation: largest angle in degrees, around each axis.
        scale: range of the random scale (log-uniform).

    Raises:
        ValueError: on a size, probability or factor that makes no sense.
    """
    cut = RandomPatch(patch, foreground, ignore=ignore, rotation=rotation, scale=scale)
    return Compose([cut, RandomMirror(flip), RandomIntensity(intensity)])


class RandomPatch:
    """A window at a random place; where it reaches beyond the volume, image 0 and label `ignore`.

    Small structures are rare: without more weight a network sees background only. A share of the windows
    therefore lies around a random voxel of a random class among those that are there, class 0 excepted.

    Args:
        size: of the window along each axis, in voxels.
        foreground: share of such windows.
        ignore: label outside of the volume; also one that no window is put around.
        rotation: largest angle in degrees by which the content turns around each of three axes, in space:
            where voxels are longer along one axis, that counts.
        scale: range by which the content grows (log-uniform).

    Raises:
        ValueError: if a side is below 1, the share not in [0, 1], or an angle or a range makes no sense.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        foreground: float = 1 / 3,
        *,
        ignore: int = 255,
        rotation: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        if min(size) < 1:
            raise ValueError(f"a patch has at least one voxel along each axis, got {size}")
        if not 0 <= foreground <= 1:
            raise ValueError(f"foreground must be in [0, 1], got {foreground}")
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation must be between 0 and 180, got {rotation}")
        if not 0 < scale[0] <= scale[1] < math.inf:
            raise ValueError(f"scale must be a range of positive numbers, got {scale}")
        self.size, self.foreground, self.ignore = size, foreground, ignore
        self.rotation, self.scale = rotation, scale

    def __call__(self, sample: Sample) -> Sample:
        """The window.

        Raises:
            ValueError: if the volume has another number of axes than the window.
        """
        grid = tuple(sample.image.shape[1:])
        if len(grid) != len(self.size):
            raise ValueError(f"patches of {len(self.size)} axes do not fit {sample.id} with {len(grid)}")
        labels = sample.target.labels if isinstance(sample.target, LabelMap) else None
        centre = None
        if labels is not None and torch.rand(()).item() < self.foreground:
            centre = self._voxel(labels)
        # A window lies within the volume where it can; around a voxel it is moved as little as that takes.
        starts = []
        for axis, (length, side) in enumerate(zip(grid, self.size, strict=True)):
            low, high = min(0, length - side), max(0, length - side)
            if centre is None:
                starts.append(low + int(torch.randint(high - low + 1, ()).item()))
            else:
                starts.append(min(max(centre[axis] - side // 2, low), high))
        if self.rotation or tuple(self.scale) != (1, 1):
            return self._turned(sample, starts)
        image = _window(sample.image, starts, self.size, 0.0)
        if labels is None:
            return replace(sample, image=image)
        return replace(sample, image=image, target=LabelMap(_window(labels, starts, self.size, self.ignore)))

    def _turned(self, sample: Sample, starts: Sequence[int]) -> Sample:
        """The window, turned around its middle and scaled: image linearly, labels from the nearest voxel."""
        grid, side = sample.image.shape[1:], torch.tensor(self.size)
        if len(grid) != 3:
            raise ValueError(f"only volumes are turned and scaled here, {sample.id} has {len(grid)} axes")
        low, high = (math.log(bound) for bound in self.scale)
        factor = math.exp(low + (high - low) * torch.rand(()).item())
        angles = (2 * torch.rand(3, dtype=torch.float64) - 1) * math.radians(self.rotation)
        spacing = torch.tensor(sample.spacing or (1.0, 1.0, 1.0), dtype=torch.float64)
        turn = rotation_matrix(*angles.tolist()) * spacing / spacing[:, None] / factor
        axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in self.size]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        places = torch.tensor(starts) + (side - 1) / 2 + offsets @ turn.T  # in voxels of the volume
        extent = torch.tensor(grid)
        within = ((2 * places + 1) / extent - 1).flip(-1).float()[None]  # -1 and 1 are its borders
        image = F.grid_sample(sample.image[None], within, align_corners=False)[0].clamp_(0, 1)
        if not isinstance(sample.target, LabelMap):
            return replace(sample, image=image)
        nearest = places.round().long()
        inside = ((nearest >= 0) & (nearest < extent)).all(-1)
        d, h, w = nearest.minimum(extent - 1).clamp_(min=0).unbind(-1)
        labels = torch.where(inside, sample.target.labels[d, h, w], self.ignore)
        return replace(sample, image=image, target=LabelMap(labels))

    def _voxel(self, labels: Tensor) -> list[int] | None:
        """The place of a voxel of a class that is drawn first; None where there is none."""
        present = labels.unique()
        present = present[(present != 0) & (present != self.ignore)]
        if not len(present):
            return None
        places = (labels == present[torch.randint(len(present), ())]).nonzero()
        place: list[int] = places[torch.randint(len(places), ())].tolist()
        return place


def rotation_matrix(first: float, second: float, third: float) -> Float64[Tensor, "3 3"]:
    """Turns by three angles in radians around the first, the second and the third axis, in this order."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate((first, second, third)):
        a, b = (other for other in range(3) if other != axis)
        turn = torch.eye(3, dtype=torch.float64)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


class RandomMirror:
    """Mirror along each axis of the grid with some probability.

    Left and right organs then look alike; do without where sides are classes.

    Args:
        probability: for each axis.

    Raises:
        ValueError: if it is not in [0, 1].
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"the probability of a mirror must be in [0, 1], got {probability}")
        self.probability = probability

    def __call__(self, sample: Sample) -> Sample:
        """The mirrored sample."""
        axes = sample.image.ndim - 1
        drawn = [-1 - axis for axis in range(axes) if torch.rand(()).item() < self.probability]
        if not drawn:
            return sample
        image = sample.image.flip(drawn)
        if not isinstance(sample.target, LabelMap):
            return replace(sample, image=image)
        return replace(sample, image=image, target=LabelMap(sample.target.labels.flip(drawn)))


class RandomIntensity:
    """Change brightness, contrast around the mean, and gamma of each channel; values stay in [0, 1].

    Args:
        strength: factors are drawn from 1 - strength to 1 + strength.

    Raises:
        ValueError: if it is not in [0, 1).
    """

    def __init__(self, strength: float = 0.2) -> None:
        if not 0 <= strength < 1:
            raise ValueError(f"strength must be at least 0 and below 1, got {strength}")
        self.strength = strength

    def __call__(self, sample: Sample) -> Sample:
        """The changed sample; the target stays."""
        channels = []
        for channel in sample.image:
            brightness, contrast, gamma = (1 + self.strength * (2 * torch.rand(3) - 1)).tolist()
            mean = channel.mean()
            changed = ((channel - mean) * contrast + mean) * brightness
            channels.append(changed.clamp(0, 1) ** gamma)
        return replace(sample, image=torch.stack(channels))


def _window(x: Tensor, starts: Sequence[int], size: Sequence[int], fill: float | int) -> Tensor:
    """The window of the last axes that begins at `starts`, which may lie outside."""
    grid = x.shape[x.ndim - len(size) :]
    inside = [slice(None)] * (x.ndim - len(size))
    padding: list[tuple[int, int]] = []
    for start, side, length in zip(starts, size, grid, strict=True):
        inside.append(slice(max(start, 0), min(start + side, length)))
        padding.append((max(-start, 0), max(start + side - length, 0)))
    part = x[tuple(inside)]
    flat = [number for pair in reversed(padding) for number in pair]
    return F.pad(part, flat, value=fill) if any(flat) else part.contiguous()
