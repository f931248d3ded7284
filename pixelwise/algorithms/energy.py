"""The energy of a labelling of a grid: a Markov (or, given an image, conditional) random field with pairs.

    E(x) = sum_i unary_i(x_i) + sum_ij weight_ij distance(x_i, x_j)

over pixels i and pairs ij of neighbours, each pair once. `distance` says what two labels side by side cost
(Potts: 1 if they differ), `weight` how much that counts at this place (contrast-sensitive: less across an
edge of the image).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer

from .images import Image, colors_of

Neighbours = Literal[4, 8]

# Rows and columns to the second pixel of a pair; the first two are the 4-neighbourhood.
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True, eq=False)
class GridEnergy:
    """E(x) of the top of this file.

    Attributes:
        unary: cost of every label at every pixel, any finite number.
        weights: factor of the pair of a pixel and its neighbour to the right, below and, with 8 neighbours,
            below right and below left; at least 0. Pairs that would leave the grid do not count.
        distance: cost of two labels side by side, symmetric.

    Raises:
        ValueError: if shapes do not fit, a number is not finite, a weight is negative, or the distance is not
            symmetric.

    >>> energy = GridEnergy.potts(np.array([[[0.0, 1.0], [0.6, 0.0]]]), strength=0.5)
    >>> energy.of(np.array([[0, 1]])), energy.of(np.array([[0, 0]]))
    (0.5, 0.6)
    """

    unary: Float64[np.ndarray, "H W k"]
    weights: Float64[np.ndarray, "e H W"]
    distance: Float64[np.ndarray, "k k"]

    def __post_init__(self) -> None:
        """See the class."""
        height, width, k = _shape_of(self.unary)
        if self.weights.shape not in ((2, height, width), (4, height, width)):
            raise ValueError(
                f"a grid of {height} x {width} pixels needs weights of shape (2 or 4, {height}, {width}), "
                f"got {self.weights.shape}"
            )
        if self.distance.shape != (k, k):
            raise ValueError(f"{k} labels need a distance of shape {(k, k)}, got {self.distance.shape}")
        for name in ("unary", "weights", "distance"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"the {name} of an energy must be finite, got nan or infinity")
        if (self.weights < 0).any():
            raise ValueError(f"the weights of an energy must be at least 0, got {self.weights.min()}")
        if not (self.distance == self.distance.T).all():
            raise ValueError("the distance of an energy must be symmetric")
        # Kernels read pairs without a look at the border.
        weights = np.zeros(self.weights.shape)
        for e, step in enumerate(STEPS[: len(weights)]):
            first, _ = pair_slices(height, width, step)
            weights[e][first] = self.weights[e][first]
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "unary", np.ascontiguousarray(self.unary))

    # --- kinds --------------------------------------------------------------------------------------

    @classmethod
    def potts(
        cls, unary: Float[np.ndarray, "H W k"], strength: float, neighbours: Neighbours = 4
    ) -> "GridEnergy":
        """Every pair of different labels costs `strength`."""
        height, width, k = _shape_of(unary)
        return cls(_double(unary), _constant(strength, height, width, neighbours), 1.0 - np.eye(k))

    @classmethod
    def contrast_potts(
        cls,
        unary: Float[np.ndarray, "H W k"],
        image: Image,
        strength: float,
        neighbours: Neighbours = 8,
    ) -> "GridEnergy":
        """A pair of different labels costs `strength` exp(-beta |z_i - z_j|^2) / |i - j|.

        z are the colours in grey levels, beta is 1 / (2 mean |z_i - z_j|^2) over all pairs (Boykov and Jolly,
        ICCV 2001; beta as in GrabCut, Rother et al. 2004), |i - j| is 1 or the root of 2.

        Raises:
            ValueError: if image and unary differ in size.
        """
        height, width, k = _shape_of(unary)
        colors = colors_of(image)
        if colors.shape[:2] != (height, width):
            raise ValueError(f"the image has {colors.shape[:2]} pixels, the unary {(height, width)}")
        weights = _constant(strength, height, width, neighbours)
        squares = np.zeros_like(weights)
        for square, (down, right) in zip(squares, STEPS, strict=False):
            first, second = pair_slices(height, width, (down, right))
            square[first] = ((colors[first] - colors[second]) ** 2).sum(-1)
        pairs = sum(
            max(0, height - down) * max(0, width - abs(right)) for down, right in STEPS[: len(weights)]
        )
        mean = squares.sum() / max(1, pairs)
        if mean > 0:
            weights *= np.exp(-squares / (2 * mean))
        weights[2:] /= np.sqrt(2)
        return cls(_double(unary), weights, 1.0 - np.eye(k))

    @classmethod
    def truncated_linear(
        cls,
        unary: Float[np.ndarray, "H W k"],
        slope: float,
        truncation: float,
        neighbours: Neighbours = 4,
    ) -> "GridEnergy":
        """A pair costs min(slope |a - b|, truncation): labels are numbers on a line, as in stereo."""
        height, width, k = _shape_of(unary)
        labels = np.arange(k, dtype=np.float64)
        distance = np.minimum(slope * np.abs(labels[:, None] - labels), truncation)
        return cls(_double(unary), _constant(1.0, height, width, neighbours), distance)

    # --- values -------------------------------------------------------------------------------------

    @property
    def num_labels(self) -> int:
        """Number of labels k."""
        return self.unary.shape[2]

    @property
    def steps(self) -> Int64[np.ndarray, "e 2"]:
        """Rows and columns to the second pixel of each kind of pair."""
        return np.array(STEPS[: len(self.weights)], dtype=np.int64)

    @property
    def directed(self) -> tuple[Float64[np.ndarray, "d H W"], Int64[np.ndarray, "d 2"]]:
        """Weight of each pixel's pair in every direction, and the steps there; direction d ^ 1 goes back."""
        height, width = self.unary.shape[:2]
        weights = np.zeros((2 * len(self.weights), height, width))
        steps = np.zeros((len(weights), 2), dtype=np.int64)
        for e, step in enumerate(STEPS[: len(self.weights)]):
            first, second = pair_slices(height, width, step)
            weights[2 * e] = self.weights[e]
            weights[2 * e + 1][second] = self.weights[e][first]
            steps[2 * e], steps[2 * e + 1] = step, (-step[0], -step[1])
        return weights, steps

    def of(self, labels: Integer[np.ndarray, "H W"]) -> float:
        """E(labels).

        Raises:
            ValueError: if the labels have another shape, or one is no label.
        """
        if labels.shape != self.unary.shape[:2]:
            raise ValueError(f"the energy has a grid of {self.unary.shape[:2]}, the labels {labels.shape}")
        if labels.min() < 0 or labels.max() >= self.num_labels:
            raise ValueError(
                f"labels must be in 0..{self.num_labels - 1}, got {labels.min()}..{labels.max()}"
            )
        height, width = labels.shape
        total = np.take_along_axis(self.unary, labels[..., None].astype(np.int64), 2).sum()
        for weight, step in zip(self.weights, STEPS, strict=False):
            first, second = pair_slices(height, width, step)
            total += (weight[first] * self.distance[labels[first], labels[second]]).sum()
        return float(total)

    def is_potts(self) -> bool:
        """Whether different labels cost 1 and equal ones nothing: then messages take one pass over labels."""
        return bool((self.distance == 1 - np.eye(self.num_labels)).all())

    def is_metric(self) -> bool:
        """Whether d(a, a) + d(b, c) <= d(a, c) + d(b, a) for all labels: what alpha-expansion needs."""
        d = self.distance
        return bool(
            (d.diagonal()[:, None, None] + d[None] <= d[:, None, :] + d.T[:, :, None] + _slack(d)).all()
        )

    def is_semi_metric(self) -> bool:
        """Whether d(a, a) + d(b, b) <= 2 d(a, b) for all labels: what alpha-beta swap needs."""
        own = self.distance.diagonal()
        return bool((own[:, None] + own <= 2 * self.distance + _slack(self.distance)).all())


