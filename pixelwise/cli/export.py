"""`pixelwise export`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Overwrite


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT|RUN", help="Weights, or a run directory.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="File to write, ending in .onnx.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a trained model as an ONNX file, for images of any size and batches of any length.

    The file is compared with the model at three sizes before it appears. `predict` and `evaluate` take it
    like any checkpoint; other programs give it images "b 3 H W" in [0, 1] and get scores. Of a promptable
    network it is the decoder, with the inputs of segment-anything's: embeddings are made by pixelwise.

    Example: [bold]pixelwise export runs/first --out first.onnx[/bold]
    """
    from ..checkpoint import load
    from ..export import export_decoder, export_onnx
    from ..files import check_targets, record
    from ..types import PromptableModel

    check_targets([out], out.parent, overwrite=overwrite)
    found = load(checkpoint)
    if isinstance(found.model, PromptableModel):
        worst = export_decoder(found.model, out)
        record(out, out.parent)
        typer.echo(
            f"{out}: decoder of prompts, {out.stat().st_size / 1e6:.1f} MB; differs by at most {worst:.0e}"
        )
        return
    compared = export_onnx(found.model, out, found.classes, task=found.task, decoding=found.decoding)
    record(out, out.parent)
    worst = max(one.largest for one in compared)
    sizes = ", ".join(f"{one.size[1]} x {one.size[2]}" for one in compared)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB; differs by at most {worst:.0e} at {sizes}")
