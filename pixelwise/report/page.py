"""The page: one HTML file with everything inside."""

import base64
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..draw import IGNORED
from ..files import atomic_write
from ..predict import ImageScores
from ..predict.evaluation import first_column
from ..tasks import Task
from ..types import ClassTable, Color, LabelMap, Report
from ..wording import score_name
from .examples import Example
from .figures import (
    MOST_LINES,
    History,
    class_curves,
    classes_over_epochs,
    confusion,
    curves,
    png,
    precision_curves,
)
from .pictures import embedded
from .style import LINKS, SCRIPT, STYLE

_MOST_ROWS = 500  # of the table of images
_MOST_CLASSES = 12  # with a column of their own in the table of images
_FEW_COLORS = 256
_MOST_WITHOUT_SCORE = 30  # of more classes, those without a score are left out


def write_report(
    path: str | os.PathLike[str],
    title: str,
    report: Report,
    classes: ClassTable,
    *,
    history: History = (),
    images: Sequence[ImageScores] = (),
    best: Sequence[Example] = (),
    worst: Sequence[Example] = (),
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    command: str = "",
    remark: str = "",
) -> Path:
    """Write a report.

    Args:
        path: of the HTML file.
        title: its heading.
        report: the scores that it is about.
        classes: names and colours.
        history: one row per epoch ("epoch", "train_loss", "val_loss", "lr", the scores as "val_...", the
            first column of each class as "val_class/CLASS"), for the curves.
        images: scores of each image, worst first.
        best: predictions to show as the best, best first.
        worst: predictions to show as the worst, worst first.
        settings: what was asked for, as JSON knows it.
        defaults: the same where nothing is asked for; settings that differ are marked.
        environment: where it ran, as JSON knows it.
        command: the command line that does the same again.
        remark: a sentence below the heading.

    Raises:
        ValueError: if the file cannot be written.
    """
    path = Path(path)
    monitor = next(iter(report.values))
    body = [f"<header><h1>{html.escape(title)}</h1>"]
    if remark:
        body.append(f"<p>{html.escape(remark)}</p>")
    body += [_tiles(report, history), "</header>"]
    if history:
        body.append(_section("Training", _training(history, monitor)))
    if report.per_class:
        body.append(_section("Classes", _class_table(report, classes)))
    if report.confusion is not None:
        figure = _figure(confusion(report.confusion, classes), "confusion")
        what = "pixels" if len(report.confusion) == len(classes) else "objects"
        told = (
            f"Row by row: of the {what} of a class, the share that was predicted as each class, in percent."
        )
        body.append(_section("Confusion", f"<p>{told}</p>{figure}"))
    for title, rows in report.tables.items():
        body.append(_section(html.escape(title), _plain_table(rows)))
    for title, lines in report.curves.items():
        body.append(_section(html.escape(title), _figure(precision_curves(lines, title), "curves")))
    for name, examples in (("Best predictions", best), ("Worst predictions", worst)):
        if examples:
            shown = "".join(_example(example, classes, monitor) for example in examples)
            body.append(_section(name, f"{_legend(classes, examples[0].task, _left_out(report))}{shown}"))
    if images:
        body.append(_section("Images", _image_table(images)))
    if command:
        body.append(_section("To repeat", f"<pre>{html.escape(command)}</pre>"))
    if settings:
        body.append(_section("Settings", _settings(settings, defaults)))
    if environment:
        body.append(_section("Environment", _values(environment)))
    dialog = "<dialog><figure></figure></dialog>" if best or worst else ""
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + f"\n</main>{dialog}<script>{SCRIPT}{LINKS}</script></body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>"


def _tiles(report: Report, history: History) -> str:
    tiles = [(score_name(name), _number(value)) for name, value in report.values.items()]
    if history:
        seconds = sum(row.get("seconds", 0.0) for row in history)
        tiles += [("epochs", str(len(history))), ("time", _duration(seconds))]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in tiles)
    return f"<div class=tiles>{cells}</div>"


