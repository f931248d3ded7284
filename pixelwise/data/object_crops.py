"""One crop per object, for networks that look at one person at a time (top-down key points).

    box --crop_around--> Crop: image -> crop of one size, points -> points of the crop, and back

Points and pixels follow one affine map, so points come back exactly. The geometry is that of SimpleBaseline
and HRNet: the box is widened to the shape of the crop, enlarged by a quarter, and its centre becomes the
centre of the crop.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..types import Keypoints, Sample, Skeleton

SIZE = (256, 192)  # height and width of a crop
PADDING = 1.25


@dataclass(frozen=True)
class Crop:
    """A window of an image, possibly turned, that is scaled to a fixed size.

    Attributes:
        matrix: takes (x, y, 1) in pixels of the image to (x, y) in pixels of the crop.
        size: height and width of the crop in pixels.
    """

    matrix: Float64[Tensor, "2 3"]
    size: tuple[int, int]

    def image(self, image: Float[Tensor, "c _ _"]) -> Float[Tensor, "c _ _"]:
        """The pixels of the crop, bilinearly interpolated; 0 outside of the image."""
        rows, columns = torch.meshgrid(
            *(torch.arange(n, dtype=torch.float64) for n in self.size), indexing="ij"
        )
        places = self.points_back(torch.stack([columns, rows], -1))
        extent = torch.tensor([image.shape[-1], image.shape[-2]], dtype=torch.float64)
        grid = ((2 * places + 1) / extent - 1).to(image.dtype)  # -1 and 1 are the borders of the image
        return F.grid_sample(image[None], grid[None], align_corners=False)[0]

    def points(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Points of the image in pixels of the crop."""
        moved = points.double() @ self.matrix[:, :2].T + self.matrix[:, 2]
        return moved.to(points.dtype)

    def points_back(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Points of the crop in pixels of the image."""
        moved = (points.double() - self.matrix[:, 2]) @ torch.linalg.inv(self.matrix[:, :2]).T
        return moved.to(points.dtype)

    def keypoints(self, objects: Keypoints) -> Keypoints:
        """Objects of the image in pixels of the crop; a box becomes the box around its turned self."""
        boxes = _boxes_around(self.points(_corners(objects.boxes)))
        area = objects.areas * self._zoom
        return replace(objects, points=self.points(objects.points), boxes=boxes, areas=area)

    def keypoints_back(self, objects: Keypoints) -> Keypoints:
        """Objects of the crop in pixels of the image."""
        boxes = _boxes_around(self.points_back(_corners(objects.boxes)))
        area = objects.areas / self._zoom
        return replace(objects, points=self.points_back(objects.points), boxes=boxes, areas=area)

    @property
    def _zoom(self) -> float:
        """Pixels of the crop per pixel of the image, as areas."""
        return abs(torch.linalg.det(self.matrix[:, :2]).item())


def crop_around(
    box: Sequence[float | int] | Float[Tensor, "4"],
    size: tuple[int, int] = SIZE,
    *,
    padding: float = PADDING,
    rotation: float = 0.0,
) -> Crop:
    """The crop around a box.

    Args:
        box: x1 y1 x2 y2 in pixels.
        size: height and width of the crop in pixels.
        padding: factor by which the window is larger than the box, after its shape was made that of the crop.
        rotation: by how many degrees the content turns clockwise.

    Raises:
        ValueError: if the box is empty, or padding is not above 0.

    >>> crop = crop_around((10, 0, 20, 40), (64, 48), padding=1.0)
    >>> crop.points(torch.tensor([[15.0, 20.0], [15.0, 0.0]]))
    tensor([[24., 32.],
            [24.,  0.]])
    """
    x1, y1, x2, y2 = (float(number) for number in box)
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"a box must have x1 < x2 and y1 < y2, got {(x1, y1, x2, y2)}")
    if not padding > 0:
        raise ValueError(f"padding must be above 0, got {padding}")
    height, width = size
    scale = min(width / (x2 - x1), height / (y2 - y1)) / padding
    angle = math.radians(rotation)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    centre = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2], dtype=torch.float64)
    shift = torch.tensor([width / 2, height / 2], dtype=torch.float64) - turn @ centre
    return Crop(torch.cat([turn, shift[:, None]], 1), size)


def mirrored(sample: Sample, skeleton: Skeleton) -> Sample:
    """The sample mirrored left and right; joints that belong to a side change places.

    Raises:
        ValueError: if the target is no set of key points.
    """
    target = _keypoints_of(sample)
    last = sample.image.shape[-1] - 1
    order = list(skeleton.flipped)
    points, visible = target.points[:, order].clone(), target.visible[:, order]
    points[..., 0] = last - points[..., 0]
    x1, y1, x2, y2 = target.boxes.unbind(1)
    boxes = torch.stack([last - x2, y1, last - x1, y2], 1)
    changed = replace(target, points=points, visible=visible, boxes=boxes)
    return replace(sample, image=sample.image.flip(-1), target=changed)


# --- data sets ------------------------------------------------------------------------------------


@runtime_checkable
class KeypointSamples(Protocol):
    """Images with objects that have joints; what is annotated can be asked without reading the image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def keypoints(self, index: int) -> Keypoints:
        """The annotation alone."""


class SingleObjects(Dataset[Sample]):
    """One sample per object: the whole image, and that object as its target.

    Objects that stand for several, that have no annotated joint, or whose box is empty are left out. The id
    of object 3 of image.jpg is "image.jpg#3".

    Args:
        data: images with any number of objects.
    """

    def __init__(self, data: KeypointSamples) -> None:
        self.data = data
        self.places = [
            (image, number) for image in range(len(data)) for number in _usable(data.keypoints(image))
        ]

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.places)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """One object in its image."""
        image, number = self.places[index]
        sample = self.data[image]
        return replace(sample, target=self.keypoints(index), id=f"{sample.id}#{number}")

    def keypoints(self, index: int) -> Keypoints:
        """One object."""
        image, number = self.places[index]
        return _one_of(self.data.keypoints(image), number)


