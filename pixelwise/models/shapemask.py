"""ShapeMask: a mask begins as a known shape and is refined twice (Fig. 2).

RetinaNet finds boxes. From the features of a box the network weighs the shapes that objects of its class
usually have, which k-means found among the masks of the training set; their mean is a first guess (Sec. 3.1,
Fig. 4). The guess, added to the features, gives a coarse mask (Sec. 3.2, Fig. 5). The mean of the features
within the coarse mask describes the instance; what is left of the features without it gives a fine mask four
times as large (Sec. 3.3, Fig. 6). A mask is told in a region a quarter larger than the box, so it is not cut
off where the box is too small.

In training, masks are drawn in the objects' own boxes, moved a little (Sec. 3.4); in evaluation in the
detections.

Departures: k-means is MacQueen's, which sees one mask after the other while the network learns, so that no
pass over the masks is needed beforehand. Group norms stand for batch norms, since regions may be few or none.
Only the mask of the class that counts is computed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..losses import NoLoss, loss_parts
from ..ops import assigned, boxes_in, objects_in, objects_of, pool_by_level, sides_reach
from ..rle import paste_masks
from ..types import Annotation, AssignedBoxes, Batch, Boxes, MaskSet, Model, Paper, Value, value
from .mask_rcnn import masks_in_boxes
from .retinanet import STAGES, AnchorLogits, RetinaNet, losses_of_anchors

PAPER = Paper(
    "ShapeMask: Learning to Segment Novel Objects by Refining Shape Priors",
    "Kuo, Angelova, Malik, Lin",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1904.03239",
)

NUM_PRIORS = 20  # shapes of each class
SIZE, GROWTH = 32, 4  # side of shapes and coarse masks; fine masks are so many times larger
OUTER = 1.25  # sides of the region of a mask, over those of the box
STRIDES = (8, 16, 32)  # of P3 to P5, which regions are pooled from
LEARNED, JITTER = 8, 0.025  # boxes per image that are learned from, and how far they are moved, in sides
SHAPE_WEIGHT = 0.1
INSIDE = 0.5


@value
class ShapeMaskLogits(Value):
    """Anchors, and for each box a shape and two masks, which cover `outer` boxes.

    Attributes:
        anchors: what RetinaNet says.
        places: the boxes of all images: moved boxes of objects in training, detections in evaluation.
        classes: of each box.
        shapes: the weighed known shapes in [0, 1], which cover the boxes themselves.
        coarse_logits: scores of the coarse masks.
        fine_logits: scores of the fine masks.
    """

    anchors: AnchorLogits
    places: AssignedBoxes
    classes: Int64[Tensor, " m"]
    shapes: Float[Tensor, "m s s"]
    coarse_logits: Float[Tensor, "m s s"]
    fine_logits: Float[Tensor, "m f f"]


class ShapePriors(nn.Module):
    """The usual shapes of each class, found by k-means (Sec. 3.1, Fig. 3).

    As in MacQueen (1967), the first masks of a class are its first shapes, and each further one moves the
    shape that is nearest to it, so that a shape is the mean of its masks. Before any mask, all are ellipses.
    """

    shapes: Float[Tensor, "k p s s"]
    counts: Float[Tensor, "k p"]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        place = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
        ellipse = (place[:, None] ** 2 + place**2 < 1).float()
        self.register_buffer("shapes", ellipse.repeat(num_classes, NUM_PRIORS, 1, 1))
        self.register_buffer("counts", torch.zeros(num_classes, NUM_PRIORS))

    @torch.no_grad()
    def see(self, masks: Float[Tensor, "m s s"], classes: Int64[Tensor, " m"]) -> None:
        """Learn from the masks of boxes of that size, one after the other."""
        for mask, label in zip(masks, classes.tolist(), strict=True):
            shapes, counts = self.shapes[label], self.counts[label]
            distance = (shapes - mask).square().sum((1, 2))
            nearest = torch.where(counts == 0, -1.0, distance).argmin()
            counts[nearest] += 1
            shapes[nearest] += (mask - shapes[nearest]) / counts[nearest]


class OfClass(nn.Linear):
    """A 1x1 convolution to one map per class, of which only that of the region's class is computed."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(width, num_classes)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "m c h w"], classes: Int64[Tensor, " m"]) -> Float[Tensor, "m h w"]:  # type: ignore[override]
        """Scores of one class for each region."""
        return torch.einsum("mchw,mc->mhw", x, self.weight[classes]) + self.bias[classes][:, None, None]


