"""The network, its loss, and how detections are read from what it says."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ... import decode
from ...encoders import Encoder, StemPolicy, make_encoder
from ...losses import loss_parts
from ...ops import clip_boxes
from ...ops.objects import assigned, boxes_in, objects_in, objects_of, rescaled
from ...types import Annotation, AssignedBoxes, Batch, Boxes, Paper, Value, value
from ..feature_pyramid import P6P7, FeaturePyramid
from .places import (
    LevelHead,
    OneStage,
    Places,
    Scales,
    assign_places,
    boxes_around,
    centerness,
    distances_to,
    in_a_row,
    places_of,
)

PAPER = Paper(
    "FCOS: Fully Convolutional One-Stage Object Detection",
    "Tian, Shen, Chen, He",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1904.01355",
)

STAGES = ("c3", "c4", "c5")
STRIDES = (8, 16, 32, 64, 128)  # of the levels P3 to P7


@value
class PlaceLogits(Value):
    """Scores and boxes of every place of every level.

    Attributes:
        class_logits: of the k classes; a place without an object has low scores for all.
        distances: to the left, upper, right and lower side of the box, in pixels as the network sees them.
        centerness: score of lying in the middle of an object.
        level_sizes: height and width of each level, finest first.
        scales: sizes of the images.
    """

    class_logits: Float[Tensor, "b n k"]
    distances: Float[Tensor, "b n 4"]
    centerness: Float[Tensor, "b n"]
    level_sizes: tuple[tuple[int, int], ...]
    scales: Scales

    @property
    def places(self) -> Places:
        """Where these are."""
        return places_of(self.level_sizes, STRIDES[: len(self.level_sizes)], self.class_logits)


class Tower(nn.Sequential):
    """3x3 convolutions, each with group norm of 32 groups and ReLU; fewer groups for few channels."""

    def __init__(self, width: int, depth: int = 4, *, bias: bool = True) -> None:
        blocks: list[nn.Module] = []
        for _ in range(depth):
            convolution = nn.Conv2d(width, width, 3, padding=1, bias=bias)
            blocks += [convolution, nn.GroupNorm(max(1, min(32, width // 8)), width), nn.ReLU()]
        super().__init__(*blocks)


def predictor(width: int, c_out: int, *, prior: float | None = None) -> nn.Conv2d:
    """The 3x3 convolution that ends a branch; `prior` is the probability that it says at the beginning."""
    convolution = nn.Conv2d(width, c_out, 3, padding=1)
    nn.init.normal_(convolution.weight, std=0.01)
    assert convolution.bias is not None
    nn.init.constant_(convolution.bias, 0.0 if prior is None else math.log(prior / (1 - prior)))
    return convolution


class Head(LevelHead):
    """Two towers that all levels share, and what they say (Fig. 2).

    Args:
        width: channels of the levels.
        num_classes: number of classes k.
        num_levels: each has a scale of its own for distances.
    """

    def __init__(self, width: int, num_classes: int, *, num_levels: int = len(STRIDES)) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_tower, self.box_tower = Tower(width), Tower(width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.classes = predictor(width, num_classes, prior=0.01)
        self.distances, self.centerness = predictor(width, 4), predictor(width, 1)
        self.scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, levels: Sequence[Tensor], scales: Scales) -> tuple[PlaceLogits, list[Tensor]]:
        """What all places say, and the maps of the box tower for further branches."""
        towers = [self.box_tower(level) for level in levels]
        growths = zip(towers, self.scales, STRIDES[: len(levels)], strict=True)
        distances = [F.relu(scale * self.distances(x)) * stride for x, scale, stride in growths]
        output = PlaceLogits(
            in_a_row([self.classes(self.class_tower(level)) for level in levels]),
            in_a_row(distances),
            in_a_row([self.centerness(x) for x in towers])[..., 0],
            tuple((level.shape[-2], level.shape[-1]) for level in levels),
            scales,
        )
        return output, towers


class Pyramid(nn.Module):
    """Levels P3 to P7: a feature pyramid on c3 to c5, and two coarser levels of its last one.

    Args:
        channels: of the stages c3 to c5.
        width: channels of every level.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.levels, self.further = FeaturePyramid(channels, width), P6P7(width, width)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The five levels, finest first."""
        levels = self.levels(maps)
        return [*levels, *self.further(levels[-1])]


class Seen(NamedTuple):
    """What FCOS gives to further branches: its levels, its answers, and the maps of the box tower."""

    levels: list[Tensor]
    output: PlaceLogits
    towers: list[Tensor]


class FCOS(OneStage):
    """Encoder, pyramid P3 to P7, head; the arguments are those of `OneStage`."""

    tasks = ("detection",)
    output = PlaceLogits
    stages = STAGES

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> PlaceLogits:
        """Look for objects.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            sizes: height and width of each image; all of `image` without it.

        Raises:
            ValueError: if an image is smaller than `minimum_size`.
        """
        return self.look(image, sizes).output

    def look(self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None) -> Seen:
        """The same with the maps, for further branches."""
        levels, scales = self.levels(image, sizes)
        return Seen(levels, *self.head(levels, scales))


# --- loss -----------------------------------------------------------------------------------------


@loss_parts.register
def place_losses(output: PlaceLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Focal loss of classes, generalised IoU of boxes, binary cross-entropy of centreness (Eq. 2)."""
    targets = seen_objects(batch.annotations, output.scales)
    return detection_losses(output, assign_all(output.places, targets), targets)


