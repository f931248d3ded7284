"""`pixelwise optimize`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..machine import keep_freed_memory
from .options import AsJson, leave_idle_cores, print_json, size_of, watched

MOST = 24  # images: a quarter is compared, on the others ranges and layers of 8-bit integers are chosen


def optimize(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT|RUN", help="Weights, or a run directory.", show_default=False),
    ],
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size of images to be fast at (default that of the first image)."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Share of labels that must be those of the network as it is.")
    ] = 0.995,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Images like those that will be segmented (default validation images of the run).",
        ),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option("--form", help="Try this form only, such as 'openvino, bf16'; may be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each form is timed.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Find the fastest form of a network on this machine whose labels agree with it.

    Memory layout, folded batch norms, bfloat16, torch.compile, ONNX Runtime and OpenVINO are tried, the
    latter two also in 8-bit integers. `predict --optimize` and
    `Predictor(RUN, optimize=True)` use what was chosen.

    Example: [bold]pixelwise optimize runs/first --size 512x512 --calibrate photos[/bold]
    """
    leave_idle_cores()  # times are those of `predict`
    keep_freed_memory()
    from torch.nn.functional import interpolate

    from ..console import console
    from ..data.formats import images_in
    from ..export import load, optimize

    wanted = None if size is None else size_of(size, "--size")
    found = load(checkpoint)
    if calibrate is not None:
        images = images_in(calibrate, found.model.in_channels, most=MOST)
    else:
        images = _of_run(checkpoint, found.task)
    height, width = wanted or (images[0].shape[1], images[0].shape[2])
    images = [
        interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
        for image in images
    ]
    tell = (lambda name: typer.echo(f"trying {name}", err=True)) if watched() else (lambda name: None)
    result = optimize(found, images, tolerance=tolerance, forms=form or None, rounds=rounds, tell=tell)
    if as_json:
        rows = [row._asdict() for row in result.table]
        print_json({"form": result.form, "size": list(result.size), "table": rows})
        return
    console().print(_table(result, f"one image of {height} x {width}"))
    users = "predict --optimize and Predictor(..., optimize=True)"
    typer.echo(f"{users} use {result.form} for images of {height} x {width}")


def _table(result: Any, title: str) -> Any:
    """One line per form: time, how many times as fast as the network as it is, share of equal labels."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("form", "ms", "times as fast", "equal labels", ""):
        table.add_column(column, justify="left" if column in ("form", "") else "right")
    plain = result.table[0].milliseconds
    for row in result.table:
        time = "" if row.milliseconds is None else f"{row.milliseconds:.0f}"
        ratio = "" if row.milliseconds is None else f"{plain / row.milliseconds:.2f}"
        equal = "" if row.agreement is None else f"{row.agreement:.3%}"
        table.add_row(row.form, time, ratio, equal, row.note or "chosen" * (row.form == result.form))
    return table


def _of_run(run: Path, task: str | None) -> list[Any]:
    """Validation images of the data that a run was trained on.

    Raises:
        ValueError: if it does not tell, or they are gone.
    """
    from ..tasks import open_data

    recipe = run / "recipe.json"
    if not recipe.is_file():
        raise ValueError(f"{run} does not tell its data: name a folder of images (--calibrate FOLDER)")
    told = json.loads(recipe.read_text())
    splits = open_data(told["data"], task=task, format=told["format"], classes=told["classes"])
    data = splits.val
    step = max(1.0, len(data) / MOST)
    return [data[int(i * step)].image for i in range(min(MOST, len(data)))]
