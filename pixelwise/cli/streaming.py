"""The part of `pixelwise predict` for images that are predicted from file to file."""

import math
from pathlib import Path
from typing import Any

import typer

from ..wording import brief

_OF_SCORES = ("confidence", "probabilities")  # what is kept of pixels instead of labels
LARGE = 64_000_000  # pixels from which an image is never held in memory where its file can be read in parts


def streams(
    predictor: Any, sources: list[str], out: Path, format: str | None, *, slide: bool = False
) -> Path | None:
    """The file that is written row by row; None where images are predicted one by one in memory.

    That is so for one source and a file as `--out`, a source of more than 64 million pixels of which parts
    can be read, or a whole-slide image; with `slide` any file of which a level is chosen.

    Raises:
        ValueError: if a slide cannot be read, or the format does not fit.
    """
    from ..tiling import SLIDES, SUFFIXES, WINDOWED, open_source
    from ..types import ClassMasks, LabelMap, MaskSet

    source, task = Path(sources[0]), predictor.task
    format = format.lstrip(".") if format else None
    of_pixels = task.annotation in (LabelMap, ClassMasks)
    volume = task.infer is not None
    if volume and "tile" not in predictor.decoding:
        return None  # slices and what stands in boxes
    if len(sources) != 1 or not source.exists():
        return None
    if not of_pixels and (task.annotation is not MaskSet or out.suffix.lower() == ".png"):
        return None
    if source.is_dir() and source.suffix.lower() != ".zarr":
        return None
    if out.suffix.lower() in SUFFIXES and (not out.is_dir() or out.suffix.lower() == ".zarr"):
        if format not in (None, *_OF_SCORES, out.suffix[1:].lower(), out.suffix[1:4].lower()):
            raise ValueError(f"--out {out} is not of the format {brief(format)}: leave out --format")
        return out
    if source.suffix.lower() not in WINDOWED or not (of_pixels or format == "geojson"):
        return None
    try:
        with open_source(source, 3 if volume else 2) as opened:
            large = slide or math.prod(opened.size) > LARGE or source.suffix.lower() in (".zarr", *SLIDES)
    except ValueError:
        if source.suffix.lower() in SLIDES:
            raise
        return None  # whoever reads it whole says what is wrong
    if not large:
        return None
    flat = task.annotation is LabelMap and not volume
    usual = "png" if flat and not slide and source.suffix.lower() not in SLIDES else "tif"
    fitting = ["tif", "npy", *(["png"] if flat else []), *([] if volume else ["geojson"]), *_OF_SCORES]
    if format not in (None, *fitting):
        if volume:
            return None  # forms of volumes are written whole
        raise ValueError(
            f"{source} is predicted row by row and saved as {', '.join(fitting)}, not as {brief(format)}"
        )
    kept = {"confidence": usual, "probabilities": "tif"}.get(format or usual, format or usual)
    return out / f"{source.stem}.{kept}"


def stream(
    predictor: Any,
    source: Any,
    target: Path,
    *,
    format: str | None,
    batch_size: int,
    overwrite: bool,
    only_plan: bool,
    progress: bool,
) -> None:
    """Say what it will take, and predict one image, a path or a `PixelSource`, into one file.

    Raises:
        ValueError: as `Predictor.stream`.
    """
    from ..files import check_targets, record
    from ..predict.streaming import is_geojson
    from ..types import MaskSet

    of_objects = predictor.task.annotation is MaskSet
    keep = format if format in _OF_SCORES else "labels"
    targets = []
    if not only_plan and target.suffix.lower() != ".zarr":
        path = Path(source if isinstance(source, str) else source.name)
        read = [path] if path.is_file() else []
        table = of_objects and not is_geojson(target)
        targets = [target, *([target.with_suffix(".json")] if table else [])]
        check_targets(targets, target.parent, sources=read, overwrite=overwrite)
    plan = predictor.plan(source, keep=keep, batch_size=batch_size)
    typer.echo(str(plan), err=not only_plan)
    if only_plan:
        return
    predictor.stream(
        source,
        target,
        keep=keep,
        batch_size=batch_size,
        overwrite=overwrite and bool(targets),  # of a .zarr folder the manifest knows nothing
        progress=progress,
    )
    for made in targets:
        record(made, target.parent)
    typer.echo(f"1 prediction written to {target}")
