"""Predictions of many images as files, planned before anything is written."""

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ..data.formats.image import IMAGE_SUFFIXES
from ..files import check_targets, record
from .prediction import Prediction


@dataclass(frozen=True)
class Job:
    """An image and the file that its prediction is written to."""

    image: Path
    target: Path


@dataclass(frozen=True)
class Written:
    """What came of many images.

    Attributes:
        predictions: the files with labels, in the order of the images.
        overlays: the tinted images.
        problems: a sentence for every image that could not be used.
    """

    predictions: list[Path]
    overlays: list[Path]
    problems: list[str]


def find_images(folder: str | os.PathLike[str], *, but: str | os.PathLike[str] | None = None) -> list[Path]:
    """Every image in a folder and its sub-folders, by its suffix, sorted; hidden files are left out.

    Args:
        folder: where to look.
        but: a folder inside it that is left out, such as the one for results.

    Raises:
        ValueError: if `folder` is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    left_out = None if but is None or Path(but).resolve() == folder.resolve() else Path(but).resolve()
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() not in IMAGE_SUFFIXES or hidden or not path.is_file():
            continue
        if left_out is None or left_out not in path.resolve().parents:
            found.append(path)
    return found


def plan(sources: Sequence[str | os.PathLike[str]], out: Path, suffix: str = ".png") -> list[Job]:
    """Which image is written where.

    An image goes to `out/NAME`; what a pattern such as `photos/**/*.jpg` matches keeps its place below the
    last folder that the pattern names; a folder keeps its sub-folders, below `out` if it is the only source
    and below `out/FOLDER` otherwise.

    Args:
        sources: images, folders of images, patterns.
        out: folder for the predictions.
        suffix: ".png" or ".npy".

    Raises:
        ValueError: if a source is missing, a URL, or holds no image, or if two images would be written to
            one file.
    """
    if suffix not in (".png", ".npy"):
        raise ValueError(f"predictions are saved as .png or .npy, got {suffix!r}")
    jobs: list[Job] = []
    for source in sources:
        text, path = os.fspath(source), Path(source)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text) and not path.exists():
            raise ValueError(f"{text} is a URL: download the image first, then give its file")
        if path.is_dir():
            images, base = find_images(path, but=out), path
            place = out if len(sources) == 1 else out / path.resolve().name
            if not images:
                raise ValueError(f"there is no image in the folder {path}")
        elif path.exists():
            images, base, place = [path], path.parent, out
            if path.suffix.lower() == ".safetensors":
                raise ValueError(f"{path} holds weights: they come first, then the images")
        elif glob.has_magic(text):
            images, base, place = _matching(text), _named_part(path), out
            if not images:
                raise ValueError(f"no image matches the pattern {text}")
        else:
            raise ValueError(f"there is no image or folder {path}")
        jobs += [Job(image, (place / image.relative_to(base)).with_suffix(suffix)) for image in images]
    return jobs


def write_predictions(
    predict: Callable[[Path], Prediction],
    jobs: Sequence[Job],
    out: Path,
    *,
    overlay: bool = False,
    clear: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Written:
    """Predict each image and write it; an image that cannot be used does not stop the others.

    The file `.pixelwise.sha256` in `out` lists what was written, with its digest: only such files are
    replaced by a later call with `overwrite`, and only while nobody has changed them.

    Args:
        predict: path of an image -> prediction.
        jobs: see `plan`.
        out: folder for the predictions.
        overlay: whether to write `NAME_overlay.png` as well.
        clear: classes that overlays do not tint, by default the background; see `draw.overlay`.
        overwrite: whether earlier predictions in `out` may be replaced.
        progress: whether to show a progress bar.

    Raises:
        ValueError: before anything is written, if two images would be written to one file, or a file of the
            user would be lost; later, if nothing can be written.
    """
    owner: dict[Path, Path] = {}
    for job in jobs:
        for target in (job.target, overlay_of(job.target)) if overlay else (job.target,):
            if target in owner:
                raise ValueError(f"{owner[target]} and {job.image} would both be written to {target}")
            owner[target] = job.image
    check_targets(owner, out, sources=[job.image for job in jobs], overwrite=overwrite)
    done = Written([], [], [])
    console = Console(stderr=True)
    for job in track(jobs, "predicting", console=console, disable=not progress):
        try:
            prediction = predict(job.image)
        except ValueError as error:
            done.problems.append(str(error))
            continue
        done.predictions.append(prediction.save(job.target, overwrite=overwrite))
        record(job.target, out)
        if overlay:
            path = prediction.save(overlay_of(job.target), overwrite=overwrite, clear=clear)
            record(path, out)
            done.overlays.append(path)
    return done


def overlay_of(target: Path) -> Path:
    """`NAME_overlay.png` beside `NAME.png` or `NAME.npy`."""
    return target.with_name(f"{target.stem}_overlay.png")


def summary(problems: Sequence[str], images: int, out: Path) -> str:
    """One sentence about the images that could not be used."""
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return (
        f"{len(problems)} of {images} images could not be used, the others are in {out}: "
        f"{'; '.join(problems[:5])}{more}"
    )


def _matching(pattern: str) -> list[Path]:
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))
    return [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def _named_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])
