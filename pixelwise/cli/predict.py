"""`pixelwise predict`."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..machine import keep_freed_memory
from ..wording import brief, counted
from .elsewhere import predictor_behind, refuse_local_options
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
    Views,
    extent_of,
    leave_idle_cores,
    numbers_of,
    pairs_of,
    refinement,
    watched,
    without_crf,
)

if TYPE_CHECKING:  # torch comes with it
    from ..predict.writing import Written


def predict(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT|RUN[,RUN...]",
            help="Weights or a run directory; several with commas between them are an ensemble. With "
            "--server the name of a model there.",
            show_default=False,
        ),
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders of images, movies, or quoted patterns: 'photos/**/*.jpg'.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Folder for the predictions; or a file (.tif, .npy, .zarr, .png, .geojson), to which one "
            "image of any size is predicted row by row; with --engine ray also a URI.",
        ),
    ] = "predictions",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the image tinted with the classes.")
    ] = False,
    tint_background: Annotated[
        bool, typer.Option("--tint-background", help="Tint classes named background or void in overlays too.")
    ] = False,
    overwrite: Overwrite = False,
    classes: Annotated[
        Path | None,
        typer.Option(help="Class table, csv or json, for an ONNX file of another program."),
    ] = None,
    task: TaskName = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="How predictions are saved. One class per pixel: png (palette), npy, tif, geojson or coco; "
            "several: png, tif, npy, geojson or coco; instances: json, png, geojson, coco, yolo or labelme; "
            "boxes: json, txt or coco; panoptic maps: png, geojson or coco; key points: json or coco; "
            "volumes: nii.gz, nii, nrrd, mha, tif, tiff, npy or dcm (DICOM SEG over a series), by default as "
            "the image. Each: overlay; of pixels: probabilities. By default the first one named."
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
    tile_blend: Annotated[
        str,
        typer.Option(
            help="How tiles are joined: gaussian, constant, or crop (exactly the whole image where half the "
            "overlap covers the receptive field)."
        ),
    ] = "gaussian",
    only_plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="For one image that is predicted row by row: say tiles, memory and time, no more."
        ),
    ] = False,
    flip: Flip = None,
    views: Views = None,
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
    level: Annotated[
        int | None,
        typer.Option(
            help="Of the pyramid of a whole-slide image (extra slides): 0 is the finest.", show_default=False
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="Microns per pixel at which a whole-slide image is read, instead of a level.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="32, or bf16 or 16 for mixed precision.")] = "32",
    optimize: Annotated[
        bool,
        typer.Option(
            "--optimize",
            help="Use the fastest form of the network on this machine, as `pixelwise optimize` chose it for "
            "the size of the first image; where it chose none, forms are measured, which takes minutes.",
        ),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="here, or ray for all machines of a Ray cluster (extra ray): then SOURCE may be a URI such "
            "as s3://bucket/photos, and --format also parquet."
        ),
    ] = "here",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of models that sample while they predict.")] = 0,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Let `pixelwise serve` at this address predict: the same files, without the weights here.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that the server wants; PIXELWISE_TOKEN does the same."),
    ] = None,
) -> None:
    """Write what a model finds in images: classes of pixels as palette PNGs, objects as json, and so on.

    Of a movie (extra `video`) every frame is predicted, and the movie with the overlays is written.

    Example: [bold]pixelwise predict runs/street-unet photos --out predictions --overlay[/bold]
    """
    leave_idle_cores()
    keep_freed_memory()
    from ..data.formats import IMAGE_SUFFIXES, read_classes_file
    from ..predict.movies import movies_among, write_movie
    from ..predict.writing import missing_source, output_format, plan, write_predictions

    if checkpoint.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{checkpoint} is an image: weights or a run directory come first, then the images")
    if engine not in ("here", "ray"):
        raise ValueError(f"--engine is here or ray, got {brief(engine)}")
    slide = level is not None or mpp is not None
    if slide and (server is not None or engine != "here"):
        raise ValueError("--level and --mpp are for a slide that is read here, not by a server or a cluster")
    if engine == "here" and (missing := missing_source(sources)):
        raise ValueError(missing)
    import torch

    from .. import export
    from ..predict import Predictor
    from ..predict.bulk import predict_on_ray
    from ..tiling import SlideSource
    from ..types import LabelMap
    from .streaming import stream, streams

    if token_file is not None and server is None:
        raise ValueError("--token-file is for --server")
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "task": task,
        "device": device,
        "precision": precision,
        "tile": extent_of(tile, "--tile") if tile else "auto",
        "overlap": tile_overlap,
        "blend": tile_blend,
        "flip": flip,
        "scales": numbers_of(scales, "--scales"),
        "views": views,
        "refine": refinement(crf, crf_like),
        "decoding": without_crf(pairs_of(decoding, "--decoding"), crf),
        "plain": plain,
        "max_pixels": max_pixels,
        "optimize": optimize and (lambda sentence: typer.echo(sentence, err=True)),
    }
    if engine == "ray":
        if optimize:
            raise ValueError("--optimize is for this machine, not for the machines of --engine ray")
        if overlay or tint_background:
            raise ValueError("--overlay and --tint-background are not for --engine ray: use --format overlay")
        _report(
            predict_on_ray(
                export.load(checkpoint),
                sources,
                out,
                format=format,
                options=options,
                overwrite=overwrite,
                resume=resume,
                workers=workers,
                prepare=keep_freed_memory,
                progress=watched(),
            ),
            out,
        )
        return
    predictor: Any
    if server is not None:
        refuse_local_options(context)
        predictor = predictor_behind(server, checkpoint.name, token_file, options)
        batch_size = batch_size or predictor.at_once
    else:
        predictor = Predictor(checkpoint, None if classes is None else read_classes_file(classes), **options)
    if tint_background and predictor.task.annotation is not LabelMap:
        raise ValueError(
            f"--tint-background is for one class per pixel, not for the task {predictor.task.name}"
        )
    target = streams(predictor, sources, Path(out), format, slide=slide) if server is None else None
    if slide and (target is None or predictor.task.infer is not None):
        raise ValueError("--level and --mpp are for one whole-slide image and a model that scores pixels")
    if target is not None:
        if overlay:
            raise ValueError(f"--overlay is for images that are held in memory, not for {target}")
        with SlideSource(sources[0], level=level, mpp=mpp) if slide else nullcontext(sources[0]) as source:
            stream(
                predictor,
                source,
                target,
                format=format,
                batch_size=1,
                overwrite=overwrite,
                only_plan=only_plan,
                progress=watched(),
            )
        if optimize:
            _tell_form(predictor.form)
        return
    if only_plan:
        raise ValueError("--plan is for one image that is predicted row by row: give --out a file")
    suffix, collector = output_format(predictor.task, format)
    movies, images = movies_among(sources)
    jobs = plan(images, Path(out), suffix, predictor.task, predictor.model.in_channels)
    given: dict[str, Any] = {
        "collector": collector,
        "drawing": {"clear": ()} if tint_background else {},
        "overwrite": overwrite,
        "resume": resume,
        "workers": workers,
        "batch_size": batch_size,
    }
    written = write_predictions(
        predictor, jobs, Path(out), overlay=overlay, progress=watched() and len(jobs) > 1, **given
    )
    if written.problems and len(jobs) == 1 and not movies:
        raise ValueError(written.problems[0])
    for movie in movies:
        written += write_movie(predictor, movie, Path(out), suffix, progress=watched(), **given)
    if optimize:
        _tell_form(predictor.form)
    _report(written, out)


def _tell_form(form: str) -> None:
    """Say what computed, unless no image could be used."""
    if form:
        typer.echo(f"form of the network: {form}{' (as it is)' if form == 'eager' else ''}")


def _report(written: "Written", out: str) -> None:
    """Say what was written; problems end the command with an exit code of their own."""
    from ..predict.writing import summary

    overlays = f" and {counted(len(written.overlays), 'overlay')}" if written.overlays else ""
    before = f", {counted(written.skipped, 'source')} had results already" if written.skipped else ""
    typer.echo(f"{counted(len(written.predictions), 'prediction')}{overlays} written to {out}{before}")
    if written.problems:
        problems = written.problems
        told = summary(problems, written.images, Path(out)) if written.images else "; ".join(problems)
        typer.echo(f"Error: {told}", err=True)
        raise typer.Exit(PROBLEMS)
