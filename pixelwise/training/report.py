"""One HTML file that shows how a training or an evaluation went. It needs nothing from elsewhere."""

import base64
import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..data import SegmentationData
from ..draw import color_image, error_map, rgb_image, side_by_side
from ..files import atomic_write, make_folder
from ..metrics import Scores
from ..predict import ImageScores, Predictor, evaluate_images
from ..recipe import Recipe
from ..types import ClassTable, LabelMap
from .callbacks import BEST_WEIGHTS, ENVIRONMENT, REPORT

PICTURES = "pictures"
_MOST_IMAGES = 200  # of the validation part that are looked at for the best and worst predictions
_WIDEST = 360  # pixels of a picture in the report
_INK = "#808690"  # of axes and letters: reads on white and on black
_ACCENTS = ("#2f81f7", "#e5803c", "#3fa36b")


@dataclass(frozen=True)
class Example:
    """A prediction to show.

    Attributes:
        id: of the sample.
        mean_iou: of this image alone.
        image: what was segmented, in [0, 1].
        target: its annotation.
        prediction: what the model says.
    """

    id: str
    mean_iou: float
    image: Float[Tensor, "c H W"]
    target: LabelMap
    prediction: LabelMap

    def panels(self, classes: ClassTable) -> list[tuple[str, Image.Image]]:
        """Image, truth, prediction and errors, with captions."""
        return [
            ("image", rgb_image(self.image)),
            ("truth", color_image(self.target, classes)),
            ("prediction", color_image(self.prediction, classes)),
            ("errors", error_map(self.prediction, self.target, classes, image=self.image)),
        ]


def write_report(
    path: str | os.PathLike[str],
    title: str,
    scores: Scores,
    *,
    history: Sequence[Mapping[str, float]] = (),
    best: Sequence[Example] = (),
    worst: Sequence[Example] = (),
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    remark: str = "",
) -> Path:
    """Write a report.

    Args:
        path: of the HTML file.
        title: its heading.
        scores: what it is about.
        history: one row per epoch ("epoch", "train_loss", "val_loss", "val_mean_iou", "lr"), for the curves.
        best: predictions to show as the best, best first.
        worst: predictions to show as the worst, worst first.
        settings: what was asked for, as JSON knows it.
        environment: where it ran, likewise.
        remark: a sentence below the heading.

    Raises:
        ValueError: if the file cannot be written.
    """
    path, classes = Path(path), scores.classes
    body = [f"<header><h1>{html.escape(title)}</h1>"]
    if remark:
        body.append(f"<p class=remark>{html.escape(remark)}</p>")
    body += [_tiles(scores, history), "</header>"]
    if history:
        body += [f"<section><h2>Training</h2>{_figure(curves(history), 'curves')}</section>"]
    body += [f"<section><h2>Classes</h2>{_class_table(scores)}</section>"]
    body += [
        "<section><h2>Confusion</h2><p>Row by row: of the pixels of a class, the share that was predicted "
        f"as each class, in percent.</p>{_figure(confusion(scores), 'confusion')}</section>"
    ]
    for name, examples in (("Best predictions", best), ("Worst predictions", worst)):
        if examples:
            shown = "".join(_example(example, classes) for example in examples)
            body.append(f"<section><h2>{name}</h2>{_legend(classes)}{shown}</section>")
    for name, values in (("Settings", settings), ("Environment", environment)):
        if values:
            body.append(f"<section><h2>{name}</h2>{_values(values)}</section>")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def report_run(
    path: Path,
    recipe: Recipe,
    scores: Scores,
    history: Sequence[Mapping[str, float]],
    data: SegmentationData,
    *,
    best_epoch: int,
    examples: int = 3,
) -> Path:
    """Write the report of a run directory and its pictures, with the best weights' predictions.

    Args:
        path: run directory.
        recipe: its settings.
        scores: of the best weights.
        history: one row per epoch.
        data: the validation part.
        best_epoch: the epoch that gave the best weights, counted from 1.
        examples: number of best and of worst predictions to show.

    Raises:
        ValueError: if a file cannot be written or the best weights cannot be read.
    """
    predictor = Predictor(path / BEST_WEIGHTS, device="cpu" if recipe.accelerator == "cpu" else "auto")
    step = math.ceil(len(data) / _MOST_IMAGES)
    looked_at = data.take(list(range(0, len(data), step))) if step > 1 else data
    best, worst = best_and_worst(predictor, looked_at, examples)
    folder = make_folder(path / PICTURES)
    _save(curves(history), folder / "curves.png")
    _save(confusion(scores), folder / "confusion.png")
    for kind, group in (("best", best), ("worst", worst)):
        for number, example in enumerate(group, 1):
            with atomic_write(folder / f"{kind}_{number}.png") as temporary:
                side_by_side(example.panels(data.classes)).save(temporary)
    remark = (
        f"Scores of the best weights (epoch {best_epoch} of {len(history)}) on {len(data)} validation images."
    )
    if step > 1:
        remark += f" Best and worst predictions are those among {len(looked_at)} of them."
    return write_report(
        path / REPORT,
        recipe.name or path.resolve().name,
        scores,
        history=history,
        best=best,
        worst=worst,
        settings=recipe.as_dict(),
        environment=json.loads((path / ENVIRONMENT).read_text()),
        remark=remark,
    )


