"""FCIS: objects named and drawn by the same maps, of which each place says whether it is inside (Fig. 2).

A fully convolutional network gives, for each class and each of 7 x 7 parts of an object, two maps: how well a
pixel fits that part inside of an object, and how well beside it (Sec. 2.1). In a region, the map of each part
is read where that part is. The larger of inside and outside says how well the region fits the class at all;
which of the two is larger says where the object is (Sec. 2.2, Fig. 2). So no layer works on single regions,
and thousands of them cost little.

Regions are proposed from the fourth stage of the encoder, the maps come from the fifth, dilated to stride 16
(Sec. 3). All proposed regions are learned from, the 128 of an image with the largest losses (Sec. 3.2). In
evaluation the boxes are corrected once and looked at again, and the mask of a detection is the mean over all
regions that overlap it by half, weighted with their scores (Sec. 3.1).

Departures: a pixel of the 21 x 21 that are drawn in a region is read at its centre by interpolation, where
the authors average whole cells; boxes have one set of maps, not one more for the background.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import fit_images, size_of
from ..losses import loss_parts
from ..ops import (
    DetectionLimits,
    assigned,
    box_iou,
    boxes_in,
    clip_boxes,
    decode_boxes,
    detections_of,
    encode_boxes,
    make_anchors,
    match_boxes,
    objects_in,
    objects_of,
    sides_reach,
)
from ..types import (
    Annotation,
    AssignedBoxes,
    Batch,
    Boxes,
    MaskSet,
    Model,
    Paper,
    RegionLogits,
    Value,
    value,
)
from .fast_rcnn import BOX_UNITS
from .faster_rcnn import ANCHOR_RATIOS, RegionProposalNetwork, proposal_losses
from .mask_rcnn import mask_loss, pasted, with_object

PAPER = Paper(
    "Fully Convolutional Instance-aware Semantic Segmentation",
    "Li, Qi, Dai, Ji, Wei",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1611.07709",
)

STRIDE = 16
PARTS = 7  # of an object along each axis
DRAWN = 3  # pixels of a part along each axis
ANCHOR_SIZES = (64, 128, 256, 512)
POSITIVE_IOU, NUM_HARDEST = 0.5, 128
LIMITS = DetectionLimits(score_threshold=1e-3, max_iou=0.3)
VOTING_IOU, INSIDE = 0.5, 0.4
MASK_WEIGHT = 10.0


@value
class FCISLogits(Value):
    """Regions with masks within boxes.

    Attributes:
        regions: what is known of regions; their scores are means over the region.
        mask_logits: how much rather a pixel is inside than outside, for background, which is not used, and
            the k classes within boxes of all images: in training of the regions that belong to objects, in
            evaluation of the detections.
    """

    regions: RegionLogits
    mask_logits: Float[Tensor, "m k1 s s"]


class FCIS(Model):
    """Encoder, proposals, and the maps of parts.

    Args:
        encoder: gives c4 and c5, both of stride 16.
        num_classes: number of classes k of objects.
        width: channels behind the encoder; the proposals have half as many.
        min_size: the shorter side of images is resized to it, in pixels; None to take images as they are.
        max_size: of the longer side, which holds if both cannot be met.
    """

    tasks = ("instance",)
    output = FCISLogits
    num_classes: int

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = 1024,
        min_size: int | None = 600,
        max_size: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.min_size, self.max_size = min_size, max_size
        self.encoder = encoder
        anchors = len(ANCHOR_SIZES) * len(ANCHOR_RATIOS)
        self.proposals = RegionProposalNetwork(width // 2, c_in=encoder.channels.c4, num_anchors=anchors)
        self.proposals.num_candidates, self.proposals.num_regions = (6000, 6000), (300, 300)
        reduce = nn.Conv2d(encoder.channels.c5, width, 1)
        self.reduce = nn.Sequential(reduce, nn.ReLU(inplace=True))
        self.masks = nn.Conv2d(width, 2 * (num_classes + 1) * PARTS**2, 1)
        self.boxes = nn.Conv2d(width, 4 * PARTS**2, 1)
        for layer in (reduce, self.masks, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return batch.image, batch.target, batch.sizes

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> FCISLogits:
        """Look for instances; the arguments are those of `FasterRCNN.forward`, the targets `MaskSet`s."""
        sizes = sizes or [size_of(image, self.minimum_size)] * len(image)
        mean = self.encoder.normalize.mean
        seen = fit_images(image, sizes, mean, min_size=self.min_size, max_size=self.max_size)
        old, new, features = seen.image_sizes, seen.seen_sizes, self.encoder(seen.images)
        scores, deltas = self.proposals([features.c4])
        height, width = seen.images.shape[-2:]
        grid = features.c4.shape[-2], features.c4.shape[-1]
        like = scores[0].float()
        anchors = make_anchors([grid], (height, width), [ANCHOR_SIZES], ANCHOR_RATIOS, like)
        proposed = [
            self.proposals.propose([scores[0][i]], [deltas[0][i]], anchors, own) for i, own in enumerate(new)
        ]
        x = self.reduce(features.c5)
        maps, box_maps = self.masks(x), self.boxes(x)
        if self.training:
            objects = objects_in(boxes_in(targets, old, new))
            learned = self.proposals.sample(scores, deltas, anchors, objects)
            regions = matched(proposed, objects)
            parts = parts_in(maps, regions).unflatten(1, (2, -1))
            inside = parts[regions.target >= 0]
            corrections = self.corrections(box_maps, regions)
            logits = RegionLogits(regions, fits(parts), corrections, old, new, *learned)
            return FCISLogits(logits, inside[:, 0] - inside[:, 1])
        first = _of_nothing(proposed)
        better = decode_boxes(self.corrections(box_maps, first)[:, 0], first.boxes, BOX_UNITS)
        again = [clip_boxes(better[first.image == i], own) for i, own in enumerate(new)]
        both = zip(proposed, again, strict=True)
        regions = _of_nothing([torch.cat([a, b[sides_reach(b, 1.0)]]) for a, b in both])
        parts, corrections = (
            parts_in(maps, regions).unflatten(1, (2, -1)),
            self.corrections(box_maps, regions),
        )
        class_logits = fits(parts)
        found, drawn = [], []
        for i, own in enumerate(new):
            here = regions.image == i
            boxes = regions.boxes[here]
            found.append(detections_of(class_logits[here], corrections[here], boxes, own, LIMITS, BOX_UNITS))
            inside = (parts[here, 0] - parts[here, 1]).float().sigmoid()
            drawn.append(voted(found[-1], boxes, class_logits[here].float().softmax(1), inside))
        shape = -1, self.num_classes + 1, -1, -1
        mask_logits = torch.cat(drawn).logit(1e-6)[:, None].expand(shape)
        logits = RegionLogits(regions, class_logits, corrections, old, new, detections=tuple(found))
        return FCISLogits(logits, mask_logits)

    def corrections(
        self, box_maps: Float[Tensor, "b c h w"], regions: AssignedBoxes
    ) -> Float[Tensor, "r k1 4"]:
        """Of the boxes: the mean over the parts, the same for all classes."""
        from torchvision.ops import ps_roi_align

        rois = torch.cat([regions.image[:, None], regions.boxes], 1)
        pooled = ps_roi_align(box_maps.float(), rois, PARTS, 1 / STRIDE, 2).mean((2, 3))
        corrections: Tensor = pooled[:, None].expand(-1, self.num_classes + 1, -1)
        return corrections


def parts_in(maps: Float[Tensor, "b c h w"], regions: AssignedBoxes) -> Float[Tensor, "r n s s"]:
    """What the maps of parts say at each of 21 x 21 pixels of regions (Fig. 2, "assembling").

    Args:
        maps: c = 49 n; for each of the n results, the 7 x 7 parts row by row.
        regions: in pixels of the image.
    """
    from torchvision.ops import ps_roi_align

    rois = torch.cat([regions.image[:, None], regions.boxes], 1)
    step = (regions.boxes[:, 2:] - regions.boxes[:, :2]) / (PARTS * DRAWN)
    rows = []
    for down in range(DRAWN):
        for along in range(DRAWN):
            # One sample per part, at its centre: a region that is moved by a pixel of the result gives the
            # centre of the pixel beside it.
            move = step * step.new_tensor([along - DRAWN // 2, down - DRAWN // 2])
            moved = rois + F.pad(move.repeat(1, 2), (1, 0))
            rows.append(ps_roi_align(maps.float(), moved, PARTS, 1 / STRIDE, 1))
    pixels = torch.stack(rows).unflatten(0, (DRAWN, DRAWN))  # down along r n 7 7
    return pixels.permute(2, 3, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)


def fits(parts: Float[Tensor, "r 2 k1 s s"]) -> Float[Tensor, "r k1"]:
    """How well a region fits each class: the mean of the larger one of inside and outside (Sec. 2.2)."""
    return parts.amax(1).mean((2, 3))


@torch.no_grad()
def matched(proposed: Sequence[Float[Tensor, "_ 4"]], objects: Sequence[Boxes]) -> AssignedBoxes:
    """All regions of all images and the objects' own boxes, with the objects that they belong to."""
    boxes, numbers = [], []
    for one, own in zip(proposed, objects, strict=True):
        regions = torch.cat([one, own.boxes[sides_reach(own.boxes, 1e-3)]])
        boxes.append(regions)
        numbers.append(match_boxes(regions, own.boxes, POSITIVE_IOU, POSITIVE_IOU))
    return assigned(boxes, numbers)


