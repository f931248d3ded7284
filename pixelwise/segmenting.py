"""Every method of `pixelwise.algorithms` that segments an image, by name and with the same options."""

import inspect
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer
from PIL import Image as Pictures
from torch import Tensor

from . import algorithms
from .algorithms.grabcut import BACKGROUND, FOREGROUND, UNKNOWN, Box
from .algorithms.images import ColorSpace, Image, as_pixels, colors_of
from .algorithms.kmeans import kmeans_of_points
from .algorithms.segmentation import Progress, Segmentation
from .data.formats.image import opened, read_array, read_image
from .files import atomic_write, record
from .types import voc_palette
from .wording import brief

OUTLINE = (255, 230, 0)


class Method(NamedTuple):
    """A method, and how it is asked.

    Attributes:
        run: its function; the image is the first argument.
        options: the common options that it has, with its own names for them.
        usual: arguments that are given where the option is not.
    """

    run: Callable[..., Segmentation]
    options: Mapping[str, str]
    usual: Mapping[str, Any] = {}


# --- labels of clusters, made smooth by a random field ----------------------------------------------


def cluster_costs(
    image: Image, num_labels: int, space: ColorSpace = "lab", seed: int = 0
) -> Float64[np.ndarray, "H W k"]:
    """Unary costs from the clusters of k-means: |z - center|^2 / (2 variance).

    The variance is that of a colour coordinate within clusters, at least 1: the costs are those of Gaussians
    that differ in their means only.

    Raises:
        ValueError: as `kmeans`.

    >>> cluster_costs(np.array([[0, 255]], np.uint8), 2, "rgb").min(2).tolist()
    [[0.0, 0.0]]
    """
    colors = colors_of(image, space)
    flat = colors.reshape(-1, colors.shape[2])
    clusters = kmeans_of_points(flat, num_labels, seed=seed)
    squares = np.stack([((flat - center) ** 2).sum(1) for center in clusters.centers], axis=1)
    variance = max(1.0, squares.min(1).mean() / flat.shape[1])
    costs: Float64[np.ndarray, "H W k"] = squares.reshape(*colors.shape[:2], num_labels) / (2 * variance)
    return costs