class ObjectCrops(Dataset[Sample]):
    """One crop per object, with the object in pixels of the crop as its target.

    Args:
        data: images with any number of objects; see `SingleObjects` for those that are left out.
        size: height and width of the crops in pixels.
        padding: see `crop_around`.
    """

    def __init__(
        self, data: KeypointSamples, size: tuple[int, int] = SIZE, *, padding: float = PADDING
    ) -> None:
        self.objects, self.size, self.padding = SingleObjects(data), size, padding

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """One crop."""
        return _cut(self.objects[index], self.crop(index))

    def crop(self, index: int) -> Crop:
        """Where a crop lies in its image."""
        return crop_around(self.objects.keypoints(index).boxes[0], self.size, padding=self.padding)

    def in_images(self, predictions: Sequence[Keypoints]) -> list[Keypoints]:
        """What was found in the crops, back in pixels of the images: one set per image of `data`.

        Args:
            predictions: one per crop, in order.

        Raises:
            ValueError: if there are more or fewer predictions than crops.
        """
        if len(predictions) != len(self):
            raise ValueError(f"there are {len(self)} crops, got {len(predictions)} predictions")
        found = defaultdict(list)
        for index, prediction in enumerate(predictions):
            found[self.objects.places[index][0]].append(self.crop(index).keypoints_back(prediction))
        data = self.objects.data
        return [
            joined(found[image]) if found[image] else _none_of(data.keypoints(image))
            for image in range(len(data))
        ]


class RandomObjectCrop:
    """The crop of one object, turned, scaled and mirrored at random: for `Augmented` over `SingleObjects`.

    The figures are HRNet's for COCO; its half-body crops are not made. Random numbers are PyTorch's.

    Args:
        skeleton: says which joints change places in the mirror.
        size: height and width of the crop in pixels.
        scale: the window is larger or smaller by up to this share.
        rotation: largest angle in degrees; three crops of five are turned.
        flip: probability of mirroring.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        size: tuple[int, int] = SIZE,
        *,
        scale: float = 0.35,
        rotation: float = 45.0,
        flip: float = 0.5,
    ) -> None:
        if not 0 <= scale < 1:
            raise ValueError(f"scale must be at least 0 and below 1, got {scale}")
        self.skeleton, self.size = skeleton, size
        self.scale, self.rotation, self.flip = scale, rotation, flip

    def __call__(self, sample: Sample) -> Sample:
        """The crop; its target is in pixels of the crop.

        Raises:
            ValueError: if the target is not one object.
        """
        target = _keypoints_of(sample)
        if len(target) != 1:
            raise ValueError(f"{sample.id} must have one object, got {len(target)}")
        factor, angle, turned, mirror = torch.rand(4).tolist()
        padding = PADDING * (1 + self.scale * (2 * factor - 1))
        rotation = self.rotation * (2 * angle - 1) if turned < 0.6 else 0.0
        crop = crop_around(target.boxes[0], self.size, padding=padding, rotation=rotation)
        cut = _cut(sample, crop)
        return mirrored(cut, self.skeleton) if mirror < self.flip else cut


def joined(sets: Sequence[Keypoints]) -> Keypoints:
    """Several sets of objects as one.

    Raises:
        ValueError: without any set.
    """
    if not sets:
        raise ValueError("there must be at least one set of key points to join, got none")
    return Keypoints(
        torch.cat([one.points for one in sets]),
        torch.cat([one.visible for one in sets]),
        torch.cat([one.scores for one in sets]),
        torch.cat([one.areas for one in sets]),
        torch.cat([one.boxes for one in sets]),
        torch.cat([one.is_crowd for one in sets]),
    )


def _cut(sample: Sample, crop: Crop) -> Sample:
    return replace(sample, image=crop.image(sample.image), target=crop.keypoints(_keypoints_of(sample)))


def _keypoints_of(sample: Sample) -> Keypoints:
    if not isinstance(sample.target, Keypoints):
        raise ValueError(f"the target of {sample.id} must be key points, got {type(sample.target).__name__}")
    return sample.target


def _usable(objects: Keypoints) -> list[int]:
    x1, y1, x2, y2 = objects.boxes.unbind(1)
    usable = (objects.visible > 0).any(1) & ~objects.is_crowd & (x1 < x2) & (y1 < y2)
    return usable.nonzero()[:, 0].tolist()


def _one_of(objects: Keypoints, number: int) -> Keypoints:
    one = slice(number, number + 1)
    return Keypoints(
        objects.points[one],
        objects.visible[one],
        objects.scores[one],
        objects.areas[one],
        objects.boxes[one],
        objects.is_crowd[one],
    )


def _none_of(objects: Keypoints) -> Keypoints:
    return _one_of(objects, len(objects))


def _corners(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4 2"]:
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(1, (4, 2))


def _boxes_around(corners: Float[Tensor, "n 4 2"]) -> Float[Tensor, "n 4"]:
    return torch.cat([corners.amin(1), corners.amax(1)], 1)
