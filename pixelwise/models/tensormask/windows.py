"""Representations of windows, what is learned from them, and how detections are read from them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ... import decode
from ...losses import loss_parts
from ...ops import clip_boxes, decode_boxes, encode_boxes
from ...ops.objects import assigned, objects_of, rescaled, sides_reach
from ...rle import RleMasks, paste_masks
from ...types import AssignedBoxes, Batch, Boxes, MaskSet
from ..fcos import seen_objects
from .network import BOX_UNITS, SIDES, STRIDE, WindowLogits, Windows

OUTSIDE = -6.0  # score of what lies beyond the map
ALPHA, GAMMA = 0.3, 3.0  # of the focal loss
MASK_WEIGHT, INSIDE_WEIGHT = 2.0, 1.5
MIN_SCORE, MAX_IOU, CANDIDATES, MOST = 0.05, 0.5, 6000, 100
INSIDE = 0.5


def natural_windows(
    aligned: Float[Tensor, "s h w"], cells: Int64[Tensor, "n 2"], scale: int
) -> Float[Tensor, "n l l"]:
    """The windows around some cells, from the aligned representation: swap_align2nat (Sec. 4.3).

    The value at (v, u) of the window of the cell (y, x) is what the place that it lies at,
    (y scale + v - l / 2 + 1/2, x scale + u - l / 2 + 1/2), says of its place in such a window,
    ((v + 1/2) / scale - 1/2, (u + 1/2) / scale - 1/2), interpolated in all four.

    Args:
        aligned: scores of the side * side places of a window, at every place of the map.
        cells: row and column of each, in a map that is `scale` times as coarse.
        scale: cells of the map per cell; the windows have `scale * side` places along each axis.
    """
    side = math.isqrt(aligned.shape[0])
    values = aligned.unflatten(0, (side, side))
    length = scale * side
    place = torch.arange(length, device=aligned.device)
    within = (place + 0.5) / scale - 0.5
    # Where the windows lie in the map, and where each place lies in a window: along rows, along columns.
    v, u = (within[None, :, None], within[None, None])
    y, x = (cells[:, i, None] * scale + place - length / 2 + 0.5 for i in (0, 1))
    places = (v, u, y[:, :, None], x[:, None])
    total = aligned.new_zeros(len(cells), length, length)
    for corner in range(16):
        weight, index, inside = aligned.new_ones(()), [], torch.tensor(True, device=aligned.device)
        for axis, at in enumerate(places):
            low = at.floor()
            share = at - low
            further = corner >> axis & 1
            one = (low + further).long()
            limit = values.shape[axis] - 1
            weight = weight * (share if further else 1 - share)
            inside = inside & (one >= 0) & (one <= limit)
            index.append(one.clamp(0, limit))
        total = total + weight * torch.where(inside, values[tuple(index)], OUTSIDE)
    return total


def true_windows(
    masks: Bool[Tensor, "m H W"], own: Int64[Tensor, " n"], boxes: Float[Tensor, "n 4"], length: int
) -> Bool[Tensor, "n l l"]:
    """What windows are to say: whether the middle of each of their places lies in the mask.

    Args:
        masks: of the objects of one image.
        own: the object of each window.
        boxes: of the windows, in pixels of the masks.
        length: places of a window along each axis.
    """
    share = (torch.arange(length, device=boxes.device) + 0.5) / length
    sides = boxes[:, 2:] - boxes[:, :2]
    x, y = ((boxes[:, i, None] + share * sides[:, i, None]).floor().long() for i in (0, 1))
    height, width = masks.shape[1:]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    return inside & masks[own[:, None, None], y[:, :, None], x[:, None]]


# --- loss -----------------------------------------------------------------------------------------


def assign_windows(windows: Windows, objects: Boxes) -> Int64[Tensor, " n"]:
    """Number of the object that each window belongs to, -1 where it is background (Sec. 5.1).

    The window contains the box, their middles are at most a stride apart, and the window, less one stride, is
    at most twice as long as the box, or as long as the smallest windows. One that suits several belongs to
    none.
    """
    if not len(objects):
        return torch.full_like(windows.level, -1)
    boxes, stride = objects.boxes, STRIDE * 2.0**windows.level
    low, high = windows.boxes[:, None, :2], windows.boxes[:, None, 2:]
    contains = ((low <= boxes[:, :2]) & (high >= boxes[:, 2:])).all(-1)
    apart = ((low + high) / 2 - (boxes[:, :2] + boxes[:, 2:]) / 2).norm(dim=-1)
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = (2 * sides.amax(1)).clamp(min=STRIDE * (SIDES[0] - 1))
    length = windows.boxes[:, 2] - windows.boxes[:, 0] - stride
    fits = contains & (apart <= stride[:, None]) & (length[:, None] <= longest) & (sides.amin(1) > 0)
    return torch.where(fits.sum(1) == 1, fits.int().argmax(1), -1)


@loss_parts.register
def window_losses(output: WindowLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Focal loss of classes in its simpler form, L1 of boxes, binary cross-entropy of masks (Sec. 5.1).

    Raises:
        ValueError: if targets have no masks.
    """
    windows, targets = output.windows, seen_objects(batch.annotations, output.scales)
    chosen = assigned([windows.boxes] * len(targets), [assign_windows(windows, one) for one in targets])
    positive, objects = chosen.target >= 0, objects_of(chosen, targets)
    count = positive.sum().clamp(min=1)
    wanted = torch.zeros_like(output.class_logits.flatten(0, 1), dtype=torch.float32)
    wanted[positive.nonzero()[:, 0], objects.classes] = 1
    sure = GAMMA * output.class_logits.flatten(0, 1).float() * (2 * wanted - 1)
    weight = ALPHA * wanted + (1 - ALPHA) * (1 - wanted)
    truth = encode_boxes(objects.boxes, chosen.boxes[positive], BOX_UNITS)
    deltas = output.box_deltas.flatten(0, 1)[positive].float()
    return {
        "class": -(weight * F.logsigmoid(sure)).sum() / GAMMA / count,
        "box": (deltas - truth).abs().sum() / count,
        "mask": MASK_WEIGHT * mask_loss(output, windows, chosen, batch.annotations) / count,
    }


