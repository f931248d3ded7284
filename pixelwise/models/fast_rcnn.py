"""Fast R-CNN: the features of each region, pooled to one size, are named, and the box is corrected (Fig. 1).

Part of Faster R-CNN and Mask R-CNN, which add where regions come from and what else is asked of them.
Each region has a score for background and for every class, and for every class a correction of its box
(Sec. 2.1). Both are learned together from regions that are sampled around the objects (Sec. 2.3).

Departures, as in all later work: RoIAlign on a feature pyramid, a quarter of 512 regions per image with an
object, the others anywhere, smooth L1 with its corner at 1/9.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import ConvNormAct
from ..ops import clip_boxes, decode_boxes, encode_boxes, match_boxes, rescale_boxes, sample_matched
from ..types import Annotation, AssignedBoxes, Boxes, MaskSet, Paper, RegionLogits

PAPER = Paper("Fast R-CNN", "Girshick", "ICCV", 2015, "https://arxiv.org/abs/1504.08083")

Sizes = Sequence[tuple[int, int]]

BOX_UNITS = (0.1, 0.1, 0.2, 0.2)  # of corrections: about their standard deviations


class BoxHead(nn.Module):
    """Names regions and corrects their boxes.

    Args:
        width: channels of the maps; the hidden layers have four times as many.
        num_classes: number of classes k of objects.
        improved: four convolutions with batch norm and one hidden layer instead of two (torchvision's v2).

    Attributes:
        positive_iou: from it on a region belongs to an object; below it, the region is background.
        num_sampled: regions per image to learn from.
        positive_share: the most of them that belong to objects.
        score_threshold: what is not above it is not detected.
        max_iou: of two detections of a class.
        max_detections: per image.
    """

    SIZE = 7

    def __init__(self, width: int, num_classes: int, *, improved: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.positive_iou, self.num_sampled, self.positive_share = 0.5, 512, 0.25
        self.score_threshold, self.max_iou, self.max_detections = 0.05, 0.5, 100
        flat, hidden = width * self.SIZE**2, 4 * width
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
        return self.classes(x), self.boxes(x).view(len(x), self.num_classes + 1, 4)

    @torch.no_grad()
    def sample(self, proposed: Sequence[Float[Tensor, "_ 4"]], objects: Sequence[Boxes]) -> AssignedBoxes:
        """Regions of all images to learn from; the objects' own boxes are among them (see `objects_in`)."""
        boxes, matched = [], []
        for one, own in zip(proposed, objects, strict=True):
            regions = torch.cat([one, own.boxes[sides_reach(own.boxes, 1e-3)]])
            number = match_boxes(regions, own.boxes, self.positive_iou, self.positive_iou)
            index = sample_matched(number, self.num_sampled, self.positive_share)
            boxes.append(regions[index])
            matched.append(number[index])
        return assigned(boxes, matched)

    @torch.no_grad()
    def detect(
        self,
        class_logits: Float[Tensor, "r k1"],
        box_deltas: Float[Tensor, "r k1 4"],
        regions: Float[Tensor, "r 4"],
        size: tuple[int, int],
    ) -> Boxes:
        """The objects of one image of that size, best first: each class of each region is a candidate."""
        from torchvision.ops import batched_nms

        scores = class_logits.float().softmax(1)[:, 1:]
        region, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        boxes = decode_boxes(box_deltas[region, label + 1], regions[region], BOX_UNITS)
        found = Boxes.of(clip_boxes(boxes, size), label, scores[region, label])
        found = found.take(sides_reach(found.boxes, 1e-2))
        kept = batched_nms(found.boxes, found.scores, found.classes, self.max_iou)
        return found.take(kept[: self.max_detections])


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


# --- regions and objects --------------------------------------------------------------------------


def boxes_in(targets: Sequence[Annotation] | None, sizes: Sizes, seen: Sizes) -> list[Boxes]:
    """The targets of each image, with boxes as the network sees them.

    Args:
        targets: of each image.
        sizes: height and width of each image.
        seen: the same as the network sees it.

    Raises:
        ValueError: without targets, or if they have no boxes.
    """
    if targets is None:
        raise ValueError("training needs targets: call model(*model.inputs(batch))")
    found = []
    for target, old, new in zip(targets, sizes, seen, strict=True):
        boxes = target.boxes if isinstance(target, MaskSet) else target
        if not isinstance(boxes, Boxes):
            raise ValueError(f"the targets must be Boxes or a MaskSet, got {type(target).__name__}")
        found.append(rescaled(boxes, old, new))
    return found


def rescaled(boxes: Boxes, old: tuple[int, int], new: tuple[int, int]) -> Boxes:
    """The objects of an image after it was resized from `old` to `new` height and width."""
    # Boxes of masks in run lengths are on the CPU, wherever the classes are.
    corners = rescale_boxes(boxes.boxes.float(), old, new).to(boxes.classes.device)
    return Boxes(corners, boxes.classes.long(), boxes.scores, boxes.is_crowd)


def objects_in(targets: Sequence[Boxes]) -> list[Boxes]:
    """What is to be found: the same targets, but crowds have no area, so that nothing belongs to them."""
    return [
        Boxes(one.boxes * ~one.is_crowd[:, None], one.classes, one.scores, one.is_crowd) for one in targets
    ]


def assigned(boxes: Sequence[Float[Tensor, "_ 4"]], matched: Sequence[Int64[Tensor, " _"]]) -> AssignedBoxes:
    """The boxes of all images with the numbers of their objects."""
    image = [torch.full_like(one, number) for number, one in enumerate(matched)]
    return AssignedBoxes(torch.cat(list(boxes)), torch.cat(image), torch.cat(list(matched)))


def objects_of(boxes: AssignedBoxes, targets: Sequence[Boxes]) -> Boxes:
    """The objects of those boxes that have one, in their order."""
    positive = boxes.target >= 0
    first = torch.tensor([0, *(len(one) for one in targets)], device=positive.device).cumsum(0)
    index = first[boxes.image[positive]] + boxes.target[positive]
    parts = ((one.boxes, one.classes, one.scores, one.is_crowd) for one in targets)
    return Boxes(*(torch.cat(same) for same in zip(*parts, strict=True))).take(index)


def sides_reach(boxes: Float[Tensor, "n 4"], least: float) -> Tensor:
    """Whether both sides of each box are at least that long."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= least).all(1)