def _of_nothing(boxes: Sequence[Float[Tensor, "_ 4"]]) -> AssignedBoxes:
    return assigned(boxes, [torch.full_like(one[:, 0], -1).long() for one in boxes])


@torch.no_grad()
def voted(
    detections: Boxes,
    regions: Float[Tensor, "r 4"],
    scores: Float[Tensor, "r k1"],
    inside: Float[Tensor, "r k1 s s"],
) -> Float[Tensor, "d s s"]:
    """The mask of each detection: the mean of all regions that overlap it by half (Sec. 3.1).

    Args:
        detections: of one image.
        regions: all that were looked at in it.
        scores: probabilities of each region; weights of the mean.
        inside: probabilities within each region; 0 beside it.
    """
    from torchvision.ops import roi_align

    side = inside.shape[-1]
    if not len(detections):
        return inside.new_zeros(0, side, side)
    overlap = box_iou(detections.boxes, regions)
    chosen = (overlap >= VOTING_IOU) | (overlap == overlap.amax(1, keepdim=True))
    which, region = chosen.nonzero(as_tuple=True)
    label = detections.classes[which] + 1
    weight, masks = scores[region, label], inside[region, label]
    corner, extent = regions[region, :2], regions[region, 2:] - regions[region, :2]
    # The box of the detection in pixels of the mask of the region.
    within = (detections.boxes[which] - corner.repeat(1, 2)) * (side / extent).repeat(1, 2)
    number = torch.arange(len(which), device=which.device)[:, None]
    drawn = roi_align(masks[:, None], torch.cat([number, within], 1), side, 1.0, 2, True)[:, 0]
    total = drawn.new_zeros(len(detections), side, side).index_add(0, which, weight[:, None, None] * drawn)
    return total / drawn.new_zeros(len(detections)).index_add(0, which, weight)[:, None, None]


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def fcis_losses(output: FCISLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Those of the proposals, and class, box and mask of the 128 hardest regions of each image (Sec. 3.2)."""
    regions, logits = output.regions.regions, output.regions
    targets = boxes_in(batch.annotations, logits.image_sizes, logits.seen_sizes)
    parts = proposal_losses(logits, targets)
    positive = regions.target >= 0
    objects = objects_of(regions, targets)
    classes = torch.zeros_like(regions.target)
    classes[positive] = objects.classes + 1
    entropy = F.cross_entropy(logits.class_logits.float(), classes, reduction="none")
    wanted = encode_boxes(objects.boxes, regions.boxes[positive], BOX_UNITS)
    difference = F.smooth_l1_loss(logits.box_deltas[positive, 0], wanted, reduction="none").sum(1)
    boxes = torch.zeros_like(entropy).index_put((positive,), difference)
    hard = hardest(entropy + boxes, regions, len(batch.image))
    count = hard.sum().clamp(min=1)
    places = with_object(regions)
    learned = hard[positive]
    places = AssignedBoxes(places.boxes[learned], places.image[learned], places.target[learned])
    drawn = mask_loss(output.mask_logits[learned], places, batch.annotations, logits.seen_sizes)
    return parts | {
        "class": (entropy * hard).sum() / count,
        "box": (boxes * hard).sum() / count,
        "mask": MASK_WEIGHT * drawn,
    }


@torch.no_grad()
def hardest(losses: Float[Tensor, " r"], regions: AssignedBoxes, count: int) -> Bool[Tensor, " r"]:
    """Which regions have the largest losses of their image (online hard example mining).

    Args:
        losses: of each region.
        regions: of all images.
        count: number of images.
    """
    chosen = torch.zeros_like(losses, dtype=torch.bool)
    for number in range(count):
        here = (regions.image == number).nonzero()[:, 0]
        chosen[here[losses[here].topk(min(NUM_HARDEST, len(here))).indices]] = True
    return chosen


@decode.boxes.register
def boxes_of_fcis(output: FCISLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    return decode.boxes(output.regions)


@decode.instances.register
def instances_of_fcis(output: FCISLogits) -> tuple[MaskSet, ...]:
    """The voted mask of each detection, pasted into its box."""
    return pasted(decode.boxes(output), output.mask_logits, output.regions.image_sizes, INSIDE)


# --- builders -------------------------------------------------------------------------------------


def fcis(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 1024,
    min_size: int | None = 600,
    max_size: int = 1000,
) -> FCIS:
    """FCIS on any encoder that can be dilated; the arguments are those of `faster_rcnn`."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=STRIDE,
        stages=("c4", "c5"),
        stem=stem,
    )
    return FCIS(made, num_classes, width=width, min_size=min_size, max_size=max_size)


def fcis_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 600,
    max_size: int = 1000,
) -> FCIS:
    """The paper's FCIS on ResNet-101."""
    return fcis(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
