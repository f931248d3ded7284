"""Fully connected CRF with Gaussian edge potentials (Kraehenbuehl and Koltun, NIPS 2011), by mean field.

    Q = softmax(-U); several times: Q = softmax(-U - sum_m w_m mu_m (K_m Q))

with K_m Q by filtering on a permutohedral lattice, so that the time grows linearly with the pixels. Two
kernels are usual: one that smooths and one that follows the edges of the image.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Shaped
from torch import Tensor

from ..kernels import parallel_map
from ..kernels.classical.dense_crf import scores_by_pixel, update
from ..kernels.classical.lattice import Lattice, build_lattice
from ..kernels.classical.lattice_filter import aligned, blur, kernel_sums, lattice_filter
from ..kernels.simd import WIDTH
from ..types import LabelMap
from .dense_crf_energy import (
    APPEARANCE,
    SMOOTHNESS,
    PairwiseKernel,
    PairwiseTerm,
    in_steps,
    unary_from_probabilities,
)
from .segmentation import Segmentation

USUAL_KERNELS = (SMOOTHNESS, APPEARANCE)
# What authors put behind a network for a data set, by system and data set: DeepLab's scripts for VGG16
# (LargeFOV) and ResNet-101, and DeconvNet's, each with ten iterations.
PUBLISHED_KERNELS: Mapping[str, tuple[PairwiseKernel, ...]] = {
    "deeplabv1_voc": (SMOOTHNESS, PairwiseKernel(weight=4.0, position=49.0, color=5.0)),
    "deeplabv2_voc": (SMOOTHNESS, PairwiseKernel(weight=4.0, position=67.0, color=3.0)),
    "deconvnet_voc": (SMOOTHNESS, PairwiseKernel(weight=5.0, position=20.0, color=3.0)),
}


@dataclass(frozen=True, eq=False)
class MeanField:
    """What mean field found.

    Attributes:
        marginals: Q, the probability of every class at every pixel.
        trace: the free energy after each iteration, if it was asked for.
    """

    marginals: Float32[np.ndarray, "k *grid"]
    trace: tuple[float, ...] = ()


class _Placed(NamedTuple):
    """A pairwise term with its lattice."""

    term: PairwiseTerm
    lattice: Lattice
    before: Float32[np.ndarray, " n"] | None  # factors of the values that are filtered
    after: Float32[np.ndarray, " n"] | None  # and of the result
    mixing: Float64[np.ndarray, "k k"] | Float64[np.ndarray, " k"] | None  # what classes say to each other


class _Stack(NamedTuple):
    """All lattices as one: each pixel has the corners of all, whose rows follow each other."""

    vertices: Int32[np.ndarray, "n corners"]
    slice_weights: Float32[np.ndarray, "n corners"]
    splat_weights: Float32[np.ndarray, "n corners"]
    factors: Float32[np.ndarray, " corners"]
    first_rows: list[int]  # of every lattice, and at the end the number of rows


def mean_field_reference(
    unary: Float[np.ndarray, "k *grid"], terms: Sequence[PairwiseTerm], iterations: int = 10
) -> Float64[np.ndarray, "k *grid"]:
    """Mean field by its definition, with the full kernel matrices: for Potts, and images of few pixels.

    `mean_field_marginals` filters on a lattice instead, which takes linear time and is nearly the same; the
    tests compare both.
    """
    scores = -unary.reshape(len(unary), -1).astype(np.float64)
    matrices = []
    for term in terms:
        f = term.features.reshape(len(term.features), -1).astype(np.float64)
        kernel = np.exp(-((f[:, :, None] - f[:, None]) ** 2).sum(0) / 2)
        sums = kernel.sum(1)
        matrices.append(term.weight * kernel / np.sqrt(sums[:, None] * sums))
    q = np.exp(scores) / np.exp(scores).sum(0)
    for _ in range(iterations):
        x = scores + sum(q @ matrix for matrix in matrices)
        q = np.exp(x - x.max(0))
        q /= q.sum(0)
    return q.reshape(unary.shape)


def mean_field_marginals(
    unary: Float[np.ndarray, "k *grid"],
    terms: Sequence[PairwiseTerm],
    *,
    iterations: int = 10,
    threads: int = 1,
    keep_trace: bool = False,
) -> MeanField:
    """Mean field of a fully connected CRF on a grid of any number of axes.

    Args:
        unary: energy of every class at every pixel; infinity where a class is impossible.
        terms: kernels with their features.
        iterations: updates of all pixels at once; 0 gives the softmax of the negative unary energies.
        threads: of the processor.
        keep_trace: whether to compute the free energy (see `free_energy`) after every iteration, which takes
            more than twice the time.

    Raises:
        ValueError: on unary energies that are nan or leave a pixel without a possible class, features of
            another grid, compatibilities of another number of classes, or numbers out of range.

    >>> unary = np.array([[[0.0, 0.9, 0.0]], [[1.0, 0.0, 1.0]]])  # the pixel in the middle disagrees
    >>> term = SMOOTHNESS.term(np.zeros((3, 1, 3), np.float32))
    >>> mean_field_marginals(unary, [term]).marginals.argmax(0)
    array([[0, 0, 0]])
    """
    grid = unary.shape[1:]
    k, n = len(unary), int(np.prod(grid))
    if not k or not n:
        raise ValueError(f"there must be at least one class and pixel, got unary energies {unary.shape}")
    if iterations < 0 or threads < 1:
        raise ValueError(f"there must be at least 0 iterations and 1 thread, got {iterations} and {threads}")
    energies = np.ascontiguousarray(unary, np.float32).reshape(k, n)
    if not np.isfinite(energies.min(0)).all():
        raise ValueError(
            "unary energies must not be nan or -infinity, nor infinity for all classes of a pixel"
        )
    for term in terms:
        _check(term, k, grid)
    placed = parallel_map(lambda term: _place(term, k), terms, threads)
    stack = _stacked(placed, n, threads)
    marginals = np.empty((k, n), np.float32)
    trace: list[float] = []
    columns = -(-k // WIDTH) * WIDTH
    scores = aligned(n, columns)
    # What vertices hold: in this iteration, in the next, and what further threads add to the next.
    first, *others = [aligned(stack.first_rows[-1], columns) for _ in range(threads + 1)]
    barrier = threading.Barrier(threads)

    def part(number: int, count: int) -> slice:
        return slice(number * count // threads, (number + 1) * count // threads)

    def work(number: int) -> None:
        """What one thread does; all do it in step."""
        held, (given, *more) = first, others
        pixels, rows = part(number, n), part(number, len(held))
        scores_by_pixel(energies, pixels.start, pixels.stop, scores)
        for iteration in range(iterations + 1):
            is_last = iteration == iterations
            update(
                scores,
                held,
                stack.vertices,
                stack.slice_weights,
                stack.factors,
                stack.splat_weights,
                pixels.start,
                pixels.stop,
                iteration > 0,
                not is_last,
                is_last or keep_trace,
                others[number] if number else given,
                marginals,
            )
            barrier.wait()
            if keep_trace and iteration and not number:
                trace.append(_free_energy(energies, placed, marginals))
            if is_last:
                return
            for other in more:
                given[rows] += other[rows]
                other[rows] = 0
            held[rows] = 0
            held, given = given, held
            barrier.wait()
            for one, first_row in zip(placed, stack.first_rows, strict=False):
                _, _, members, starts, directions, _ = one.lattice
                for direction, start in enumerate(directions[:-1]):
                    chains = part(number, int(directions[direction + 1] - start))
                    blur(held, first_row, members, starts, start + chains.start, start + chains.stop)
                    barrier.wait()
                if one.mixing is not None:
                    own = part(number, one.lattice.num_vertices)
                    mixed = held[first_row + own.start : first_row + own.stop, :k]
                    mixed[:] = _mix(mixed, one.mixing.astype(np.float32))
                    barrier.wait()

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException:
            barrier.abort()  # the others must not wait for ever
            raise

    parallel_map(guarded, range(threads), threads)
    return MeanField(marginals.reshape(unary.shape), tuple(trace))


def free_energy(
    unary: Float[np.ndarray, "k *grid"],
    terms: Sequence[PairwiseTerm],
    marginals: Float[np.ndarray, "k *grid"],
) -> float:
    """KL(Q || P) up to a constant: sum Q log Q + sum Q U + 1/2 sum Q w mu (K Q).

    Updates of all pixels at once lower it as a rule, but not always. Potts counts as -1 for equal labels.
    (pydensecrf's `klDivergence` lacks the 1/2, which makes it another function than the one whose stationary
    points mean field finds.)

    Raises:
        ValueError: if features or compatibilities do not fit the unary energies.
    """
    k = len(unary)
    for term in terms:
        _check(term, k, unary.shape[1:])
    placed = [_place(term, k) for term in terms]
    return _free_energy(unary.reshape(k, -1), placed, marginals.reshape(k, -1))


def dense_crf(
    probabilities: Float[Tensor, "k *grid"] | Float[np.ndarray, "k *grid"],
    image: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."],
    *,
    iterations: int = 10,
    kernels: Sequence[PairwiseKernel] = USUAL_KERNELS,
    extra: Sequence[PairwiseTerm] = (),
    threads: int = 1,
    keep_trace: bool = False,
) -> Segmentation:
    """Labels that follow the edges of an image, from the probabilities of any classifier.

    Args:
        probabilities: of every class and pixel, in [0, 1]; a grid of two or three axes, or any number.
        image: tensor "c *grid" or array "*grid c" of any number of channels; integers over the whole range of
            their type, or floating-point numbers in [0, 1].
        iterations: of mean field.
        kernels: over position and colour.
        extra: further kernels over features of your own.
        threads: of the processor.
        keep_trace: whether to compute the free energy after every iteration.

    Raises:
        ValueError: on probabilities that are nan or outside [0, 1], an image of another size, or kernels
            that do not fit it.

    >>> image = np.zeros((4, 6, 3), np.uint8)
    >>> image[:, 3:] = 255
    >>> probabilities = torch.full((2, 4, 6), 0.5)
    >>> probabilities[:, 1, 1] = torch.tensor([0.9, 0.1])  # one hint on the dark side
    >>> probabilities[:, 1, 4] = torch.tensor([0.1, 0.9])  # and one on the bright side
    >>> dense_crf(probabilities, image).label_map.labels[0]
    tensor([0, 0, 0, 1, 1, 1])
    """
    found = _refined(probabilities, image, iterations, kernels, extra, threads, keep_trace)
    labels = torch.from_numpy(found.marginals).argmax(0)
    return Segmentation(LabelMap(labels), found.trace, "free energy" if keep_trace else "")


@dataclass(frozen=True)
class DenseCrf:
    """The settings of `dense_crf` as a function on batches, for what comes after a network.

    Attributes:
        iterations: of mean field.
        kernels: over position and colour.
        threads: of the processor.

    >>> refine = DenseCrf(iterations=5)
    >>> refine(torch.full((1, 2, 8, 8), 0.5), torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """

    iterations: int = 10
    kernels: tuple[PairwiseKernel, ...] = USUAL_KERNELS
    threads: int = 1

    def __call__(
        self, probabilities: Float[Tensor, "b k *grid"], images: Float[Tensor, "b c *grid"]
    ) -> Float[Tensor, "b k *grid"]:
        """Probabilities of the classes, refined; float32 on the device where they were.

        Args:
            probabilities: of every class and pixel, in [0, 1].
            images: values in [0, 1].

        Raises:
            ValueError: as `dense_crf`.
        """
        if len(probabilities) != len(images):
            raise ValueError(
                f"{len(probabilities)} maps of probabilities need as many images, got {len(images)}"
            )
        refined = torch.empty(probabilities.shape, dtype=torch.float32)
        for one, image, result in zip(probabilities, images, refined, strict=True):
            found = _refined(one, image, self.iterations, self.kernels, (), self.threads, False)
            result.copy_(torch.from_numpy(found.marginals))
        return refined.to(probabilities.device)


def _refined(
    probabilities: Float[Tensor, "k *grid"] | Float[np.ndarray, "k *grid"],
    image: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."],
    iterations: int,
    kernels: Sequence[PairwiseKernel],
    extra: Sequence[PairwiseTerm],
    threads: int,
    keep_trace: bool,
) -> MeanField:
    grid = tuple(probabilities.shape[1:])
    steps = in_steps(image, len(grid))
    if steps.shape[1:] != grid:
        raise ValueError(f"probabilities of a grid {grid} need an image of that size, got {steps.shape[1:]}")
    unary = unary_from_probabilities(probabilities)
    terms = [*(kernel.term(steps) for kernel in kernels), *extra]
    return mean_field_marginals(unary, terms, iterations=iterations, threads=threads, keep_trace=keep_trace)


def _check(term: PairwiseTerm, k: int, grid: tuple[int, ...]) -> None:
    if term.features.shape[1:] != grid:
        raise ValueError(f"features must have the grid {grid}, got shape {term.features.shape}")
    mu = term.compatibility
    if mu is not None and mu.shape not in ((k,), (k, k)):
        raise ValueError(f"{k} classes need compatibilities ({k},) or ({k}, {k}), got {mu.shape}")


def _place(term: PairwiseTerm, k: int) -> _Placed:
    """The lattice of a term, how it is normalised, and what a message of one class does to each."""
    features = term.features.reshape(len(term.features), -1).astype(np.float32, copy=False)
    lattice = build_lattice(features)
    before = after = None
    if term.normalization != "none":
        sums = kernel_sums(lattice)
        if term.normalization == "symmetric":
            before = after = 1 / np.sqrt(sums)
        elif term.normalization == "before":
            before = 1 / sums
        else:
            after = 1 / sums
    mixing = term.compatibility
    if mixing is not None:
        mixing = mixing.astype(np.float64)
        if mixing.ndim == 2:
            mixing = -(mixing + mixing.T) / 2
    return _Placed(term, lattice, before, after, mixing)


def _stacked(placed: Sequence[_Placed], n: int, threads: int) -> _Stack:
    corners = sum(one.lattice.vertices.shape[1] for one in placed)
    vertices = np.empty((n, corners), np.int32)
    splat_weights = np.empty((n, corners), np.float32)
    factors = np.empty(corners, np.float32)
    alike = all(one.before is one.after for one in placed)
    slice_weights = splat_weights if alike else np.empty((n, corners), np.float32)
    widths = [one.lattice.vertices.shape[1] for one in placed]
    first_rows = np.cumsum([0, *(one.lattice.num_vertices for one in placed)]).tolist()

    def fill(number: int) -> None:
        one = placed[number]
        columns = slice(sum(widths[:number]), sum(widths[: number + 1]))
        np.add(one.lattice.vertices, np.int32(first_rows[number]), out=vertices[:, columns])
        for weights, norm in ((splat_weights, one.before), (slice_weights, one.after)):
            np.multiply(one.lattice.weights, 1 if norm is None else norm[:, None], out=weights[:, columns])
            if alike:
                break
        factors[columns] = one.term.weight * one.lattice.scale

    parallel_map(fill, range(len(placed)), threads)
    return _Stack(vertices, slice_weights, splat_weights, factors, first_rows)


def _mix(
    values: Float[np.ndarray, "m k"], mixing: Float[np.ndarray, "k k"] | Float[np.ndarray, " k"]
) -> Float[np.ndarray, "m k"]:
    mixed: Float[np.ndarray, "m k"] = values * mixing if mixing.ndim == 1 else values @ mixing.T
    return mixed


def _free_energy(
    energies: Float[np.ndarray, "k n"], placed: Sequence[_Placed], marginals: Float[np.ndarray, "k n"]
) -> float:
    q = marginals.astype(np.float64)
    there = q > 0
    total = float((q[there] * (np.log(q[there]) + energies[there])).sum())
    for one in placed:
        rows = np.ascontiguousarray(marginals.T, np.float32)
        filtered = lattice_filter(one.lattice, rows if one.before is None else rows * one.before[:, None])
        message = (
            filtered.astype(np.float64)
            if one.after is None
            else filtered * one.after[:, None].astype(np.float64)
        )
        if one.mixing is not None:
            message = _mix(message, one.mixing)
        total -= one.term.weight / 2 * float((q.T * message).sum())
    return total
