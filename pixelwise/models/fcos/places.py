"""Images as one-stage networks see them, the places of their levels, and which object a place belongs to."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ...encoders import Encoder
from ...layers import fit_images, size_of
from ...ops.objects import Sizes
from ...types import Batch, Boxes, MaskSet, Model, Value, value

RADIUS = 1.5  # strides from the middle of an object within which a place belongs to it
REACH = 8  # strides to the farthest side of the largest object of a level: 64 pixels on P3 (Sec. 3.2)


@value
class Scales(Value):
    """How large the images of a batch are, and how large the network sees them.

    Attributes:
        canvas: height and width of the padded batch as the network sees it.
        image_sizes: height and width of each image, or one of them for all.
        seen_sizes: the same as the network sees them.
    """

    canvas: tuple[int, int]
    image_sizes: tuple[tuple[int, int], ...]
    seen_sizes: tuple[tuple[int, int], ...]

    def of(self, count: int) -> tuple[Sizes, Sizes]:
        """Sizes of that many images before, and as the network sees them."""
        repeats = count if len(self.image_sizes) == 1 else 1
        return self.image_sizes * repeats, self.seen_sizes * repeats


def see(
    image: Float[Tensor, "b c H W"],
    sizes: Sequence[tuple[int, int]] | None,
    fill: Float[Tensor, "1 c 1 1"],
    *,
    least: int,
    min_size: int | None,
    max_size: int,
) -> tuple[Float[Tensor, "b c h w"], Scales]:
    """The images as the network sees them, padded at the right and at the bottom.

    Args:
        image: that may be padded.
        sizes: height and width of each image; all of `image` without it.
        fill: colour of the padding.
        least: extent of an image along each axis.
        min_size: the shorter side of images is resized to it, in pixels; None to take them as they are.
        max_size: of the longer side, which holds if both cannot be met.

    Raises:
        ValueError: if an image is smaller than `least`, or a network that resizes is exported.
    """
    whole = size_of(image, least)
    if min_size is None and (sizes is None or all(tuple(size) == whole for size in sizes)):
        return image, Scales(whole, (whole,), (whole,))
    if torch.compiler.is_exporting():
        raise ValueError("a network is exported at the scale it sees: build it with min_size=None")
    sizes = [whole] * len(image) if sizes is None else sizes
    seen = fit_images(image, sizes, fill, min_size=min_size, max_size=max_size, multiple=1)
    height, width = seen.images.shape[-2:]
    return seen.images, Scales((height, width), seen.image_sizes, seen.seen_sizes)


class LevelHead(nn.Module):
    """What looks at every level of a pyramid; it knows how many classes there are."""

    num_classes: int


class OneStage(Model):
    """Encoder, pyramid and head: what networks have that look at all places of all levels.

    Args:
        encoder: gives the stages that `stages` names.
        pyramid: makes levels of equal width of them.
        head: looks at every level.
        min_size: the shorter side of images is resized to it, in pixels; None to take images as they are.
        max_size: of the longer side, which holds if both cannot be met.
    """

    stages: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        encoder: Encoder,
        pyramid: nn.Module,
        head: LevelHead,
        *,
        min_size: int | None = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = head.num_classes, encoder.in_channels
        self.min_size, self.max_size = min_size, max_size
        self.encoder, self.pyramid, self.head = encoder, pyramid, head

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, and the size of each."""
        return batch.image, batch.sizes

    def levels(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None
    ) -> tuple[list[Tensor], Scales]:
        """The levels of the pyramid, finest first, and how large the images are in them; see `see`."""
        seen, scales = see(
            image,
            sizes,
            self.encoder.normalize.mean,
            least=self.minimum_size,
            min_size=self.min_size,
            max_size=self.max_size,
        )
        features = self.encoder(seen)
        return self.pyramid([features[stage] for stage in self.stages]), scales


@value
class Places(Value):
    """The places of all levels, finest level first, row by row.

    Attributes:
        points: x y of the middle of each in pixels.
        stride: pixels between places of its level.
    """

    points: Float[Tensor, "n 2"]
    stride: Float[Tensor, " n"]


def places_of(sizes: Sequence[tuple[int, int]], strides: Sequence[int], like: Tensor) -> Places:
    """The middles of the cells of each level.

    Args:
        sizes: height and width of each level.
        strides: of each level.
        like: tells the device.

    >>> places_of([(1, 2)], [8], torch.zeros(())).points.tolist()
    [[4.0, 4.0], [12.0, 4.0]]
    """
    points, each = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        down, along = (stride * (torch.arange(n, device=like.device) + 0.5) for n in (height, width))
        y, x = torch.meshgrid(down, along, indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1))
        each.append(torch.full_like(points[-1][:, 0], stride))
    return Places(torch.cat(points), torch.cat(each))


