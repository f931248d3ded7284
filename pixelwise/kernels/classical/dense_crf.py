"""The pass over the pixels that one iteration of a dense CRF's mean field makes (see `lattice_filter`)."""

import numpy as np

from ..compiling import kernel
from ..simd import WIDTH, add, every, exponential, larger, largest, load, multiply, store, total
from .lattice_filter import slice_rows, splat

# Pixels whose classes stay in the first cache from slice to splat.
_BLOCK = 32


@kernel
def scores_by_pixel(energies: np.ndarray, start: int, stop: int, scores: np.ndarray) -> None:
    """Energies "k n" -> scores "n columns" from pixel `start` to `stop`; -infinity from column k on."""
    k = energies.shape[0]
    for first in range(start, stop, _BLOCK):
        end = min(first + _BLOCK, stop)
        for label in range(k):
            for pixel in range(first, end):
                scores[pixel, label] = -energies[label, pixel]
        for pixel in range(first, end):
            scores[pixel, k:] = -np.inf


@kernel
def _softmax_row(block: np.ndarray, row: int) -> None:
    columns = block.shape[1]
    start = row * columns
    best = load(block, start)
    for c in range(WIDTH, columns, WIDTH):
        best = larger(best, load(block, start + c))
    shift = every(-largest(best))
    mass = every(np.float32(0))
    for c in range(0, columns, WIDTH):
        raised = exponential(add(load(block, start + c), shift))
        mass = add(mass, raised)
        store(block, start + c, raised)
    share = every(np.float32(1) / total(mass))
    for c in range(0, columns, WIDTH):
        store(block, start + c, multiply(load(block, start + c), share))


@kernel
def update(
    scores: np.ndarray,
    at_vertices: np.ndarray,
    vertices: np.ndarray,
    slice_weights: np.ndarray,
    factors: np.ndarray,
    splat_weights: np.ndarray,
    start: int,
    stop: int,
    collects: bool,
    gives: bool,
    keeps: bool,
    splatted: np.ndarray,
    marginals: np.ndarray,
) -> None:
    """Q = softmax(scores + messages) at the pixels from `start` to `stop`, block by block.

    Args:
        scores: negative unary energies "n columns".
        at_vertices: what the vertices of all lattices hold after the blur.
        vertices: rows of `at_vertices` that each pixel collects from and gives to.
        slice_weights: their weights when it collects.
        factors: one more factor for each column of `slice_weights`.
        splat_weights: the weights when it gives.
        start: first pixel.
        stop: first pixel that is left out.
        collects: whether there are messages yet.
        gives: whether Q goes to the vertices.
        keeps: whether Q is written to `marginals`.
        splatted: what the vertices hold for the next blur.
        marginals: Q "k n".
    """
    columns = scores.shape[1]
    block = np.empty((_BLOCK, columns), np.float32)
    for first in range(start, stop, _BLOCK):
        count = min(_BLOCK, stop - first)
        block[:count] = scores[first : first + count]
        if collects:
            slice_rows(at_vertices, vertices, slice_weights, factors, first, count, block)
        for row in range(count):
            _softmax_row(block, row)
        if gives:
            splat(block, vertices, splat_weights, first, count, splatted)
        if keeps:
            for label in range(marginals.shape[0]):
                for row in range(count):
                    marginals[label, first + row] = block[row, label]
