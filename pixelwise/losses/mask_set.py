"""Losses of networks that predict a set of masks: DETR, MaskFormer, Mask2Former.

Each query of the network gives one score per class, the last of them for "no object", and one mask. Queries
and true masks are matched one to one at least cost; matched queries learn their class and mask, the others
"no object".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Annotation, Batch, ClassMasks, LabelMap, MaskLogits, MaskSet, PanopticMap
from .criterion import loss_parts
from .matching import ALPHA, GAMMA, NEVER, PixelLoss, assign, at_least_float32, matching_cost
from .point_sampling import sample_points, uncertain_points


def class_loss(
    class_logits: Float[Tensor, "b q c"],
    classes: Integer[Tensor, "b q"],
    *,
    no_object: float = 0.1,
    weight: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the queries, "no object" (the last class) weighted down, over the sum of weights.

    Args:
        class_logits: scores of each query.
        classes: what each query should say.
        no_object: weight of the last class; 0.1 in DETR and Mask2Former.
        weight: one factor per class without the last.

    Raises:
        ValueError: if there is not one weight per class.

    >>> class_loss(torch.zeros(1, 2, 4), torch.tensor([[0, 3]])).item()  # log 4
    1.3862943649291992
    """
    c = class_logits.shape[-1]
    if weight is not None and len(weight) != c - 1:
        raise ValueError(f"{c - 1} classes and no object need {c - 1} class weights, got {len(weight)}")
    scores = at_least_float32(class_logits).flatten(0, 1)
    factors = scores.new_ones(c - 1) if weight is None else weight.to(scores)
    factors = torch.cat([factors, factors.new_full((1,), no_object)])
    return F.cross_entropy(scores, classes.long().flatten(), factors)