def in_a_row(maps: Sequence[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "b n c"]:
    """The maps of all levels place by place, in the order of `places_of`."""
    return torch.cat([map.permute(0, 2, 3, 1).flatten(1, 2) for map in maps], 1)


def assign_places(
    places: Places, objects: Boxes, middles: Float[Tensor, "m 2"] | None = None
) -> Int64[Tensor, " n"]:
    """Number of the object that each place belongs to, -1 where it is background (Sec. 3.1, 3.2).

    It lies in the box and near the middle of the object, the farthest side of the box is within the reach of
    its level, and of several objects it takes the smallest.

    Args:
        places: of all levels.
        objects: as the network sees them; those without an area get no place.
        middles: x y of the middle of each object; that of its box without it.
    """
    if not len(objects):
        return torch.full_like(places.stride, -1, dtype=torch.long)
    boxes, stride = objects.boxes, places.stride[:, None]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 if middles is None else middles
    inside = distances_to(places.points[:, None], boxes)
    farthest = inside.amax(-1)
    near = (places.points[:, None] - middles).abs().amax(-1) < RADIUS * stride
    least = torch.where(stride == places.stride.min(), 0.0, REACH / 2 * stride)
    most = torch.where(stride == places.stride.max(), torch.inf, REACH * stride)
    fits = (inside.amin(-1) > 0) & near & (farthest > least) & (farthest < most)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    smallest, number = torch.where(fits, area, torch.inf).min(1)
    return torch.where(smallest < torch.inf, number, -1)


def distances_to(points: Float[Tensor, "*#n 2"], boxes: Float[Tensor, "*#n 4"]) -> Float[Tensor, "... 4"]:
    """From points to the left, upper, right and lower side of boxes (Eq. 1)."""
    return torch.cat(torch.broadcast_tensors(points - boxes[..., :2], boxes[..., 2:] - points), -1)


def boxes_around(points: Float[Tensor, "*#n 2"], distances: Float[Tensor, "*#n 4"]) -> Float[Tensor, "... 4"]:
    """The boxes whose sides have these distances from points."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def centerness(distances: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """1 in the middle of a box, 0 at its sides (Eq. 3).

    >>> centerness(torch.tensor([[2.0, 3.0, 2.0, 3.0], [1.0, 3.0, 4.0, 3.0]]))
    tensor([1.0000, 0.5000])
    """
    low = torch.minimum(distances[..., :2], distances[..., 2:])
    high = torch.maximum(distances[..., :2], distances[..., 2:])
    return (low / high.clamp(min=1e-6)).prod(-1).clamp(min=0).sqrt()


def masks_at_cells(
    instances: MaskSet,
    old: tuple[int, int],
    new: tuple[int, int],
    grid: tuple[int, int],
    covered: tuple[int, int],
) -> Bool[Tensor, "n h w"]:
    """Whether the middle of each cell of a map lies in each mask.

    Args:
        instances: of one image.
        old: height and width of the image.
        new: the same as the network sees it; cells beyond it lie in no mask.
        grid: height and width of the map.
        covered: height and width of what the map covers, in pixels as the network sees them.
    """
    masks = instances.dense.to(instances.classes.device)
    for axis in (0, 1):
        middle = (torch.arange(grid[axis], device=masks.device) + 0.5) * (covered[axis] / grid[axis])
        pixel = (middle * (old[axis] / new[axis])).long().clamp(max=old[axis] - 1)
        shape = (-1, 1) if axis == 0 else (1, -1)
        masks = masks.index_select(axis + 1, pixel) & (middle < new[axis]).view(shape)
    return masks


def middles_of_mass(instances: MaskSet, old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """Mean x y of the pixels of each mask, as the network sees them; 0 where a mask is empty."""
    masks = instances.dense.to(instances.classes.device)
    found = []
    for axis in (1, 0):
        place = torch.arange(masks.shape[axis + 1], device=masks.device) + 0.5
        pixels = masks.sum(2 - axis)  # of each column, or row
        mean = (pixels * place).sum(1) / pixels.sum(1).clamp(min=1)
        found.append(mean * (new[axis] / old[axis]))
    return torch.stack(found, 1)


def extent_of(covered: tuple[int, int], old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what a map covers, in pixels of the image; see `masks_at_cells`."""
    return round(covered[0] * old[0] / new[0]), round(covered[1] * old[1] / new[1])