def _training(history: History, monitor: str) -> str:
    """Curves, or the numbers themselves where there is one epoch."""
    if len(history) == 1:
        named = {
            "train_loss": "training loss",
            "val_loss": "validation loss",
            f"val_{monitor}": f"{score_name(monitor)} on validation",
            "lr": "learning rate",
        }
        told = [f"{words} {history[0][key]:.4g}" for key, words in named.items() if key in history[0]]
        return f"<p>One epoch: {', '.join(told)}.</p>"
    shown = _figure(curves(history, monitor), "curves")
    if count := len(classes_over_epochs(history)):
        shown += _figure(class_curves(history), "curves of the classes")
        if count > MOST_LINES:
            shown += f"<p>The {MOST_LINES} classes of {count} that end lowest.</p>"
    return shown


def _plain_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = next(iter(rows.values()), {})
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = ""
    for name, row in rows.items():
        cells = "".join(f"<td>{_number(value)}</td>" for value in row.values())
        lines += f"<tr><td>{html.escape(name)}</td>{cells}</tr>"
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _class_table(report: Report, classes: ClassTable) -> str:
    colors = dict(zip(classes.names, classes.colors, strict=True))
    rows, left_out = [], _left_out(report)
    for name, columns in report.per_class.items():
        if name in left_out:
            continue
        width = max(0.0, min(100.0, 100 * _known(next(iter(columns.values())))))
        swatch = _swatch(colors[name]) if name in colors else ""
        rows.append(
            f"<tr><td>{swatch}{html.escape(name)}</td>"
            f"<td class=bar data-value={width:.1f}><i style='width:{width:.1f}%'></i></td>"
            f"{''.join(map(_cell, columns.values()))}</tr>"
        )
    means = "".join(f"<td>{_number(_mean(report, column))}</td>" for column in report.columns)
    foot = f"<tr><td>mean</td><td></td>{means}</tr>"
    told = report.note
    if left_out:
        told = f"{told} {len(left_out)} classes without a score are left out.".strip()
    note = f"<p>{html.escape(told)}</p>" if told else ""
    return f"<div class=wide>{_sortable(['class', '', *report.columns], rows, foot)}</div>{note}"


def _left_out(report: Report) -> set[str]:
    """Of many classes, those without a score."""
    if len(report.per_class) <= _MOST_WITHOUT_SCORE:
        return set()
    return {name for name, first in first_column(report).items() if math.isnan(first)}


def _mean(report: Report, column: str) -> float:
    """Mean over the classes that have a score; nan for a column of counts."""
    known = [row[column] for row in report.per_class.values() if not math.isnan(row[column])]
    if any(value > 1 for value in known) and all(value == int(value) for value in known):
        return math.nan
    return sum(known) / len(known) if known else math.nan


def _image_table(images: Sequence[ImageScores]) -> str:
    first = images[0].report
    per_class = len(first.per_class) <= _MOST_CLASSES
    rows = []
    for image in images[:_MOST_ROWS]:
        numbers = [*image.report.values.values()]
        if per_class:
            numbers += first_column(image.report).values()
        rows.append(f"<tr><td data-image>{html.escape(image.id)}</td>{''.join(map(_cell, numbers))}</tr>")
    columns = first.columns[:1] if per_class else ()
    of_classes = [f"{column} {html.escape(name)}" for column in columns for name in first.per_class]
    names = ["image", *map(score_name, first.values), *of_classes]
    told = "Worst first; click on a heading to sort. A dash stands for a class that an image does not have."
    if len(images) > _MOST_ROWS:
        told += f" The worst {_MOST_ROWS} of {len(images)} images are shown."
    return f"<p>{told}</p><div class=tall>{_sortable(names, rows)}</div>"


def _sortable(names: Sequence[str], rows: Sequence[str], foot: str = "") -> str:
    """A table whose headings sort it; the names are HTML."""
    head = "".join(f"<th><button type=button>{name}</button></th>" if name else "<th></th>" for name in names)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        + (f"<tfoot>{foot}</tfoot>" if foot else "")
        + "</table>"
    )


