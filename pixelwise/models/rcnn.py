"""R-CNN: regions of an image, each warped to one size and named in a forward pass of its own (Fig. 1).

The first of the networks of regions, and the slowest: some thousand boxes that may hold an object are
proposed without learning (selective search), each is cut out with some context, warped to 227 x 227 pixels
and looked at by AlexNet as if it were an image (Sec. 2.1, App. A). Linear layers name it and correct its box
(Sec. 2.3, App. C). Here to be read and tried; `fast_rcnn.py` looks at the image once instead.

Departures: classes are scored by a softmax that is learned together with the network, not by support vector
machines afterwards, and boxes likewise, not by ridge regression (App. B says what this costs); the regions
that are learned from are drawn for each image. AlexNet is that of torchvision, in one column.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..algorithms import selective_search
from ..layers import fit_images, size_of
from ..losses import NoLoss, loss_parts
from ..ops import (
    DetectionLimits,
    assigned,
    boxes_in,
    detections_of,
    encode_boxes,
    objects_in,
    objects_of,
    rescale_boxes,
    sample_regions,
)
from ..types import Annotation, AssignedBoxes, Batch, Boxes, Model, Paper, RegionLogits, Value, value
from .vgg import initialize_relu, vgg_normalize

PAPER = Paper(
    "Rich feature hierarchies for accurate object detection and semantic segmentation",
    "Girshick, Donahue, Darrell, Malik",
    "CVPR",
    2014,
    "https://arxiv.org/abs/1311.2524",
)

SIDE = 227  # of a warped region in pixels
CONTEXT = 16  # pixels of it on each side that lie beside the region (App. A)
BOX_UNITS = (0.1, 0.1, 0.2, 0.2)  # of corrections: about their standard deviations
POSITIVE_IOU, NUM_SAMPLED, POSITIVE_SHARE = 0.5, 128, 0.25  # of an image (Sec. 2.3)
LIMITS = DetectionLimits(max_iou=0.3)
AT_ONCE = 64  # regions of a forward pass in evaluation
MOST = 2000  # regions of an image


@value
class ProposedRegionLogits(Value):
    """Regions that were proposed without learning.

    Attributes:
        regions: what is known of them; there are no anchors.
    """

    regions: RegionLogits


def proposals_of(
    image: Float[Tensor, "b c H W"],
    sizes: Sequence[tuple[int, int]],
    seen_sizes: Sequence[tuple[int, int]],
) -> list[Float[Tensor, "_ 4"]]:
    """Boxes of each image that may hold an object, in pixels of the image as the network sees it.

    Args:
        image: that may be padded.
        sizes: height and width of each without its padding.
        seen_sizes: height and width of each as the network sees it.
    """
    found = []
    for one, size, seen in zip(image, sizes, seen_sizes, strict=True):
        boxes = torch.from_numpy(selective_search(one[:, : size[0], : size[1]].float())[-MOST:])
        whole = torch.tensor([[0.0, 0.0, size[1], size[0]]])
        found.append(rescale_boxes(torch.cat([whole, boxes.float()]), size, seen).to(image.device))
    return found


def warped(images: Float[Tensor, "b c h w"], regions: AssignedBoxes) -> Float[Tensor, "r c 227 227"]:
    """Each region with its context, stretched to one size; 0 beside the image (App. A, Fig. 7 D)."""
    from torchvision.ops import roi_align

    middle, half = regions.boxes[:, :2] + regions.boxes[:, 2:], regions.boxes[:, 2:] - regions.boxes[:, :2]
    middle, half = middle / 2, half / 2 * SIDE / (SIDE - 2 * CONTEXT)
    rois = torch.cat([regions.image[:, None], middle - half, middle + half], 1)
    return roi_align(images.float(), rois, SIDE, 1.0, 1, True)


class RCNN(Model):
    """AlexNet on warped regions, with a layer of classes and one of boxes.

    Args:
        num_classes: number of classes k of objects.
        in_channels: of the image.
        width: channels of the first convolution; all others are multiples of it.
        min_size: the shorter side of images is resized to it, in pixels; None to take images as they are.
        max_size: of the longer side, which holds if both cannot be met.
    """

    tasks = ("detection",)
    output = ProposedRegionLogits
    num_classes: int
    encoder_parts = ("features", "hidden")

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 64,
        min_size: int | None = None,
        max_size: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.min_size, self.max_size = min_size, max_size
        self.normalize = vgg_normalize(in_channels)
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, w, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(w, 3 * w, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(3 * w, 6 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.hidden = nn.Sequential(
            nn.Dropout(),
            nn.Linear(4 * w * 36, 64 * w),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(64 * w, 64 * w),
            nn.ReLU(inplace=True),
        )
        initialize_relu(self)
        self.classes = nn.Linear(64 * w, num_classes + 1)
        self.boxes = nn.Linear(4 * w * 36, 4 * (num_classes + 1))  # behind pool5 (App. C)
        for layer, std in ((self.classes, 0.01), (self.boxes, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return batch.image, batch.target, batch.sizes

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        proposals: Sequence[Float[Tensor, "_ 4"]] | None = None,
    ) -> ProposedRegionLogits:
        """Look for objects.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            targets: `Boxes` or `MaskSet` of each image; they choose the regions to learn from.
            sizes: height and width of each image; all of `image` without it.
            proposals: boxes of each image in its pixels; those of `selective_search` without it.

        Raises:
            ValueError: in training without targets, or if the image is smaller than `minimum_size`.
        """
        sizes = sizes or [size_of(image, self.minimum_size)] * len(image)
        fill = self.normalize.mean
        seen = fit_images(image, sizes, fill, min_size=self.min_size, max_size=self.max_size)
        old, new = seen.image_sizes, seen.seen_sizes
        if proposals is None:
            proposed = proposals_of(image, old, new)
        else:
            proposed = [rescale_boxes(*one) for one in zip(proposals, old, new, strict=True)]
        images = self.normalize(seen.images)
        if self.training:
            objects = objects_in(boxes_in(targets, old, new))
            regions = sample_regions(proposed, objects, POSITIVE_IOU, NUM_SAMPLED, POSITIVE_SHARE)
            return ProposedRegionLogits(RegionLogits(regions, *self.look(images, regions), old, new))
        regions = assigned(proposed, [torch.full_like(one[:, 0], -1).long() for one in proposed])
        parts = [
            self.look(images, AssignedBoxes(*(x[i : i + AT_ONCE] for x in vars(regions).values())))
            for i in range(0, len(regions), AT_ONCE)
        ]
        logits, deltas = (torch.cat(same) for same in zip(*parts, strict=True))
        counts = [len(one) for one in proposed]
        each = zip(logits.split(counts), deltas.split(counts), proposed, new, strict=True)
        found = tuple(detections_of(*one, LIMITS, BOX_UNITS) for one in each)
        return ProposedRegionLogits(RegionLogits(regions, logits, deltas, old, new, detections=found))

    def look(
        self, images: Float[Tensor, "b c h w"], regions: AssignedBoxes
    ) -> tuple[Float[Tensor, "r k1"], Float[Tensor, "r k1 4"]]:
        """Scores of background and classes of each region, and the correction of the box for each."""
        x = self.features(warped(images, regions)).flatten(1)
        deltas = self.boxes(x).view(len(x), self.num_classes + 1, 4)
        return self.classes(self.hidden(x)), deltas


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def proposed_region_losses(output: ProposedRegionLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of the class, "class", and smooth L1 of the box of the true class, "box"."""
    logits, regions = output.regions, output.regions.regions
    if logits.detections:
        raise NoLoss
    targets, positive = (
        boxes_in(batch.annotations, logits.image_sizes, logits.seen_sizes),
        regions.target >= 0,
    )
    objects = objects_of(regions, targets)
    classes = torch.zeros_like(regions.target)
    classes[positive] = objects.classes + 1
    wanted = encode_boxes(objects.boxes, regions.boxes[positive], BOX_UNITS)
    deltas = logits.box_deltas[positive, classes[positive]].float()
    count = max(len(regions), 1)
    return {
        "class": F.cross_entropy(logits.class_logits.float(), classes, reduction="sum") / count,
        "box": F.smooth_l1_loss(deltas, wanted, reduction="sum") / count,
    }


@decode.boxes.register
def boxes_of_proposed(output: ProposedRegionLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    return decode.boxes(output.regions)


# --- builders -------------------------------------------------------------------------------------


def rcnn(
    num_classes: int,
    *,
    in_channels: int = 3,
    width: int = 64,
    min_size: int | None = None,
    max_size: int = 1000,
) -> RCNN:
    """The paper's R-CNN on AlexNet.

    Args:
        num_classes: number of classes k of objects, background not among them.
        in_channels: of the image.
        width: channels of the first convolution, 64 in AlexNet.
        min_size: see `RCNN`.
        max_size: see `RCNN`.
    """
    return RCNN(num_classes, in_channels=in_channels, width=width, min_size=min_size, max_size=max_size)
