"""CenterMask: FCOS with a branch that draws a mask within each box, guided by attention (Fig. 2).

Where Mask R-CNN looks into regions that were proposed, the branch looks into the boxes that FCOS found. A map
of attention tells it which places of a box matter (Sec. 3.3, Eq. 3), and the level that a box is pooled from
depends on its share of the image, not on its size alone (Sec. 3.2, Eq. 2). How good the mask will be is told
as well, and lowers the score (`mask_scoring.py`).

`centermask_resnet50` and `..._resnet101` are the paper's; `centermask_vovnet39` has the backbone of its
second half, VoVNetV2, which timm provides (Sec. 3.4).

Departures: the masks that are learned from are those of detections and of the objects' own boxes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..losses import NoLoss, loss_parts
from ..ops import match_boxes
from ..ops.objects import assigned, objects_of, pool_by_level, rescaled, sides_reach
from ..rle import paste_masks
from ..types import Annotation, AssignedBoxes, Batch, Boxes, MaskSet, Model, Paper, Value, value
from .fcos import (
    FCOS,
    STAGES,
    STRIDES,
    Head,
    PlaceLogits,
    Pyramid,
    assign_all,
    detect_together,
    detection_losses,
    seen_objects,
)
from .mask_rcnn import masks_in_boxes
from .mask_scoring import SIDE, MaskIoUHead, initialise, mask_iou

PAPER = Paper(
    "CenterMask: Real-Time Anchor-Free Instance Segmentation",
    "Lee, Park",
    "CVPR",
    2020,
    "https://arxiv.org/abs/1911.06667",
)

NUM_LEVELS = 3  # P3 to P5, from which regions are pooled
SAMPLES = 2  # of RoIAlign along each axis of a bin
POSITIVE_IOU = 0.5
LEARNED = 100  # regions per image
INSIDE = 0.5


@value
class AttentionLogits(Value):
    """Objects at all places, and masks within boxes.

    Attributes:
        objects: what FCOS says.
        regions: in training, detections that belong to an object and the objects' own boxes; in evaluation
            the detections, those of each image best first.
        classes: of each region: of its object in training, as detected in evaluation.
        scores: of each region in [0, 1]; 1 in training.
        mask_logits: scores of the k classes within the regions.
        mask_iou: the IoU that is expected of the mask of each class.
    """

    objects: PlaceLogits
    regions: AssignedBoxes
    classes: Int64[Tensor, " m"]
    scores: Float[Tensor, " m"]
    mask_logits: Float[Tensor, "m k s s"]
    mask_iou: Float[Tensor, "m k"]


class SpatialAttention(nn.Module):
    """How much each place of a region matters, from the mean and the maximum of its channels (Eq. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "m c h w"]) -> Float[Tensor, "m c h w"]:
        """The region, weighted."""
        described = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.convolution(described).sigmoid()


