"""What the modules of losses share: the settings that every loss of logits and labels has."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from .pixels import as_weight, one_of


class LossModule(nn.Module):
    """A loss function with its settings: base of the modules that call one function.

    A module adds the settings that only its function has, and calls the function in `forward`.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: one of `reductions`.

    Raises:
        ValueError: on a weight that is negative or not finite, or an unknown reduction.
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")
    weight: Tensor | None

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        one_of(reduction, self.reductions)
        self.register_buffer("weight", as_weight(weight), persistent=False)
        self.ignore, self.exclusive, self.reduction = ignore, exclusive, reduction

    @property
    def settings(self) -> dict[str, Any]:
        """The shared settings, as arguments of the function."""
        return {
            "ignore": self.ignore,
            "weight": self.weight,
            "exclusive": self.exclusive,
            "reduction": self.reduction,
        }
