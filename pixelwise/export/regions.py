"""Networks of regions as one program for any number of images of any size, also where nothing is found.

`FasterRCNN` and `MaskRCNN` go through the images of a batch one by one, which a program for any number of
images cannot. Here all images are one list of boxes that know their image; the weights are the same, and so
is what is found.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ..models import FasterRCNN, MaskRCNN
from ..models.fast_rcnn import BOX_UNITS
from ..models.faster_rcnn import STAGES
from ..models.feature_pyramid import subsampled
from ..ops import clip_boxes, decode_boxes, sides_reach
from ..types import AssignedBoxes

MULTIPLE = 32
MOST = 2**31  # regions of all images


class RegionProgram(nn.Module):
    """A Faster or Mask R-CNN for `torch.export` and `torch.onnx.export`, with sizes that are not fixed.

    Images are not resized: the program sees them as they are given, which must be more than 64 pixels a side
    where sizes are not fixed (below, the coarsest map is a single place). The result is, best first over all
    images, for each of n detections: its box x1 y1 x2 y2 in pixels, its class, its score, the number of its
    image, and for Mask R-CNN the probabilities of its mask within the box (`rle.paste_masks` draws them).

    With more than some ten images of many classes at once, boxes that overlap a little more or less than the
    threshold may be judged otherwise than alone, since they are told apart by large offsets.

    Args:
        model: in eval mode.

    `torch.onnx.export(program, (torch.rand(2, 3, 97, 131),), dynamo=True, dynamic_shapes=(sides,))` makes an
    ONNX file of it, with `sides = {0: Dim("b", max=64), 2: Dim("H", min=65, max=2048), 3: Dim("W", min=65,
    max=2048)}`; ONNX Runtime needs nothing else.

    >>> from pixelwise import build
    >>> program = RegionProgram(build("mask_rcnn", 2, encoder="tiny", width=8).eval())
    >>> boxes, classes, scores, images, masks = program(torch.rand(2, 3, 96, 128))
    >>> masks.shape[1:]
    torch.Size([28, 28])
    """

    def __init__(self, model: FasterRCNN | MaskRCNN) -> None:
        super().__init__()
        self.detector = model.detector if isinstance(model, MaskRCNN) else model
        self.masks = model if isinstance(model, MaskRCNN) else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> tuple[Tensor, ...]:
        """Boxes "n 4", classes " n", scores " n", images " n", and masks "n s s" of a Mask R-CNN."""
        count, size = image.shape[0], (image.shape[-2], image.shape[-1])
        levels = self.levels(image)
        regions = self.propose(levels, count, size)
        found, classes, scores = self.detect(levels, regions, count, size)
        boxes = found.boxes, classes, scores, found.image
        if self.masks is None:
            return boxes
        logits = self.masks.mask_head(self.masks.pooling(levels, found))
        chosen = (classes + 1).view(-1, 1, 1, 1).expand(-1, 1, logits.shape[2], logits.shape[3])
        return *boxes, logits.gather(1, chosen)[:, 0].sigmoid()

    def levels(self, image: Float[Tensor, "b c H W"]) -> list[Tensor]:
        """P2 to P5."""
        features = self.detector.encoder(padded(image, self.detector.encoder.normalize.mean))
        levels: list[Tensor] = self.detector.pyramid([features[stage] for stage in STAGES])
        return levels

    def propose(self, levels: Sequence[Tensor], count: int, size: tuple[int, int]) -> AssignedBoxes:
        """Regions of all images, best first."""
        network = self.detector.proposals
        all_levels = [*levels, subsampled(levels[-1])]
        scores, deltas = network(all_levels)
        whole = 4 * levels[0].shape[-2], 4 * levels[0].shape[-1]
        level_sizes = [(level.shape[-2], level.shape[-1]) for level in all_levels]
        anchors = self.detector.make_anchors(level_sizes, whole, like=scores[0])
        first = torch.arange(count, device=scores[0].device)[:, None]
        boxes, chances, images, groups = [], [], [], []
        for number, (score, delta, anchor) in enumerate(zip(scores, deltas, anchors, strict=True)):
            best = score.topk(torch.sym_min(network.num_candidates[1], score.shape[1]), 1)
            moved = delta.gather(1, best.indices[..., None].expand(-1, -1, 4))
            own = first.expand_as(best.indices).flatten()
            boxes.append(clip_boxes(decode_boxes(moved, anchor[best.indices]).flatten(0, 1), size))
            chances.append(best.values.flatten().sigmoid())
            images.append(own)
            groups.append(own * len(all_levels) + number)
        chosen = torch.cat(boxes), torch.cat(chances), torch.cat(images), torch.cat(groups)
        large = sides_reach(chosen[0], 1e-3).nonzero()[:, 0]
        places, chance, own, group = (part[large] for part in chosen)
        kept = suppressed(places, chance, group, network.max_iou, size)
        kept = kept[first_of_each(own[kept], network.num_regions[1], count)]
        # Without a bound, the number of their scores may be one that ONNX cannot write down.
        torch._check(kept.shape[0] < MOST)
        return AssignedBoxes(places[kept], own[kept], torch.full_like(own[kept], -1))

    def detect(
        self, levels: Sequence[Tensor], regions: AssignedBoxes, count: int, size: tuple[int, int]
    ) -> tuple[AssignedBoxes, Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """The objects of all images, best first: boxes, classes, scores."""
        head = self.detector.head
        logits, deltas = head(self.detector.pooling(levels, regions))
        scores = logits.softmax(1)[:, 1:]
        region, label = (scores > head.score_threshold).nonzero().unbind(1)
        boxes = decode_boxes(deltas[region, label + 1], regions.boxes[region], BOX_UNITS)
        boxes, chance, own = clip_boxes(boxes, size), scores[region, label], regions.image[region]
        large = sides_reach(boxes, 1e-2).nonzero()[:, 0]
        boxes, label, chance, own = boxes[large], label[large], chance[large], own[large]
        kept = suppressed(boxes, chance, own * head.num_classes + label, head.max_iou, size)
        kept = kept[first_of_each(own[kept], head.max_detections, count)]
        found = AssignedBoxes(boxes[kept], own[kept], torch.full_like(own[kept], -1))
        return found, label[kept], chance[kept]


def padded(image: Float[Tensor, "b c H W"], fill: Float[Tensor, "1 c 1 1"]) -> Float[Tensor, "b c _ _"]:
    """Images with a border at the right and at the bottom, so that height and width are multiples of 32."""
    height, width = image.shape[-2], image.shape[-1]
    # Not `F.pad`, with which a program would hold for those sizes only that need a border.
    y, x = (
        torch.arange((side + MULTIPLE - 1) // MULTIPLE * MULTIPLE, device=image.device)
        for side in (height, width)
    )
    repeated = image[:, :, y.clamp(max=height - 1)][..., x.clamp(max=width - 1)]
    return torch.where((y < height)[:, None] & (x < width), repeated, fill)


def suppressed(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    group: Int64[Tensor, " n"],
    max_iou: float,
    size: tuple[int, int],
) -> Int64[Tensor, " kept"]:
    """Non-maximum suppression within groups of boxes: indices, best first.

    Args:
        boxes: within an image of `size`.
        scores: of each box.
        group: boxes of different groups do not compete.
        max_iou: of two boxes of a group.
        size: height and width.
    """
    from torchvision.ops import nms

    return nms(boxes + (group * (size[0] + size[1]))[:, None].to(boxes), scores, max_iou)


def first_of_each(image: Int64[Tensor, " n"], most: int, count: int) -> Int64[Tensor, " m"]:
    """Indices of the first `most` of each image.

    >>> first_of_each(torch.tensor([1, 0, 1, 1, 0]), 2, 2).tolist()
    [0, 1, 2, 4]
    """
    is_of = image[:, None] == torch.arange(count, device=image.device)
    rank = (is_of.long().cumsum(0) * is_of).sum(1)
    within: Bool[Tensor, " n"] = rank <= most
    return within.nonzero()[:, 0]