def clusters_in_grid(
    image: Image,
    num_labels: int = 6,
    *,
    solver: str = "alpha_expansion",
    space: ColorSpace = "lab",
    strength: float = 5.0,
    neighbours: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """The clusters of k-means as labels of a grid with contrast-sensitive Potts pairs.

    Args:
        image: any number of channels for the space "rgb".
        num_labels: number of clusters.
        solver: a key of `pixelwise.algorithms.SOLVERS`, with its usual settings.
        space: see `colors_of`.
        strength: see `GridEnergy.contrast_potts`; `cluster_costs` are the unary.
        neighbours: 4 or 8.
        seed: of k-means and of the solver.
        progress: called by solvers that go in steps.

    Raises:
        ValueError: on an unknown solver, an image or colour space that `colors_of` refuses, or a number out
            of range.
    """
    solve = algorithms.SOLVERS.get(solver)
    if solve is None:
        raise ValueError(f"no solver is called {brief(solver)}{_near(solver, algorithms.SOLVERS)}")
    if neighbours not in (4, 8):
        raise ValueError(f"a grid has 4 or 8 neighbours, got {neighbours}")
    costs = cluster_costs(image, num_labels, space, seed)
    energy = algorithms.GridEnergy.contrast_potts(costs, image, strength, 8 if neighbours == 8 else 4)
    known = inspect.signature(solve).parameters
    steps = {name: given for name, given in (("seed", seed), ("progress", progress)) if name in known}
    return solve(energy, **steps)


def clusters_in_dense_crf(
    image: Image, num_labels: int = 6, *, space: ColorSpace = "lab", iterations: int = 10, seed: int = 0
) -> Segmentation:
    """The clusters of k-means as labels of a fully connected random field: see `dense_crf`.

    Args:
        image: any number of channels for the space "rgb".
        num_labels: number of clusters.
        space: see `colors_of`.
        iterations: of mean field.
        seed: of k-means.

    Raises:
        ValueError: on an image or colour space that `colors_of` refuses, or a number out of range.
    """
    costs = cluster_costs(image, num_labels, space, seed)
    odds = np.exp(costs.min(2, keepdims=True) - costs)
    probabilities = np.ascontiguousarray(np.moveaxis(odds / odds.sum(2, keepdims=True), 2, 0))
    return algorithms.dense_crf(probabilities, as_pixels(image), iterations=iterations, keep_trace=True)


# --- the table --------------------------------------------------------------------------------------

_SPACE = {"space": "space"}
_PLACED = {"space": "space", "position": "position_weight"}
METHODS: dict[str, Method] = {
    "kmeans": Method(algorithms.kmeans, {"segments": "num_clusters", **_PLACED}, {"num_clusters": 8}),
    "mini_batch_kmeans": Method(
        algorithms.mini_batch_kmeans, {"segments": "num_clusters", **_PLACED}, {"num_clusters": 8}
    ),
    "mean_shift": Method(algorithms.mean_shift, _SPACE),
    "dirichlet_gibbs": Method(algorithms.dirichlet_gibbs, _PLACED),
    "dirichlet_variational": Method(
        algorithms.dirichlet_variational, {"segments": "max_components", **_PLACED}
    ),
    "normalized_cuts": Method(algorithms.normalized_cuts, {"segments": "num_segments", **_SPACE}),
    "graph_cut": Method(algorithms.graph_cut, {"strokes": "strokes", "strength": "strength"}),
    "grabcut": Method(algorithms.grabcut, {"box": "box", "strokes": "strokes", "strength": "strength"}),
    "mrf": Method(
        clusters_in_grid,
        {"segments": "num_labels", "solver": "solver", "strength": "strength", **_SPACE},
    ),
    "dense_crf": Method(clusters_in_dense_crf, {"segments": "num_labels", **_SPACE}),
    "slic": Method(algorithms.slic, {"segments": "num_segments", **_SPACE}),
    "felzenszwalb": Method(algorithms.felzenszwalb, {}),
    "watershed": Method(
        algorithms.watershed, {"segments": "markers", "strokes": "markers"}, {"markers": 100}
    ),
    "random_walker": Method(algorithms.random_walker, {"strokes": "markers"}),
    "otsu": Method(algorithms.otsu, {"segments": "num_classes"}),
}
ALIASES = {"ncut": "normalized_cuts"}


def segment_image(
    image: Image,
    method: str,
    *,
    segments: int | None = None,
    space: ColorSpace | None = None,
    position: float | None = None,
    box: Box | None = None,
    strokes: Integer[np.ndarray, "H W"] | None = None,
    strength: float | None = None,
    solver: str | None = None,
    further: Mapping[str, object] | None = None,
    merge: float | None = None,
    min_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment an image by the method of a name.

    Options that are not given are left to the method, but for the colour space: Lab where there are three
    channels, otherwise "rgb".

    Args:
        image: see `as_pixels`.
        method: a key of `METHODS` or `ALIASES`.
        segments: how many, for methods that want to know.
        space: see `colors_of`.
        position: what a pixel of distance counts, see `kmeans`.
        box: left, top, right, bottom around the foreground.
        strokes: 0 background, 1 foreground, 2 unknown.
        strength: of the pairs of a random field.
        solver: of the random field of the method "mrf".
        further: arguments of the method's own function.
        merge: afterwards regions that touch are merged while their mean colours are nearer than this; see
            `merge_regions`.
        min_size: afterwards regions of fewer pixels join a neighbour.
        seed: for methods that draw.
        progress: called after each step by methods that go in steps.

    Raises:
        ValueError: on an unknown method, an option that the method does not have or misses, and whatever the
            method refuses.

    >>> image = np.array([[10, 12, 200, 205]], dtype=np.uint8)
    >>> segment_image(image, "otsu").label_map.labels.tolist()
    [[0, 0, 1, 1]]
    """
    name, way = _method(method)
    channels = as_pixels(image).shape[2]
    near: ColorSpace = space or ("lab" if channels == 3 else "rgb")
    options: dict[str, object] = {
        "segments": segments, "space": space, "position": position, "box": box, "strokes": strokes,
        "strength": strength, "solver": solver,
    }  # fmt: skip
    arguments = dict(way.usual)
    given: dict[str, str] = {}  # parameter: option
    for option, value in options.items():
        if value is None:
            continue
        if option not in way.options:
            having = [other for other, kind in METHODS.items() if option in kind.options]
            raise ValueError(f"--{option} is for {', '.join(having)}; {name} does not have it")
        parameter = way.options[option]
        if parameter in given:
            raise ValueError(f"{name} takes --{given[parameter]} or --{option}, not both")
        given[parameter] = option
        arguments[parameter] = (
            _as_markers(strokes) if parameter == "markers" and option == "strokes" else value
        )
    parameters = inspect.signature(way.run).parameters
    for key, value in (further or {}).items():
        arguments[key] = _fitting(name, parameters, key, value)
    common = {"space": near, "seed": seed, "progress": progress}
    arguments = {key: value for key, value in common.items() if key in parameters} | arguments
    for parameter, what in list(parameters.items())[1:]:
        if what.default is inspect.Parameter.empty and parameter not in arguments:
            raise ValueError(f"{name} needs --{next(o for o, p in way.options.items() if p == parameter)}")
    found = way.run(image, **arguments)
    if merge is None and min_size is None:
        return found
    return merged(
        found, colors_of(image, near), 0.0 if merge is None else merge, 1 if min_size is None else min_size
    )


def merged(
    found: Segmentation, colors: Float64[np.ndarray, "H W c"], threshold: float, min_size: int
) -> Segmentation:
    """Connected parts of segments, merged where they are alike or small: see `merge_regions`.

    Raises:
        ValueError: if the threshold is negative or min_size not positive.
    """
    from skimage.measure import label

    if min_size < 1:
        raise ValueError(f"min_size must be at least 1, got {min_size}")
    parts = label(found.label_map.labels.numpy(), background=-1, connectivity=1)
    labels = algorithms.merge_regions(colors, parts, threshold=threshold, min_size=min_size)
    return Segmentation.of(labels, found.trace, found.objective, found.converged)


def _method(method: str) -> tuple[str, Method]:
    name = ALIASES.get(method, method)
    if name not in METHODS:
        raise ValueError(f"no method is called {brief(method)}{_near(method, [*METHODS, *ALIASES])}")
    return name, METHODS[name]


def _near(name: str, known: Any) -> str:
    close = get_close_matches(name, known, 1)
    return f", did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _fitting(method: str, parameters: Mapping[str, Any], key: str, value: object) -> object:
    """A further argument, looked at: a number where the function has a number."""
    own = [name for name in list(parameters)[1:] if name not in ("seed", "progress", "strokes", "box")]
    if key not in own:
        raise ValueError(f"{method} has no argument {brief(key)}{_near(key, own)}")
    usual = parameters[key].default
    kinds: dict[type, tuple[type, ...]] = {float: (int, float), str: (str,), bool: (bool,)}
    wanted = kinds.get(type(usual), (int,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        name = {float: "a number", str: "a word", bool: "true or false"}.get(type(usual), "a whole number")
        raise ValueError(f"{key} of {method} must be {name}, got {value!r}")
    return float(value) if isinstance(usual, float) and isinstance(value, int) else value


def _as_markers(strokes: Integer[np.ndarray, "H W"] | None) -> Int64[np.ndarray, "H W"] | None:
    """Strokes as scikit-image has them: 0 unknown, 1 background, 2 foreground."""
    if strokes is None:
        return None
    if not np.isin(strokes, (BACKGROUND, FOREGROUND, UNKNOWN)).all():
        raise ValueError("strokes must be 0 (background), 1 (foreground) or 2 (unknown)")
    return np.where(strokes == UNKNOWN, 0, strokes + 1).astype(np.int64)


# --- files ------------------------------------------------------------------------------------------


def read_any_image(path: str | os.PathLike[str]) -> Float[Tensor, "c H W"]:
    """An image with as many channels as it has: 1 if it is grey, else 3; of a NumPy file all (the last axis).

    Raises:
        ValueError: as `pixelwise.data.formats.image.read_image`.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        shape = read_array(path).shape
        return read_image(path, shape[-1] if len(shape) == 3 and shape[-1] else 1)
    with opened(path) as image:
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    return read_image(path, 1 if grey else 3)


def read_strokes(path: str | os.PathLike[str]) -> Int64[np.ndarray, "H W"]:
    """Strokes: 0 background, 1 foreground, 2 unknown.

    A grey or palette image has these values; in a colour image pure red (255, 0, 0) is foreground, pure blue
    (0, 0, 255) background and all else unknown, so that one may draw on a copy of the photograph.

    Raises:
        ValueError: if the file is no image, or has other values.
    """
    path = Path(path)
    with opened(path) as image:
        if image.mode in ("1", "L", "P"):
            values = np.array(image).astype(np.int64)
            if not np.isin(values, (BACKGROUND, FOREGROUND, UNKNOWN)).all():
                raise ValueError(
                    f"strokes are 0 (background), 1 (foreground) or 2 (unknown), got {values.max()}: "
                    "or draw in red and blue on a colour image"
                )
            return values
        colors = np.array(image.convert("RGB"))
    strokes = np.full(colors.shape[:2], UNKNOWN, np.int64)
    strokes[(colors == (255, 0, 0)).all(2)] = FOREGROUND
    strokes[(colors == (0, 0, 255)).all(2)] = BACKGROUND
    return strokes


def outlined(image: Image, labels: Integer[np.ndarray, "H W"]) -> Pictures.Image:
    """The image with the borders of the segments on it, one pixel wide."""
    pixels = as_pixels(image)
    low, high = min(0.0, pixels.min()), max(1.0, pixels.max())
    picture = np.rint((pixels[..., :3] - low) / (high - low) * 255).astype(np.uint8)
    if picture.shape[2] < 3:
        picture = np.repeat(picture[..., :1], 3, axis=2)
    borders = np.zeros(labels.shape, bool)
    borders[:-1] |= labels[1:] != labels[:-1]
    borders[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    picture[borders] = OUTLINE
    return Pictures.fromarray(picture)


def label_image(labels: Int64[np.ndarray, "H W"]) -> Pictures.Image:
    """Labels as pixel values: a palette image up to 256 segments, 16-bit grey above.

    Raises:
        ValueError: on more than 65536 segments.
    """
    if labels.max() > 65535:
        raise ValueError(f"a PNG holds labels up to 65535, got {labels.max()}: merge some with --min-size")
    if labels.max() > 255:
        return Pictures.fromarray(labels.astype(np.uint16))
    image = Pictures.fromarray(labels.astype(np.uint8))
    image.putpalette([part for color in voc_palette(256) for part in color])
    return image


def write_segmentation(
    folder: str | os.PathLike[str], name: str, image: Image, found: Segmentation
) -> dict[str, Path]:
    """Write NAME.png (labels), NAME_overlay.png (outlines) and, for iterative methods, NAME_trace.png.

    Returns:
        The files by what they show.

    Raises:
        ValueError: if there are too many segments for a PNG, or a file cannot be written.
    """
    folder = Path(folder)
    labels = found.label_map.labels.numpy()
    pictures = {"labels": label_image(labels), "overlay": outlined(image, labels)}
    files = files_of_segmentation(folder, name)
    if not found.trace:
        del files["trace"]
    for kind, path in files.items():
        with atomic_write(path) as temporary:
            if kind == "trace":
                _plot_trace(found, temporary)
            else:
                pictures[kind].save(temporary)
        record(path, folder)
    return files


def files_of_segmentation(folder: Path, name: str) -> dict[str, Path]:
    """The files that `write_segmentation` may write, by what they show."""
    return {
        "labels": folder / f"{name}.png",
        "overlay": folder / f"{name}_overlay.png",
        "trace": folder / f"{name}_trace.png",
    }


def _plot_trace(found: Segmentation, path: Path) -> None:
    from matplotlib.figure import Figure  # its own canvas is Agg: no window, no global state
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot(range(1, len(found.trace) + 1), found.trace, marker="." if len(found.trace) < 60 else "")
    if isinstance(found, algorithms.BoundedSegmentation):
        axis.plot(range(1, len(found.bounds) + 1), found.bounds, linestyle="--", label="lower bound")
        axis.legend()
    axis.set(xlabel="step", ylabel=found.objective)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=120)
