"""`pixelwise ensemble`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..wording import counted
from .options import Overwrite


def ensemble(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT|RUN...",
            help="Weights or run directories of models for the same classes; or one folder of runs.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write, usually ending in .safetensors.")],
    average: Annotated[
        str,
        typer.Option(
            help="outputs: every model is run and the answers are averaged. weights: one model with the "
            "mean of the weights, for models that were trained from the same start."
        ),
    ] = "outputs",
    overwrite: Overwrite = False,
) -> None:
    """Write several trained models as one file, which predict and evaluate take like any other.

    Example: [bold]pixelwise ensemble runs/first runs/second --out both.safetensors[/bold]
    """
    from ..checkpoint import ensemble as together, find_all, save
    from ..files import check_targets, record

    check_targets([out], out.parent, overwrite=overwrite)
    paths = [path for source in sources for path in find_all(source)]
    found = together(paths, average=cast(Any, average))
    save(found.model, out, found.classes, task=found.task, decoding=found.decoding, notes=dict(found.notes))
    record(out, out.parent)
    typer.echo(f"{average} of {counted(len(paths), 'model')} averaged: {out}")
