"""PolarMask: the outline of an object as 36 distances from its middle (Fig. 1, 2).

As in FCOS, every place says what is there. Instead of the four sides of a box it tells how far the outline
of its object is in 36 directions (Sec. 3.1, Fig. 3): the mask is a polygon. How good a place is to tell from
is the centreness of the rays (Eq. 2), and the loss of the rays is a form of IoU: the area of an object in
polar coordinates is a sum over directions (Eq. 6).

A branch for boxes, which the authors' code has too, chooses among detections; the masks do not need it.

Departures: rays and boxes are in strides of their level, as in FCOS's later version. The true length of a ray
is found by walking along it, in steps of a pixel, to where the mask ends for the last time; the authors look
for the outline within a few degrees. Scores lie in [0, 1]: the authors' are one and a half times as large.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..losses import loss_parts
from ..ops.objects import objects_of, rescaled
from ..rle import RleMasks
from ..types import Annotation, Batch, Boxes, MaskSet, Paper, Value, value
from .fcos import (
    STAGES,
    STRIDES,
    Found,
    LevelHead,
    Limits,
    OneStage,
    PlaceLogits,
    Pyramid,
    Scales,
    Tower,
    assign_all,
    boxes_around,
    class_loss,
    detect,
    in_a_row,
    middles_of_mass,
    predictor,
    seen_objects,
)

PAPER = Paper(
    "PolarMask: Single Shot Instance Segmentation with Polar Representation",
    "Xie, Sun, Song, Wang, Liu, Liang, Shen, Luo",
    "CVPR",
    2020,
    "https://arxiv.org/abs/1909.13226",
)

NUM_RAYS = 36
SHORTEST = 1e-6  # length of a ray that meets no mask
CENTERNESS_SHIFT = 0.5  # polar centreness is low for most places
LONGEST = 6.0  # logarithm of rays and sides in strides, so that nothing overflows
LIMITS = Limits(min_score=0.05 / (1 + CENTERNESS_SHIFT), max_iou=0.5)


@value
class PolarLogits(Value):
    """Objects at all places, and the distances of their outlines.

    Attributes:
        objects: as FCOS says them; centreness is that of the rays.
        rays: lengths in pixels as the network sees them, from the direction of x on towards y.
    """

    objects: PlaceLogits
    rays: Float[Tensor, "b n r"]


class PolarHead(LevelHead):
    """Three towers that all levels share: classes and centreness, boxes, rays (Fig. 2).

    Args:
        width: channels of the levels.
        num_classes: number of classes k.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        towers = [Tower(width, bias=False) for _ in range(3)]
        self.class_tower, self.box_tower, self.ray_tower = towers
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        self.classes = predictor(width, num_classes, prior=0.01)
        self.centerness, self.distances = predictor(width, 1), predictor(width, 4)
        self.rays = predictor(width, NUM_RAYS)
        self.box_scales = nn.Parameter(torch.ones(len(STRIDES)))
        self.ray_scales = nn.Parameter(torch.ones(len(STRIDES)))

    def forward(self, levels: Sequence[Tensor], scales: Scales) -> PolarLogits:
        """What all places say."""
        named = [self.class_tower(level) for level in levels]
        boxes, rays = (
            in_a_row(
                [
                    stride * (scale * out(tower(x))).float().clamp(max=LONGEST).exp()
                    for x, scale, stride in each
                ]
            )
            for tower, out, each in (
                (self.box_tower, self.distances, zip(levels, self.box_scales, STRIDES, strict=True)),
                (self.ray_tower, self.rays, zip(levels, self.ray_scales, STRIDES, strict=True)),
            )
        )
        objects = PlaceLogits(
            in_a_row([self.classes(x) for x in named]),
            boxes,
            in_a_row([self.centerness(x) for x in named])[..., 0],
            tuple((level.shape[-2], level.shape[-1]) for level in levels),
            scales,
        )
        return PolarLogits(objects, rays)


