"""Fast R-CNN: the features of each region, pooled to one size, are named, and the box is corrected (Fig. 1).

Each region has a score for background and for every class, and for every class a correction of its box
(Sec. 2.1). Both are learned together from regions that are sampled around the objects (Sec. 2.3).

`fast_rcnn_vgg16` is the paper's network: regions of selective search, as in R-CNN, are pooled from the last
map of VGG16, which looks at the image once, and go through its fully connected layers. The head is also part
of Faster R-CNN and Mask R-CNN, which add where regions come from and what else is asked of them.

Departures: in the head, as in all later work, a quarter of 512 regions per image with an object, the others
anywhere, smooth L1 with its corner at 1/9. In `fast_rcnn_vgg16`, background is every region that is no
object, where the paper leaves out those that overlap no object by a tenth.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, fit_images, size_of
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
from ..types import Annotation, AssignedBoxes, Batch, Boxes, Model, Paper, RegionLogits
from .rcnn import ProposedRegionLogits, proposals_of

PAPER = Paper("Fast R-CNN", "Girshick", "ICCV", 2015, "https://arxiv.org/abs/1504.08083")

BOX_UNITS = (0.1, 0.1, 0.2, 0.2)  # of corrections: about their standard deviations


class BoxHead(nn.Module):
    """Names regions and corrects their boxes.

    Args:
        width: channels of the maps; the hidden layers have four times as many.
        num_classes: number of classes k of objects.
        improved: four convolutions with batch norm and one hidden layer instead of two (torchvision's v2).
        hidden: channels of the hidden layers, if they are others.

    Attributes:
        positive_iou: from it on a region belongs to an object; below it, the region is background.
        num_sampled: regions per image to learn from.
        positive_share: the most of them that belong to objects.
        score_threshold: what is not above it is not detected.
        max_iou: of two detections of a class.
        max_detections: per image.
    """

    SIZE = 7

    def __init__(
        self, width: int, num_classes: int, *, improved: bool = False, hidden: int | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.positive_iou, self.num_sampled, self.positive_share = 0.5, 512, 0.25
        self.score_threshold, self.max_iou, self.max_detections = 0.05, 0.5, 100
        flat, hidden = width * self.SIZE**2, hidden or 4 * width
        if improved:
            convolutions = [ConvNormAct(width, width) for _ in range(4)]
            self.features = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU())
        else:
            self.features = nn.Sequential(
                nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
            )
        self.classes = nn.Linear(hidden, num_classes + 1)
        self.boxes = nn.Linear(hidden, 4 * (num_classes + 1))
        for layer, std in ((self.classes, 0.01), (self.boxes, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "r c 7 7"]) -> tuple[Float[Tensor, "r k1"], Float[Tensor, "r k1 4"]]:
        """Scores of background and classes, and the correction of the box for each."""
        x = self.features(x)
        return self.classes(x), self.boxes(x).unflatten(1, (self.num_classes + 1, 4))

    def sample(self, proposed: Sequence[Float[Tensor, "_ 4"]], objects: Sequence[Boxes]) -> AssignedBoxes:
        """Regions of all images to learn from; the objects' own boxes are among them."""
        return sample_regions(proposed, objects, self.positive_iou, self.num_sampled, self.positive_share)

    def detect(
        self,
        class_logits: Float[Tensor, "r k1"],
        box_deltas: Float[Tensor, "r k1 4"],
        regions: Float[Tensor, "r 4"],
        size: tuple[int, int],
    ) -> Boxes:
        """The objects of one image of that size, best first."""
        limits = DetectionLimits(self.score_threshold, self.max_iou, self.max_detections)
        return detections_of(class_logits, box_deltas, regions, size, limits, BOX_UNITS)


def fast_rcnn_losses(output: RegionLogits, targets: Sequence[Boxes]) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of the class, and smooth L1 of the box of the true class (Eq. 1-3), over all regions.

    Args:
        output: of training.
        targets: of each image, from `boxes_in`.
    """
    regions, positive = output.regions, output.regions.target >= 0
    objects = objects_of(regions, targets)
    classes = torch.zeros_like(regions.target)
    classes[positive] = objects.classes + 1
    deltas = output.box_deltas[positive, classes[positive]]
    wanted = encode_boxes(objects.boxes, regions.boxes[positive], BOX_UNITS)
    entropy = F.cross_entropy(output.class_logits.float(), classes, reduction="sum")
    count = max(len(regions), 1)
    return {"class": entropy / count, "box": smooth_l1(deltas, wanted) / count}


def smooth_l1(deltas: Float[Tensor, "n 4"], wanted: Float[Tensor, "n 4"]) -> Float[Tensor, ""]:
    """The sum over all numbers, quadratic up to 1/9."""
    return F.smooth_l1_loss(deltas.float(), wanted, beta=1 / 9, reduction="sum")


# --- the paper's network --------------------------------------------------------------------------


class FastRCNN(Model):
    """Encoder, RoI pooling, and the head on proposed regions.

    Args:
        encoder: gives c4, of stride 16.
        num_classes: number of classes k of objects.
        hidden: channels of the two hidden layers.
        min_size: the shorter side of images is resized to it, in pixels; None to take images as they are.
        max_size: of the longer side, which holds if both cannot be met.
    """

    tasks = ("detection",)
    output = ProposedRegionLogits
    num_classes: int

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        hidden: int = 4096,
        min_size: int | None = 600,
        max_size: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.min_size, self.max_size = min_size, max_size
        self.encoder = encoder
        self.head = BoxHead(encoder.channels.c4, num_classes, hidden=hidden)
        self.head.num_sampled = 64  # of each image (Sec. 2.3)
        flatten, first, act, second, _ = self.head.features
        drop = nn.Dropout()
        self.head.features = nn.Sequential(flatten, first, act, drop, second, nn.ReLU(), drop)

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
        """Look for objects; the arguments are those of `RCNN.forward`."""
        from torchvision.ops import roi_pool

        sizes = sizes or [size_of(image, self.minimum_size)] * len(image)
        mean = self.encoder.normalize.mean
        seen = fit_images(image, sizes, mean, min_size=self.min_size, max_size=self.max_size)
        old, new = seen.image_sizes, seen.seen_sizes
        if proposals is None:
            proposed = proposals_of(image, old, new)
        else:
            proposed = [rescale_boxes(*one) for one in zip(proposals, old, new, strict=True)]
        if self.training:
            regions = self.head.sample(proposed, objects_in(boxes_in(targets, old, new)))
        else:
            regions = assigned(proposed, [torch.full_like(one[:, 0], -1).long() for one in proposed])
        rois = torch.cat([regions.image[:, None], regions.boxes], 1)
        features = self.encoder(seen.images).c4.float()
        logits, deltas = self.head(roi_pool(features, rois, BoxHead.SIZE, 1 / 16))
        if self.training:
            return ProposedRegionLogits(RegionLogits(regions, logits, deltas, old, new))
        counts = [len(one) for one in proposed]
        each = zip(logits.split(counts), deltas.split(counts), proposed, new, strict=True)
        found = tuple(self.head.detect(*one) for one in each)
        return ProposedRegionLogits(RegionLogits(regions, logits, deltas, old, new, detections=found))


def fast_rcnn(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 4096,
    min_size: int | None = 600,
    max_size: int = 1000,
) -> FastRCNN:
    """Fast R-CNN on any encoder.

    Args:
        num_classes: number of classes k of objects, background not among them.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the hidden layers.
        min_size: see `FastRCNN`.
        max_size: see `FastRCNN`.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c4",))
    return FastRCNN(made, num_classes, hidden=width, min_size=min_size, max_size=max_size)


def fast_rcnn_vgg16(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 600,
    max_size: int = 1000,
) -> FastRCNN:
    """The paper's Fast R-CNN on VGG16."""
    return fast_rcnn(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
