"""What official scores of a data set are."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from ...data.dataset import Pair
from ...types import Annotation, Sample

Rows = Mapping[str, Mapping[str, float]]
Sure = Callable[[int, Sample], Tensor]  # position and sample -> probability "H W" of the second class


@runtime_checkable
class Official(Protocol):
    """The scores of one data set."""

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; `sure` gives the probability of the second of two classes at each pixel.

        Raises:
            ValueError: if a file that belongs to the truth is damaged.
        """

    def rows(self) -> Rows:
        """The table; empty where the scores need what is not there."""

    def remark(self) -> str:
        """What must be known of the numbers, in a sentence; "" for nothing."""
