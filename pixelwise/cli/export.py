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
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, ending in .onnx, .pt2 or .xml (default the run's name)."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="What shall run it: torch (.pt2), onnx (.onnx) or openvino (.xml with a .bin beside it); "
            "default as the suffix of --out says, else onnx."
        ),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Give the class of every pixel, not scores.")
    ] = False,
    int8: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Compute in 8-bit integers, with ranges measured on the images in this folder: for onnx "
            "and openvino.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a trained model for other runtimes, for images of any size and batches of any length.

    The file is compared with the model at three sizes before it appears. `predict` and `evaluate` take it
    like any checkpoint; other programs give it images "b 3 H W" in [0, 1] and get scores or labels. Of a
    promptable network it is the decoder, with the inputs of segment-anything's: embeddings are made by
    pixelwise.

    Example: [bold]pixelwise export runs/first --to openvino --out first.xml[/bold]
    """
    from ..data.formats import images_in
    from ..export import RUNTIMES, export, export_decoder, export_int8, load
    from ..files import check_targets, record
    from ..types import PromptableModel

    if to is not None and to not in RUNTIMES:
        raise ValueError(f"--to takes {', '.join(RUNTIMES)}, got {to!r:.80}")
    if out is None:
        name = checkpoint.stem if checkpoint.is_file() else checkpoint.resolve().name
        out = Path(f"{name}{RUNTIMES[to or 'onnx']}")
    if to is not None and out.suffix != RUNTIMES[to]:
        raise ValueError(f"--to {to} writes a file that ends in {RUNTIMES[to]}, got --out {out}")
    if int8 is not None and out.suffix == RUNTIMES["torch"]:
        raise ValueError("--int8 is for --to onnx and --to openvino")
    files = [out, out.with_suffix(".bin")] if out.suffix == RUNTIMES["openvino"] else [out]
    check_targets(files, out.parent, overwrite=overwrite)
    found = load(checkpoint)
    if isinstance(found.model, PromptableModel):
        if out.suffix != RUNTIMES["onnx"] or labels or int8 is not None:
            raise ValueError("of a promptable network the decoder is exported, to a file that ends in .onnx")
        worst = export_decoder(found.model, out)
        record(out, out.parent)
        size = out.stat().st_size
        typer.echo(f"{out}: decoder of prompts, {size / 1e6:.1f} MB; differs by at most {worst:.0e}")
        return
    if int8 is None:
        compared = export(found, out, labels=labels)
        worst = max(one.largest for one in compared)
        sizes = ", ".join(f"{one.size[1]} x {one.size[2]}" for one in compared)
        kind = "share of labels that differ" if labels else "differs by"
        told = f"{kind} at most {worst:.0e} at {sizes}"
    else:
        agreement = export_int8(found, out, images_in(int8, found.model.in_channels), labels=labels)
        told = f"{agreement.labels:.2%} of the labels of {agreement.images} images are those of the model"
    for file in files:
        record(file, out.parent)
    size = sum(file.stat().st_size for file in files)
    typer.echo(f"{out}: {size / 1e6:.1f} MB; {told}")
