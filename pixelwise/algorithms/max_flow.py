"""Maximum flow and minimum cut of a grid (Boykov and Kolmogorov, PAMI 2004)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from .energy import STEPS, pair_slices


@dataclass(frozen=True, eq=False)
class Cut:
    """A maximum flow, and the minimum cut that it proves.

    Attributes:
        flow: of the maximum flow, the same number as the cost of the cut.
        source_side: True for the pixels that the source still reaches. Of all minimum cuts it is the one with
            the fewest pixels on this side.
    """

    flow: float
    source_side: Bool[np.ndarray, "H W"]


def max_flow(
    source: Float64[np.ndarray, "H W"],
    sink: Float64[np.ndarray, "H W"],
    forth: Float64[np.ndarray, "e H W"],
    back: Float64[np.ndarray, "e H W"] | None = None,
) -> Cut:
    """The largest flow from a source to a sink through the pixels of a grid.

    Args:
        source: capacity from the source into each pixel.
        sink: capacity from each pixel into the sink.
        forth: capacity from each pixel to its neighbour to the right, below and, with e = 4, below right and
            below left; edges that would leave the grid do not count.
        back: capacity the other way, from that neighbour to the pixel; None for the same.

    Raises:
        ValueError: if shapes do not fit, or a capacity is negative or not finite.

    >>> source, sink = np.array([[3.0, 0.0]]), np.array([[0.0, 5.0]])
    >>> cut = max_flow(source, sink, forth=np.array([[[2.0, 0.0]], [[0.0, 0.0]]]))
    >>> cut.flow, cut.source_side.tolist()
    (2.0, [[True, False]])
    """
    from ..kernels.classical import max_flow as kernels

    back = forth if back is None else back
    _check(source, sink, forth, back)
    height, width = source.shape
    framed = (height + 2, width + 2)
    capacity = np.zeros((2 * len(forth), *framed))
    steps = []
    inside = capacity[:, 1:-1, 1:-1]
    for e, (down, right) in enumerate(STEPS[: len(forth)]):
        first, second = pair_slices(height, width, (down, right))
        inside[2 * e][first] = forth[e][first]
        inside[2 * e + 1][second] = back[e][first]
        steps += [down * framed[1] + right, -down * framed[1] - right]
    terminal, tree = np.zeros(framed), np.zeros(framed, np.uint8)
    terminal[1:-1, 1:-1] = source - sink
    through = kernels.max_flow(
        capacity.reshape(len(capacity), -1), terminal.reshape(-1), np.array(steps), tree.reshape(-1)
    )
    # What can go from the source straight to the sink was taken off both before.
    flow = through + float(np.minimum(source, sink).sum())
    return Cut(flow, tree[1:-1, 1:-1] == kernels.SOURCE)


def _check(
    source: Float64[np.ndarray, "H W"],
    sink: Float64[np.ndarray, "H W"],
    forth: Float64[np.ndarray, "e H W"],
    back: Float64[np.ndarray, "e H W"],
) -> None:
    if source.ndim != 2 or not source.size or sink.shape != source.shape:
        raise ValueError(f"source and sink must have one shape H W, got {source.shape} and {sink.shape}")
    for name, edges in (("forth", forth), ("back", back)):
        if edges.shape not in ((2, *source.shape), (4, *source.shape)) or edges.shape != forth.shape:
            raise ValueError(f"{name} must have the shape (2 or 4, {source.shape}), got {edges.shape}")
    for name, values in (("source", source), ("sink", sink), ("forth", forth), ("back", back)):
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"the capacities {name} must be finite and at least 0")
