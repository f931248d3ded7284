"""Detections of all images of a batch at once, for networks that go on with them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ...ops import clip_boxes
from ...types import AssignedBoxes
from .network import USUAL, PlaceLogits
from .places import boxes_around


@torch.no_grad()
def detect_together(
    output: PlaceLogits,
) -> tuple[AssignedBoxes, Int64[Tensor, " m"], Float[Tensor, " m"]]:
    """The detections of all images together, best first, with their classes and scores.

    As `detections`, but nothing depends on the number of images, so that the network can be exported.
    """
    from torchvision.ops import nms

    scores = output.class_logits.float().sigmoid() * output.centerness.float().sigmoid()[..., None]
    k, candidates, first = scores.shape[2], [], 0
    for height, width in output.level_sizes:
        places = height * width
        own = scores[:, first : first + places].flatten(1)
        count = torch.sym_min(USUAL.per_level, places * k)
        candidates.append(own.topk(count).indices + first * k)
        first = first + places
    index = torch.cat(candidates, 1)
    best = scores.flatten(1).gather(1, index).sqrt()
    image, column = (best > USUAL.min_score).nonzero(as_tuple=True)
    place, label, score = index[image, column] // k, index[image, column] % k, best[image, column]
    boxes = boxes_around(output.places.points[place], output.distances[image, place].float())
    boxes = clipped(boxes, image, output)
    # Boxes of other images and classes are moved out of reach.
    apart = boxes + ((image * k + label) * (max(output.scales.canvas) + 1)).to(boxes)[:, None]
    kept = nms(apart, score, USUAL.max_iou)
    earlier = (image[kept, None] == torch.arange(scores.shape[0], device=kept.device)).cumsum(0)
    kept = kept[earlier.gather(1, image[kept, None])[:, 0] <= USUAL.most]
    regions = AssignedBoxes(boxes[kept], image[kept], torch.full_like(image[kept], -1))
    return regions, label[kept], score[kept]


def clipped(
    boxes: Float[Tensor, "m 4"], image: Int64[Tensor, " m"], output: PlaceLogits
) -> Float[Tensor, "m 4"]:
    """The part of boxes that lies in their images."""
    sizes = output.scales.seen_sizes
    if len(sizes) == 1:
        return clip_boxes(boxes, sizes[0])
    limit = boxes.new_tensor(sizes).flip(1)[image].repeat(1, 2)
    return torch.minimum(boxes.clamp(min=0), limit)
