"""TextonBoost (Shotton, Winn, Rother and Criminisi, ECCV 2006; IJCV 2009): classes from texture and layout.

A boosted classifier looks at how much of rectangles around a pixel each texton covers; a conditional random
field adds where classes usually lie, the colours that they have in this image, and edges:

    E(c) = sum_i [texture-layout + location + colour](c_i) + sum_ij strength [c_i != c_j] exp(-beta |z_i -
    z_j|^2)

over 8 neighbours, minimised by alpha-expansion.

Departures: 100 textons and some hundred rounds by default instead of 400 and thousands; the powers of the
potentials are the paper's for MSRC, not learnt on held-out images.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ..types import ClassTable, LabelMap, Sample
from .energy import GridEnergy, negative_log
from .grabcut import ColorModel
from .images import Image, colors_of
from .kmeans import kmeans_of_points
from .move_making import alpha_expansion
from .segmentation import Progress, Segmentation
from .textons import Textons

CANVAS = 20  # rows and columns of the grid on which classes have their places
_BINS = 24


@dataclass(frozen=True, eq=False)
class TextonBoost:
    """A trained classifier of pixels.

    Attributes:
        textons: the vocabulary.
        features: texton and rectangle (top, left, bottom, right from the pixel) of each round.
        stumps: threshold, value above and value below of each round.
        shared: whether a class takes part in a round.
        constants: what a round says about a class that does not.
        location: -log of the share of each class at each place of a grid over the image.
        trace: mean exponential loss over places and classes after each round.
    """

    textons: Textons
    features: Int64[np.ndarray, "r 5"]
    stumps: Float64[np.ndarray, "r 3"]
    shared: Int64[np.ndarray, "r k"]
    constants: Float64[np.ndarray, "r k"]
    location: Float64[np.ndarray, "y x k"]
    trace: tuple[float, ...] = ()

    def probabilities(self, image: Image) -> Float64[np.ndarray, "H W k"]:
        """Texture and layout alone: softmax of the boosted classifier (Eq. 8)."""
        texture = self.textons.map(image)
        height, width = texture.shape
        rows, columns = np.indices((height, width))
        places = np.stack([np.zeros_like(rows), rows, columns], axis=2).reshape(-1, 3)
        scores = np.zeros((len(places), self.shared.shape[1]), np.float32)
        maps = texture[None].astype(np.int16)
        total, values = _room(maps, len(places))
        previous = -1
        for r in np.argsort(self.features[:, 0], kind="stable"):
            previous = _measure(maps, places, self.features[r], previous, total, values)
            scores += _says(values, self.stumps[r], self.shared[r], self.constants[r])
        odds = np.exp(scores - scores.max(1, keepdims=True)).astype(np.float64)
        return (odds / odds.sum(1, keepdims=True)).reshape(height, width, -1)

    def segment(self, image: Image, *, strength: float = 3.0, colors: bool = False) -> Segmentation:
        """The labels of least energy. The trace is that of the last alpha-expansion.

        Args:
            image: of three channels.
            strength: of the edges, at least 0.
            colors: whether to learn the colours of the classes in this image from a first labelling
                (Sec. 3.2). The paper gains by it on MSRC; on CamVid it made labels worse.

        Raises:
            ValueError: on an image that `colors_of` refuses, or a negative strength.
        """
        if not strength >= 0:
            raise ValueError(f"the strength must be at least 0, got {strength}")
        texture = negative_log(self.probabilities(image))
        height, width, _ = texture.shape
        rows = np.arange(height) * len(self.location) // height
        columns = np.arange(width) * self.location.shape[1] // width
        unary = texture + self.location[rows[:, None], columns]
        energy = GridEnergy.contrast_potts(unary, image, strength)
        found = alpha_expansion(energy)
        if colors:
            cost = _color_costs(image, found.label_map.labels.numpy(), unary.shape[2])
            found = alpha_expansion(replace(energy, unary=unary + cost), start=found.label_map.labels.numpy())
        return found


def train_texton_boost(
    samples: Sequence[Sample],
    classes: ClassTable,
    *,
    num_textons: int = 100,
    rounds: int = 200,
    candidates: int = 60,
    reach: int = 100,
    step: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> TextonBoost:
    """Learn textons and a boosted classifier from labelled images.

    Joint boosting (Torralba, Murphy and Freeman, PAMI 2007): each round takes, of some random features, the
    stump and the classes that share it which lower the error most.

    Args:
        samples: with targets; all are held in memory as texton maps. Equal sizes are not needed.
        classes: the task; pixels of its `ignore` do not count.
        num_textons: of the vocabulary.
        rounds: of boosting.
        candidates: features that a round looks at.
        reach: in pixels, of the rectangles from the pixel.
        step: only each step-th row and column is learnt from.
        seed: of the random numbers.
        progress: called after each round.

    Raises:
        ValueError: without samples or targets, if a label is outside the table, or a number is out of range.
    """
    from ..kernels.classical.texton_boost import best_stump

    if min(num_textons, rounds, candidates, step) < 1 or reach < 2:
        raise ValueError(
            "num_textons, rounds, candidates and step must be at least 1 and reach at least 2, got "
            f"{num_textons}, {rounds}, {candidates}, {step} and {reach}"
        )
    k, random = len(classes), np.random.default_rng(seed)
    targets = [_target(sample, classes) for sample in samples]
    textons = Textons.of([sample.image for sample in samples], num_textons, seed=seed)
    maps = _padded([textons.map(sample.image) for sample in samples])
    places, labels = _places(targets, step, classes.ignore)
    weights, scores = np.ones((len(labels), k), np.float32), np.zeros((len(labels), k), np.float32)
    own = np.where(labels[:, None] == np.arange(k), np.float32(1), np.float32(-1))
    total, values = _room(maps, len(places))
    features = np.empty((rounds, 5), np.int64)
    stumps, shared, constants = np.empty((rounds, 3)), np.empty((rounds, k), np.int64), np.empty((rounds, k))
    trace: list[float] = []
    for r in range(rounds):
        offered = _random_features(random, candidates, num_textons, reach)
        best, previous, member = -1.0, -1, np.empty(k, np.int64)
        for feature in offered[offered[:, 0].argsort(kind="stable")]:
            previous = _measure(maps, places, feature, previous, total, values)
            thresholds = np.linspace(0, float(values.max()), _BINS, endpoint=False)
            gain, at, above, below = best_stump(values, labels, weights, thresholds, member)
            if gain > best:
                best, chosen = gain, values.copy()
                features[r], stumps[r], shared[r] = feature, (thresholds[at], above, below), member
        constants[r] = (weights * own).sum(0) / np.maximum(weights.sum(0), 1e-30)
        scores += _says(chosen, stumps[r], shared[r], constants[r])
        weights = np.exp(-own * scores)
        trace.append(float(weights.mean()))
        if progress is not None:
            progress(r + 1, rounds)
    location = _locations(targets, k, classes.ignore)
    return TextonBoost(textons, features, stumps, shared, constants, location, tuple(trace))


def save_texton_boost(model: TextonBoost, path: str | os.PathLike[str]) -> None:
    """Write a model as safetensors."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(array) for name, array in vars(model.textons).items()}
    for name in ("features", "stumps", "shared", "constants", "location"):
        arrays[name] = np.ascontiguousarray(getattr(model, name))
    arrays["trace"] = np.array(model.trace)
    save_file(arrays, path)


