"""The main job on the embedded sample: data folder, training, honest scores, pictures, report."""

import json
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .console import console, report_table
from .data import open_data
from .data.coins import write_coins
from .draw import error_map, overlay, rgb_image, side_by_side
from .files import atomic_write, check_targets, make_folder, record, was_written
from .predict import Predictor, evaluate_images
from .report import write_evaluation_report
from .training import Recipe, TrainResult, run
from .training.callbacks import ENVIRONMENT
from .types import LabelMap, Report

_ENLARGED = 3


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind.

    Attributes:
        data: folder of images and masks that it wrote.
        training: its run directory and scores on the validation part.
        scores: on the test part, which neither training nor the choice of weights has seen.
        report: HTML page: curves, scores on the test part, best and worst predictions.
        pictures: one per test image: image, truth, prediction, errors.
        image_scores: table of the scores of each test image.
    """

    data: Path
    training: TrainResult
    scores: Report
    report: Path
    pictures: tuple[Path, ...]
    image_scores: Path


def demo_recipe(data: str | os.PathLike[str], out: str | os.PathLike[str], *, seed: int = 0) -> Recipe:
    """A narrow U-Net from random weights; half a minute on two idle cores."""
    return Recipe(
        data=os.fspath(data),
        out=os.fspath(out),
        model="unet",
        model_arguments={"width": 16},
        crop=(64, 64),
        scale=(0.75, 1.5),
        batch_size=8,
        epochs=30,
        lr=2e-3,
        schedule="cosine",
        warmup_steps=5,
        workers=0,
        seed=seed,
        name="coins",
    )


def run_demo(out: str | os.PathLike[str], *, seed: int = 0, epochs: int | None = None) -> DemoResult:
    """Train, evaluate and predict on the photograph of coins, and print what happens.

    Args:
        out: folder for everything, new or empty or that of an earlier demo, whose run stays.
        seed: of the training.
        epochs: shorter or longer than `demo_recipe`.

    Raises:
        ValueError: if the folder cannot be written to or holds anything else.
    """
    started = time.monotonic()
    out, show = make_folder(out), console(markup=True)
    table, page, scores = out / "data" / "classes.csv", out / "report.html", out / "scores.csv"
    check_targets([page, scores], out, overwrite=True)
    if any(out.iterdir()) and not was_written(table, out):
        raise ValueError(f"the folder {out} is not empty: choose another one for the demo (--out)")
    data = write_coins(out / "data")
    record(table, out)
    splits = open_data(data)
    assert splits.test is not None
    sizes = [len(part) for part in (splits.train, splits.val, splits.test)]
    show.print(
        f"[bold]1. Data[/bold]  a photograph of 24 coins, cut into rows: {sizes[0]} windows of 12 coins to "
        f"learn from, {sizes[1]} of 6 others to choose the weights by, {sizes[2]} of the last 6 to test on"
    )
    recipe = demo_recipe(data, _free_place(out / "run"), seed=seed)
    shorter = [] if epochs is None else ["--epochs", str(epochs)]
    if epochs is not None:
        recipe = recipe.changed(epochs=epochs)
    show.print("[bold]2. Training[/bold]  a U-Net of width 16 from random weights")
    result = run(recipe, report=False)
    show.print("[bold]3. Test[/bold]  6 coins that neither the training nor the choice of weights has seen")
    predictor = Predictor(result.best)
    evaluation = evaluate_images(predictor, splits.test, progress=False)
    show.print(report_table(evaluation.report, "test part of the photograph"))
    report = write_evaluation_report(
        page,
        "Coins",
        evaluation,
        splits.test,
        predictor,
        history=result.history,
        settings=recipe.as_dict(),
        defaults=Recipe(recipe.data).as_dict(),
        environment=json.loads((result.path / ENVIRONMENT).read_text()),
        command=shlex.join(["pixelwise", "demo", "--out", os.fspath(out), "--seed", str(seed), *shorter]),
        remark="A U-Net from random weights, trained on 12 coins, scored on 6 others of the same photograph.",
    )
    record(report, out)
    record(evaluation.write_csv(scores), out)
    pictures = []
    for sample in (splits.test[i] for i in range(len(splits.test))):
        assert isinstance(sample.target, LabelMap)
        prediction = predictor(sample.image)
        name = Path(sample.id).stem
        prediction.save(out / "predictions" / f"{name}.png", overwrite=True)
        prediction.save(out / "predictions" / f"{name}_overlay.png", overwrite=True)
        panels = {
            "image": rgb_image(sample.image),
            "truth": overlay(sample.image, sample.target, splits.classes, clear=("background",)),
            "prediction": overlay(sample.image, prediction.label_map, splits.classes, clear=("background",)),
            "errors": error_map(prediction.label_map, sample.target, splits.classes, image=sample.image),
        }
        sheet = side_by_side([(caption, _enlarged(panel)) for caption, panel in panels.items()])
        pictures.append(out / "pictures" / f"{name}.png")
        with atomic_write(pictures[-1]) as temporary:
            sheet.save(temporary)
    show.print(f"[bold]4. Results[/bold]  after {time.monotonic() - started:.0f} seconds")
    for what, where in (
        ("report", report),
        ("pictures", out / "pictures"),
        ("predictions", out / "predictions"),
        ("run", result.path),
        ("data", data),
    ):
        show.print(f"   {what:12} {where}", soft_wrap=True, highlight=False, markup=False)
    show.print(
        f"   next: pixelwise predict {result.path} IMAGE --overlay",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return DemoResult(data, result, evaluation.report, report, tuple(pictures), scores)


def _free_place(path: Path) -> Path:
    """`path`, or with a number where an earlier demo left something."""
    number, place = 1, path
    while place.exists():
        number += 1
        place = path.with_name(f"{path.name}-{number}")
    return place


def _enlarged(picture: Image.Image) -> Image.Image:
    size = (picture.width * _ENLARGED, picture.height * _ENLARGED)
    return picture.resize(size, Image.Resampling.NEAREST)
