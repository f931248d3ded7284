"""The files of a segmentation: labels, outlines, and the trace of the objective."""

import os
from pathlib import Path

from .. import draw
from ..files import atomic_write, record
from .images import Image, as_pixels
from .segmentation import BoundedSegmentation, Segmentation


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
    pictures = {"labels": draw.label_image(labels), "overlay": draw.outlined(as_pixels(image), labels)}
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
    if isinstance(found, BoundedSegmentation):
        axis.plot(range(1, len(found.bounds) + 1), found.bounds, linestyle="--", label="lower bound")
        axis.legend()
    axis.set(xlabel="step", ylabel=found.objective)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=120)
