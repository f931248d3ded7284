"""Semantic encoding loss (EncNet, Zhang et al., CVPR 2018, Sec. 3.1): which classes does an image hold?"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from .class_maps import over_classes
from .module import LossModule
from .pixels import Reduction, counted, one_of, per_class, where_present


def class_presence(
    labels: Integer[Tensor, "b ..."], num_classes: int, *, ignore: int = 255, exclusive: bool = True
) -> tuple[Bool[Tensor, "b k"], Bool[Tensor, "b k"]]:
    """Which classes each image holds, and for which that is known.

    Of an image without any label nothing is known; a class that no label shows counts as absent, though it
    may hide where labels are ignored (so does the authors' code).

    Args:
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        num_classes: k.
        ignore: label of cells that do not count.
        exclusive: whether a cell has exactly one class.

    Raises:
        ValueError: on labels of other classes, or of another number of them.

    >>> labels = torch.tensor([[[0, 2]], [[255, 255]]])
    >>> present, known = class_presence(labels, 3)
    >>> present.int().tolist(), known.int().tolist()
    ([[1, 0, 1], [0, 0, 0]], [[1, 1, 1], [0, 0, 0]])
    """
    if not exclusive:
        if labels.shape[1] != num_classes:
            raise ValueError(f"{num_classes} classes need as many label maps, got {labels.shape[1]}")
        valid, hit = where_present(labels, ignore)
        return hit.flatten(2).any(-1), valid.flatten(2).any(-1)
    valid, index = counted(labels.flatten(1), ignore, num_classes)
    seen = torch.zeros(len(labels), num_classes, device=labels.device)
    present = seen.scatter_add(1, index.long(), valid.float()) > 0
    return present, valid.any(-1, keepdim=True).expand(present.shape)


def semantic_encoding_loss(
    presence: Float[Tensor, "b k"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    factor: float = 0.2,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Factor times the binary cross-entropy of each class's presence in each image.

    A class costs the same whether it covers half the image or ten pixels: it makes a network look for small
    things. The network gives one score per image and class beside its map.

    Args:
        presence: one score per image and class; sigmoid gives the probability that the class is there.
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        ignore: label of cells that do not count.
        weight: one factor per class.
        exclusive: whether a cell has exactly one class.
        factor: of the whole; 0.2 in the paper.
        reduction: "mean" divides the sum by the number of images and classes that are known, or with `weight`
            by the sum of their weights (the authors' code by their number also then); "none" gives one value
            per image and class.

    Raises:
        ValueError: on shapes that do not fit, labels of other classes or an unknown reduction.

    >>> semantic_encoding_loss(torch.zeros(1, 3), torch.zeros(1, 4, 4, dtype=torch.long), factor=1.0).item()
    0.6931471824645996
    """
    one_of(reduction)
    if len(labels) != len(presence):
        raise ValueError(f"scores of {len(presence)} images need labels of as many, got {len(labels)}")
    if presence.dtype in (torch.float16, torch.bfloat16):
        presence = presence.float()
    present, known = class_presence(labels, presence.shape[1], ignore=ignore, exclusive=exclusive)
    loss = F.binary_cross_entropy_with_logits(presence, present.to(presence.dtype), reduction="none")
    return over_classes(factor * loss, known, per_class(weight, presence), reduction)


class SemanticEncoding(LossModule):
    """`semantic_encoding_loss` with its settings.

    Args:
        ignore: label of cells that do not count.
        weight: one factor per class.
        exclusive: whether a cell has exactly one class.
        factor: of the whole; 0.2 in the paper.
        reduction: see `semantic_encoding_loss`.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        factor: float = 0.2,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        self.factor = factor

    def forward(
        self, presence: Float[Tensor, "b k"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `semantic_encoding_loss`."""
        return semantic_encoding_loss(
            presence,
            labels,
            **self.settings,
            factor=self.factor,
        )
