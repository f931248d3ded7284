"""What every method gives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Integer

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
        objective: what `trace` holds, such as "energy" or "inertia"; "" without a trace.
        converged: whether the method stopped by itself rather than at its limit of steps.
    """

    label_map: LabelMap
    trace: tuple[float, ...] = ()
    objective: str = ""
    converged: bool = True

    @classmethod
    def of(
        cls,
        labels: Integer[np.ndarray, "H W"],
        trace: "list[float] | tuple[float, ...]" = (),
        objective: str = "",
        converged: bool = True,
    ) -> "Segmentation":
        """A segmentation of labels in an array."""
        tensor = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))
        return cls(LabelMap(tensor), tuple(float(value) for value in trace), objective, converged)

    @property
    def num_segments(self) -> int:
        """Number of different labels."""
        return len(self.label_map.labels.unique())


@dataclass(frozen=True)
class BoundedSegmentation(Segmentation):
    """A segmentation of a method that also proves how good any could be.

    Attributes:
        bounds: a number that no labelling's energy is below, after each step.
    """

    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class SoftSegmentation(Segmentation):
    """A segmentation of a method that finds probabilities.

    Attributes:
        marginals: probability of every label at every pixel.
    """

    marginals: Float64[np.ndarray, "H W k"] | None = None
