"""Predictions of very many images on many machines, by Ray Data (extra `ray`).

Names travel through Ray, not pixels. A worker loads the model once, reads the images of a chunk, predicts
them as `predict_many` does, and writes whole files under their final names; so a chunk that is done twice,
because a worker or a machine was lost, leaves the same files. What was asked is compared with what came back:
nothing is lost and nothing doubled without a word.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from ..checkpoint import Checkpoint
from ..files import announce, check_targets, forget_announced, make_folder, record, unfinished, written_in
from ..rle import RleMasks
from ..tasks import Task
from ..types import ClassTable, MaskSet
from .many import WORKERS, predict_many
from .prediction import PROBABILITIES, Prediction, files_of
from .predictor import Predictor
from .writing import Written, output_format, stem_of

PARQUET = "parquet"
_CHUNK = 8  # images that one worker predicts before others may have the next ones


@dataclass(frozen=True)
class _Work:
    """What every worker is told.

    Attributes:
        checkpoint: the model.
        options: further arguments of `Predictor`.
        out: folder or URI of the results.
        suffix: of the predictions of single images; "parquet" for files of run lengths.
        workers: threads that read and write.
        prepare: what comes before anything else.
    """

    checkpoint: Checkpoint
    options: Mapping[str, Any]
    out: str
    suffix: str
    workers: int
    prepare: Callable[[], object]


def _nothing() -> None:
    """No preparation."""


def predict_on_ray(
    checkpoint: Checkpoint,
    sources: Sequence[str],
    out: str,
    *,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    cpus: int = 1,
    workers: int = WORKERS,
    prepare: Callable[[], object] = _nothing,
    progress: bool = True,
) -> Written:
    """Predict images by workers on all machines of a Ray cluster, or on this one alone.

    The cluster is the one that `RAY_ADDRESS` or an earlier `ray.init` names; without any, Ray is started
    here and stopped at the end. Machines must see the images and `out` under the same names: a shared disk,
    or URIs of fsspec such as `s3://bucket/photos`.

    Args:
        checkpoint: the model.
        sources: images, folders, patterns, or URIs of them.
        out: folder or URI for the results.
        format: how predictions are saved, as of `Predictor.folder` without what holds all images together; or
            "parquet": files of rows, one for each region of an image, with COCO's run lengths.
        options: further arguments of `Predictor`.
        overwrite: whether earlier predictions may be replaced.
        resume: whether images (chunks of images for "parquet") that have results are left out.
        cpus: processor cores that one worker takes.
        workers: threads with which a worker reads and writes.
        prepare: called in the process of each worker before it loads the model, such as
            `machine.keep_freed_memory`.
        progress: whether to show a progress bar.

    Returns:
        The files of results and a sentence for each image that could not be used.

    Raises:
        ValueError: if Ray is missing, there is no image, the format is another, a file of the user would be
            lost, or an image was lost or predicted twice.
    """
    ray = _library()
    out = out if is_uri(out) else str(Path(out).absolute())  # workers have folders of their own
    predictor = Predictor(checkpoint, **(options or {}))
    task, classes = predictor.task, predictor.classes
    if format == PARQUET:
        _regions(task)
        suffix = PARQUET
    else:
        suffix, collector = output_format(task, format)
        suffix = suffix or next(iter(task.writers))
        if collector:
            raise ValueError(
                f"the format {collector} holds all images together: on Ray, choose a file for each"
            )
    images = find(sources, task.suffixes)
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    targets_of = {index: _targets(chunk, out, suffix, task, classes) for index, chunk in enumerate(chunks)}
    everything = [target for targets in targets_of.values() for target in targets]
    if len(set(everything)) < len(everything):
        twice = next(target for target in everything if everything.count(target) > 1)
        raise ValueError(f"two images would both be written to {twice}")
    left = _left(targets_of, out, overwrite, resume)
    work = _Work(checkpoint, dict(options or {}), out, suffix, workers, prepare)
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it has a level of its own
    try:
        rows = _rows(ray, work, {index: chunks[index] for index in left}, cpus)
        asked = sum(len(chunks[index]) for index in left)
        shown = track(rows, "predicting", asked, console=Console(stderr=True), disable=not progress)
        came: dict[str, str] = {}
        for row in shown:
            if row["image"] in came:
                raise ValueError(f"{row['image']} was predicted twice: this is a bug, see {out}")
            came[row["image"]] = row["problem"]
    finally:
        if started:
            ray.shutdown()
    lost = [image for index in left for image, _ in chunks[index] if image not in came]
    if lost:
        raise ValueError(f"{len(lost)} images were lost, such as {lost[0]}: run again with --resume")
    problems = [problem for problem in came.values() if problem]
    bad = {image for image, problem in came.items() if problem}
    files = []
    for index in left:
        if suffix == PARQUET:
            files += targets_of[index]
        else:
            for image in chunks[index]:
                files += [] if image[0] in bad else _targets([image], out, suffix, task, classes)
    if not is_uri(out):
        for file in files:
            record(Path(file), Path(out))
        forget_announced(Path(out))
    return Written([Path(file) for file in files], [], problems, len(images) - asked, len(images))


def is_uri(name: str) -> bool:
    """Whether a name is a URI, such as s3://bucket/photos, and not a path."""
    return "://" in name