def mask_losses(
    mask_logits: Float[Tensor, "m p"],
    masks: Float[Tensor, "m p"],
    valid: Bool[Tensor, "m p"] | None = None,
    *,
    pixel_loss: PixelLoss = "cross_entropy",
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Pixel loss and Dice loss of each pair of masks.

    The Dice loss is 1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1), as in DETR.

    Args:
        mask_logits: predicted masks, at pixels or sampled points.
        masks: the true ones at the same places, in [0, 1].
        valid: which places count; all without it.
        pixel_loss: sigmoid cross-entropy, or sigmoid focal loss with alpha 1/4 and gamma 2; mean over places.

    >>> pixel, dice = mask_losses(torch.tensor([[500.0, -500.0]]), torch.tensor([[1.0, 0.0]]))
    >>> pixel.item(), dice.item()
    (0.0, 0.0)
    """
    x = at_least_float32(mask_logits)
    g = masks.to(x.dtype)
    share = torch.ones_like(x) if valid is None else valid.to(x.dtype)
    p = x.sigmoid()
    loss = F.softplus(x) - x * g
    if pixel_loss == "focal":
        loss = loss * (p + g - 2 * p * g) ** GAMMA * (ALPHA * g + (1 - ALPHA) * (1 - g))
    pixel = (loss * share).sum(1) / share.sum(1).clamp_min(1)
    p, g = p * share, g * share
    return pixel, 1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)


class MaskSetLoss(nn.Module):
    """Class, pixel and Dice loss of matched queries; the defaults are those of Mask2Former.

    Mask2Former compares masks at points: for the matching at random ones, for the loss at `points` of which
    most are chosen where the network is unsure (PointRend), so the memory does not grow with the image. With
    `points=None` masks are compared at all pixels of the true ones, to which the predicted ones are resized
    bilinearly; for the matching the true ones are made as small as the predicted ones. MaskFormer is
    `MaskSetLoss(class_weight=1, mask_weight=20, dice_weight=1, pixel_loss="focal", points=None)`, DETR's
    masks have the weights 1 and 1.

    Crowds (`is_crowd`) are neither matched nor learned, as DETR leaves them out of its data. Sums over masks
    are divided by the number of true masks per process.

    Args:
        class_weight: factor of the class, in the cost and in the loss.
        mask_weight: factor of the pixel loss, in both.
        dice_weight: factor of the Dice loss, in both.
        pixel_loss: "cross_entropy" (Mask2Former) or "focal" (DETR, MaskFormer), with a sigmoid.
        no_object: weight of "no object" in the class loss.
        points: per mask, or None for all pixels.
        oversample: how many times as many points are looked at to find the unsure ones.
        importance: share of the points that are unsure ones; the others are random.

    Raises:
        ValueError: on settings out of range.

    >>> masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    >>> masks[0, :4] = True
    >>> target = MaskSet.of(masks, torch.tensor([2]))
    >>> loss = MaskSetLoss(points=16)
    >>> list(loss.parts(torch.zeros(1, 5, 4), torch.zeros(1, 5, 4, 4), [target]))
    ['class', 'mask', 'dice']
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        pixel_loss: PixelLoss = "cross_entropy",
        no_object: float = 0.1,
        points: int | None = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
    ) -> None:
        super().__init__()
        if pixel_loss not in ("cross_entropy", "focal"):
            raise ValueError(f"pixel_loss must be cross_entropy or focal, got {pixel_loss!r}")
        if min(class_weight, mask_weight, dice_weight, no_object) < 0:
            raise ValueError("the weights of a mask-set loss must be at least 0, got one below")
        if points is not None and points < 1:
            raise ValueError(f"points must be at least 1 or None, got {points}")
        if oversample < 1 or not 0 <= importance <= 1:
            raise ValueError(
                f"oversample must be at least 1 and importance in [0, 1], got {oversample} and {importance}"
            )
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.pixel_loss: PixelLoss = pixel_loss
        self.no_object, self.points = no_object, points
        self.oversample, self.importance = oversample, importance

    def forward(
        self,
        class_logits: Float[Tensor, "b q c"],
        mask_logits: Float[Tensor, "b q h w"],
        targets: Sequence[MaskSet],
        valid: Bool[Tensor, "b H W"] | None = None,
    ) -> Float[Tensor, ""]:
        """The sum of `parts`."""
        return torch.stack(list(self.parts(class_logits, mask_logits, targets, valid).values())).sum()

    def parts(
        self,
        class_logits: Float[Tensor, "b q c"],
        mask_logits: Float[Tensor, "b q h w"],
        targets: Sequence[MaskSet],
        valid: Bool[Tensor, "b H W"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses "class", "mask" and "dice", times their weights.

        Networks with auxiliary outputs call this for each of them; each is matched anew.

        Args:
            class_logits: one score per class, "no object" last.
            mask_logits: masks of any resolution.
            targets: one set per image.
            valid: pixels that are neither padding nor ignored; all without it.

        Raises:
            ValueError: if there is not one target per image, or a class is not one of the network's.
        """
        if not len(class_logits) == len(mask_logits) == len(targets):
            raise ValueError(
                f"scores of {len(class_logits)} images need masks and targets of as many, got "
                f"{len(mask_logits)} and {len(targets)}"
            )
        none = class_logits.shape[-1] - 1
        classes = class_logits.new_full(class_logits.shape[:2], none, dtype=torch.int64)
        mask_logits = at_least_float32(mask_logits)
        pixel = dice = mask_logits.sum() * 0
        total = class_logits.new_zeros((), dtype=torch.float32)
        for image, target in enumerate(targets):
            known = None if valid is None else valid[image]
            _check_classes(target, none)
            if len(target) == 0:
                continue
            total = total + (~target.is_crowd).sum()
            with torch.no_grad():
                rows, columns = assign(self._cost(class_logits[image], mask_logits[image], target, known))
            real = ~target.is_crowd[columns]
            classes[image] = classes[image].scatter(
                0, rows, torch.where(real, target.classes.long()[columns], none)
            )
            pairs = self._pairs(mask_logits[image][rows], target.dense[columns], known)
            each = mask_losses(*pairs, pixel_loss=self.pixel_loss)
            pixel, dice = pixel + (each[0] * real).sum(), dice + (each[1] * real).sum()
        count = mean_over_processes(total).clamp_min(1)
        return {
            "class": self.class_weight * class_loss(class_logits, classes, no_object=self.no_object),
            "mask": self.mask_weight * pixel / count,
            "dice": self.dice_weight * dice / count,
        }

    def _cost(
        self,
        class_logits: Float[Tensor, "q c"],
        mask_logits: Float[Tensor, "q h w"],
        target: MaskSet,
        valid: Bool[Tensor, "H W"] | None,
    ) -> Float[Tensor, "q n"]:
        """Cost of every pair; that of a crowd is the same with every query, and higher than any other."""
        masks = target.dense.float()
        if self.points is None:
            x, g, known = _at_coarse_pixels(mask_logits, masks, valid)
        else:
            where = torch.rand(1, self.points, 2, device=mask_logits.device)
            x, g, known = _at_points(mask_logits, masks, valid, where)
        cost = matching_cost(
            class_logits,
            x,
            target.classes,
            g,
            None if known is None else known[0],
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            pixel_loss=self.pixel_loss,
        )
        return torch.where(target.is_crowd, NEVER, cost)

    def _pairs(
        self,
        mask_logits: Float[Tensor, "m h w"],
        masks: Bool[Tensor, "m H W"],
        valid: Bool[Tensor, "H W"] | None,
    ) -> tuple[Float[Tensor, "m p"], Float[Tensor, "m p"], Bool[Tensor, "m p"] | None]:
        """Matched masks at the places where they are compared."""
        if self.points is None:
            return _at_pixels(mask_logits, masks.float(), valid)
        with torch.no_grad():
            where = uncertain_points(
                mask_logits, self.points, oversample=self.oversample, importance=self.importance, valid=valid
            )
        return _at_points(mask_logits, masks.float(), valid, where)


# --- targets of any task as sets of masks ---------------------------------------------------------


@loss_parts.register
def mask_logits_parts(output: MaskLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """`MaskSetLoss` with Mask2Former's settings, see `mask_set_parts`.

    A paper with other settings derives its own output from `MaskLogits` and registers its own loss.
    """
    return mask_set_parts(output, batch, MaskSetLoss())


def mask_set_parts(output: MaskLogits, batch: Batch, loss: MaskSetLoss) -> dict[str, Float[Tensor, ""]]:
    """The parts of a loss; those of earlier decoder layers are summed up as "aux".

    Args:
        output: of a network that classifies masks.
        batch: with targets of any task, see `mask_set_of`.
        loss: of the last and of each earlier layer.
    """
    num_classes = output.class_logits.shape[-1] - 1
    sets, known = zip(
        *(mask_set_of(target, num_classes, output.size) for target in batch.annotations), strict=True
    )
    valid = torch.stack(known) & batch.valid
    parts = loss.parts(output.class_logits, output.mask_logits, sets, valid)
    if output.aux:
        losses = [loss(one.class_logits, one.mask_logits, sets, valid) for one in output.aux]
        parts["aux"] = torch.stack(losses).sum()
    return parts


def mask_set_of(
    target: Annotation, num_classes: int, size: tuple[int, int]
) -> tuple[MaskSet, Bool[Tensor, "H W"]]:
    """A target as masks, each with its class, and the pixels of which it says something.

    One class per pixel or several give one mask for each class that is there, a panoptic map one for each
    segment, things and stuff alike; a set of masks stays what it is.

    Args:
        target: labels, masks of classes, segments or instances.
        num_classes: pixels with other labels are not known.
        size: height and width of the result; beyond the target nothing is known.

    Raises:
        ValueError: if the target has no masks.

    >>> masks, known = mask_set_of(LabelMap(torch.tensor([[2, 0, 255]])), 3, (1, 4))
    >>> masks.classes.tolist(), masks.dense.int().tolist(), known.int().tolist()
    ([0, 2], [[[0, 1, 0, 0]], [[1, 0, 0, 0]]], [[1, 1, 0, 0]])
    """
    if isinstance(target, LabelMap):
        known = (target.labels >= 0) & (target.labels < num_classes)
        present = target.labels[known].unique()
        found = MaskSet.of(target.labels == present[:, None, None], present)
    elif isinstance(target, ClassMasks):
        present = (target.masks == 1).flatten(1).any(1).nonzero()[:, 0]
        known = ((target.masks == 0) | (target.masks == 1)).all(0)
        found = MaskSet.of(target.masks[present] == 1, present)
    elif isinstance(target, PanopticMap):
        masks = target.id_map == target.ids.to(target.id_map)[:, None, None]
        known = masks.any(0)
        found = MaskSet.of(masks, target.classes, is_crowd=target.is_crowd)
    elif isinstance(target, MaskSet):
        known = torch.ones(target.size, dtype=torch.bool, device=target.classes.device)
        found = MaskSet(target.dense.to(known.device), target.classes, target.scores, target.is_crowd)
    else:
        raise ValueError(f"a network that classifies masks cannot learn from {type(target).__name__}")
    height, width = size
    padding = (0, width - known.shape[1], 0, height - known.shape[0])
    masks = F.pad(found.dense, padding)
    return MaskSet(masks, found.classes, found.scores, found.is_crowd), F.pad(known, padding)


def _at_pixels(
    mask_logits: Float[Tensor, "q h w"], masks: Float[Tensor, "n H W"], valid: Bool[Tensor, "H W"] | None
) -> tuple[Float[Tensor, "q p"], Float[Tensor, "n p"], Bool[Tensor, "_ p"] | None]:
    size = (masks.shape[1], masks.shape[2])
    x = F.interpolate(mask_logits[None], size, mode="bilinear", align_corners=False)[0]
    known = None if valid is None else valid.flatten().expand(len(x), -1)
    return x.flatten(1), masks.flatten(1), known


def _at_coarse_pixels(
    mask_logits: Float[Tensor, "q h w"], masks: Float[Tensor, "n H W"], valid: Bool[Tensor, "H W"] | None
) -> tuple[Float[Tensor, "q p"], Float[Tensor, "n p"], Bool[Tensor, "1 p"] | None]:
    size = (mask_logits.shape[1], mask_logits.shape[2])
    g = F.interpolate(masks[None], size)[0]
    known = None if valid is None else F.interpolate(valid[None, None].float(), size).flatten(2)[0] > 0.5
    return mask_logits.flatten(1), g.flatten(1), known


def _at_points(
    mask_logits: Float[Tensor, "q h w"],
    masks: Float[Tensor, "n H W"],
    valid: Bool[Tensor, "H W"] | None,
    points: Float[Tensor, "_ p 2"],
) -> tuple[Float[Tensor, "q p"], Float[Tensor, "n p"], Bool[Tensor, "_ p"] | None]:
    known = None
    if valid is not None:
        known = sample_points(valid[None].float().expand(len(points), -1, -1), points, mode="nearest") > 0.5
    return sample_points(mask_logits, points), sample_points(masks, points), known


def _check_classes(target: MaskSet, none: int) -> None:
    """Look at labels that lie on the CPU.

    Raises:
        ValueError: if one is not in 0..none - 1.
    """
    if torch.compiler.is_compiling() or target.classes.device.type != "cpu":
        return
    wrong = target.classes[(target.classes < 0) | (target.classes >= none)]
    if len(wrong):
        raise ValueError(f"classes of true masks must be in 0..{none - 1}, got {int(wrong[0])}")


def mean_over_processes(total: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The mean of a number over the processes of a training; the number itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        total = total.clone()
        torch.distributed.all_reduce(total)
        total = total / torch.distributed.get_world_size()
    return total