def pair_slices(
    height: int, width: int, step: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the first and where the second pixels of all pairs of one kind lie."""
    down, right = step
    rows, columns = max(0, height - down), max(0, width - abs(right))
    first, second = max(0, -right), max(0, right)
    return (
        (slice(0, rows), slice(first, first + columns)),
        (slice(down, down + rows), slice(second, second + columns)),
    )


def start_of(
    energy: GridEnergy, start: Integer[np.ndarray, "H W"] | None, sweeps: int
) -> Int64[np.ndarray, "H W"]:
    """A copy of the labelling that a method begins with.

    Raises:
        ValueError: if it does not fit the energy, or the number of sweeps is not positive.
    """
    checked_sweeps(sweeps)
    if start is None:
        return energy.unary.argmin(2).astype(np.int64)
    energy.of(start)  # looks at shape and range
    return np.array(start, dtype=np.int64)


def checked_sweeps(sweeps: int) -> None:
    """Look at a limit of steps.

    Raises:
        ValueError: if it is not positive.
    """
    if sweeps < 1:
        raise ValueError(f"a method needs at least 1 sweep over the pixels, got {sweeps}")


def negative_log(probabilities: Float[np.ndarray, "H W k"]) -> Float64[np.ndarray, "H W k"]:
    """The unary cost -log p of probabilities; those under 1e-10 count as 1e-10."""
    return -np.log(np.maximum(_double(probabilities), 1e-10))


def _shape_of(unary: Float[np.ndarray, "..."]) -> tuple[int, int, int]:
    if unary.ndim != 3 or not unary.size:
        raise ValueError(f"a unary must have the shape H W k with a pixel and a label, got {unary.shape}")
    return unary.shape[0], unary.shape[1], unary.shape[2]


def _double(unary: Float[np.ndarray, "H W k"]) -> Float64[np.ndarray, "H W k"]:
    return np.asarray(unary, dtype=np.float64)


def _constant(strength: float, height: int, width: int, neighbours: int) -> Float64[np.ndarray, "e H W"]:
    if neighbours not in (4, 8):
        raise ValueError(f"a grid has 4 or 8 neighbours, got {neighbours}")
    return np.full((neighbours // 2, height, width), float(strength))


def _slack(distance: Float64[np.ndarray, "k k"]) -> float:
    """What rounding may cost."""
    return 1e-12 * float(np.abs(distance).max())