def seen_objects(annotations: Sequence[Annotation], scales: Scales) -> list[Boxes]:
    """The objects of each image as the network sees them; crowds have no area."""
    return objects_in(boxes_in(annotations, *scales.of(len(annotations))))


def assign_all(
    places: Places, targets: Sequence[Boxes], middles: Sequence[Tensor | None] | None = None
) -> AssignedBoxes:
    """The places of all images, as boxes of no size, with the numbers of their objects.

    Args:
        places: of one image.
        targets: the objects of each image.
        middles: of the objects of each image, see `assign_places`.
    """
    middles = [None] * len(targets) if middles is None else middles
    numbers = [assign_places(places, *one) for one in zip(targets, middles, strict=True)]
    point = torch.cat([places.points, places.points], 1)
    return assigned([point] * len(targets), numbers)


def class_loss(
    class_logits: Float[Tensor, "b n k"], chosen: AssignedBoxes, classes: Int64[Tensor, " p"]
) -> Float[Tensor, ""]:
    """Focal loss over all places and classes, per place with an object.

    Args:
        class_logits: of all places.
        chosen: their objects.
        classes: of the places that have one.
    """
    from torchvision.ops import sigmoid_focal_loss

    logits, positive = class_logits.flatten(0, 1).float(), chosen.target >= 0
    wanted = torch.zeros_like(logits)
    wanted[positive.nonzero()[:, 0], classes] = 1
    return sigmoid_focal_loss(logits, wanted, 0.25, 2, "sum") / positive.sum().clamp(min=1)


def detection_losses(
    output: PlaceLogits, chosen: AssignedBoxes, targets: Sequence[Boxes]
) -> dict[str, Float[Tensor, ""]]:
    """The parts of the loss for places that were assigned."""
    from torchvision.ops import generalized_box_iou_loss

    positive, objects = chosen.target >= 0, objects_of(chosen, targets)
    points, count = chosen.boxes[positive, :2], positive.sum().clamp(min=1)
    found = boxes_around(points, output.distances.flatten(0, 1)[positive].float())
    middle = centerness(distances_to(points, objects.boxes))
    told = output.centerness.flatten()[positive].float()
    entropy = F.binary_cross_entropy_with_logits(told, middle, reduction="sum")
    return {
        "class": class_loss(output.class_logits, chosen, objects.classes),
        "box": generalized_box_iou_loss(found, objects.boxes, "sum") / count,
        "centerness": entropy / count,
    }


# --- decoding -------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Detections of one image: objects as the network sees them, best first, and the place of each."""

    objects: Boxes
    place: Int64[Tensor, " n"]


class Limits(NamedTuple):
    """What counts as a detection.

    Attributes:
        min_score: in [0, 1].
        max_iou: of two detections of a class.
        per_level: best candidates of each level that are compared.
        most: detections per image.
    """

    min_score: float = 0.05
    max_iou: float = 0.6
    per_level: int = 1000
    most: int = 100


USUAL = Limits()


@torch.no_grad()
def detect(
    scores: Float[Tensor, "n k"],
    boxes: Float[Tensor, "n 4"],
    level_sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    limits: Limits = USUAL,
) -> Found:
    """The objects of one image of that size, best first, from scores in [0, 1] and boxes of all places."""
    from torchvision.ops import batched_nms

    best, first = [], 0
    for height, width in level_sizes:
        own = scores[first : first + height * width].flatten()
        count = min(limits.per_level, own.numel())
        best.append(own.topk(count).indices + first * scores.shape[1])
        first += height * width
    index = torch.cat(best)
    index = index[scores.flatten()[index] > limits.min_score]
    place, label = index // scores.shape[1], index % scores.shape[1]
    found = Boxes.of(clip_boxes(boxes[place].float(), size), label, scores.flatten()[index].float())
    kept = batched_nms(found.boxes, found.scores, found.classes, limits.max_iou)[: limits.most]
    return Found(found.take(kept), place[kept])


def detections(output: PlaceLogits, limits: Limits = USUAL) -> list[Found]:
    """The objects of each image; the score is the root of those of class and centreness."""
    boxes = boxes_around(output.places.points, output.distances.float())
    sure = output.class_logits.float().sigmoid() * output.centerness.float().sigmoid()[..., None]
    _, sizes = output.scales.of(len(boxes))
    each = zip(sure.sqrt(), boxes, sizes, strict=True)
    return [detect(score, box, output.level_sizes, size, limits) for score, box, size in each]


@decode.boxes.register
def detected_boxes(output: PlaceLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    old, new = output.scales.of(len(output.class_logits))
    found = zip(detections(output), new, old, strict=True)
    return tuple(rescaled(one.objects, *sizes) for one, *sizes in found)


# --- builders -------------------------------------------------------------------------------------


def fcos(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> FCOS:
    """FCOS on any encoder.

    Args:
        num_classes: number of classes k of objects, background not among them.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the pyramid and the head.
        min_size: see `FCOS`.
        max_size: see `FCOS`.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    pyramid, head = Pyramid(made.channels[2:], width), Head(width, num_classes)
    return FCOS(made, pyramid, head, min_size=min_size, max_size=max_size)


def fcos_resnet50_fpn(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> FCOS:
    """FCOS on ResNet-50, the network that torchvision has."""
    return fcos(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
