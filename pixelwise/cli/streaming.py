"""The part of `pixelwise predict` for images that are predicted from file to file."""

import math
from pathlib import Path
from typing import Any

import typer

LARGE = 64_000_000  # pixels from which an image is never held in memory where its file can be read in parts


def streams(
    predictor: Any, sources: list[str], out: Path, format: str | None, *, slide: bool = False
) -> Path | None:
    """The file that is written row by row; None where images are predicted one by one in memory.

    That is so for one source and a file as `--out`, a source of more than 64 million pixels of which parts
    can be read, or a whole-slide image; with `slide` any file of which a level is chosen.

    Raises:
        ValueError: if a slide cannot be read.
    """
    from ..tiling import SLIDES, SUFFIXES, WINDOWED, open_source
    from ..types import ClassMasks, LabelMap, MaskSet

    source = Path(sources[0])
    of_pixels = predictor.task.annotation in (LabelMap, ClassMasks)
    if predictor.task.infer is not None and "tile" not in predictor.decoding:
        return None  # slices and what stands in boxes
    if len(sources) != 1 or not source.exists():
        return None
    if not of_pixels and (predictor.task.annotation is not MaskSet or out.suffix.lower() == ".png"):
        return None
    if source.is_dir() and source.suffix.lower() != ".zarr":
        return None
    if out.suffix.lower() in SUFFIXES and (not out.is_dir() or out.suffix.lower() == ".zarr"):
        return out
    if source.suffix.lower() not in WINDOWED or not of_pixels:
        return None
    try:
        with open_source(source, 2 if predictor.task.infer is None else 3) as opened:
            large = slide or math.prod(opened.size) > LARGE or source.suffix.lower() in (".zarr", *SLIDES)
    except ValueError:
        if source.suffix.lower() in SLIDES:
            raise
        return None  # whoever reads it whole says what is wrong
    tiled = slide or source.suffix.lower() in SLIDES or predictor.task.annotation is ClassMasks
    suffix = ".npy" if format == "npy" else ".tif" if tiled else ".png"
    return out / f"{source.stem}{'.tif' if format == 'tif' else suffix}" if large else None


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
    from ..types import MaskSet

    of_objects = predictor.task.annotation is MaskSet
    keep = format if format in ("confidence", "probabilities") else "labels"
    targets = []
    if not only_plan and target.suffix.lower() != ".zarr":
        path = Path(source if isinstance(source, str) else source.name)
        read = [path] if path.is_file() else []
        targets = [target, *([target.with_suffix(".json")] if of_objects else [])]
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
