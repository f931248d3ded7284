"""`pixelwise check`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from .errors import PROBLEMS
from .options import AsJson, Classes, Format, MaskRule, Seed, TaskName, print_json, watched


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
    seed: Seed = 0,
) -> None:
    """Look for what would spoil a training: broken files, missing partners, wrong sizes and labels, leaks.

    Ends with code 1 if there are problems. Example: [bold]pixelwise check street[/bold]
    """
    from ..console import progress_bar
    from ..data import check_data, propose_classes
    from ..tasks import get_task, task_of_folder

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
    if report.problems:
        raise typer.Exit(PROBLEMS)
