"""Which query of a network stands for which true mask (DETR, Carion et al., ECCV 2020, Sec. 3.1)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torch.nn import functional as F

PixelLoss = Literal["cross_entropy", "focal"]
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss on masks, in DETR
NEVER = 1e6  # cost of a match that is only made when nothing else is left


def matching_cost(
    class_logits: Float[Tensor, "q c"],
    mask_logits: Float[Tensor, "q p"],
    classes: Integer[Tensor, " n"],
    masks: Float[Tensor, "n p"],
    valid: Bool[Tensor, " p"] | None = None,
    *,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    pixel_loss: PixelLoss = "cross_entropy",
) -> Float[Tensor, "q n"]:
    """What it would cost to give each true mask to each query.

    class_weight * (-p(class)) + mask_weight * pixel loss + dice_weight * Dice loss, these two between the
    query's mask and the true one, as Mask2Former has it (its defaults) and MaskFormer (1, 20 focal, 1).

    Args:
        class_logits: scores of each query, "no object" last.
        mask_logits: each query's mask, at pixels or sampled points.
        classes: of the true masks.
        masks: the true masks at the same places, in [0, 1].
        valid: which places count; all without it.
        class_weight: factor of the class.
        mask_weight: factor of the pixel loss.
        dice_weight: factor of the Dice loss.
        pixel_loss: sigmoid cross-entropy or DETR's sigmoid focal loss, averaged over places.

    >>> right = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    >>> scores = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    >>> matching_cost(scores, right, torch.tensor([1]), torch.tensor([[0.0, 1.0]])).argmin().item()
    1
    """
    with torch.autocast(class_logits.device.type, enabled=False):
        class_logits, x = at_least_float32(class_logits), at_least_float32(mask_logits)
        g = masks.to(x.dtype)
        share = torch.ones_like(x[:1]) if valid is None else valid[None].to(x.dtype)
        count = share.sum().clamp_min(1)
        g, p = g * share, x.sigmoid()
        no = F.softplus(x) * share  # -log (1 - p)
        if pixel_loss == "focal":
            yes = ALPHA * (1 - p) ** GAMMA * F.softplus(-x)
            pixel = (yes @ g.T + (1 - ALPHA) * (p**GAMMA * no) @ (share - g).T) / count
        else:  # -log p is x less than -log (1 - p)
            pixel = (no.sum(1)[:, None] - x @ g.T) / count
        overlap = 2 * (p * share) @ g.T
        dice = 1 - (overlap + 1) / ((p * share).sum(1)[:, None] + g.sum(1) + 1)
        probability = class_logits.softmax(1)[:, classes.long()]
        return mask_weight * pixel + dice_weight * dice - class_weight * probability


def at_least_float32(logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half precision raised, other left as it is."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def assign(cost: Float[Tensor, "q n"]) -> Int64[Tensor, "2 m"]:
    """The cheapest one-to-one assignment (Hungarian algorithm, by SciPy on the CPU).

    Costs that are not finite, as of a network that has diverged, count as very high.

    Args:
        cost: of each row with each column.

    Returns:
        Rows, in order, and the column of each; m is the smaller of q and n.

    >>> assign(torch.tensor([[1.0, 9.0], [0.0, 2.0], [5.0, 5.0]])).tolist()
    [[0, 1], [0, 1]]
    """
    rows_and_columns: Tensor = _assign(cost)
    return rows_and_columns


@torch.library.custom_op("pixelwise::assign", mutates_args=(), schema="(Tensor cost) -> Tensor")
def _assign(cost: Float[Tensor, "q n"]) -> Int64[Tensor, "2 m"]:
    from scipy.optimize import linear_sum_assignment

    finite = torch.nan_to_num(cost.detach().double(), nan=NEVER**2, posinf=NEVER**2, neginf=NEVER**2)
    rows, columns = linear_sum_assignment(finite.cpu().numpy())
    return torch.stack([torch.from_numpy(rows), torch.from_numpy(columns)]).long().to(cost.device)


@_assign.register_fake
def _(cost: Tensor) -> Tensor:
    return cost.new_empty((2, min(cost.shape)), dtype=torch.int64)
