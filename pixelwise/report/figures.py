"""The plots of a report. Their ink reads on white and on black."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..types import ClassTable
from ..wording import score_name

PER_CLASS = "val_class/"  # prefix of the columns of the history with the first score of each class
MOST_LINES = 10
_INK = "#808690"
_ACCENTS = ("#2f81f7", "#e5803c", "#3fa36b")

History = Sequence[Mapping[str, float]]


def curves(history: History, monitor: str) -> Figure:
    """Loss, the score that picks the best weights, and learning rate over the epochs."""
    figure = Figure(figsize=(11, 3), dpi=120, layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = (
        ("loss", (("train_loss", "training"), ("val_loss", "validation"))),
        (f"{score_name(monitor)} on validation", ((f"val_{monitor}", ""),)),
        ("learning rate", (("lr", ""),)),
    )
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        _over_epochs(axes, title)
        for (key, line), color in zip(lines, _ACCENTS, strict=False):
            _plot(axes, epochs, _column(history, key), color=color, label=line)
        if title != "loss" and not all(math.isnan(x) for x in _column(history, lines[0][0])):
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    return figure


def classes_over_epochs(history: History) -> dict[str, list[float]]:
    """First score of each class over the epochs, highest at the end first, without those that have none."""
    names = dict.fromkeys(key for row in history for key in row if key.startswith(PER_CLASS))
    lines = {key.removeprefix(PER_CLASS): _column(history, key) for key in names}
    known = {name: line for name, line in lines.items() if not all(math.isnan(x) for x in line)}
    return dict(sorted(known.items(), key=lambda item: _last(item[1]), reverse=True))


def class_curves(history: History) -> Figure:
    """Score of each class over the epochs; of many classes, the ten that end lowest."""
    figure = Figure(figsize=(11, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    _over_epochs(axes, "each class on validation")
    epochs = [row["epoch"] for row in history]
    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    shown = list(classes_over_epochs(history).items())[-MOST_LINES:]
    for (name, values), color in zip(shown, colors, strict=False):
        label = f"{name}  {_last(values):.3f}".replace("$", r"\$")
        _plot(axes, epochs, values, color=color, label=label)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def confusion(matrix: Int64[Tensor, "k k"], classes: ClassTable) -> Figure:
    """The confusion matrix, each row divided by its sum; numbers where they fit."""
    names = [name.replace("$", r"\$") for name in classes.names]
    names += ["none"] * (len(matrix) - len(names))  # objects may be missed, and found where none is
    k = len(names)
    side = min(11.0, 2.5 + 0.42 * k)
    figure = Figure(figsize=(side, side * 0.88), dpi=120, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    counts = matrix.double().numpy()
    support = counts.sum(1, keepdims=True)
    shares = np.divide(counts, support, out=np.full_like(counts, np.nan), where=support > 0)
    # The ground shines through, so that the matrix reads on white and on black.
    axes.imshow(np.zeros_like(shares), cmap=ListedColormap([_ACCENTS[0]]), alpha=np.nan_to_num(shares))
    axes.set_xlabel("predicted", color=_INK)
    axes.set_ylabel("truth", color=_INK)
    if k <= 40:
        axes.set_xticks(range(k), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(k), names, fontsize=8)
    if k <= 25:
        for i in range(k):
            for j in range(k):
                if not math.isnan(shares[i, j]) and shares[i, j] >= 0.005:
                    ink = "white" if shares[i, j] > 0.5 else _INK
                    axes.text(
                        j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=ink
                    )
    return figure


def precision_curves(lines: Mapping[str, Sequence[float]], title: str) -> Figure:
    """A line per class over recall; of many classes, the ten with the smallest area below."""
    figure = Figure(figsize=(11, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    axes.set_title(title, color=_INK, fontsize=10)
    axes.set_xlabel("recall", color=_INK)
    axes.set_ylabel("precision", color=_INK)
    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    ordered = sorted(lines.items(), key=lambda item: float(np.mean(item[1])), reverse=True)
    for (name, values), color in zip(ordered[-MOST_LINES:], colors, strict=False):
        label = f"{name}  {np.mean(values):.3f}".replace("$", r"\$")
        axes.plot(np.linspace(0, 1, len(values)), values, color=color, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if ordered:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def png(figure: Figure, *, transparent: bool) -> bytes:
    """The figure as a file."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=transparent)
    return buffer.getvalue()


def _column(history: History, key: str) -> list[float]:
    return [row.get(key, math.nan) for row in history]


def _last(values: Sequence[float]) -> float:
    """The last that is a number."""
    return next(value for value in reversed(values) if not math.isnan(value))


def _plot(axes: Axes, epochs: Sequence[float], values: Sequence[float], **style: Any) -> None:
    """A line through the epochs that have a value: not every epoch has a validation."""
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if not math.isnan(value)]
    marker = "o" if len(known) < 30 else None
    axes.plot(
        [epoch for epoch, _ in known], [value for _, value in known], marker=marker, markersize=3, **style
    )


def _over_epochs(axes: Axes, title: str) -> None:
    _plain(axes)
    axes.set_title(title, color=_INK, fontsize=10)
    axes.set_xlabel("epoch", color=_INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plain(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=_INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))