class PolarMask(OneStage):
    """Encoder, pyramid P3 to P7, head; the arguments are those of `OneStage`."""

    tasks = ("instance",)
    output = PolarLogits
    stages = STAGES

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> PolarLogits:
        """Look for instances; the arguments are those of `FCOS.forward`."""
        output: PolarLogits = self.head(*self.levels(image, sizes))
        return output


# --- polar coordinates ----------------------------------------------------------------------------


def directions(like: Tensor) -> Float[Tensor, "r 2"]:
    """The x y of a step in the direction of each ray."""
    angles = torch.arange(NUM_RAYS, device=like.device) * (2 * math.pi / NUM_RAYS)
    return torch.stack([angles.cos(), angles.sin()], 1)


def polygons(points: Float[Tensor, "n 2"], rays: Float[Tensor, "n r"]) -> Float[Tensor, "n r 2"]:
    """The ends of the rays from points: x y of the corners of each outline (Eq. 4, 5)."""
    return points[:, None] + rays[..., None] * directions(points)


def cast_rays(
    mask: Bool[Tensor, "H W"], points: Float[Tensor, "n 2"], ratio: Float[Tensor, " 2"], farthest: float
) -> Float[Tensor, "n r"]:
    """How far it is from points to where a mask ends for the last time in each direction.

    Args:
        mask: of one object, in the image.
        points: x y as the network sees them.
        ratio: pixels of the image per pixel as the network sees them, along x and y.
        farthest: that is looked, in pixels as the network sees them.
    """
    steps = torch.arange(math.ceil(farthest), device=points.device) + 0.5
    x, y = (
        (ratio[i] * (points[:, i, None, None] + directions(points)[:, i, None] * steps)).floor().long()
        for i in (0, 1)
    )
    height, width = mask.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    inside = inside & mask[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return torch.where(inside, steps + 0.5, 0.0).amax(-1).clamp(min=SHORTEST)


def polar_centerness(rays: Float[Tensor, "n r"]) -> Float[Tensor, " n"]:
    """The root of the shortest ray over the longest (Eq. 2)."""
    return (rays.amin(1) / rays.amax(1)).sqrt()


def polar_iou_loss(rays: Float[Tensor, "n r"], wanted: Float[Tensor, "n r"]) -> Float[Tensor, " n"]:
    """Minus the logarithm of the polar IoU: sum of the shorter over sum of the longer rays (Eq. 7, 8)."""
    return (torch.maximum(rays, wanted).sum(1) / torch.minimum(rays, wanted).sum(1)).log()


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def polar_losses(output: PolarLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Focal loss of classes, IoU of boxes, polar IoU of rays, binary cross-entropy of centreness (Sec. 3.4).

    Boxes and rays of places far from the middle count less, by their polar centreness.

    Raises:
        ValueError: if targets have no masks.
    """
    scales, places = output.objects.scales, output.objects.places
    targets = seen_objects(batch.annotations, scales)
    middles, masks = [], []
    old, new = scales.of(len(targets))
    for target, *sizes in zip(batch.annotations, old, new, strict=True):
        masks.append(with_masks(target))
        middles.append(middles_of_mass(masks[-1], *sizes).to(places.points.device))
    chosen = assign_all(places, targets, middles)
    positive, objects = chosen.target >= 0, objects_of(chosen, targets)
    points, rays = chosen.boxes[:, :2], torch.zeros(len(chosen), NUM_RAYS, device=places.points.device)
    for number, instances in enumerate(masks):
        ratio = points.new_tensor(old[number]).flip(0) / points.new_tensor(new[number]).flip(0)
        here = chosen.image == number
        for one in chosen.target[here & positive].unique().tolist():
            index = (here & (chosen.target == one)).nonzero()[:, 0]
            mask = instances.take(torch.tensor([one], device=instances.classes.device)).dense[0]
            farthest = (targets[number].boxes[one, 2:] - targets[number].boxes[one, :2]).norm().item() + 1
            rays[index] = cast_rays(mask.to(points.device), points[index], ratio, farthest)
    wanted = rays[positive]
    weight = polar_centerness(wanted)
    total = weight.sum().clamp(min=1e-6)
    found = boxes_around(points[positive], output.objects.distances.flatten(0, 1)[positive])
    drawn = output.rays.flatten(0, 1)[positive]
    told = output.objects.centerness.flatten()[positive].float()
    entropy = F.binary_cross_entropy_with_logits(told, weight, reduction="sum")
    return {
        "class": class_loss(output.objects.class_logits, chosen, objects.classes),
        "box": (weight * iou_loss(found, objects.boxes)).sum() / total,
        "rays": (weight * polar_iou_loss(drawn, wanted)).sum() / total,
        "centerness": entropy / positive.sum().clamp(min=1),
    }


def with_masks(target: Annotation) -> MaskSet:
    """The target.

    Raises:
        ValueError: if it has no masks.
    """
    if not isinstance(target, MaskSet):
        raise ValueError(f"PolarMask learns from MaskSet, got {type(target).__name__}")
    return target


def iou_loss(boxes: Float[Tensor, "n 4"], wanted: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Minus the logarithm of the IoU of boxes that share a point."""
    sides = torch.minimum(boxes[:, 2:], wanted[:, 2:]) - torch.maximum(boxes[:, :2], wanted[:, :2])
    shared = sides.clamp(min=0).prod(1)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (boxes, wanted)]
    return -(shared / (areas[0] + areas[1] - shared)).clamp(min=1e-6).log()


@torch.no_grad()
def detections(output: PolarLogits) -> list[Found]:
    """The objects of each image as the network sees them, best first."""
    objects = output.objects
    sure = objects.centerness.float().sigmoid()[..., None] + CENTERNESS_SHIFT
    scores = objects.class_logits.float().sigmoid() * sure / (1 + CENTERNESS_SHIFT)
    boxes = boxes_around(objects.places.points, objects.distances)
    _, sizes = objects.scales.of(len(boxes))
    each = zip(scores, boxes, sizes, strict=True)
    return [detect(score, box, objects.level_sizes, size, LIMITS) for score, box, size in each]


@decode.boxes.register
def boxes_of_instances(output: PolarLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    old, new = output.objects.scales.of(len(output.rays))
    found = zip(detections(output), new, old, strict=True)
    return tuple(rescaled(one.objects, *sizes) for one, *sizes in found)


@decode.instances.register
def instances_of(output: PolarLogits) -> tuple[MaskSet, ...]:
    """The polygon of each detection; those without a pixel are left out."""
    points, found = output.objects.places.points, []
    each = zip(detections(output), *output.objects.scales.of(len(output.rays)), strict=True)
    for number, (one, old, new) in enumerate(each):
        corners = polygons(points[one.place], output.rays[number, one.place].detach())
        ratio = corners.new_tensor([old[1] / new[1], old[0] / new[0]])
        limit = corners.new_tensor([old[1], old[0]])
        outlines = torch.minimum((corners * ratio).clamp(min=0), limit).flatten(1).cpu().numpy()
        masks = RleMasks.from_polygons([[outline] for outline in outlines.astype(np.float64)], *old)
        kept = torch.from_numpy(masks.area > 0).to(one.place.device)
        objects = one.objects
        found.append(MaskSet(masks, objects.classes, objects.scores, objects.is_crowd).take(kept))
    return tuple(found)


# --- builders -------------------------------------------------------------------------------------


def polarmask(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> PolarMask:
    """PolarMask on any encoder; the arguments are those of `fcos`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    pyramid, head = Pyramid(made.channels[2:], width), PolarHead(width, num_classes)
    return PolarMask(made, pyramid, head, min_size=min_size, max_size=max_size)


def polarmask_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> PolarMask:
    """PolarMask on ResNet-50."""
    return polarmask(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
