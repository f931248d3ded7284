"""`pixelwise convert`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Classes, Format, TaskName, watched


def convert(
    data: Annotated[Path, typer.Argument(help="Folder of images and annotations.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            help="What to write: coco, yolo, panoptic (COCO panoptic), pairs (images and masks), cvat, "
            "labelme or geojson.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new folder.", show_default=False)],
    task: TaskName = None,
    format: Format = "auto",
    classes: Classes = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Write polygons as the pixels that their tool draws, not as polygons."),
    ] = False,
    link: Annotated[bool, typer.Option("--link", help="Link the images instead of copying them.")] = False,
) -> None:
    """Convert a data set for another tool: polygons stay polygons, masks are exact, the parts stay.

    The new folder appears whole or not at all. What the target cannot hold (holes in YOLO) is counted and
    told.

    Example: [bold]pixelwise convert street --to coco --out street_coco[/bold]
    """
    from ..console import progress_bar
    from ..data.convert import READINGS, WRITERS, convert
    from ..tasks import open_data, task_for_conversion
    from ..wording import brief

    if to not in WRITERS:
        raise ValueError(f"--to must be one of {', '.join(WRITERS)}, got {brief(to)}")
    chosen = task or task_for_conversion(data, format, READINGS[to])
    splits = open_data(data, task=chosen, format=format, classes=classes, val_fraction=0.0, test_fraction=0.0)
    with progress_bar("converting", hidden=not watched()) as advance:
        done = convert(splits, to, out, exact=exact, link=link, progress=advance)
    typer.echo(done.render())
