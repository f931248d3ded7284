"""`pixelwise compare`."""

from pathlib import Path
from typing import Annotated

import typer

from .evaluate import part_of, recipe_on
from .options import LAYOUTS, AsJson, Classes, Device, Overwrite, Split, TaskName, print_json, watched


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="RUN_A", help="Weights or a run directory.", show_default=False)
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="The other.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the page and the scores of each image.")] = Path(
        "comparison"
    ),
    split: Split = "val",
    task: TaskName = None,
    format: Annotated[
        str | None, typer.Option(help=f"Layout of the data (default auto: looks at the folder): {LAYOUTS}.")
    ] = None,
    classes: Classes = None,
    examples: Annotated[int, typer.Option(min=0, help="Images shown in the page.")] = 8,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    device: Device = "auto",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split into parts, if the data have none (default 0).")
    ] = None,
) -> None:
    """Tell where two models differ: their scores, whether that is more than chance, the images.

    The data are read and split as the first run did that was trained on them.

    Example: [bold]pixelwise compare runs/first runs/second street --split test --out differences[/bold]
    """
    from ..console import console, plain_table
    from ..files import check_targets, make_folder, record
    from ..predict import Predictor, comparison as of_two
    from ..report.comparison import write_comparison

    page, table = out / "comparison.html", out / "images.csv"
    check_targets([page, table], out, overwrite=overwrite)
    predictors = (
        Predictor(first, task=task, device=device),
        Predictor(second, task=task, device=device),
    )
    recipes = [recipe_on(run, data) for run in (first, second)]
    recipe = recipes[0] or recipes[1]
    asked = {"format": format, "seed": seed}
    chosen = predictors[0].task
    _, part = part_of(data, split, chosen, predictors[0].classes, recipe, classes, asked)
    found = of_two.compare(*predictors, part, progress=watched() and not as_json)
    make_folder(out)
    title = f"Two models on the {split} part of {data}"
    write_comparison(page, title, found, predictors, part, names=(str(first), str(second)), examples=examples)
    found.write_csv(table)
    for path in (page, table):
        record(path, out)
    if as_json:
        difference = found.difference._asdict() if found.difference else None
        print_json({"scores": found.rows(), "difference": difference, "images": len(found.first.images)})
        return
    console().print(plain_table(found.rows(), title))
    typer.echo(found.sentence())
    if all(recipes) and split != "train" and len({_splitting(each) for each in recipes}) > 1:
        typer.echo(
            "Warning: the two runs split these data in different ways: the second may have learnt from "
            f"images of the {split} part.",
            err=True,
        )
    typer.echo(f"page: {page}")


def _splitting(recipe: object) -> str:
    names = ("format", "seed", "val_fraction", "test_fraction", "folds")
    return repr([getattr(recipe, name) for name in names])