def best_and_worst(
    predictor: Predictor, data: SegmentationData, count: int = 3
) -> tuple[list[Example], list[Example]]:
    """The predictions of highest mean IoU, best first, and of lowest, worst first; none is in both.

    Args:
        predictor: what predicts.
        data: labelled images.
        count: how many of each, fewer where there are not so many images.

    Raises:
        ValueError: if an image has no mask, or the classes of model and data differ.
    """
    ranked = evaluate_images(predictor, data, progress=False).ranked()
    low = min(count, (len(ranked) + 1) // 2)
    worst = [example_of(predictor, data, image) for image in ranked[:low]]
    best = [example_of(predictor, data, image) for image in ranked[low:][::-1][:count]]
    return best, worst


def example_of(predictor: Predictor, data: SegmentationData, image: ImageScores) -> Example:
    """A scored image, read and predicted again."""
    sample = data[image.index]
    assert sample.target is not None
    labels = predictor.labels(sample.image[None]).labels[0].cpu()
    return Example(sample.id, image.mean_iou, sample.image, sample.target, LabelMap(labels))


# --- figures --------------------------------------------------------------------------------------


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, mean IoU and learning rate over the epochs."""
    figure = Figure(figsize=(11, 3), dpi=120, layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = (
        ("loss", (("train_loss", "training"), ("val_loss", "validation"))),
        ("mean IoU on validation", (("val_mean_iou", ""),)),
        ("learning rate", (("lr", ""),)),
    )
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        _plain(axes)
        axes.set_title(title, color=_INK, fontsize=10)
        axes.set_xlabel("epoch", color=_INK, fontsize=9)
        for (key, label), color in zip(lines, _ACCENTS, strict=False):
            values = [row.get(key, math.nan) for row in history]
            axes.plot(
                epochs, values, color=color, label=label, marker="o" if len(epochs) < 30 else None, ms=3
            )
        axes.xaxis.get_major_locator().set_params(integer=True)
        if title != "loss" and any(not math.isnan(row.get(lines[0][0], math.nan)) for row in history):
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    return figure


def confusion(scores: Scores) -> Figure:
    """The confusion matrix, each row divided by its sum; numbers where they fit."""
    names = scores.classes.names
    k = len(names)
    side = min(11.0, 2.5 + 0.42 * k)
    figure = Figure(figsize=(side, side * 0.88), dpi=120, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    matrix = scores.matrix.double().numpy()
    support = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, support, out=np.full_like(matrix, np.nan), where=support > 0)
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted", color=_INK)
    axes.set_ylabel("truth", color=_INK)
    if k <= 40:
        axes.set_xticks(range(k), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(k), names, fontsize=8)
    if k <= 25:
        for i in range(k):
            for j in range(k):
                if not math.isnan(shares[i, j]) and shares[i, j] >= 0.005:
                    ink = "white" if shares[i, j] > 0.5 else "#333"
                    axes.text(
                        j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=ink
                    )
    return figure


def _plain(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=_INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))


def _png(figure: Figure, *, transparent: bool) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=transparent)
    return buffer.getvalue()


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(_png(figure, transparent=False))


# --- pieces of the page ---------------------------------------------------------------------------


def _tiles(scores: Scores, history: Sequence[Mapping[str, float]]) -> str:
    tiles = [
        ("mean IoU", _number(scores.mean_iou)),
        ("pixel accuracy", _number(scores.pixel_accuracy)),
        ("mean accuracy", _number(scores.mean_accuracy)),
        ("mean Dice", _number(scores.mean_dice)),
        ("weighted IoU", _number(scores.frequency_weighted_iou)),
    ]
    if history:
        seconds = sum(row.get("seconds", 0.0) for row in history)
        tiles += [("epochs", str(len(history))), ("time", _duration(seconds))]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in tiles)
    return f"<div class=tiles>{cells}</div>"


def _class_table(scores: Scores) -> str:
    total = max(1, int(scores.support.sum()))
    rows = []
    for color, row in zip(scores.classes.colors, scores.rows(), strict=True):
        width = 0 if math.isnan(row.iou) else 100 * row.iou
        rows.append(
            f"<tr><td>{_swatch(color)}{html.escape(row.name)}</td>"
            f"<td class=bar><i style='width:{width:.1f}%'></i></td><td>{_number(row.iou)}</td>"
            f"<td>{_number(row.accuracy)}</td><td>{_number(row.dice)}</td><td>{row.support:,}</td>"
            f"<td>{100 * row.support / total:.1f} %</td></tr>"
        )
    means = "".join(
        f"<td>{_number(x)}</td>" for x in (scores.mean_iou, scores.mean_accuracy, scores.mean_dice)
    )
    rows.append(f"<tr class=mean><td>mean</td><td></td>{means}<td>{total:,}</td><td></td></tr>")
    head = "<th>class</th><th></th>" + "".join(
        f"<th>{name}</th>" for name in ("IoU", "accuracy", "Dice", "support (pixels)", "share")
    )
    rule = {"exclude": "left out of the means", "zero": "counted as 0", "one": "counted as 1"}[scores.absent]
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p>Classes that are neither in the truth nor predicted are {rule}.</p>"
    )


def _example(example: Example, classes: ClassTable) -> str:
    figures = []
    for caption, picture in example.panels(classes):
        picture.thumbnail((_WIDEST, 2 * _WIDEST), Image.Resampling.LANCZOS)
        figures.append(f"<figure>{_embedded(picture, caption)}<figcaption>{caption}</figcaption></figure>")
    return (
        f"<div class=example><p><b>{html.escape(example.id)}</b> mean IoU {_number(example.mean_iou)}</p>"
        f"<div class=panels>{''.join(figures)}</div></div>"
    )


def _legend(classes: ClassTable) -> str:
    parts = zip(classes.colors, classes.names, strict=True)
    return f"<p class=legend>{' '.join(f'<span>{_swatch(c)}{html.escape(n)}</span>' for c, n in parts)}</p>"


def _values(values: Mapping[str, Any]) -> str:
    rows = []
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if isinstance(value, Mapping) and value:
            text = ", ".join(f"{key} {item}" for key, item in value.items())
        elif value is None or (not isinstance(value, bool | int | float) and not value):
            text = "–"
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>")
    return f"<div class=wide><table class=values><tbody>{''.join(rows)}</tbody></table></div>"


def _swatch(color: tuple[int, int, int]) -> str:
    return f"<i class=swatch style='background:rgb{tuple(color)}'></i>".replace(", ", ",")


def _figure(figure: Figure, name: str) -> str:
    data = base64.b64encode(_png(figure, transparent=True)).decode()
    return f"<img class=plot alt='{name}' src='data:image/png;base64,{data}'>"


def _embedded(picture: Image.Image, name: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{name}' src='data:image/png;base64,{data}'>"


def _number(x: float) -> str:
    return "–" if math.isnan(x) else f"{x:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2128; --soft: #667080; --line: #e2e6eb;
  --card: #f5f7f9; --accent: #2f81f7; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #dde3ea; --soft: #929ba7;
  --line: #2b3138; --card: #1c2025; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 28px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 10px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
p { margin: 6px 0; color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
.tiles div { flex: 1 1 110px; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.tiles b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles span { color: var(--soft); font-size: 13px; }
.tiles div:first-child b { color: var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
tr.mean td { font-weight: 600; }
td.bar { width: 30%; min-width: 90px; }
td.bar i { display: block; height: 8px; border-radius: 4px; background: var(--accent); }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px;
  vertical-align: -1px; border: 1px solid #8888; }
.legend span { display: inline-block; margin-right: 14px; }
img { max-width: 100%; height: auto; display: block; }
.plot { margin: 6px auto; }
.example { margin: 18px 0; }
.example p { overflow-wrap: anywhere; } .example b { color: var(--ink); margin-right: 10px; }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
@media (max-width: 700px) { .panels { grid-template-columns: repeat(2, 1fr); } }
figure { margin: 0; } figure img { width: 100%; border-radius: 6px; image-rendering: auto; }
figcaption { color: var(--soft); font-size: 12px; text-align: center; }
table.values td { text-align: left; white-space: normal; overflow-wrap: anywhere; font-size: 13px; }
table.values td:first-child { color: var(--soft); white-space: nowrap; width: 1%; }
"""
