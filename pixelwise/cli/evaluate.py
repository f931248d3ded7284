"""`pixelwise evaluate`."""

import math
import shlex
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..machine import keep_freed_memory
from ..recipe import Recipe
from ..wording import brief
from .options import (
    LAYOUTS,
    AsJson,
    Classes,
    Crf,
    CrfSettings,
    Decoding,
    Device,
    Flip,
    Overwrite,
    Plain,
    Split,
    TaskName,
    Views,
    pairs_of,
    print_json,
    refinement,
    watched,
    without_crf,
)

if TYPE_CHECKING:  # torch comes with them
    from ..data import DataSplits, SegmentationData
    from ..tasks import Task
    from ..types import ClassTable


def evaluate(
    predictor: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT|RUN[,RUN...]|PREDICTIONS",
            help="Weights, a run directory, several with commas between them (an ensemble), or a folder of "
            "predicted masks named like the images.",
            show_default=False,
        ),
    ],
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    split: Split = "val",
    task: TaskName = None,
    absent: Annotated[
        str | None,
        typer.Option(
            help="Score of a class in neither target nor prediction: exclude, zero or one (default exclude)."
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Detections of an image and class that count, best first: more than COCO's where images "
            "hold more objects, such as cells (default 100).",
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help=f"Layout of the data (default auto: looks at the folder): {LAYOUTS}.")
    ] = None,
    classes: Classes = None,
    mask_rule: Annotated[
        str | None, typer.Option(help="How masks are read, as of `check` (default exact).")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report here; with pictures if a model is scored.")
    ] = None,
    overwrite: Overwrite = False,
    csv: Annotated[
        Path | None, typer.Option(help="Write the scores of each image here, one row per image.")
    ] = None,
    decoding: Decoding = None,
    as_json: AsJson = False,
    flip: Flip = None,
    views: Views = None,
    crf: Crf = None,
    crf_like: CrfSettings = None,
    plain: Plain = False,
    device: Device = "auto",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split into parts, if the data have none (default 0).")
    ] = None,
) -> None:
    """Score a model, or predictions written earlier, against the masks of a data set.

    The data that a run was trained on are read and split as the run did, unless other options are given.

    Example: [bold]pixelwise evaluate runs/street-unet street --split test[/bold]
    """
    keep_freed_memory()
    from ..console import console, plain_table, report_table
    from ..data.formats import read_classes_file
    from ..files import check_targets, record
    from ..predict import Predictor, evaluate_images
    from ..predict.evaluation import is_model, labelled_part
    from ..predict.standing import standing
    from ..report import write_evaluation_report
    from ..tasks import get_task
    from ..training.environment import environment

    for target in (report, csv):
        if target is not None:
            check_targets([target], target.parent, overwrite=overwrite)
    masks = not is_model(predictor)
    settings = without_crf(pairs_of(decoding, "--decoding"), crf)
    if masks and (decoding or flip is not None or views is not None or plain):
        raise ValueError(
            "--decoding, --flip, --views and --plain are for what a model predicts, not for written "
            "predictions"
        )
    if masks and (crf or crf_like is not None):
        raise ValueError("--crf refines what a model predicts: written masks have no probabilities")
    refine, model = refinement(crf, crf_like), None
    if not masks:
        # An ONNX file of another program does not tell its classes.
        table = read_classes_file(classes) if classes and predictor.suffix == ".onnx" else None
        model = Predictor(
            predictor,
            table,
            task=task,
            device=device,
            flip=flip,
            views=views,
            refine=refine,
            decoding=settings,
            plain=plain,
        )
    chosen = model.task if model else get_task(task)
    asked_of_scores = {"absent": absent, "max_detections": max_detections}
    scoring = {name: value for name, value in asked_of_scores.items() if value is not None}
    chosen.scoring_with(scoring)  # what cannot be is told now
    asked = {"format": format, "seed": seed, "mask_rule": mask_rule}
    recipe = recipe_on(predictor, data)
    splits, part = part_of(data, split, chosen, model.classes if model else None, recipe, classes, asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nothing counts is told below
        evaluation = evaluate_images(
            model or predictor,
            part,
            task=task,
            scoring=scoring,
            progress=watched() and not as_json,
            official=True,
        )
    title = f"{split} part of {data}"
    if math.isnan(evaluation.report[chosen.monitor]):
        raise ValueError(f"nothing of the {title} is annotated: there is nothing to score")
    train = labelled_part(splits, "train", part.classes, chosen) if len(splits.train) else None
    beside = standing(evaluation, part, None if split == "train" else train, part=split, scoring=scoring)
    if split != "test" and recipe is not None and recipe.folds is not None:
        warning = f"the models of folds have learnt from most of the {split} images: the score is too high"
        beside = replace(beside, warnings=(*beside.warnings, warning))
    if csv is not None:
        evaluation.write_csv(csv)
        record(csv, csv.parent)
    if report is not None:
        write_evaluation_report(
            report,
            title,
            evaluation,
            part,
            model,
            environment=environment(),
            command=shlex.join(["pixelwise", *sys.argv[1:]]),
            remark=" ".join([f"Scores of {predictor} on {len(part)} images.", *beside.sentences]),
        )
        record(report, report.parent)
    if as_json:
        found = evaluation.report
        tables = {title.lower(): rows for title, rows in found.tables.items()}
        print_json({**found.values, **beside.as_dict(), "classes": found.per_class, **tables})
        return
    console().print(report_table(evaluation.report, title, beside.sentences))
    for name, rows in evaluation.report.tables.items():
        console().print(plain_table(rows, name))
    if report is not None:
        typer.echo(f"report: {report}")
    if csv is not None:
        typer.echo(f"scores of each image: {csv}")


def part_of(
    data: Path,
    split: str,
    task: "Task",
    of_model: "ClassTable | None",
    recipe: Recipe | None,
    classes: Path | None,
    asked: Mapping[str, Any],
) -> "tuple[DataSplits, SegmentationData]":
    """The data, and the annotated part that is scored.

    Args:
        data: where they are.
        split: "train", "val" or "test".
        task: says how annotations are read.
        of_model: the classes of the model; None for saved predictions.
        recipe: by which a run read and split the data; None where there is none.
        classes: file of the class table that was asked for.
        asked: options of `open_data` that were asked for, None where not.

    Raises:
        ValueError: if there is no such part, or the data cannot be read.
    """
    from ..data.formats import find_class_file
    from ..predict.evaluation import labelled_part
    from ..tasks import open_data
    from ..training.parts import parts_of

    given: Any = classes
    reading = {} if recipe is None else {name: getattr(recipe, name) for name in _READING}
    reading |= {name: value for name, value in asked.items() if value is not None}
    splits = open_data(data, task=task.name, classes=given, **reading)
    of_layout = given is None and not splits.encoding.from_files and not find_class_file(data)
    if of_model is not None and of_layout:
        # The names of a known layout give way to those of the model.
        splits = open_data(data, task=task.name, classes=of_model, **reading)
    if recipe is not None and asked.get("seed") is None:  # the parts that the training used
        cut = parts_of(recipe, splits)
        splits = replace(splits, train=cut.train, val=cut.val, test=cut.test)
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    if parts.get(split) is None:
        raise ValueError(
            f"{data} has no test part"
            if split == "test"
            else f"--split takes train, val or test, got {brief(split)}"
        )
    # The masks of a part may not show every class of the model.
    return splits, labelled_part(splits, split, of_model, task)


_READING = ("format", "mask_rule", "seed", "val_fraction", "test_fraction")  # how a recipe reads its data


def recipe_on(run: Path, data: Path) -> Recipe | None:
    """The recipe of a run directory that was trained on these data, so that they are read and split alike."""
    for folder in (run, run.parent):
        file = folder / "recipe.json"
        if file.is_file():
            recipe = Recipe.read(file)
            same = recipe.data and Path(recipe.data).resolve() == data.resolve()
            return recipe if same else None
    return None
