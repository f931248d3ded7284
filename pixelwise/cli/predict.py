"""`pixelwise predict`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..wording import counted
from .errors import PROBLEMS
from .options import (
    Crf,
    CrfSettings,
    Decoding,
    Device,
    Flip,
    Overwrite,
    Plain,
    TaskName,
    extent_of,
    leave_idle_cores,
    numbers_of,
    pairs_of,
    refinement,
    watched,
    without_crf,
)


def predict(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT|RUN[,RUN...]",
            help="Weights or a run directory; several with commas between them are an ensemble.",
            show_default=False,
        ),
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders of images, or quoted patterns: 'photos/**/*.jpg'.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")] = Path("predictions"),
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the image tinted with the classes.")
    ] = False,
    tint_background: Annotated[
        bool, typer.Option("--tint-background", help="Tint classes named background or void in overlays too.")
    ] = False,
    overwrite: Overwrite = False,
    task: TaskName = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="How predictions are saved. One class per pixel: png (palette), npy, tif, geojson or coco; "
            "several: png, tif or npy; instances: json, png, geojson, coco, yolo, labelme; boxes: json, txt "
            "or coco; panoptic maps: png or coco; key points: json or coco; volumes: nii.gz, nii or npy "
            "(default the first). Each: overlay; of pixels: probabilities."
        ),
    ] = None,
    decoding: Decoding = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Predict in overlapping tiles, of volumes DxHxW (default: only where an image does not fit "
            "into memory).",
        ),
    ] = None,
    tile_overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 64,
    flip: Flip = None,
    scales: Annotated[
        str, typer.Option(metavar="S,S,...", help="Average over the image resized by these factors.")
    ] = "1",
    crf: Crf = None,
    crf_like: CrfSettings = None,
    plain: Plain = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Leave out images whose results are there, from a run that was stopped."
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that read and write while the model works.")
    ] = 2,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images of one size per forward pass (default 1 on a CPU, 8 on a GPU)."),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Largest height times width of an image.")
    ] = 1_000_000_000,
    precision: Annotated[str, typer.Option(help="32, or bf16 or 16 for mixed precision.")] = "32",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of models that sample while they predict.")] = 0,
) -> None:
    """Write what a model finds in images: classes of pixels as palette PNGs, objects as json, and so on.

    Example: [bold]pixelwise predict runs/street-unet photos --out predictions --overlay[/bold]
    """
    leave_idle_cores()
    from ..data.formats import IMAGE_SUFFIXES
    from ..predict.writing import missing_source, output_format, plan, summary, write_predictions

    if checkpoint.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{checkpoint} is an image: weights or a run directory come first, then the images")
    if missing := missing_source(sources):
        raise ValueError(missing)
    import torch

    from ..predict import Predictor
    from ..types import LabelMap

    torch.manual_seed(seed)
    predictor = Predictor(
        checkpoint,
        task=task,
        device=device,
        precision=cast(Any, precision),
        tile=extent_of(tile, "--tile") if tile else "auto",
        overlap=tile_overlap,
        flip=flip,
        scales=numbers_of(scales, "--scales"),
        refine=refinement(crf, crf_like),
        decoding=without_crf(pairs_of(decoding, "--decoding"), crf),
        plain=plain,
        max_pixels=max_pixels,
    )
    if tint_background and predictor.task.annotation is not LabelMap:
        raise ValueError(
            f"--tint-background is for one class per pixel, not for the task {predictor.task.name}"
        )
    suffix, collector = output_format(predictor.task, format)
    jobs = plan(sources, out, suffix, predictor.task.suffixes)
    written = write_predictions(
        predictor,
        jobs,
        out,
        collector=collector,
        overlay=overlay,
        drawing={"clear": ()} if tint_background else {},
        overwrite=overwrite,
        resume=resume,
        workers=workers,
        batch_size=batch_size,
        progress=watched() and len(jobs) > 1,
    )
    if written.problems and len(jobs) == 1:
        raise ValueError(written.problems[0])
    overlays = f" and {counted(len(written.overlays), 'overlay')}" if overlay else ""
    before = f", {counted(written.skipped, 'image')} had results already" if written.skipped else ""
    typer.echo(f"{counted(len(written.predictions), 'prediction')}{overlays} written to {out}{before}")
    if written.problems:
        typer.echo(f"Error: {summary(written.problems, len(jobs), out)}", err=True)
        raise typer.Exit(PROBLEMS)
