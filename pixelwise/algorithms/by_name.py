"""Every method of `pixelwise.algorithms` that segments an image, by name and with the same options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer

from ..wording import brief, meant
from .clusters_in_fields import clusters_in_dense_crf, clusters_in_grid
from .dirichlet import dirichlet_gibbs, dirichlet_variational
from .grabcut import BACKGROUND, FOREGROUND, UNKNOWN, Box, grabcut, graph_cut
from .images import ColorSpace, Image, as_pixels, colors_of
from .kmeans import kmeans, mini_batch_kmeans
from .mean_shift import mean_shift
from .merging import merge_regions
from .normalized_cuts import normalized_cuts
from .segmentation import Progress, Segmentation
from .superpixels import felzenszwalb, otsu, random_walker, slic, watershed


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


_SPACE = {"space": "space"}
_PLACED = {"space": "space", "position": "position_weight"}
METHODS: dict[str, Method] = {
    "kmeans": Method(kmeans, {"segments": "num_clusters", **_PLACED}, {"num_clusters": 8}),
    "mini_batch_kmeans": Method(
        mini_batch_kmeans, {"segments": "num_clusters", **_PLACED}, {"num_clusters": 8}
    ),
    "mean_shift": Method(mean_shift, _SPACE),
    "dirichlet_gibbs": Method(dirichlet_gibbs, _PLACED),
    "dirichlet_variational": Method(dirichlet_variational, {"segments": "max_components", **_PLACED}),
    "normalized_cuts": Method(normalized_cuts, {"segments": "num_segments", **_SPACE}),
    "graph_cut": Method(graph_cut, {"strokes": "strokes", "strength": "strength"}),
    "grabcut": Method(grabcut, {"box": "box", "strokes": "strokes", "strength": "strength"}),
    "mrf": Method(
        clusters_in_grid,
        {"segments": "num_labels", "solver": "solver", "strength": "strength", **_SPACE},
    ),
    "dense_crf": Method(clusters_in_dense_crf, {"segments": "num_labels", **_SPACE}),
    "slic": Method(slic, {"segments": "num_segments", **_SPACE}),
    "felzenszwalb": Method(felzenszwalb, {}),
    "watershed": Method(watershed, {"segments": "markers", "strokes": "markers"}, {"markers": 100}),
    "random_walker": Method(random_walker, {"strokes": "markers"}),
    "otsu": Method(otsu, {"segments": "num_classes"}),
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
        position: weight of pixel position relative to colour, see `kmeans`.
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
    labels = merge_regions(colors, parts, threshold=threshold, min_size=min_size)
    return Segmentation.of(labels, found.trace, found.objective, found.converged)


def _method(method: str) -> tuple[str, Method]:
    name = ALIASES.get(method, method)
    if name not in METHODS:
        raise ValueError(f"no method is called {brief(method)}{meant(method, [*METHODS, *ALIASES])}")
    return name, METHODS[name]


def _fitting(method: str, parameters: Mapping[str, Any], key: str, value: object) -> object:
    """A further argument, looked at: a number where the function has a number."""
    own = [name for name in list(parameters)[1:] if name not in ("seed", "progress", "strokes", "box")]
    if key not in own:
        raise ValueError(f"{method} has no argument {brief(key)}{meant(key, own)}")
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