def load_texton_boost(path: str | os.PathLike[str]) -> TextonBoost:
    """Read a model that `save_texton_boost` wrote.

    Raises:
        ValueError: if the file is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        textons = Textons(*(arrays.pop(name) for name in ("mean", "whitening", "centers")))
        return TextonBoost(textons, trace=tuple(arrays.pop("trace").tolist()), **arrays)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no TextonBoost model") from error


def _target(sample: Sample, classes: ClassTable) -> Int64[np.ndarray, "H W"]:
    if not isinstance(sample.target, LabelMap):
        raise ValueError(f"TextonBoost learns from labelled images, {sample.id!r} has no labels")
    labels = sample.target.labels.numpy().astype(np.int64)
    known = labels[labels != classes.ignore]
    if len(known) and (known.min() < 0 or known.max() >= len(classes)):
        raise ValueError(
            f"{sample.id!r} holds labels {known.min()}..{known.max()}, the table has {len(classes)} classes"
        )
    return labels


def _places(
    targets: Sequence[Int64[np.ndarray, "H W"]], step: int, ignore: int
) -> tuple[Int64[np.ndarray, "m 3"], Int64[np.ndarray, " m"]]:
    """Image, row and column of the pixels that are learnt from, and their labels."""
    places, labels = [], []
    for i, target in enumerate(targets):
        part = target[step // 2 :: step, step // 2 :: step]
        rows, columns = np.nonzero(part != ignore)
        places.append(
            np.stack([np.full_like(rows, i), rows * step + step // 2, columns * step + step // 2], axis=1)
        )
        labels.append(part[rows, columns])
    if not sum(map(len, labels)):
        raise ValueError("there is no labelled pixel to learn from")
    return np.concatenate(places), np.concatenate(labels)


def _padded(maps: Sequence[Int64[np.ndarray, "H W"]]) -> np.ndarray:
    height, width = max(m.shape[0] for m in maps), max(m.shape[1] for m in maps)
    padded = np.full((len(maps), height, width), -1, np.int16)
    for i, one in enumerate(maps):
        padded[i, : one.shape[0], : one.shape[1]] = one
    return padded


def _random_features(
    random: np.random.Generator, count: int, num_textons: int, reach: int
) -> Int64[np.ndarray, "n 5"]:
    """Textons, and rectangles with corners evenly drawn within reach of the pixel."""
    corners = np.sort(random.integers(-reach, reach + 1, (count, 2, 2)), axis=1)  # n, low/high, y/x
    corners[:, 1] += corners[:, 0] == corners[:, 1]  # no empty rectangle
    textons = random.integers(0, num_textons, (count, 1))
    return np.concatenate([textons, corners.reshape(count, 4)], axis=1)


def _room(maps: np.ndarray, places: int) -> tuple[np.ndarray, Float32[np.ndarray, " m"]]:
    n, height, width = maps.shape
    return np.zeros((n, height + 1, width + 1), np.int32), np.empty(places, np.float32)


def _measure(
    maps: np.ndarray,
    places: Int64[np.ndarray, "m 3"],
    feature: Int64[np.ndarray, "5"],
    previous: int,
    total: np.ndarray,
    values: Float32[np.ndarray, " m"],
) -> int:
    """Fill `values` with a feature of all places. Gives its texton, of which `total` then has the counts."""
    from ..kernels.classical.texton_boost import count_texton, fractions

    texton = int(feature[0])
    if texton != previous:
        count_texton(maps, texton, total)
    fractions(total, places, np.ascontiguousarray(feature[1:]), values)
    return texton


def _says(
    values: Float32[np.ndarray, " m"],
    stump: Float64[np.ndarray, "3"],
    shared: Int64[np.ndarray, " k"],
    constants: Float64[np.ndarray, " k"],
) -> Float32[np.ndarray, "m k"]:
    threshold, above, below = stump
    said = np.where(values > threshold, above, below)
    return np.where(shared > 0, said[:, None], constants).astype(np.float32)


def _locations(
    targets: Sequence[Int64[np.ndarray, "H W"]], k: int, ignore: int
) -> Float64[np.ndarray, "y x k"]:
    """-log ((N_c + 1) / (N + 1))^0.1 on a grid over the image (Sec. 3.3)."""
    counts = np.zeros((CANVAS, CANVAS, k))
    for target in targets:
        rows, columns = np.nonzero(target != ignore)
        at = rows * CANVAS // target.shape[0], columns * CANVAS // target.shape[1]
        np.add.at(counts, (*at, target[rows, columns]), 1)
    return -0.1 * np.log((counts + 1) / (counts.sum(2, keepdims=True) + 1))


def _color_costs(image: Image, labels: Int64[np.ndarray, "H W"], k: int) -> Float64[np.ndarray, "H W k"]:
    """-log sum_m P(c | m)^3 P(m | z) over 15 Gaussians m of the image's colours (Sec. 3.2)."""
    colors = colors_of(image, "lab").reshape(labels.size, 3)
    parts = kmeans_of_points(colors, min(15, len(colors)), max_steps=10).labels
    costs = ColorModel.of(colors, parts).costs(colors)
    belongs = np.exp(costs.min(1, keepdims=True) - costs)
    belongs /= belongs.sum(1, keepdims=True)  # n m
    of_class = np.stack([belongs[labels.ravel() == c].sum(0) for c in range(k)], axis=1)  # m k
    shares = ((of_class + 0.1) / (belongs.sum(0)[:, None] + 0.1)) ** 3
    return negative_log((belongs @ shares).reshape(*labels.shape, k))
