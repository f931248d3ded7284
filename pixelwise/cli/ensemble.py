"""`pixelwise ensemble`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..wording import counted, score_name
from .options import MaskRule, Overwrite, Split


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
            "mean of the weights, for models that were trained from the same start. best: weights, unless "
            "outputs are better on the images of --data by more than noise."
        ),
    ] = "outputs",
    data: Annotated[
        Path | None, typer.Option(help="Folder of images and masks, for --average best.", show_default=False)
    ] = None,
    split: Split = "val",
    mask_rule: MaskRule = "exact",
    overwrite: Overwrite = False,
) -> None:
    """Write several trained models as one file, which predict and evaluate take like any other.

    Example: [bold]pixelwise ensemble runs/first runs/second --out both.safetensors[/bold]
    """
    from ..checkpoint import ensemble as together, find_all, load, save
    from ..files import check_targets, record

    check_targets([out], out.parent, overwrite=overwrite)
    members = [load(path) for source in sources for path in find_all(source)]
    if (average == "best") != (data is not None):
        raise ValueError("--average best needs --data, the images to compare on, and nothing else takes it")
    if data is not None:
        from ..predict.averages import best_average
        from ..predict.evaluation import labelled_part
        from ..tasks import get_task, open_data

        splits = open_data(data, task=members[0].task, mask_rule=cast(Any, mask_rule))
        task = get_task(members[0].task)
        best = best_average(members, labelled_part(splits, split, members[0].classes, task))
        for name, score in best.scores.items():
            typer.echo(f"{name}: {score_name(task.monitor)} {score:.4f}")
        average, found = best.average, best.checkpoint
    else:
        found = together(members, average=cast(Any, average))
    save(found.model, out, found.classes, task=found.task, decoding=found.decoding, notes=dict(found.notes))
    record(out, out.parent)
    typer.echo(f"{average} of {counted(len(members), 'model')} averaged: {out}")
