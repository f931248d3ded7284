"""Lovász-softmax (Berman et al., CVPR 2018) and Lovász hinge (Yu and Blaschko, ICML 2015)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from .module import LossModule
from .pixels import Reduction, counted, one_of, per_class, prepared, where_present
from .regions import over_classes

Which = Literal["present", "all"]


def lovasz_reference(errors: Float[Tensor, " n"], truth: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """The loss of one class by its definition (equations 8 and 9), differentiable by `errors`.

    Errors are sorted, largest first, and each is multiplied with the rise of the Jaccard loss when its pixel
    joins the wrong ones. `lovasz_loss` computes the same for all classes at once, without a difference of
    nearly equal numbers; the tests compare both.

    Args:
        errors: how wrong each pixel is; below 0 it is right.
        truth: whether each pixel belongs to the class.

    >>> lovasz_reference(torch.tensor([0.0, 0.0, 1.5]), torch.tensor([True, False, False])).item()
    0.75
    """
    order = errors.argsort(descending=True, stable=True)
    inside = truth[order].to(errors.dtype)
    intersection = inside.sum() - inside.cumsum(0)
    union = inside.sum() + (1 - inside).cumsum(0)
    jaccard = 1 - intersection / union
    rise = jaccard.diff(prepend=jaccard.new_zeros(1))
    return (errors[order].relu() * rise).sum()


def lovasz_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
    per_image: bool = False,
    classes: Which = "present",
) -> Float[Tensor, "..."]:
    """The Lovász extension of the Jaccard loss of each class: a convex stand-in for 1 - IoU.

    Errors m of a class are sorted, largest first, and summed up with the rise of the Jaccard loss that each
    of them brings (equations 8 and 9). With a softmax m = |[y = c] - p_c|: Lovász-softmax. Without
    `exclusive` m = max(0, 1 - z_c) where the class is there and max(0, 1 + z_c) elsewhere: a Lovász hinge
    per class. Values and gradients are those of the authors' code, whose difference of two nearly equal
    numbers of float32 leaves one or two digits of a rise on large images; here it is computed in closed form.

    Float32 on the CPU is sorted by a compiled kernel, everything else by torch.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own hinge.
        reduction: "mean" divides the sum over `classes` by their number, or with `weight` by the sum of
            their weights, and takes the mean over images where `per_image`; "none" gives one value per class
            (`per_image`: `b k`), 0 for those that are left out.
        per_image: whether each image has a loss of its own; else the batch is sorted together.
        classes: "present" leaves out classes that no label holds; with "all" they cost their largest error
            (so does the authors' hinge).

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or set of classes or, on the CPU, a label
            that is no class.

    >>> import torch
    >>> logits = torch.tensor([[[2.0, -2.0, 0.5]]])  # errors of the hinge: 0, 0 and 1.5
    >>> labels = torch.tensor([[[1, 0, 0]]])  # 1 pixel of 2 is right once the third is taken: J = 1/2
    >>> lovasz_loss(logits, labels, exclusive=False).item()
    0.75
    """
    one_of(reduction)
    _known(classes)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    if exclusive:
        valid, index = counted(labels.flatten(1), ignore, logits.shape[1])
        codes = torch.where(valid, index, -1)
    else:
        valid, hit = (part.flatten(2) for part in where_present(labels, ignore))
        codes = torch.where(valid, hit.to(torch.int8), -1)
    absent = classes == "all"
    losses, counts, _ = _extension(logits.flatten(2).contiguous(), codes, exclusive, per_image, absent)
    there = counts > 0
    if absent:
        some = valid.flatten(1).any(1, keepdim=True) if exclusive else valid.any(2)
        there = (some if per_image else some.any(0, keepdim=True)).expand_as(there)
    if not per_image:
        losses, there = losses[0], there[0]
    return over_classes(losses, there, weight, reduction)


# Two operators, because a compiled kernel is opaque to autograd and to torch.compile. The slopes are kept in
# the memory of the probabilities, which are computed again for the gradient.
@torch.library.custom_op("pixelwise::lovasz", mutates_args=())
def _extension(
    scores: Tensor, labels: Tensor, softmax: bool, per_image: bool, absent: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses `rows k`, numbers of foreground pixels `rows k` and slopes `b k n`: see `lovasz_jaccard`."""
    values = scores.softmax(1) if softmax else scores
    margin = 0.0 if softmax else 1.0
    if not _compiled(scores):
        return _sorted(values, labels, margin, per_image, absent)
    from ..kernels.pixels.lovasz import lovasz_jaccard  # numba is imported where it is needed

    slopes = values if softmax else torch.empty_like(values)
    losses, counts = lovasz_jaccard(
        values.numpy(), labels.numpy(), slopes.numpy(), margin, per_image, absent, torch.get_num_threads()
    )
    return torch.from_numpy(losses).float(), torch.from_numpy(counts), slopes


@_extension.register_fake
def _(
    scores: Tensor, labels: Tensor, softmax: bool, per_image: bool, absent: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (len(scores) if per_image else 1, scores.shape[1])
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.long), torch.empty_like(scores)


@torch.library.custom_op("pixelwise::lovasz_backward", mutates_args=())
def _gradient(scores: Tensor, slopes: Tensor, factors: Tensor, softmax: bool) -> Tensor:
    """The gradient by scores `b k n`, of which the losses are multiplied with factors `b k`."""
    if not softmax:
        return slopes * factors[:, :, None]
    p = scores.softmax(1)
    if not _compiled(scores):
        rise = slopes * factors[:, :, None]
        return p * (rise - (p * rise).sum(1, keepdim=True))
    from ..kernels.pixels.lovasz import softmax_gradient

    softmax_gradient(p.numpy(), slopes.numpy(), factors.contiguous().numpy())
    return p


@_gradient.register_fake
def _(scores: Tensor, slopes: Tensor, factors: Tensor, softmax: bool) -> Tensor:
    return torch.empty_like(scores)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    scores, _, ctx.softmax, _, _ = inputs
    _, counts, slopes = output
    ctx.mark_non_differentiable(counts, slopes)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(scores, slopes)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, None, None, None, None]:
    scores, slopes = ctx.saved_tensors
    if grad is None:
        return None, None, None, None, None
    factors = grad.expand(scores.shape[:2])
    return _gradient(scores, slopes, factors, ctx.softmax), None, None, None, None


