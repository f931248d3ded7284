"""What becomes of UPSNet's scores: instances, and segments that competed for pixels (Sec. 3.3, 3.4)."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ... import decode
from ...layers import resize
from ...merging import panoptic_scores, settle_segments, without_covered
from ...types import Boxes, ClassTable, MaskSet, PanopticMap
from .upsnet import STRIDE, UnifiedLogits

MAX_IOU, MAX_COVERED = 0.5, 0.3  # of boxes of any class, and of a mask by better ones of its class
MIN_SCORE, MIN_STUFF_AREA = 0.6, 4096


@decode.instances.register
def instances(output: UnifiedLogits) -> tuple[MaskSet, ...]:
    """The instances as Mask R-CNN finds them."""
    labels = torch.tensor(output.things)
    return tuple(
        MaskSet(one.masks, labels.to(one.classes.device)[one.classes], one.scores, one.is_crowd)
        for one in decode.instances(output.instances)
    )


@decode.panoptic.register
def segments(
    output: UnifiedLogits, classes: ClassTable, merging: decode.Merging = decode.PAPERS_OWN
) -> tuple[PanopticMap, ...]:
    """The best of the panoptic scores, settled by the semantic head (Sec. 3.4).

    Args:
        output: of UPSNet.
        classes: say which labels are things.
        merging: thresholds that differ from the authors'; `max_overlap` is the share of a mask that better
            ones of its class may cover.

    Raises:
        ValueError: if the table has other things than the model.
    """
    if sorted(classes.things) != sorted(output.things):
        raise ValueError(f"the model knows the things {output.things}, the class table {classes.things}")
    limits = merging.over(decode.Thresholds(MIN_SCORE, MAX_COVERED, MIN_STUFF_AREA))
    regions = output.instances.regions
    masks = output.instances.mask_logits.detach().split([len(one) for one in regions.detections])
    stuff = [label for label in range(output.semantic.shape[1]) if label not in output.things]
    found = []
    for image, (boxes, drawn) in enumerate(zip(regions.detections, masks, strict=True)):
        seen, size = regions.seen_sizes[image], regions.image_sizes[image]
        rows, columns = (-(-side // STRIDE) for side in seen)
        semantic = output.semantic[image, :, :rows, :columns].detach().float()
        chosen, scores, inside = _masks_of(boxes, drawn, (rows, columns), limits)
        table = torch.tensor(output.things, device=semantic.device)
        names = table[boxes.classes[chosen]]
        panoptic = panoptic_scores(semantic, scores, inside, names, output.things)
        winner, labels = _fine_argmax(panoptic, size, seen), _fine_argmax(semantic, size, seen)
        found.append(
            settle_segments(winner, labels, names.tolist(), stuff, min_stuff_area=limits.min_stuff_area)
        )
    return tuple(found)


def _masks_of(
    boxes: Boxes, drawn: Float[Tensor, "n k1 s s"], size: tuple[int, int], limits: decode.Thresholds
) -> tuple[Int64[Tensor, " m"], Float[Tensor, "m h w"], Bool[Tensor, "m h w"]]:
    """Numbers of the detections that take part, best first, scores of their masks, and their boxes."""
    from torchvision.ops import nms

    chosen = nms(boxes.boxes, boxes.scores, MAX_IOU)
    chosen = chosen[boxes.scores[chosen] >= limits.min_score]
    own = drawn[chosen, boxes.classes[chosen] + 1].float()
    scores, inside = pasted(own, boxes.boxes[chosen] / STRIDE, size)
    kept = without_covered(scores > 0, boxes.classes[chosen], limits.max_overlap)
    return chosen[kept], scores[kept], inside[kept]


def _fine_argmax(
    scores: Float[Tensor, "k h w"], size: tuple[int, int], seen: tuple[int, int]
) -> Int64[Tensor, "H W"]:
    """The index of the highest score at each pixel of an image that the network saw as `seen`."""
    fine = resize(scores[None], (STRIDE * scores.shape[1], STRIDE * scores.shape[2]))
    return resize(fine[:, :, : seen[0], : seen[1]], size)[0].argmax(0)


def pasted(
    masks: Float[Tensor, "m s s"], boxes: Float[Tensor, "m 4"], size: tuple[int, int]
) -> tuple[Float[Tensor, "m h w"], Bool[Tensor, "m h w"]]:
    """Scores of masks drawn into their boxes, bilinear, 0 outside; and where the boxes are.

    Args:
        masks: within the boxes.
        boxes: in pixels of the map.
        size: height and width of the map.
    """
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    along = (torch.arange(size[1], device=boxes.device) + 0.5 - x1) / (x2 - x1).clamp_min(1e-6)
    down = (torch.arange(size[0], device=boxes.device) + 0.5 - y1) / (y2 - y1).clamp_min(1e-6)
    inside = ((down > 0) & (down < 1))[:, :, None] & ((along > 0) & (along < 1))[:, None]
    grid = torch.stack([along[:, None].expand(-1, size[0], -1), down[:, :, None].expand(-1, -1, size[1])], 3)
    drawn = F.grid_sample(
        masks[:, None], 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
    return torch.where(inside, drawn, 0.0), inside