def find(sources: Sequence[str], suffixes: frozenset[str]) -> list[tuple[str, str]]:
    """The images of folders, patterns and names, each with its name below the folder, in order.

    Raises:
        ValueError: if a source holds no image, or its kind of URI needs a package that is missing.
    """
    from fsspec.core import url_to_fs

    found: dict[str, str] = {}
    for source in sources:
        try:
            system, root = url_to_fs(source)
            if system.isdir(root):
                names, base = sorted(system.find(root)), root.rstrip("/")
            else:
                names = sorted(system.glob(root)) if "*" in root else [root] if system.exists(root) else []
                base = root.partition("*")[0].rpartition("/")[0]
        except (ImportError, OSError, ValueError) as error:
            raise ValueError(f"cannot look into {source}: {error}") from error
        below = {name: str(PurePosixPath(name).relative_to(base)) for name in names}
        images = {
            system.unstrip_protocol(name) if is_uri(source) else name: short
            for name, short in below.items()
            if name.lower().endswith(tuple(suffixes))
            and not any(part.startswith(".") for part in PurePosixPath(short).parts)
        }
        if not images:
            raise ValueError(f"there is no image in {source}")
        found |= images
    return list(found.items())


def _targets(
    images: Sequence[tuple[str, str]], out: str, suffix: str, task: Task, classes: ClassTable
) -> list[str]:
    """The files of some images."""
    if suffix == PARQUET:
        digest = hashlib.sha256("\n".join(name for name, _ in images).encode()).hexdigest()
        return [f"{out.rstrip('/')}/part-{digest[:16]}.parquet"]
    return [
        f"{out.rstrip('/')}/{path.as_posix()}"
        for _, short in images
        for path in files_of(Path(_named(short, suffix)), task, classes)
    ]


def _named(short: str, suffix: str) -> str:
    path = Path(short)
    return path.with_name(stem_of(path) + suffix).as_posix()


def _left(targets_of: Mapping[int, Sequence[str]], out: str, overwrite: bool, resume: bool) -> list[int]:
    """The chunks that are to be done, after a look at what is there.

    Raises:
        ValueError: if a file of the user would be lost.
    """
    if is_uri(out):
        from fsspec.core import url_to_fs

        system, root = url_to_fs(out)
        there = (
            {system.unstrip_protocol(name) for name in system.find(root)} if system.exists(root) else set()
        )
        if there and not (overwrite or resume):
            known = [target for targets in targets_of.values() for target in targets if target in there]
            if known:
                raise ValueError(f"{known[0]} exists: --resume leaves it out, --overwrite replaces it")
        done = there if resume else set()
        return [index for index, targets in targets_of.items() if not done.issuperset(targets)]
    folder = make_folder(out)
    paths = {index: [Path(target) for target in targets] for index, targets in targets_of.items()}
    if not resume:
        check_targets([path for each in paths.values() for path in each], folder, overwrite=overwrite)
        left = list(paths)
    else:
        whole, begun = written_in(folder), unfinished(folder)
        left = [index for index, each in paths.items() if not all(map(whole, each))]
        open_ = {path for index in left for path in paths[index] if not whole(path)}
        check_targets(open_ - begun, folder)
    announce([path for index in left for path in paths[index]], folder)
    return left


def _rows(ray: Any, work: _Work, chunks: Mapping[int, Sequence[tuple[str, str]]], cpus: int) -> Iterator[Any]:
    """What the workers say: for each image its name and, where it could not be used, why."""
    if not chunks:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    count = max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)
    items = [{"chunk": json.dumps(chunk)} for chunk in chunks.values()]
    data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        fn_constructor_args=(ray.put(work),),
        batch_size=1,
        num_cpus=cpus,
        num_gpus=1 if ray.cluster_resources().get("GPU", 0) else None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(count, len(items))),
    )
    yield from data.iter_rows()


