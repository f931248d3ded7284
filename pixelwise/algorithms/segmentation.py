"""What every method gives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Integer

from ..types import LabelMap

# Called with the number of steps done and of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Segmentation:
    """The labels of an image, and how the method came to them.

    Attributes:
        label_map: labels "H W", int64, numbered from 0.
        trace: the value that the method makes smaller (or the likelihood that it makes larger), after each of
            its steps; empty for methods that have none.
        traced: what `trace` holds, such as "energy" or "inertia"; "" without a trace.
        converged: whether the method stopped by itself rather than at its limit of steps.
    """

    label_map: LabelMap
    trace: tuple[float, ...] = ()
    traced: str = ""
    converged: bool = True

    @classmethod
    def of(
        cls,
        labels: Integer[np.ndarray, "H W"],
        trace: "list[float] | tuple[float, ...]" = (),
        traced: str = "",
        converged: bool = True,
    ) -> "Segmentation":
        """A segmentation of labels in an array."""
        tensor = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))
        return cls(LabelMap(tensor), tuple(float(value) for value in trace), traced, converged)

    @property
    def num_segments(self) -> int:
        """Number of different labels."""
        return len(self.label_map.labels.unique())
