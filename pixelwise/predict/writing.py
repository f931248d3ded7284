"""Predictions of many images as files, planned before anything is written."""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task as Bar,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..data.formats.image import IMAGE_SUFFIXES
from ..files import announce, check_targets, forget_announced, make_folder, record, unfinished, written_in
from ..tasks import Task
from ..types import Annotation, ClassTable
from .many import WORKERS, Predict, predict_many
from .prediction import OVERLAY, PROBABILITIES, Prediction, files_of

T = TypeVar("T")
_OF_EVERY_TASK = {"overlay": OVERLAY, "probabilities": PROBABILITIES}


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
        skipped: how many images had results already.
        images: how many images were asked for, without those of movies.
    """

    predictions: list[Path]
    overlays: list[Path]
    problems: list[str]
    skipped: int = 0
    images: int = 0

    def __add__(self, other: "Written") -> "Written":
        return Written(
            [*self.predictions, *other.predictions],
            [*self.overlays, *other.overlays],
            [*self.problems, *other.problems],
            self.skipped + other.skipped,
            self.images + other.images,
        )


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
    task: Task | None = None,
    channels: int = 3,
) -> list[Job]:
    """Which image is written where.

    An image goes to `out/NAME`; what a pattern such as `photos/**/*.jpg` matches keeps its place below the
    last folder that the pattern names; a folder keeps its sub-folders, below `out` if it is the only source
    and below `out/FOLDER` otherwise.

    Args:
        sources: images, folders of images, patterns.
        out: folder for the predictions.
        suffix: of the predictions, such as ".png"; "" for that which suits each image, where the task has
            such (see `Task.suffix_like`).
        task: tells which files are images; without it, pictures are.
        channels: of the model.

    Raises:
        ValueError: if a source is missing, a URL, or holds no image, or if predictions would lie among the
            images of a folder.
    """
    jobs: list[Job] = []
    suffixes = IMAGE_SUFFIXES if task is None else task.suffixes
    find = None if task is None else task.find
    suffix_like = None if task is None else task.suffix_like
    for source in sources:
        text, path = os.fspath(source), Path(source)
        if missing := missing_source([source]):
            raise ValueError(missing)
        if path.is_dir():
            images, base = find_images(path, but=out, suffixes=suffixes), path
            if find is not None:
                images = [one for one in find(path, channels) if not _is_below(one, out, path)]
            place = out if len(sources) == 1 else out / path.resolve().name
            if images == [path]:  # a folder that is an image
                base, place = path.parent, out
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
        for image in images:
            own = suffix or (suffix_like(image) if suffix_like is not None else ".png")
            jobs.append(Job(image, (place / image.relative_to(base)).with_name(stem_of(image) + own)))
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
    resume: bool = False,
    workers: int = WORKERS,
    batch_size: int | None = None,
    progress: bool = True,
) -> Written:
    """Predict each image and write it; an image that cannot be used does not stop the others.

    The file `.pixelwise.sha256` in `out` lists what was written, with its digest: only such files are
    replaced by a later call with `overwrite`, and only while nobody has changed them.

    Args:
        predict: a `Predictor`.
        jobs: see `plan`.
        out: folder for the predictions.
        overlay: whether to write `NAME_overlay.png` as well.
        drawing: options of the overlays, such as `{"clear": ()}` to tint the background too.
        collector: format in which the predictions of all images are saved together, such as "coco", instead
            of a file for each.
        overwrite: whether earlier predictions in `out` may be replaced.
        resume: whether to leave out the images whose results an earlier call wrote, and nobody changed; its
            model and options must have been the same.
        workers: threads that read and write while the model works; see `predict_many`.
        batch_size: see `predict_many`.
        progress: whether to show a progress bar.

    Raises:
        ValueError: before anything is written, if two images would be written to one file, a file of the
            user would be lost, or a file of all images together shall be resumed; later, if nothing can be
            written.
    """
    task, classes = predict.task, predict.classes
    if collector and resume:
        raise ValueError(f"the format {collector} holds all images together and cannot be resumed")
    targets_of = {job: _targets(job, task, classes, collector, overlay) for job in jobs}
    owner: dict[Path, Path] = {}
    for job in jobs:
        for target in targets_of[job]:
            if target in owner:
                raise ValueError(f"{owner[target]} and {job.image} would both be written to {target}")
            owner[target] = job.image
    together = task.collectors[collector] if collector else None
    names = [job.target.relative_to(out).with_name(job.image.name).as_posix() for job in jobs]
    collected = together.files(out, names) if together else []
    todo = jobs
    if resume:
        whole, begun = written_in(out), unfinished(out)
        todo = [job for job in jobs if not all(map(whole, targets_of[job]))]
        left = {target for job in todo for target in targets_of[job] if not whole(target)}
        check_targets(left - begun, out, sources=[job.image for job in jobs])
    else:
        check_targets([*owner, *collected], out, sources=[job.image for job in jobs], overwrite=overwrite)
    compact: dict[int, Annotation] = {}

    def then(index: int, prediction: Prediction) -> Callable[[], list[Path]]:
        """Write the files of an image."""
        job, again = todo[index], overwrite or resume
        targets = targets_of[job]
        steps: list[Callable[[], object]] = []
        if together:
            compact[index] = together.compact(prediction.annotation)
        elif not job.target.name.endswith(OVERLAY):
            steps.append(prediction.writing(job.target, overwrite=again))
        if overlay_of(job.target) in targets:
            steps.append(prediction.writing(overlay_of(job.target), overwrite=again, **(drawing or {})))

        def write() -> list[Path]:
            make_folder(out)
            announce(targets, out)
            for step in steps:
                step()
            for target in targets:
                record(target, out)
            return targets

        return write

    written: dict[int, list[Path]] = {}
    problems: dict[int, str] = {}
    results = predict_many(
        predict,
        [job.image for job in todo],
        then,
        workers=workers,
        batch_size=batch_size,
        probabilities=any(job.target.name.endswith(PROBABILITIES) for job in todo),
    )
    try:
        for index, result in shown(results, len(todo), "images", progress):
            if isinstance(result, ValueError):
                problems[index] = str(result)
            else:
                written[index] = result
    finally:
        results.close()  # its threads end
        forget_announced(out)
    files = [target for _, targets in sorted(written.items()) for target in targets]
    if together and compact:
        named = [(names[index], annotation) for index, annotation in sorted(compact.items())]
        for path in together.write(out, named, classes):
            record(path, out)
            files.append(path)
    return Written(
        [path for path in files if not path.name.endswith(OVERLAY)],
        [path for path in files if path.name.endswith(OVERLAY)],
        [problem for _, problem in sorted(problems.items())],
        len(jobs) - len(todo),
        len(jobs),
    )


def _targets(job: Job, task: Task, classes: ClassTable, collector: str | None, overlay: bool) -> list[Path]:
    """The files of one image."""
    labels = [] if collector else files_of(job.target, task, classes)
    return list(dict.fromkeys([*labels, *([overlay_of(job.target)] if overlay else [])]))


def shown(results: Iterable[T], total: int | None, what: str, progress: bool) -> Iterator[T]:
    """The results as they come, with a bar that tells their number, how many a second, and the time left."""
    columns = (
        TextColumn("predicting"),
        BarColumn(),
        MofNCompleteColumn(),
        _PerSecond(what),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        yield from bar.track(results, total)


class _PerSecond(ProgressColumn):
    """Such as 12.3 images/s."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def render(self, task: Bar) -> Text:
        """The speed of the last seconds."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.what}/s", style="progress.data.speed")


def output_format(task: Task, name: str | None) -> tuple[str, str | None]:
    """The suffix of predictions, and the collector where they are saved together.

    Args:
        task: says how its predictions can be saved.
        name: such as "png", "npy" or "coco"; "overlay" and "probabilities" of every task; None for the first
            that the task knows, or "" where each image has one of its own.

    Raises:
        ValueError: if the task has no such format.
    """
    suffixes = list(task.writers)
    if name is None:
        return "" if task.suffix_like is not None else suffixes[0], None
    if name in task.collectors:
        return suffixes[0], name
    if name in _OF_EVERY_TASK:
        return _OF_EVERY_TASK[name], None
    if (suffix := "." + name.lstrip(".")) in task.writers:
        return suffix, None
    known = ", ".join([*(suffix[1:] for suffix in suffixes), *task.collectors, *_OF_EVERY_TASK])
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
    if target.name.endswith(OVERLAY):
        return target
    stem = target.name.removesuffix(PROBABILITIES)
    return target.with_name((stem if stem != target.name else stem_of(target)) + OVERLAY)


def summary(problems: Sequence[str], images: int, out: Path) -> str:
    """One sentence about the images that could not be used."""
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return (
        f"{len(problems)} of {images} images could not be used, the others are in {out}: "
        f"{'; '.join(problems[:5])}{more}"
    )


def stem_of(path: Path) -> str:
    """The name without its suffix: of a.nii.gz, a; of a folder, its name."""
    name = path.name
    if path.is_dir():
        return name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem


def _is_below(path: Path, out: Path, source: Path) -> bool:
    """Whether a file lies in a folder of results inside the source."""
    return out.resolve() != source.resolve() and out.resolve() in path.resolve().parents


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
