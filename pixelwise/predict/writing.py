"""Predictions of many images as files, planned before anything is written."""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import track

from ..data.formats.image import IMAGE_SUFFIXES
from ..files import check_targets, record
from ..tasks import Task
from ..types import Annotation, ClassTable
from .prediction import Prediction, suffix_of


@runtime_checkable
class Predict(Protocol):
    """What a `Predictor` offers to this file."""

    @property
    def task(self) -> Task:
        """What is predicted."""

    @property
    def classes(self) -> ClassTable:
        """What the labels mean."""

    def __call__(self, source: Path) -> Prediction:
        """The prediction of the image in a file."""


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


def find_images(
    folder: str | os.PathLike[str],
    *,
    but: str | os.PathLike[str] | None = None,
    suffixes: frozenset[str] = IMAGE_SUFFIXES,
) -> list[Path]:
    """Every image in a folder and its sub-folders, by its suffix, sorted; hidden files are left out.

    Args:
        folder: where to look.
        but: a folder inside it that is left out, such as the one for results.
        suffixes: of images, in lower case with the dot.

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
        if not _is_image(path, suffixes) or hidden or not path.is_file():
            continue
        if left_out is None or left_out not in path.resolve().parents:
            found.append(path)
    return found


def plan(
    sources: Sequence[str | os.PathLike[str]],
    out: Path,
    suffix: str = ".png",
    suffixes: frozenset[str] = IMAGE_SUFFIXES,
) -> list[Job]:
    """Which image is written where.

    An image goes to `out/NAME`; what a pattern such as `photos/**/*.jpg` matches keeps its place below the
    last folder that the pattern names; a folder keeps its sub-folders, below `out` if it is the only source
    and below `out/FOLDER` otherwise.

    Args:
        sources: images, folders of images, patterns.
        out: folder for the predictions.
        suffix: of the predictions, such as ".png".
        suffixes: of images, in lower case with the dot.

    Raises:
        ValueError: if a source is missing, a URL, or holds no image, or if predictions would lie among the
            images of a folder.
    """
    jobs: list[Job] = []
    for source in sources:
        text, path = os.fspath(source), Path(source)
        if missing := missing_source([source]):
            raise ValueError(missing)
        if path.is_dir():
            images, base = find_images(path, but=out, suffixes=suffixes), path
            place = out if len(sources) == 1 else out / path.resolve().name
            if not images:
                raise ValueError(f"there is no image in the folder {path}")
            if out.resolve() == path.resolve():
                raise ValueError(
                    f"cannot write predictions to {out}, the folder of the images: "
                    "they would be taken for images; choose another folder"
                )
        elif path.exists():
            images, base, place = [path], path.parent, out
        else:
            images, base, place = _matching(text, suffixes), _named_part(path), out
            if not images:
                raise ValueError(f"no image matches the pattern {text}")
        jobs += [
            Job(image, (place / image.relative_to(base)).with_name(stem_of(image) + suffix))
            for image in images
        ]
    return jobs


def write_predictions(
    predict: Predict,
    jobs: Sequence[Job],
    out: Path,
    *,
    overlay: bool = False,
    drawing: Mapping[str, Any] | None = None,
    collector: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Written:
    """Predict each image and write it; an image that cannot be used does not stop the others.

    The file `.pixelwise.sha256` in `out` lists what was written, with its digest: only such files are
    replaced by a later call with `overwrite`, and only while nobody has changed them.

    Args:
        predict: path of an image -> prediction, of a task.
        jobs: see `plan`.
        out: folder for the predictions.
        overlay: whether to write `NAME_overlay.png` as well.
        drawing: options of the overlays, such as `{"clear": ()}` to tint the background too.
        collector: format in which the predictions of all images are saved together, such as "coco", instead
            of a file for each.
        overwrite: whether earlier predictions in `out` may be replaced.
        progress: whether to show a progress bar.

    Raises:
        ValueError: before anything is written, if two images would be written to one file, or a file of the
            user would be lost; later, if nothing can be written.
    """
    task, classes = predict.task, predict.classes
    owner: dict[Path, Path] = {}
    for job in jobs:
        targets = [] if collector else task.writers[suffix_of(job.target, task)].files(job.target, classes)
        for target in [*targets, *([overlay_of(job.target)] if overlay else [])]:
            if target in owner:
                raise ValueError(f"{owner[target]} and {job.image} would both be written to {target}")
            owner[target] = job.image
    together = task.collectors[collector] if collector else None
    names = [job.target.relative_to(out).with_name(job.image.name).as_posix() for job in jobs]
    collected = together.files(out, names) if together else []
    check_targets([*owner, *collected], out, sources=[job.image for job in jobs], overwrite=overwrite)
    done = Written([], [], [])
    found: list[tuple[str, Annotation]] = []
    console = Console(stderr=True)
    pairs = list(zip(jobs, names, strict=True))
    for job, name in track(pairs, "predicting", console=console, disable=not progress):
        try:
            prediction = predict(job.image)
        except ValueError as error:
            done.problems.append(str(error))
            continue
        if together:
            found.append((name, prediction.annotation))
        else:
            prediction.save(job.target, overwrite=overwrite)
            for target in task.writers[suffix_of(job.target, task)].files(job.target, classes):
                record(target, out)
                done.predictions.append(target)
        if overlay:
            path = prediction.save(overlay_of(job.target), overwrite=overwrite, **(drawing or {}))
            record(path, out)
            done.overlays.append(path)
    if together and found:
        for path in together.write(out, found, classes):
            record(path, out)
            done.predictions.append(path)
    return done


def output_format(task: Task, name: str | None) -> tuple[str, str | None]:
    """The suffix of predictions, and the collector where they are saved together.

    Args:
        task: says how its predictions can be saved.
        name: such as "png", "npy" or "coco"; None for the first that the task knows.

    Raises:
        ValueError: if the task has no such format.
    """
    suffixes = list(task.writers)
    if name is None:
        return suffixes[0], None
    if name in task.collectors:
        return suffixes[0], name
    if (suffix := "." + name.lstrip(".")) in task.writers:
        return suffix, None
    known = ", ".join([*(suffix[1:] for suffix in suffixes), *task.collectors])
    raise ValueError(f"predictions of the task {task.name} are saved as {known}, got {name!r:.80}")


def missing_source(sources: Sequence[str | os.PathLike[str]]) -> str:
    """What is wrong with the first source that cannot be an image, a folder or a pattern; "" if none is."""
    for source in sources:
        text, path = os.fspath(source), Path(source)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text) and not path.exists():
            return f"{text} is a URL: download the image first, then give its file"
        if path.suffix.lower() == ".safetensors" and path.exists():
            return f"{path} holds weights: they come first, then the images"
        if not path.exists() and not glob.has_magic(text):
            return f"there is no image or folder {path}"
    return ""


def overlay_of(target: Path) -> Path:
    """`NAME_overlay.png` beside `NAME.png` or `NAME.npy`."""
    return target.with_name(f"{stem_of(target)}_overlay.png")


def summary(problems: Sequence[str], images: int, out: Path) -> str:
    """One sentence about the images that could not be used."""
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return (
        f"{len(problems)} of {images} images could not be used, the others are in {out}: "
        f"{'; '.join(problems[:5])}{more}"
    )


def stem_of(path: Path) -> str:
    """The name without its suffix: of a.nii.gz, a."""
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem


def _is_image(path: Path, suffixes: frozenset[str]) -> bool:
    return any(path.name.lower().endswith(suffix) for suffix in suffixes)


def _matching(pattern: str, suffixes: frozenset[str]) -> list[Path]:
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))
    return [path for path in found if _is_image(path, suffixes) and path.is_file()]


def _named_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])
