"""The report and the pictures of a run directory."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..data import SegmentationData
from ..draw import side_by_side
from ..files import atomic_write, make_folder
from ..predict import Predictor, evaluate_images
from ..recipe import Recipe
from ..report import best_and_worst, write_report
from ..report.figures import History, confusion, curves, png
from ..tasks import get_task
from ..types import Report
from .callbacks import BEST_WEIGHTS, ENVIRONMENT, RECIPE, REPORT, SCORES
from .closing import Closing, scored_part
from .latest import PICTURES


def report_run(
    path: Path,
    recipe: Recipe,
    scores: Report,
    history: History,
    data: SegmentationData,
    *,
    best_epoch: int,
    closing: Closing | None = None,
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
        closing: what is known of the best weights, so that they are not scored again.
        examples: number of best and of worst predictions to show.

    Raises:
        ValueError: if a file cannot be written or the best weights cannot be read.
    """
    predictor = Predictor(path / BEST_WEIGHTS, device="cpu" if recipe.accelerator == "cpu" else "auto")
    if closing is None:
        part, looked_at = scored_part(data, None)
        evaluation = evaluate_images(predictor, looked_at, progress=False)
    else:
        part, looked_at, evaluation = closing.part, closing.data, closing.evaluation
    ranked = evaluation.ranked()
    best, worst = best_and_worst(predictor, looked_at, ranked, examples)
    folder = make_folder(path / PICTURES)
    if len(history) > 1:
        _save(curves(history, next(iter(scores.values))), folder / "curves.png")
    if scores.confusion is not None:
        _save(confusion(scores.confusion, data.classes), folder / "confusion.png")
    for kind, group in (("best", best), ("worst", worst)):
        for number, example in enumerate(group, 1):
            with atomic_write(folder / f"{kind}_{number}.png") as temporary:
                side_by_side(example.panels(data.classes)).save(temporary)
    remark = (
        f"Scores of the best weights (epoch {best_epoch} of {len(history)}) on {len(data)} validation images"
    )
    if closing is not None and closing.choices.decoding:
        remark += ", before test-time settings were chosen"
    remark += "."
    if part != "validation" or len(looked_at) < len(data):
        remark += f" The scores of single images and the pictures are of {len(looked_at)} {part} images."
    remarks = [*(closing.remarks if closing is not None else ()), remark]
    _write_scores(path / SCORES, scores, remarks)
    return write_report(
        path / REPORT,
        recipe.name or path.resolve().name,
        scores,
        data.classes,
        history=history,
        images=ranked,
        best=best,
        worst=worst,
        settings=recipe.as_dict(),
        defaults=_usual(recipe).as_dict(),
        environment=json.loads((path / ENVIRONMENT).read_text()),
        command=command_of(recipe),
        remark=" ".join(remarks),
    )


def _write_scores(path: Path, scores: Report, remarks: Sequence[str]) -> None:
    """The scores of the report for other programs; null stands for a score that does not exist."""
    told = {
        "values": _plain(scores.values),
        "classes": {name: _plain(row) for name, row in scores.per_class.items()},
        "note": scores.note,
        "remarks": list(remarks),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def command_of(recipe: Recipe) -> str:
    """The command line that trains by a recipe again, into a new run directory; "" for data in memory."""
    if not recipe.data:
        return ""
    defaults = _usual(recipe)
    by_name = recipe.val_images or recipe.test_images or recipe.left_out
    if recipe.out and (by_name or recipe.replans):  # no options of `train`
        return shlex.join(
            ["pixelwise", "train", "--config", str(Path(recipe.out) / RECIPE), "--out", f"{recipe.out}-again"]
        )
    words = ["pixelwise", "train", recipe.data]
    for name in vars(recipe):
        value = getattr(recipe, name)
        if name == "model" or (name not in ("data", "out") and value != getattr(defaults, name)):
            words += _options(name, value)
    plain = recipe.epochs is None and recipe.steps is None  # which `train` would take for a wish for a plan
    return shlex.join([*words, *(["--no-plan"] if plain else [])])


def _usual(recipe: Recipe) -> Recipe:
    """What a training of the same task does unless it is told otherwise."""
    return Recipe.of({"data": recipe.data, **get_task(recipe.task).defaults})


def _options(name: str, value: Any) -> Sequence[str]:
    """One setting as options of `pixelwise train`."""
    option = f"--{name.replace('_', '-')}"
    if name == "model_arguments":
        return [word for key, given in value.items() for word in _model_argument(key, given)]
    if name == "channels_last":
        return ["--channels-last" if value else "--channels-first"]
    if name == "choose":
        return ["--choose" if value else "--no-choose"]
    if name == "crop":
        return [option, "none" if value is None else "x".join(map(str, value))]
    if name == "freeze":
        return [word for part in value for word in (option, part)]
    if isinstance(value, tuple):
        return [option, ",".join(map(str, value))]
    return [option, str(value)]


def _model_argument(name: str, value: Any) -> Sequence[str]:
    if name == "pretrained" and isinstance(value, bool):
        return ["--pretrained" if value else "--scratch"]
    if name in ("encoder", "in_channels") and isinstance(value, str | int):
        return [f"--{name.replace('_', '-')}", str(value)]
    return ["--set", f"{name}={json.dumps(value)}"]


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(png(figure, transparent=False))
