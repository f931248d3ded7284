"""The loss of promptable networks (SAM, Sec. 3, App. A): focal and Dice on masks, the error of their IoU."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..types import Batch, PromptMasks, Value, value
from .criterion import loss_parts

FOCAL, DICE, IOU = 20.0, 1.0, 1.0  # weights of the parts
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


@value
class AnsweredClicks(Value):
    """What a network answered to clicks on objects, click by click.

    Attributes:
        rounds: after each click, the masks of some objects of one image; images one after the other.
        targets: the objects of each of these rounds.
        nothing: 0, as a function of the weights: the loss where there is no object to click on.
    """

    rounds: tuple[PromptMasks, ...]
    targets: tuple[Float[Tensor, "p H W"], ...]
    nothing: Float[Tensor, ""]


@loss_parts.register
def clicks_parts(output: AnsweredClicks, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Means over objects and clicks; see `answer_losses`."""
    none = output.nothing.new_zeros(0, 3)
    pairs = zip(output.rounds, output.targets, strict=True)
    parts = torch.cat([none, *(answer_losses(*one) for one in pairs)])
    focal, dice, iou = (parts.sum(0) / max(len(parts), 1)).unbind()
    return {"focal": FOCAL * focal + output.nothing, "dice": DICE * dice, "iou": IOU * iou}


def answer_losses(output: PromptMasks, target: Float[Tensor, "p H W"]) -> Float[Tensor, "p 3"]:
    """Focal and Dice loss of the candidate that fits best, and how wrong the expected IoU of all are.

    Masks are compared at the resolution of the network, where cells on an outline are part of the object; so
    no image of scores is needed (the authors compare at the resolution of the image).

    Args:
        output: m candidates for each of p objects.
        target: 1 on the object.
    """
    truth, counts = at_cells(output, target)
    scores, truth = output.coarse.flatten(2).float(), truth.flatten(1)[:, None]
    counts = counts.flatten()
    inside = scores.sigmoid()
    surprise = F.binary_cross_entropy_with_logits(scores, truth.expand_as(scores), reduction="none")
    right = inside * truth + (1 - inside) * (1 - truth)
    balance = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    focal = (balance * (1 - right) ** GAMMA * surprise * counts).sum(2) / counts.sum()
    shared = (inside * truth * counts).sum(2)
    dice = 1 - (2 * shared + 1) / ((inside * counts).sum(2) + (truth * counts).sum(2) + 1)
    best = (FOCAL * focal + DICE * dice).argmin(1, keepdim=True)
    with torch.no_grad():
        found, there = (scores > 0) & (counts > 0), (truth > 0.5) & (counts > 0)
        iou = (found & there).sum(2) / (found | there).sum(2).clamp(min=1)
    wrong = F.mse_loss(output.iou.float(), iou, reduction="none").mean(1)
    return torch.stack([focal.gather(1, best)[:, 0], dice.gather(1, best)[:, 0], wrong], 1)


def at_cells(
    output: PromptMasks, target: Float[Tensor, "p H W"]
) -> tuple[Float[Tensor, "p h w"], Float[Tensor, "h w"]]:
    """The share of each cell of the network's masks that an object covers, and that the image covers."""
    cells = (output.coarse.shape[2], output.coarse.shape[3])
    target = target[:, None].float()
    image = torch.ones_like(target[:1])
    if output.seen_size is not None and output.padded_size is not None:
        rows, columns = (
            whole - seen for whole, seen in zip(output.padded_size, output.seen_size, strict=True)
        )
        target = F.interpolate(target, output.seen_size, mode="bilinear", antialias=True)
        image = image.new_ones(1, 1, *output.seen_size)
        target, image = (F.pad(x, (0, columns, 0, rows)) for x in (target, image))
    return F.adaptive_avg_pool2d(target, cells)[:, 0], F.adaptive_avg_pool2d(image, cells)[0, 0]
