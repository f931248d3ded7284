"""Exact distance maps inside a loss: constants for the gradient, one opaque step for the compiler."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


@torch.library.custom_op(
    "pixelwise::distance_across",
    mutates_args=(),
    schema="(Tensor inside, Tensor outside, float[]? spacing, ScalarType dtype) -> Tensor",
)
def distance_across(
    inside: Bool[Tensor, "b k *grid"],
    outside: Bool[Tensor, "b k *grid"],
    spacing: list[float] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "b k *grid"]:
    """Exact Euclidean distance of each inside cell to the nearest outside cell, and the other way round.

    A cell may be neither: where nothing is known. Such cells get 0, and so does every cell of a map that
    lacks one of the two, for it has no boundary. Maps on a GPU go through the CPU.

    Args:
        inside: True inside.
        outside: True outside; nowhere where `inside` is.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        dtype: of the distances.

    Returns:
        Distances in the unit of `spacing`, at least its least number where there is a boundary.
    """
    from ..kernels.boundaries.distance import distance_to
    from ..kernels.compiling import parallel_map

    step = None if spacing is None else tuple(spacing)
    pairs = list(zip(inside.flatten(0, 1).cpu().numpy(), outside.flatten(0, 1).cpu().numpy(), strict=True))
    maps = np.zeros(inside.flatten(0, 1).shape)

    def measure(index: int) -> None:
        within, without = pairs[index]
        if within.any() and without.any():
            np.copyto(maps[index], distance_to(without, step), where=within)
            np.copyto(maps[index], distance_to(within, step), where=without)

    parallel_map(measure, range(len(pairs)), torch.get_num_threads())
    return torch.from_numpy(maps).to(inside.device, dtype).view(inside.shape)


@distance_across.register_fake
def _(inside: Tensor, outside: Tensor, spacing: list[float] | None, dtype: torch.dtype) -> Tensor:
    return inside.new_empty(inside.shape, dtype=dtype)
