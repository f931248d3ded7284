"""The page on two models: their scores side by side, and the images on which they differ most."""

import html
import os
from pathlib import Path

from ..data import SegmentationData
from ..files import atomic_write
from ..predict import Predictor
from ..predict.comparison import Comparison
from .examples import example_of
from .pictures import embedded
from .style import LINKS, STYLE


def write_comparison(
    path: str | os.PathLike[str],
    title: str,
    comparison: Comparison,
    predictors: tuple[Predictor, Predictor],
    data: SegmentationData,
    *,
    names: tuple[str, str],
    examples: int = 8,
) -> Path:
    """Write the page.

    Args:
        path: of the HTML file.
        title: its heading.
        comparison: what `compare` gave for `data`.
        predictors: predict the examples again.
        data: the images that were scored.
        names: of the two models.
        examples: how many images are shown; fewer where there are few.

    Raises:
        ValueError: if the file cannot be written.
    """
    first, second = (html.escape(name) for name in names)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{_number(value)}</td>" for value in (row["first"], row["second"]))
        + f"<td>{_number(row['difference'], sign=True)}</td></tr>"
        for name, row in comparison.rows().items()
    )
    head = "".join(f"<th>{column}</th>" for column in ("", "first", "second", "difference"))
    shown = "".join(_example(comparison, index, predictors, data) for index in comparison.ranked[:examples])
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1><p>First: {first}. Second: {second}.</p>"
        f"<p>{html.escape(comparison.sentence())}</p>"
        f"<h2>Scores</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        f"<h2>Images whose scores differ most</h2>{shown}</main><script>{LINKS}</script></body></html>"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="surrogateescape")
    return Path(path)


def _example(
    comparison: Comparison, index: int, predictors: tuple[Predictor, Predictor], data: SegmentationData
) -> str:
    """Image, truth, and of each model the prediction and what is wrong with it."""
    evaluations = (comparison.first, comparison.second)
    found = [
        example_of(predictor, data.with_channels(predictor.model.in_channels), evaluation.images[index])
        for predictor, evaluation in zip(predictors, evaluations, strict=True)
    ]
    panels = [*found[0].panels(comparison.first.classes)[:2]]
    for name, example in zip(("first", "second"), found, strict=True):
        own = example.panels(comparison.first.classes)[2:]
        panels += [(f"{name}: {what}", picture) for what, picture in own]
    figures = "".join(
        f"<figure>{embedded(picture, caption, photograph=caption != 'truth')}"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, picture in panels
    )
    scores = " and ".join(_number(example.score) for example in found)
    name = f"<span data-image>{html.escape(found[0].id)}</span>"
    told = f"{name}: {scores} ({_number(found[1].score - found[0].score, sign=True)})"
    style = "display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:10px"
    return f"<h3>{told}</h3><div style='{style}'>{figures}</div>"


def _number(value: float, *, sign: bool = False) -> str:
    return "" if value != value else f"{value:+.4f}" if sign else f"{value:.4f}"