class _Worker:
    """What Ray makes on a machine, once; it gets the chunks one after the other."""

    def __init__(self, told: Any) -> None:
        import ray

        work = ray.get(told)
        work.prepare()
        self.chunks = _Chunks(work)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Predict the images of a chunk and write the results."""
        rows = [row for chunk in batch["chunk"] for row in self.chunks.predict(json.loads(chunk))]
        return {name: np.array([row[name] for row in rows], object) for name in ("image", "problem")}


class _Chunks:
    """Loads the model once and predicts chunks of images."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.predictor = Predictor(work.checkpoint, **work.options)

    def predict(self, names: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
        """Predict images and write the results: for each its name and, where it could not be used, why."""
        with tempfile.TemporaryDirectory() as folder:
            found = self._problems(names, Path(folder))
        return [{"image": name, "problem": found.get(index, "")} for index, (name, _) in enumerate(names)]

    def _problems(self, names: Sequence[tuple[str, str]], folder: Path) -> dict[int, str]:
        """The problems of a chunk of images, by their number."""
        work, task, classes = self.work, self.predictor.task, self.predictor.classes
        problems: dict[int, str] = {}
        rows: dict[int, list[dict[str, Any]]] = {}
        local = _fetched([name for name, _ in names], folder / "in", problems)
        regions = _regions(task) if work.suffix == PARQUET else None

        def then(index: int, prediction: Prediction) -> Callable[[], None]:
            if regions is not None:
                rows[index] = _region_rows(names[index][0], regions(prediction.annotation), classes)
                return lambda: None
            place = folder / "out" if is_uri(work.out) else Path(work.out)
            target = place / _named(names[index][1], work.suffix)
            write = prediction.writing(target, overwrite=True)

            def written() -> None:
                write()
                if is_uri(work.out):
                    for path in files_of(target, task, classes):
                        _upload(path, f"{work.out.rstrip('/')}/{path.relative_to(place).as_posix()}")

            return written

        paths = {index: path for index, path in enumerate(local) if path is not None}
        numbers = list(paths)
        results = predict_many(
            self.predictor,
            list(paths.values()),
            lambda place, prediction: then(numbers[place], prediction),
            workers=work.workers,
            probabilities=work.suffix == PROBABILITIES,
        )
        for place, result in results:
            if isinstance(result, ValueError):
                index = numbers[place]
                problems[index] = str(result).replace(str(paths[index]), names[index][0])
        if regions is not None:
            _write_parquet(
                [row for _, each in sorted(rows.items()) for row in each],
                _targets(names, work.out, PARQUET, task, classes)[0],
                folder,
            )
        return problems


def _fetched(names: Sequence[str], folder: Path, problems: dict[int, str]) -> list[Path | None]:
    """The images as files of this machine; None, and a problem, where that fails."""
    found: list[Path | None] = []
    for index, name in enumerate(names):
        if not is_uri(name):
            found.append(Path(name))
            continue
        from fsspec.core import url_to_fs

        path = folder / str(index) / PurePosixPath(name).name
        path.parent.mkdir(parents=True)
        try:
            system, remote = url_to_fs(name)
            system.get_file(remote, str(path))
            found.append(path)
        except OSError as error:
            problems[index] = f"cannot read {name}: {error}"
            found.append(None)
    return found


def _upload(path: Path, target: str) -> None:
    """Put a whole file under its final name; object stores show it whole or not at all."""
    from fsspec.core import url_to_fs

    system, remote = url_to_fs(target)
    system.makedirs(remote.rpartition("/")[0], exist_ok=True)
    partial = f"{remote}.{os.getpid()}.part"
    if "file" in system.protocol:  # a disk shows files while they grow
        system.put_file(str(path), partial)
        os.replace(partial, remote)
    else:
        system.put_file(str(path), remote)


def _regions(task: Task) -> Callable[[Any], MaskSet]:
    """What makes regions of an annotation.

    Raises:
        ValueError: if the task has none.
    """
    writer = task.writers.get(".geojson")
    if writer is None or writer.prepare is None:
        raise ValueError(
            f"the format parquet holds regions of pixels, which the task {task.name} does not find"
        )
    return writer.prepare


def _region_rows(image: str, regions: MaskSet, classes: ClassTable) -> list[dict[str, Any]]:
    """A row for each region; one without a label where there is none, so that the image is there."""
    assert isinstance(regions.masks, RleMasks)
    height, width = regions.size
    rows = [
        {
            "image": image,
            "height": height,
            "width": width,
            "label": label,
            "class": classes.names[label],
            "score": score,
            "area": area,
            "counts": mask["counts"],
        }
        for label, score, area, mask in zip(
            regions.classes.tolist(),
            regions.scores.tolist(),
            regions.masks.area.tolist(),
            regions.masks.to_coco(),
            strict=True,
        )
    ]
    empty = dict.fromkeys(("label", "class", "score", "area", "counts"))
    return rows or [{"image": image, "height": height, "width": width, **empty}]


def _write_parquet(rows: Sequence[Mapping[str, Any]], target: str, folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "image": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "label": pa.int32(),
        "class": pa.string(),
        "score": pa.float32(),
        "area": pa.int64(),
        "counts": pa.string(),
    }
    path = folder / PurePosixPath(target).name
    parquet.write_table(pa.Table.from_pylist(list(rows), pa.schema(list(columns.items()))), path)
    _upload(path, target if is_uri(target) else f"file://{Path(target).absolute().as_posix()}")


def _library() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about this machine is sent anywhere
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError("many machines need Ray: pip install pixelwise[ray]") from error
    return ray