def mask_loss(
    output: WindowLogits, windows: Windows, chosen: AssignedBoxes, instances: Sequence[Any]
) -> Float[Tensor, ""]:
    """Sum of the mean binary cross-entropy of windows with an object; its pixels count half as much again."""
    total = sum((x.sum() * 0.0 for level in output.aligned for x in level), torch.zeros(()).to(windows.boxes))
    old, new = output.scales.of(len(instances))
    heavier = torch.tensor(INSIDE_WEIGHT, device=windows.boxes.device)
    for number, target in enumerate(instances):
        if not isinstance(target, MaskSet):
            raise ValueError(f"TensorMask learns from MaskSet, got {type(target).__name__}")
        own = chosen.target[chosen.image == number]
        if not (own >= 0).any():
            continue
        masks = target.dense.to(own.device)
        for level, kinds in enumerate(output.aligned):
            for kind, aligned in enumerate(kinds):
                here = ((windows.level == level) & (windows.kind == kind) & (own >= 0)).nonzero()[:, 0]
                drawn = natural_windows(aligned[number].float(), windows.cell[here], 2**level)
                boxes = rescaled(Boxes.of(windows.boxes[here], own[here]), new[number], old[number]).boxes
                truth = true_windows(masks, own[here], boxes, drawn.shape[-1]).float()
                entropy = F.binary_cross_entropy_with_logits(
                    drawn, truth, pos_weight=heavier, reduction="sum"
                )
                total = total + entropy / drawn.shape[-1] ** 2
    return total


# --- decoding -------------------------------------------------------------------------------------


@torch.no_grad()
def detect(output: WindowLogits, number: int, size: tuple[int, int]) -> tuple[Boxes, Int64[Tensor, " n"]]:
    """The objects of one image of that size as the network sees them, best first, and the window of each."""
    from torchvision.ops import batched_nms

    scores = output.class_logits[number].float().sigmoid()
    window, label = (scores > MIN_SCORE).nonzero(as_tuple=True)
    best = scores[window, label].argsort(descending=True, stable=True)[:CANDIDATES]
    window, label = window[best], label[best]
    deltas = output.box_deltas[number, window].float()
    boxes = clip_boxes(decode_boxes(deltas, output.windows.boxes[window], BOX_UNITS), size)
    found = Boxes.of(boxes, label, scores[window, label])
    large = sides_reach(boxes, 1e-2)
    found, window = found.take(large), window[large]
    kept = batched_nms(found.boxes, found.scores, found.classes, MAX_IOU)[:MOST]
    return found.take(kept), window[kept]


@decode.boxes.register
def detected_boxes(output: WindowLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    sizes = enumerate(zip(*output.scales.of(len(output.class_logits)), strict=True))
    return tuple(rescaled(detect(output, number, new)[0], new, old) for number, (old, new) in sizes)


@decode.instances.register
@torch.no_grad()
def instances_of(output: WindowLogits) -> tuple[MaskSet, ...]:
    """The window of each detection, pasted into the image; those without a pixel are left out."""
    windows, found = output.windows, []
    for number, (old, new) in enumerate(zip(*output.scales.of(len(output.class_logits)), strict=True)):
        objects, window = detect(output, number, new)
        parts, order = [RleMasks.encode(torch.zeros(0, *old, dtype=torch.bool).numpy())], []
        for level, kinds in enumerate(output.aligned):
            for kind, aligned in enumerate(kinds):
                here = ((windows.level[window] == level) & (windows.kind[window] == kind)).nonzero()[:, 0]
                drawn = natural_windows(aligned[number].float(), windows.cell[window[here]], 2**level)
                place = rescaled(Boxes.of(windows.boxes[window[here]], here), new, old)
                parts.append(paste_masks(drawn.sigmoid(), place.boxes, *old, INSIDE))
                order.append(here)
        masks = RleMasks.concatenate(parts)[torch.cat(order).argsort().cpu().numpy()]
        kept = torch.from_numpy(masks.area > 0).to(window.device)
        found.append(MaskSet(masks, objects.classes, objects.scores, objects.is_crowd).take(kept))
    return tuple(found)
