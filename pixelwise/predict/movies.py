"""Movies: every frame predicted, and the movie with the predictions drawn on it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..files import announce, check_targets, forget_announced, make_folder, record, unfinished, was_written
from ..types import Annotation
from ..video import Frames, MovieWriter, is_movie, read_frames
from .many import WORKERS, Predict, predict_many
from .prediction import OVERLAY, PROBABILITIES, Prediction, files_of
from .writing import Written, shown

_USUAL_RATE = 25.0  # frames per second, where a movie does not say


def write_movie(
    predict: Predict,
    movie: Path,
    out: Path,
    suffix: str = ".png",
    *,
    drawing: Mapping[str, Any] | None = None,
    collector: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    workers: int = WORKERS,
    batch_size: int | None = None,
    progress: bool = True,
) -> Written:
    """Predict the frames of a movie.

    Of `street.mp4` come `out/street_overlay.mp4`, the movie with the predictions drawn on it, and
    `out/street/000000.png`, ... for the frames, or the files of a collector below `out/street`. Of a movie
    that is cut off, what came before the cut is predicted, and the cut is a problem.

    Args:
        predict: a `Predictor`.
        movie: the file.
        out: folder for the predictions.
        suffix: of the predictions of frames, such as ".png"; that of overlays for the movie alone.
        drawing: options of the overlays.
        collector: format in which the predictions of all frames are saved together, such as "coco".
        overwrite: whether earlier predictions in `out` may be replaced.
        resume: whether to leave the movie out if an earlier call wrote all of it.
        workers: see `predict_many`; frames are decoded by one more thread.
        batch_size: see `predict_many`.
        progress: whether to show a progress bar.

    Raises:
        ValueError: before anything is written, if the file is empty, no movie, or too damaged, or a file of
            the user would be lost; later, if nothing can be written.
    """
    task, classes = predict.task, predict.classes
    if task.reading is not None:
        raise ValueError(
            f"{movie} is a movie, and the task {task.name} reads {', '.join(sorted(task.suffixes))}"
        )
    place, overlay = out / movie.stem, out / f"{movie.stem}_overlay.mp4"
    if resume and was_written(overlay, out):
        return Written([], [], [], skipped=1)
    earlier = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else []
    # What a stopped call left of a movie is begun anew.
    begun = unfinished(out) if resume else set()
    check_targets({*earlier, overlay} - begun, out, sources=[movie], overwrite=overwrite or resume)
    frames = read_frames(movie)
    for path in earlier:
        path.unlink()
    together = task.collectors[collector] if collector else None
    only_overlay = suffix == OVERLAY
    found: list[tuple[str, Annotation]] = []
    files: list[Path] = []

    def then(index: int, prediction: Prediction) -> Callable[[], UInt8[np.ndarray, "H W 3"]]:
        """Write the files of a frame, and give the picture for the movie."""
        name = f"{index:06}"
        picture = np.asarray(prediction.overlay(**(drawing or {})).convert("RGB"))
        if together:
            found.append((f"{name}.png", together.compact(prediction.annotation)))
        if together or only_overlay:
            return lambda: picture
        target = place / (name + suffix)
        targets = files_of(target, task, classes)
        files.extend(targets)
        write = prediction.writing(target)

        def written() -> UInt8[np.ndarray, "H W 3"]:
            announce(targets, out)
            write()
            for path in targets:
                record(path, out)
            return picture

        return written

    make_folder(out)
    announce([overlay], out)
    results = predict_many(
        predict,
        _ahead(frames),
        then,
        workers=workers,
        batch_size=batch_size,
        probabilities=suffix == PROBABILITIES,
    )
    problems: list[str] = []
    try:
        with MovieWriter(overlay, frames.rate or _USUAL_RATE) as writer:
            for _, result in shown(results, frames.count, "frames", progress):
                if isinstance(result, ValueError):
                    raise ValueError(f"{movie}: {result}")
                writer.write(result)
    finally:
        results.close()  # its threads end
    record(overlay, out)
    forget_announced(out)
    if frames.problem:
        problems.append(frames.problem)
    if together:
        for path in together.write(place, found, classes):
            record(path, out)
            files.append(path)
    return Written(files, [overlay], problems)


def _ahead(items: Frames, count: int = 4) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The same frames, decoded by another thread while the caller works."""
    with ThreadPoolExecutor(1, "pixelwise") as thread:
        waiting: list[Future[Any]] = [thread.submit(next, items, None) for _ in range(count)]
        while (frame := waiting.pop(0).result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield frame


def movies_among(sources: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The sources that are movies by their name, and the others.

    Raises:
        ValueError: if two movies have one name, or a pattern of movies matches nothing.
    """
    movies: dict[str, Path] = {}
    others: list[str] = []
    for source in sources:
        if not is_movie(source) or Path(source).is_dir():
            others.append(source)
            continue
        found = (
            [source]
            if Path(source).exists() or not has_magic(source)
            else sorted(glob(source, recursive=True))
        )
        if not found:
            raise ValueError(f"no movie matches the pattern {source}")
        for path in map(Path, found):
            if path.stem in movies:
                raise ValueError(
                    f"{movies[path.stem]} and {path} would both be written to {path.stem}_overlay.mp4"
                )
            movies[path.stem] = path
    return list(movies.values()), others