class MaskHead(nn.Module):
    """Draws a mask per class in each region (Fig. 2, right).

    Args:
        width: channels of the levels, and of the head.
        num_classes: number of classes k.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        layers = (nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(4))
        self.convolutions = nn.Sequential(*layers)
        self.attention = SpatialAttention()
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, num_classes, 1)
        initialise(self)

    def forward(self, x: Float[Tensor, "m c 14 14"]) -> Float[Tensor, "m k 28 28"]:
        """Scores within the boxes."""
        scores: Tensor = self.logits(F.relu(self.upsample(self.attention(self.convolutions(x)))))
        return scores


def level_by_share(boxes: Float[Tensor, "m 4"], area: int) -> Int64[Tensor, " m"]:
    """The level a region is pooled from, 0 being P3: k = ceil(5 - log2(A_image / A_region)) (Eq. 2).

    >>> boxes = torch.tensor([[0.0, 0.0, 80.0, 80.0], [0.0, 0.0, 50.0, 60.0], [0.0, 0.0, 9.0, 9.0]])
    >>> level_by_share(boxes, 10_000)
    tensor([2, 1, 0])
    """
    regions = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-3)
    last = NUM_LEVELS + 2
    return (last - (area / regions).log2()).ceil().clamp(3, last).long() - 3


class CenterMask(Model):
    """FCOS, the mask head and the judge of its masks.

    Args:
        detector: finds boxes.
        mask_head: draws in them.
        iou_head: tells how good the masks are.
    """

    tasks = ("instance",)
    output = AttentionLogits
    encoder_parts = ("detector.encoder",)

    def __init__(self, detector: FCOS, mask_head: MaskHead, iou_head: MaskIoUHead) -> None:
        super().__init__()
        self.num_classes, self.in_channels = detector.num_classes, detector.in_channels
        self.detector, self.mask_head, self.iou_head = detector, mask_head, iou_head

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return batch.image, batch.target, batch.sizes

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> AttentionLogits:
        """Look for instances.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            targets: `MaskSet` of each image; they choose the regions to learn from. In evaluation they are
                not looked at.
            sizes: height and width of each image; all of `image` without it.

        Raises:
            ValueError: in training without targets, or if an image is smaller than `minimum_size`.
        """
        levels, objects, _ = self.detector.look(image, sizes)
        regions, classes, scores = detect_together(objects)
        if self.training:
            if targets is None:
                raise ValueError("training needs targets: call model(*model.inputs(batch))")
            wanted = seen_objects(targets, objects.scales)
            regions = to_learn(regions, wanted)
            classes = objects_of(regions, wanted).classes
            scores = torch.ones_like(regions.boxes[:, 0])
        canvas = objects.scales.canvas
        level = level_by_share(regions.boxes, canvas[0] * canvas[1])
        x = pool_by_level(levels[:NUM_LEVELS], STRIDES[:NUM_LEVELS], regions, level, SIDE, SAMPLES)
        logits = self.mask_head(x)
        drawn = of_class(logits, classes).sigmoid()[:, None]
        return AttentionLogits(objects, regions, classes, scores, logits, self.iou_head(x, drawn.detach()))


def of_class(x: Float[Tensor, "m k *s"], classes: Int64[Tensor, " m"]) -> Float[Tensor, "m *s"]:
    """What belongs to the class of each region."""
    return x[torch.arange(classes.shape[0], device=x.device), classes]


@torch.no_grad()
def to_learn(detected: AssignedBoxes, targets: Sequence[Boxes]) -> AssignedBoxes:
    """The objects' own boxes and detections that belong to an object, with its number.

    Args:
        detected: detections of all images.
        targets: the objects of each image as the network sees them; crowds have no area.
    """
    boxes, numbers = [], []
    for number, objects in enumerate(targets):
        found = torch.cat([objects.boxes, detected.boxes[detected.image == number]])
        found = found[sides_reach(found, 1e-3)]
        matched = match_boxes(found, objects.boxes, POSITIVE_IOU, POSITIVE_IOU)
        index = (matched >= 0).nonzero()[:LEARNED, 0]
        boxes.append(found[index])
        numbers.append(matched[index])
    return assigned(boxes, numbers)


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def attention_losses(output: AttentionLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """FCOS's, "mask" as in Mask R-CNN, and "mask_iou": half the squared error of the IoU (Eq. 4).

    Raises:
        NoLoss: if the output is one of evaluation.
        ValueError: if targets have no masks.
    """
    regions, scales = output.regions, output.objects.scales
    if (regions.target < 0).any():
        raise NoLoss
    targets = seen_objects(batch.annotations, scales)
    chosen = assign_all(output.objects.places, targets)
    parts = detection_losses(output.objects, chosen, targets)
    if not len(regions):
        nothing = 0.0 * output.mask_logits.sum()
        return parts | {"mask": nothing, "mask_iou": 0.0 * output.mask_iou.sum()}
    wanted, shares = [], []
    _, seen = scales.of(len(targets))
    for number, (target, size) in enumerate(zip(batch.annotations, seen, strict=True)):
        if not isinstance(target, MaskSet):
            raise ValueError(f"CenterMask learns from MaskSet, got {type(target).__name__}")
        here = regions.image == number
        boxes, which = regions.boxes[here], regions.target[here]
        wanted.append(masks_in_boxes(target, boxes, which, size, 2 * SIDE))
        area = target.dense.flatten(1).sum(1).to(boxes) * (
            size[0] * size[1] / (target.size[0] * target.size[1])
        )
        shares.append(area[which] / (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1))
    truth = torch.cat(wanted)
    drawn = of_class(output.mask_logits, output.classes).float()
    expected = of_class(output.mask_iou, output.classes).float()
    achieved = mask_iou(drawn.detach() > 0, truth > INSIDE, torch.cat(shares))
    return parts | {
        "mask": F.binary_cross_entropy_with_logits(drawn, truth),
        "mask_iou": F.mse_loss(expected, achieved) / 2,
    }


@decode.boxes.register
def boxes_of_instances(output: AttentionLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image, best first by the score with that of the mask."""
    return tuple(objects for objects, _ in _decoded(output))


@decode.instances.register
def instances_of(output: AttentionLogits) -> tuple[MaskSet, ...]:
    """The mask of the class of each detection, pasted into its box."""
    sizes, _ = output.objects.scales.of(len(output.objects.class_logits))
    found = []
    for (objects, masks), (height, width) in zip(_decoded(output), sizes, strict=True):
        pasted = paste_masks(masks, objects.boxes, height, width, INSIDE)
        found.append(MaskSet(pasted, objects.classes, objects.scores, objects.is_crowd))
    return tuple(found)


@torch.no_grad()
def _decoded(output: AttentionLogits) -> list[tuple[Boxes, Float[Tensor, "n s s"]]]:
    """Objects in pixels of each image, and the probabilities of their masks."""
    masks = of_class(output.mask_logits, output.classes).float().sigmoid()
    scores = output.scores * of_class(output.mask_iou, output.classes).float().clamp(0, 1)
    old, new = output.objects.scales.of(len(output.objects.class_logits))
    found = []
    for number, sizes in enumerate(zip(new, old, strict=True)):
        here = (output.regions.image == number).nonzero()[:, 0]
        here = here[scores[here].argsort(descending=True, stable=True)]
        objects = Boxes.of(output.regions.boxes[here], output.classes[here], scores[here])
        found.append((rescaled(objects, *sizes), masks[here]))
    return found


# --- builders -------------------------------------------------------------------------------------


def centermask(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> CenterMask:
    """CenterMask on any encoder; the arguments are those of `fcos`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    pyramid, head = Pyramid(made.channels[2:], width), Head(width, num_classes)
    detector = FCOS(made, pyramid, head, min_size=min_size, max_size=max_size)
    return CenterMask(detector, MaskHead(width, num_classes), MaskIoUHead(width, num_classes))


def centermask_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> CenterMask:
    """CenterMask on ResNet-50."""
    return centermask(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )


def centermask_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> CenterMask:
    """CenterMask on ResNet-101."""
    return centermask(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )


def centermask_vovnet39(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> CenterMask:
    """CenterMask on VoVNetV2-39, the backbone of its paper, as timm has it."""
    return centermask(
        num_classes,
        encoder="ese_vovnet39b",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
