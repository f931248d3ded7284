"""Sums of losses, and the one wrapper between a model's output and a batch."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial, singledispatch
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ..types import Batch, ClassTable, DenseLogits
from ..wording import brief, meant
from .boundary import Boundary
from .cldice import ClDice
from .cross_entropy import CrossEntropy
from .dice import Dice, GeneralisedDice
from .focal import Focal
from .hausdorff import Hausdorff
from .jaccard import Jaccard
from .lovasz import Lovasz
from .ohem import Ohem
from .rmi import RMI
from .tversky import FocalTversky, Tversky
from .weight_map import BorderCrossEntropy


class WeightedSum(nn.Module):
    """A sum of named losses.

    Args:
        terms: losses of logits and labels, by name.
        weights: factor of each term; 1 for terms that it does not name.

    Raises:
        ValueError: without terms, or if `weights` names a term that is not there.

    >>> loss = WeightedSum({"cross_entropy": CrossEntropy(), "dice": Dice()}, {"dice": 0.5})
    >>> sorted(loss.parts(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)))
    ['cross_entropy', 'dice']
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not terms:
            raise ValueError("a sum of losses needs at least one term, got none")
        if unknown := sorted(set(weights) - set(terms)):
            raise ValueError(f"the sum has the terms {', '.join(terms)}, not {unknown[0]}")
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: float(weights.get(name, 1.0)) for name in terms}

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, ""]:
        """The sum."""
        return torch.stack(list(self.parts(logits, labels).values())).sum()

    def parts(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> dict[str, Float[Tensor, ""]]:
        """Each term, times its weight."""
        return {name: self.weights[name] * term(logits, labels) for name, term in self.terms.items()}

    def extra_repr(self) -> str:
        """The formula, as `make_criterion` reads it."""
        factors = {name: "" if weight == 1 else f"{weight:g}*" for name, weight in self.weights.items()}
        return "+".join(factor + name for name, factor in factors.items())


class NoLoss(ValueError):
    """The output has no loss, such as one of evaluation whose network samples what it learns from."""

    def __init__(
        self, told: str = "an output of evaluation has no loss: call model.train() and give it the targets"
    ) -> None:
        super().__init__(told)


@singledispatch
def loss_parts(output: object, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """The loss that a paper defines for its own output, in parts, weights applied.

    Registered beside the network, by the type of the output: `@loss_parts.register`. For a type that is
    also `DenseLogits` it is what the paper adds to the loss of the scores, which is chosen as for any other
    network.

    Raises:
        NoLoss: if this output has none, because of the mode of its network.
        ValueError: if no loss is registered for that type.
    """
    raise ValueError(f"no loss is defined for {type(output).__name__}")


@loss_parts.register
def _(output: DenseLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    return {}


class PaperCriterion(nn.Module):
    """The loss that a paper defines for the output of its network; see `loss_parts`."""

    def forward(self, output: Any, batch: Batch) -> Float[Tensor, ""]:
        """The sum of all parts: what to call `backward` on."""
        return torch.stack(list(self.parts(output, batch).values())).sum()

    def parts(self, output: Any, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Each term of the loss by name; weights are applied."""
        return loss_parts(output, batch)


# Settings of a training that choose a loss, and what they are where nothing was chosen.
_UNCHOSEN = {
    "loss": "cross_entropy",
    "class_weights": "none",
    "label_smoothing": 0.0,
    "aux_weight": 0.4,
}


def paper_criterion(settings: Mapping[str, Any]) -> PaperCriterion:
    """The loss of the network's paper, for outputs of which no other can be taken.

    Args:
        settings: of a training; those of the loss must not have been chosen.

    Raises:
        ValueError: if they have been.

    >>> paper_criterion({"loss": "cross_entropy"})
    PaperCriterion()
    """
    for name, unchosen in _UNCHOSEN.items():
        if settings.get(name) not in (unchosen, None):
            raise ValueError(
                f"the loss is that of the network's paper: leave out {name}, got {settings[name]!r:.80}"
            )
    return PaperCriterion()


class Criterion(PaperCriterion):
    """The loss of scores of every pixel, auxiliary maps included; of other outputs, that of their paper.

    Every map is resized to the image, as PSPNet does; the labels never are. Where a paper adds a loss of its
    own to that of the scores, it is added here too, see `loss_parts`.

    Args:
        loss: takes logits `b k H W` and the labels of a batch, gives a scalar.
        aux_weight: factor of the same loss on each auxiliary map (PSPNet Sec. 4: 0.4).

    >>> criterion = Criterion(CrossEntropy())
    >>> batch = Batch.of(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))
    >>> output = DenseLogits(torch.zeros(1, 2, 4, 4), (8, 8), aux=(torch.zeros(1, 2, 2, 2),))
    >>> {name: round(part.item(), 3) for name, part in criterion.parts(output, batch).items()}
    {'cross_entropy': 0.693, 'aux': 0.277}
    """

    def __init__(self, loss: nn.Module, *, aux_weight: float = 0.4) -> None:
        super().__init__()
        self.loss = (
            loss if isinstance(loss, WeightedSum) else WeightedSum({_snake(type(loss).__name__): loss})
        )
        self.aux_weight = aux_weight

    def parts(self, output: Any, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Each term of the loss, "aux" where the output has auxiliary maps, and what a paper adds.

        Weights are applied.
        """
        if not isinstance(output, DenseLogits):
            return super().parts(output, batch)
        parts = self.loss.parts(output.logits, batch.labels)
        if output.aux:
            losses = [self.loss(logits, batch.labels) for logits in output.aux_logits]
            parts["aux"] = self.aux_weight * torch.stack(losses).sum()
        return parts | super().parts(output, batch)

    @property
    def part_weights(self) -> dict[str, float]:
        """The weight of each part that `parts` can tell."""
        return {**self.loss.weights, "aux": self.aux_weight}

    def breakdown(self, output: DenseLogits, batch: Batch) -> str:
        """The parts as text: the value of each, its weight, and what it adds to the sum.

        >>> batch = Batch.of(torch.rand(1, 3, 2, 2), torch.tensor([[[0, 1], [1, 0]]]))
        >>> criterion = Criterion(WeightedSum({"ce": CrossEntropy(), "dice": Dice()}, {"dice": 0.2}))
        >>> print(criterion.breakdown(DenseLogits(torch.zeros(1, 2, 2, 2), (2, 2)), batch))
        part      value  weight   added
        ce       0.6931       1  0.6931
        dice     0.5000     0.2  0.1000
        sum                      0.7931
        """
        with torch.no_grad():
            parts = {name: part.item() for name, part in self.parts(output, batch).items()}
        weights = self.part_weights
        width = max(len(name) for name in (*parts, "part"))
        lines = [f"{'part':{width}}  {'value':>9}  {'weight':>6}  {'added':>6}"]
        for name, added in parts.items():
            weight = weights.get(name, 1.0)  # a paper's own part tells no weight
            value = f"{added / weight:.4f}" if weight else ""
            lines.append(f"{name:{width}}  {value:>9}  {weight:>6g}  {added:.4f}")
        lines.append(f"{'sum':{width}}  {'':>9}  {'':>6}  {sum(parts.values()):.4f}")
        return "\n".join(lines)

    def extra_repr(self) -> str:
        """The factor of the auxiliary maps."""
        return f"aux_weight={self.aux_weight:g}"


def _snake(name: str) -> str:
    """CrossEntropy -> cross_entropy."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


# Each is called with ignore, exclusive and weight (Focal: alpha), the two kinds of cross-entropy also with
# label_smoothing.
_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": CrossEntropy,
    "bce": CrossEntropy,
    "ohem": Ohem,
    "focal": Focal,
    "dice": Dice,
    "squared_dice": partial(Dice, squared=True),
    "generalised_dice": GeneralisedDice,
    "jaccard": Jaccard,
    "tversky": Tversky,
    "focal_tversky": FocalTversky,
    "lovasz": Lovasz,
    "boundary": Boundary,
    "hausdorff": Hausdorff,
    "cldice": ClDice,
    "rmi": RMI,
    "border_cross_entropy": BorderCrossEntropy,
}
_SMOOTHED = ("cross_entropy", "bce")


def make_criterion(
    name: str,
    classes: ClassTable,
    *,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.4,
) -> Criterion:
    """The criterion of that name for a task.

    Args:
        name: a loss or a sum of losses; "cross_entropy+0.5*dice" has weights. There are "cross_entropy",
            "bce" (the cross-entropy of classes that are not exclusive, by its other name), "ohem",
            "focal", "dice", "squared_dice" (V-Net's), "generalised_dice", "jaccard", "tversky",
            "focal_tversky", "lovasz", "boundary", "hausdorff", "cldice", "rmi" and "border_cross_entropy",
            each with the defaults of its module.
        classes: the task.
        class_weights: one factor per class for every term (alpha of the focal loss, which must be in [0, 1]
            where classes are not exclusive).
        label_smoothing: share of the target in [0, 1] that cross-entropy deals equally to all classes.
        aux_weight: factor of the loss on each auxiliary map.

    Raises:
        ValueError: if a term is unknown, given twice or has no positive weight, the weights are not one per
            class, smoothing is asked for without cross-entropy, or "bce" for exclusive classes.

    >>> make_criterion("cross_entropy+0.5*dice", ClassTable.of("sky", "road")).loss.weights
    {'cross_entropy': 1.0, 'dice': 0.5}
    """
    if class_weights is not None and len(class_weights) != len(classes):
        raise ValueError(f"{len(classes)} classes need as many class_weights, got {len(class_weights)}")
    weights = dict(_term(part) for part in name.split("+"))
    if len(weights) != name.count("+") + 1:
        raise ValueError(f"the loss {name!r} names a term twice")
    if classes.exclusive and "bce" in weights:
        raise ValueError("bce needs a table with exclusive=False; for exclusive classes take cross_entropy")
    if label_smoothing and not set(weights) & set(_SMOOTHED):
        raise ValueError(f"label_smoothing belongs to cross_entropy, the loss is {name!r}")
    terms = {term: _made(term, classes, class_weights, label_smoothing) for term in weights}
    return Criterion(WeightedSum(terms, weights), aux_weight=aux_weight)


def _made(
    name: str, classes: ClassTable, weight: Sequence[float] | None, label_smoothing: float
) -> nn.Module:
    make = partial(_LOSSES[name], ignore=classes.ignore, exclusive=classes.exclusive)
    if name == "focal":
        return make(alpha=weight)
    if name in _SMOOTHED:
        return make(weight=weight, label_smoothing=label_smoothing)
    return make(weight=weight)


def _term(text: str) -> tuple[str, float]:
    """0.5*dice -> dice, 0.5."""
    factor, _, term = text.strip().rpartition("*")
    term = term.strip()
    if term not in _LOSSES:
        raise ValueError(f"no loss is called {brief(term)}{meant(term, _LOSSES)}")
    try:
        weight = float(factor) if factor else 1.0
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise ValueError(f"the weight in {text.strip()!r} must be a positive number")
    return term, weight
