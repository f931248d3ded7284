"""Clicks of a person, simulated on known objects: to train promptable networks and to score them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..kernels.boundaries.distance import squared_distance_to
from ..types import Embedding, PromptableModel, PromptMasks, Prompts

Chooser = Callable[[Bool[Tensor, "p H W"]], Float[Tensor, "p 2"]]
BOX_NOISE, MOST_BOX_NOISE = 0.1, 20.0  # of the side of a box, and in pixels (SAM, App. A)


def clicked(
    model: PromptableModel,
    embedding: Embedding,
    objects: Bool[Tensor, "p H W"],
    clicks: int,
    choose: Chooser,
    boxes: Float[Tensor, "p 4"] | None = None,
) -> list[PromptMasks]:
    """What a network answers to one click after the other, each where the mask before it is wrong.

    From the second click on the network is also given its mask of before, if it takes any. Where nothing is
    wrong any more, the click confirms the object.

    Args:
        model: is asked.
        embedding: of the image.
        objects: what is meant, none of them empty.
        clicks: number of answers.
        choose: regions -> x y of a pixel in each.
        boxes: x1 y1 x2 y2 around each object, in place of the first click; None to begin with a click.

    Returns:
        One answer for each click, with all clicks up to it.
    """
    points = torch.empty(len(objects), 0, 2, device=objects.device)
    labels = torch.empty(len(objects), 0, dtype=torch.int64, device=objects.device)
    found, masks = torch.zeros_like(objects), None
    answers = []
    for number in range(clicks):
        if boxes is None or number:
            wrong = objects ^ found
            wrong = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, objects)
            missed, false = wrong & objects, wrong & ~objects
            place = choose(_larger(missed, false))
            column, row = place[:, 0].long(), place[:, 1].long()
            inside = objects[torch.arange(len(objects), device=objects.device), row, column]
            points = torch.cat([points, place[:, None]], 1)
            labels = torch.cat([labels, inside.long()[:, None]], 1)
        some = points.shape[1] > 0
        earlier: Tensor | None = masks if model.takes_masks else None
        prompts = Prompts.of(points if some else None, labels if some else None, boxes, earlier)
        answers.append(replace(model.masks(embedding, prompts), prompts=prompts))
        with torch.no_grad():
            best = best_of(answers[-1])
            found, masks = best.logits[:, 0] > 0, best.coarse[:, 0].float().clamp(-32, 32)
    return answers


def best_of(output: PromptMasks) -> PromptMasks:
    """Of each prompt the candidate with the highest expected IoU."""
    return output.take(torch.arange(len(output.iou), device=output.iou.device), output.iou.argmax(1))


def _larger(missed: Bool[Tensor, "p H W"], false: Bool[Tensor, "p H W"]) -> Bool[Tensor, "p H W"]:
    """Of what was missed and what is false, the one of more pixels."""
    more = missed.flatten(1).sum(1) >= false.flatten(1).sum(1)
    return torch.where(more[:, None, None], missed, false)


def anywhere(regions: Bool[Tensor, "p H W"]) -> Float[Tensor, "p 2"]:
    """A random pixel of each region, as in training."""
    place = (torch.rand(regions.shape, device=regions.device) * regions).flatten(1).argmax(1)
    return torch.stack([place % regions.shape[2], place // regions.shape[2]], 1).float()


def in_the_middle(regions: Bool[Tensor, "p H W"]) -> Float[Tensor, "p 2"]:
    """The pixel of each region that is farthest from its outline, and from the border of the image."""
    places = []
    for region in regions.cpu().numpy():
        rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
        part = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        distance = squared_distance_to(np.pad(~part, 1, constant_values=True))[1:-1, 1:-1]
        row, column = np.unravel_index(int(distance.argmax()), part.shape)
        places.append((columns[0] + column, rows[0] + row))
    return torch.tensor(places, dtype=torch.float32, device=regions.device).reshape(-1, 2)


def noisy_boxes(boxes: Float[Tensor, "p 4"], size: tuple[int, int]) -> Float[Tensor, "p 4"]:
    """Boxes as a person draws them: each side is moved by chance, by a tenth of the box or 20 pixels."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + torch.randn_like(boxes) * (BOX_NOISE * sides).clamp(max=MOST_BOX_NOISE)
    limit = boxes.new_tensor([size[1], size[0]] * 2)
    moved = torch.minimum(moved.clamp(min=0), limit)
    fits = (moved[:, 2:] - moved[:, :2] >= 1).all(1)
    return torch.where(fits[:, None], moved, boxes)