_extension.register_autograd(_backward, setup_context=_keep)


def _compiled(scores: Tensor) -> bool:
    """Whether a kernel is there for these numbers."""
    return scores.device.type == "cpu" and scores.dtype == torch.float32


def _sorted(
    values: Float[Tensor, "b k n"],
    labels: Integer[Tensor, "b ..."],
    margin: float,
    per_image: bool,
    absent: bool,
) -> tuple[Float[Tensor, "rows k"], Integer[Tensor, "rows k"], Float[Tensor, "b k n"]]:
    """The work of the kernel by torch's sort, class by class to save memory."""
    losses, counts, slopes = [], [], torch.zeros_like(values)
    for c in range(values.shape[1]):
        own, positive = (labels, c) if labels.ndim == 2 else (labels[:, c], 1)
        value = values[:, c]
        sign = torch.where(own == positive, -1, 1).to(values.dtype)
        error = torch.where(own == positive, 1 - value, margin + value)
        error = torch.where(own < 0, 0, error).clamp_min(0)
        if not per_image:
            error, sign = error.view(1, -1), sign.view(1, -1)
        error, order = error.sort(1, descending=True)
        hit = (sign.gather(1, order) < 0).long()
        count = hit.sum(1, keepdim=True)
        before = hit.cumsum(1) - hit
        union = count + torch.arange(hit.shape[1], device=hit.device) - before
        intersection, union = (count - before).to(values.dtype), union.to(values.dtype)
        step = torch.where(hit > 0, 1 / union, intersection / (union * (union + 1)))
        step = torch.where(union > 0, step, 1)
        step = torch.where(error <= 0, 0, step)
        if not absent:
            step = torch.where(count > 0, step, 0)
        losses.append((step * error).sum(1))
        counts.append(count[:, 0])
        slopes[:, c] = (torch.zeros_like(step).scatter(1, order, step) * sign).view_as(value)
    return torch.stack(losses, 1), torch.stack(counts, 1), slopes


def _known(classes: str) -> None:
    if classes not in ("present", "all"):
        raise ValueError(f"classes must be present or all, got {classes!r}")


class Lovasz(LossModule):
    """`lovasz_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own hinge.
        reduction: see `lovasz_loss`.
        per_image: whether each image has a loss of its own; else the batch is sorted together.
        classes: "present" leaves out classes that no label holds; with "all" they cost their largest error.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: Reduction = "mean",
        per_image: bool = False,
        classes: Which = "present",
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        _known(classes)
        self.per_image, self.classes = per_image, classes

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `lovasz_loss`."""
        return lovasz_loss(
            logits,
            labels,
            **self.settings,
            per_image=self.per_image,
            classes=self.classes,
        )
