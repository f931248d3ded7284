"""`pixelwise check`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..recipe import read_settings
from .errors import PROBLEMS
from .options import AsJson, Classes, Format, MaskRule, Overwrite, Seed, TaskName, print_json, watched


def check(
    data: Annotated[Path, typer.Argument(help="Folder of images and masks.", show_default=False)],
    task: TaskName = None,
    format: Format = "auto",
    classes: Classes = None,
    mask_rule: MaskRule = "exact",
    as_json: AsJson = False,
    write_classes: Annotated[
        bool,
        typer.Option(
            "--write-classes",
            help="Write what was understood as classes.csv into the folder, to name, merge, recolour and "
            "ignore classes there. A class file that exists is never replaced.",
        ),
    ] = False,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw training images as a network sees them: after the random changes, with their "
            "annotations.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings of the training that --preview shows, .json or .toml, such as recipe.json of a "
            "run (default those of the task)."
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(metavar="NAME[=X],...", help="Further changes that --preview shows: see `train`."),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Look for what would spoil a training: broken files, missing partners, wrong sizes and labels, leaks.

    Ends with code 1 if there are problems. Example: [bold]pixelwise check street[/bold]

    What a training sees: [bold]pixelwise check street --preview street.png --augment blur,mosaic[/bold]
    """
    from ..console import progress_bar
    from ..data import check_data, propose_classes
    from ..files import check_targets
    from ..tasks import get_task, task_of_folder

    if preview is None and (config is not None or augment is not None):
        raise ValueError("--config and --augment say what --preview shows: give --preview FILE.png")
    if preview is not None:
        if preview.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ValueError(f"{preview} must end in .png, .jpg or .jpeg")
        check_targets([preview], preview.parent, overwrite=overwrite)
    chosen = get_task(task) if task is not None else task_of_folder(data, format)
    with progress_bar("reading", hidden=as_json or not watched()) as advance:
        report = check_data(
            data,
            format=format,
            classes=classes,
            seed=seed,
            mask_rule=cast(Any, mask_rule),
            formats=chosen.formats,
            progress=advance,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo(report.render())
    if write_classes:
        typer.echo(f"Wrote {propose_classes(data, report)}", err=as_json)
    if preview is not None:
        settings = {
            "data": str(data),
            "task": chosen.name,
            "format": format,
            "classes": str(classes) if classes is not None else None,
            "mask_rule": mask_rule,
            "seed": seed,
        }
        asked = {"augment": augment} if augment is not None else {}
        _draw(preview, {**chosen.defaults, **(read_settings(config) if config else {}), **settings, **asked})
        typer.echo(f"Wrote {preview}", err=as_json)
    if report.problems:
        raise typer.Exit(PROBLEMS)


def _draw(path: Path, settings: Mapping[str, Any]) -> None:
    """The picture of `--preview`.

    Raises:
        ValueError: if the settings do not suit the data, or the file cannot be written.
    """
    from ..files import atomic_write, record
    from ..recipe import Recipe
    from ..tasks import get_task
    from ..training import open_data_of, preview

    recipe, task = Recipe.of(settings), get_task(settings["task"])
    picture = preview(open_data_of(recipe, recipe.data, task).train, task, recipe)
    with atomic_write(path) as temporary:
        picture.save(temporary)
    record(path, path.parent)