def tower(width: int) -> nn.Sequential:
    """Four 3x3 convolutions with norm and ReLU."""
    blocks: list[nn.Module] = []
    for _ in range(4):
        convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        blocks += [convolution, nn.GroupNorm(max(1, min(32, width // 4)), width), nn.ReLU()]
    return nn.Sequential(*blocks)


class ShapeHead(nn.Module):
    """From features of regions to shape, coarse mask and fine mask (Fig. 4 to 6).

    Args:
        width: channels of the features.
        num_classes: number of classes k.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.priors = ShapePriors(num_classes)
        self.weights = nn.Linear(width, num_classes * NUM_PRIORS)
        nn.init.normal_(self.weights.weight, std=0.01)
        nn.init.zeros_(self.weights.bias)
        self.embed = nn.Conv2d(1, width, 1)
        self.coarse, self.coarse_logits = tower(width), OfClass(width, num_classes)
        self.fine, self.fine_logits = tower(width), OfClass(width // 2, num_classes)
        self.enlarge = nn.ConvTranspose2d(width, width // 2, GROWTH, stride=GROWTH)

    def forward(
        self, x: Float[Tensor, "m c s s"], classes: Int64[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m s s"], Float[Tensor, "m s s"], Float[Tensor, "m f f"]]:
        """Shapes in [0, 1], and scores of the coarse and of the fine masks."""
        within = in_outer(torch.ones_like(x[:, :1]))
        described = (x * within).sum((2, 3)) / within.sum((2, 3))
        logits = self.weights(described).unflatten(1, (-1, NUM_PRIORS))
        weights = logits[torch.arange(classes.shape[0], device=x.device), classes].softmax(1)
        shapes = torch.einsum("mp,mphw->mhw", weights, self.priors.shapes[classes])

        x = x + self.embed(in_outer(shapes[:, None]))
        coarse = self.coarse_logits(self.coarse(x), classes)

        chance = coarse.sigmoid()
        chance = (chance * (chance > INSIDE))[:, None]
        instance = (x * chance).sum((2, 3), keepdim=True) / chance.sum((2, 3), keepdim=True).clamp(min=1e-6)
        fine = self.fine_logits(self.enlarge(self.fine(x - instance)), classes)
        return shapes, coarse, fine


def in_outer(x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m c s s"]:
    """What covers boxes, as a part of what covers the outer boxes; 0 around it."""
    turn = OUTER * torch.eye(2, 3, device=x.device, dtype=x.dtype)
    grid = F.affine_grid(turn[None], [1, 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(x, grid.expand(x.shape[0], -1, -1, -1), align_corners=False)


def outer(boxes: Float[Tensor, "m 4"]) -> Float[Tensor, "m 4"]:
    """Boxes a quarter larger around the same middles.

    >>> outer(torch.tensor([[10.0, 20.0, 18.0, 28.0]]))
    tensor([[ 9., 19., 19., 29.]])
    """
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return torch.cat([middle - OUTER * half, middle + OUTER * half], 1)


def level_by_side(boxes: Float[Tensor, "m 4"]) -> Int64[Tensor, " m"]:
    """The level a region is pooled from, 0 being P3: the finest in which its longer side has 32 cells.

    >>> boxes = torch.tensor([[0.0, 0.0, 256.0, 9.0], [0.0, 0.0, 300.0, 9.0], [0.0, 0.0, 999.0, 999.0]])
    >>> level_by_side(boxes)
    tensor([0, 1, 2])
    """
    longest = (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp(min=1)
    return ((longest / SIZE).log2().ceil().long() - 3).clamp(0, len(STRIDES) - 1)


class ShapeMask(Model):
    """RetinaNet and the head of shapes.

    Args:
        detector: finds boxes.
        head: draws in them.
        width: channels of the levels, which are reduced to half for the head.
    """

    tasks = ("instance",)
    output = ShapeMaskLogits
    encoder_parts = ("detector.encoder",)

    def __init__(self, detector: RetinaNet, head: ShapeHead, width: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = detector.num_classes, detector.in_channels
        self.detector, self.head = detector, head
        self.reduce = nn.Conv2d(width, head.embed.out_channels, 1)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return self.detector.inputs(batch)

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> ShapeMaskLogits:
        """Look for instances; the arguments are those of `FasterRCNN.forward`, the targets `MaskSet`s.

        Raises:
            ValueError: in training without targets or with some that have no masks, or if an image is smaller
                than `minimum_size`.
        """
        seen = self.detector.prepare(image, sizes)
        levels, anchors = self.detector.look(seen, detect=not self.training)
        if self.training:
            objects = objects_in(boxes_in(targets, seen.image_sizes, seen.seen_sizes))
            places = to_learn(objects)
            classes = objects_of(places, objects).classes
            own = AssignedBoxes(objects_of(places, objects).boxes, places.image, places.target)
            self.head.priors.see(wanted_masks(own, targets or (), seen.seen_sizes, SIZE), classes)
        else:
            found = anchors.detections
            places = assigned([one.boxes for one in found], [-torch.ones_like(one.classes) for one in found])
            classes = torch.cat([one.classes for one in found])
        features = [self.reduce(level) for level in levels[: len(STRIDES)]]
        around = replace(places, boxes=outer(places.boxes))
        pooled = pool_by_level(features, STRIDES, around, level_by_side(places.boxes), SIZE, 1)
        return ShapeMaskLogits(anchors, places, classes, *self.head(pooled, classes))


@torch.no_grad()
def to_learn(objects: Sequence[Boxes]) -> AssignedBoxes:
    """Boxes of at most 8 objects of each image, moved and resized a little (Sec. 3.4)."""
    boxes, numbers = [], []
    for own in objects:
        index = sides_reach(own.boxes, 1e-2).nonzero()[:, 0]
        index = index[torch.randperm(len(index), device=index.device)[:LEARNED]]
        low, high = own.boxes[index].split(2, 1)
        shift, growth = (JITTER * torch.randn_like(own.boxes[index])).split(2, 1)
        middle, half = (low + high) / 2 + shift * (high - low), (high - low) / 2 * growth.exp()
        boxes.append(torch.cat([middle - half, middle + half], 1))
        numbers.append(index)
    return assigned(boxes, numbers)


def wanted_masks(
    places: AssignedBoxes, annotations: Sequence[Annotation], seen_sizes: Sequence[tuple[int, int]], side: int
) -> Float[Tensor, "m side side"]:
    """The part in each box of the mask of its object.

    Raises:
        ValueError: if targets have no masks.
    """
    wanted = [places.boxes.new_zeros(0, side, side)]
    for number, (target, size) in enumerate(zip(annotations, seen_sizes, strict=True)):
        if not isinstance(target, MaskSet):
            raise ValueError(f"ShapeMask learns from MaskSet, got {type(target).__name__}")
        here = places.image == number
        wanted.append(masks_in_boxes(target, places.boxes[here], places.target[here], size, side))
    return torch.cat(wanted)


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def shapemask_losses(output: ShapeMaskLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """RetinaNet's; squared error of the shape, and cross-entropy of both masks (Eq. 2, Sec. 3.2, 3.3).

    Raises:
        NoLoss: if the output is one of evaluation.
    """
    places, sizes = output.places, output.anchors.seen_sizes
    if (places.target < 0).any():
        raise NoLoss
    parts = losses_of_anchors(output.anchors, batch.annotations)
    around = AssignedBoxes(outer(places.boxes), places.image, places.target)
    shapes, coarse, fine = (
        wanted_masks(boxes, batch.annotations, sizes, drawn.shape[-1])
        for boxes, drawn in (
            (places, output.shapes),
            (around, output.coarse_logits),
            (around, output.fine_logits),
        )
    )
    count = max(len(places), 1)  # the mean over regions, which may be none
    return parts | {
        "shape": SHAPE_WEIGHT
        * F.mse_loss(output.shapes.float(), shapes, reduction="none").mean((1, 2)).sum()
        / count,
        "coarse": _entropy(output.coarse_logits, coarse).sum() / count,
        "fine": _entropy(output.fine_logits, fine).sum() / count,
    }


def _entropy(logits: Float[Tensor, "m s s"], wanted: Float[Tensor, "m s s"]) -> Float[Tensor, " m"]:
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none").mean((1, 2))


@decode.boxes.register
def boxes_of_shapemask(output: ShapeMaskLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    return decode.boxes(output.anchors)


@decode.instances.register
def instances_of_shapemask(output: ShapeMaskLogits) -> tuple[MaskSet, ...]:
    """The fine mask of each detection, pasted into its outer box."""
    detections = decode.boxes(output)
    drawn = output.fine_logits.float().sigmoid().split([len(one) for one in detections])
    found = []
    for one, masks, (height, width) in zip(detections, drawn, output.anchors.image_sizes, strict=True):
        pasted = paste_masks(masks, outer(one.boxes), height, width, INSIDE)
        found.append(MaskSet(pasted, one.classes, one.scores, one.is_crowd))
    return tuple(found)


# --- builders -------------------------------------------------------------------------------------


def shapemask(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> ShapeMask:
    """ShapeMask on any encoder; the arguments are those of `faster_rcnn`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    detector = RetinaNet(made, num_classes, width=width, min_size=min_size, max_size=max_size)
    detector.max_detections = 100
    return ShapeMask(detector, ShapeHead(width // 2, num_classes), width)


def shapemask_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> ShapeMask:
    """ShapeMask on ResNet-101, the network of the paper's main result."""
    return shapemask(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