def _cell(value: float) -> str:
    """A score that sorts as a number; one that does not exist sorts below 0."""
    return f"<td data-value={-1 if math.isnan(value) else value:.6g}>{_number(value)}</td>"


def _example(example: Example, classes: ClassTable, monitor: str) -> str:
    figures = []
    for caption, picture in example.panels(classes):
        photograph = picture.getcolors(_FEW_COLORS) is None
        image = embedded(picture, f"{caption} of {example.id}", photograph=photograph)
        figures.append(
            f"<figure><button type=button class=zoom title='enlarge'>{image}</button>"
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return (
        f"<div class=example><p><b data-image>{html.escape(example.id)}</b> {score_name(monitor)} "
        f"{_number(example.score)}</p>"
        f"<div class=panels>{''.join(figures)}</div></div>"
    )


def _legend(classes: ClassTable, task: Task, left_out: set[str]) -> str:
    pairs = zip(classes.colors, classes.names, strict=True)
    named = [(color, name) for color, name in pairs if name not in left_out]
    if task.annotation is LabelMap:
        named.append((IGNORED, "not labelled"))
    shown = f"<p class=legend>Classes: {_swatches(named)}</p>"
    if task.errors is not None:
        shown += f"<p class=legend>Errors: {_swatches(task.legend)}</p>"
    return f"{shown}<p>Click on a picture to enlarge it.</p>"


def _swatches(named: Sequence[tuple[Color, str]]) -> str:
    return " ".join(f"<span>{_swatch(color)}{html.escape(name)}</span>" for color, name in named)


def _settings(settings: Mapping[str, Any], defaults: Mapping[str, Any] | None) -> str:
    """All settings; where defaults are known, those that differ come first and are marked."""
    if defaults is None:
        return _values(settings)
    changed = {name: value for name, value in settings.items() if value != defaults.get(name)}
    same = {name: value for name, value in settings.items() if name not in changed}
    rows = [
        f"<tr class=changed><td>{html.escape(name)}</td><td>{_plain_text(value)}</td>"
        f"<td class=default>default {_plain_text(defaults.get(name))}</td></tr>"
        for name, value in changed.items()
    ]
    told = "Changed from the defaults:" if changed else "Nothing was changed from the defaults."
    table = f"<table class=values><tbody>{''.join(rows)}</tbody></table>" if changed else ""
    rest = (
        f"<details><summary>{len(same)} settings are the defaults</summary>{_values(same)}</details>"
        if same
        else ""
    )
    return f"<p>{told}</p><div class=wide>{table}</div>{rest}"


def _values(values: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{_plain_text(value)}</td></tr>"
        for name, value in values.items()
    ]
    return f"<div class=wide><table class=values><tbody>{''.join(rows)}</tbody></table></div>"


def _plain_text(value: Any) -> str:
    """A value of JSON for people, as HTML."""
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, Mapping) and value:
        text = ", ".join(f"{key} {item}" for key, item in value.items())
    elif value is None or (not isinstance(value, bool | int | float) and not value):
        text = "–"
    elif isinstance(value, list):
        text = " ".join(map(str, value))
    return html.escape(text)


def _swatch(color: Color) -> str:
    return f"<i class=swatch style='background:rgb{tuple(color)}'></i>".replace(", ", ",")


def _figure(figure: Figure, name: str) -> str:
    data = base64.b64encode(png(figure, transparent=True)).decode()
    return f"<img class=plot alt='{name}' src='data:image/png;base64,{data}'>"


def _known(x: float) -> float:
    return 0.0 if math.isnan(x) else x


def _number(x: float) -> str:
    """A fraction with three decimals, a count in groups of three digits."""
    if math.isnan(x):
        return "–"
    return f"{int(x):,}" if isinstance(x, int) or (abs(x) > 1 and x == int(x)) else f"{x:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
