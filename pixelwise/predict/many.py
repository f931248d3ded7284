"""Predictions of many images: several at a time, while other threads read images and write results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from ..data.formats.image import read_pixels
from ..tasks import Settings, Task
from ..types import Annotation, ClassTable, DenseLogits, PromptableModel, Sample
from .parallel import PIXELS_TOGETHER, in_parallel
from .prediction import Prediction

T = TypeVar("T")
Image = Path | UInt8[np.ndarray, "H W c"]

WORKERS = 2
_MOST_PIXELS = 1 << 26  # of the images that are read ahead
_BATCH_ON_A_GPU = 8  # a CPU is busy with one image


@runtime_checkable
class Described(Protocol):
    """What must be known of a network, wherever it runs."""

    @property
    def output(self) -> type:
        """`DenseLogits` where it scores pixels."""

    @property
    def in_channels(self) -> int:
        """Of its images."""


@runtime_checkable
class Predict(Protocol):
    """What a `Predictor` offers to this file."""

    @property
    def task(self) -> Task:
        """What is predicted."""

    @property
    def classes(self) -> ClassTable:
        """What the labels mean."""

    @property
    def model(self) -> Described:
        """The network."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def at_once(self) -> int:
        """How many images it can predict at the same time."""

    @property
    def decoding(self) -> Settings:
        """The settings of decoding."""

    @property
    def max_pixels(self) -> int:
        """Largest height times width of an image file."""

    @property
    def intensity(self) -> str:
        """Which values of image files become 0 and 1."""

    def annotations(self, samples: Sequence[Sample]) -> tuple[Annotation, ...]:
        """Those of images of one size."""

    def __call__(self, source: Any, *, probabilities: bool = False) -> Prediction:
        """The prediction of one image."""


@dataclass(frozen=True, eq=False)
class _Picture:
    """An image that was read, or a sentence on why it was not."""

    index: int
    name: str
    image: Float[Tensor, "c *grid"] | None
    spacing: tuple[float, ...] | None = None
    problem: str = ""


def predict_many(
    predict: Predict,
    images: Iterable[Image],
    then: Callable[[int, Prediction], Callable[[], T]],
    *,
    workers: int = WORKERS,
    batch_size: int | None = None,
    probabilities: bool = False,
) -> Generator[tuple[int, T | ValueError], None, None]:
    """Predict images one after the other, those of one size together.

    On a CPU several images, of at most 4 megapixels together, are predicted at the same time, each by a
    thread with its share of the cores; see `predict.parallel`. Reading, and what `then` returns, run in other
    threads, which touch NumPy arrays and files only. Volumes are read in the calling thread.

    Args:
        predict: a `Predictor`.
        images: files, or arrays as `Predictor` takes them; asked for some at a time.
        then: number of the image and its prediction -> what is to be done with it, which must not touch a
            tensor. It is called in the calling thread.
        workers: threads that read and write; with 0 everything is done one after the other, in one thread.
        batch_size: images of one size that the model gets at once; None for 1 on a CPU and 8 on a GPU. The
            images must be near each other: 2 * batch_size are read ahead.
        probabilities: whether predictions keep the probability of every class; then images are predicted one
            by one.

    Yields:
        The number of each image with what came of it: the result, or the error of an image that cannot be
        used, which does not stop the others. The order is that of the images, but for those that were taken
        before others to fill a batch.

    Raises:
        ValueError: of `then` and what it returns, such as a disk that is full.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if batch_size is None:
        batch_size = 1 if predict.device.type == "cpu" else _BATCH_ON_A_GPU
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if probabilities:
        batch_size = 1
    of_pixels = issubclass(predict.model.output, DenseLogits) and predict.task.infer is None
    if probabilities and not of_pixels:
        raise ValueError(f"the task {predict.task.name} has no probabilities of pixels")
    threads = ThreadPoolExecutor(workers, "pixelwise") if workers else None
    try:
        writing: deque[tuple[int, Future[T]]] = deque()
        groups = _groups(_pictures(predict, images, threads, workers, batch_size), batch_size)

        def look(group: list[_Picture]) -> list[tuple[_Picture, Prediction | ValueError]]:
            return list(zip(group, _predicted(predict, group, probabilities), strict=True))

        def fills_memory(group: list[_Picture]) -> bool:
            pixels = sum(one.image[0].numel() for one in group if one.image is not None)
            return pixels * predict.at_once > PIXELS_TOGETHER

        def looked_at() -> Iterator[list[tuple[_Picture, Prediction | ValueError]]]:
            # A form of the network that is chosen on the first image decides how many there are at once.
            while not workers or predict.at_once == 1:
                if (group := next(groups, None)) is None:
                    return
                yield look(group)
            yield from in_parallel(look, groups, predict.at_once, fills_memory)

        for looked in looked_at():
            for picture, found in looked:
                if isinstance(found, ValueError):
                    yield picture.index, found
                elif threads is None:
                    yield picture.index, then(picture.index, found)()
                else:
                    writing.append((picture.index, threads.submit(then(picture.index, found))))
            while writing and (writing[0][1].done() or len(writing) > 2 * workers):
                index, done = writing.popleft()
                yield index, done.result()
        while writing:
            index, done = writing.popleft()
            yield index, done.result()
    finally:
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)


def _pictures(
    predict: Predict,
    images: Iterable[Image],
    threads: ThreadPoolExecutor | None,
    workers: int,
    batch_size: int,
) -> Iterator[_Picture]:
    """The images in their order, read ahead by other threads."""
    if threads is None or predict.task.reading is not None:
        for index, image in enumerate(images):
            yield _picture(predict, index, image)
        return
    todo = enumerate(images)
    reading: deque[tuple[int, Image, Future[Float32[np.ndarray, "c H W"]]]] = deque()
    ahead, more = workers + batch_size, True
    while True:
        while more and len(reading) < ahead:
            index, image = next(todo, (-1, Path()))
            if more := index >= 0:
                reading.append((index, image, threads.submit(_read, predict, image)))
        if not reading:
            return
        index, image, future = reading.popleft()
        try:
            pixels = future.result()
        except ValueError as error:
            yield _Picture(index, _name(index, image), None, problem=str(error))
            continue
        height, width = pixels.shape[1:]
        ahead = max(1, min(workers + batch_size, _MOST_PIXELS // (height * width)))
        yield _Picture(index, _name(index, image), torch.from_numpy(pixels))


def _picture(predict: Predict, index: int, image: Image) -> _Picture:
    """Read in the calling thread."""
    name = _name(index, image)
    spacing: tuple[float, ...] | None = None
    try:
        if isinstance(image, Path) and predict.task.reading is not None:
            found, spacing = predict.task.reading(predict.decoding)(image, predict.model.in_channels)
        else:
            found = torch.from_numpy(_read(predict, image))
    except ValueError as error:
        return _Picture(index, name, None, problem=str(error))
    return _Picture(index, name, found, spacing)


def _read(predict: Predict, image: Image) -> Float32[np.ndarray, "c H W"]:
    """An image in [0, 1] with the channels that the model takes."""
    channels = predict.model.in_channels
    if isinstance(image, Path):
        return read_pixels(image, channels, max_pixels=predict.max_pixels, intensity=predict.intensity)
    planes = image.transpose(2, 0, 1)
    if channels == 1 and len(planes) == 3:
        planes = (planes.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))[None]
    if len(planes) != channels:
        raise ValueError(f"the model takes images of {channels} channels, got {len(planes)}")
    return np.ascontiguousarray(planes, np.float32) / np.float32(255)


def _name(index: int, image: Image) -> str:
    return str(image) if isinstance(image, Path) else f"frame {index}"


def _groups(pictures: Iterator[_Picture], batch_size: int) -> Iterator[list[_Picture]]:
    """Pictures of one size together; one that could not be read is a group of its own."""
    waiting: deque[_Picture] = deque()
    while True:
        while len(waiting) < 2 * batch_size - 1 and (picture := next(pictures, None)) is not None:
            waiting.append(picture)
        if not waiting:
            return
        first = waiting.popleft()
        group = [first]
        if first.image is not None:
            for other in list(waiting):
                fits = other.image is not None and other.image.shape == first.image.shape
                if fits and len(group) < batch_size:
                    group.append(other)
                    waiting.remove(other)
        yield group


def _predicted(
    predict: Predict, group: Sequence[_Picture], probabilities: bool
) -> list[Prediction | ValueError]:
    """One for each picture; where a batch fails, each is tried alone."""
    first = group[0]
    if first.image is None:
        return [ValueError(first.problem)]
    samples = [
        Sample(picture.image, None, picture.name, picture.spacing)
        for picture in group
        if picture.image is not None
    ]
    try:
        if isinstance(predict.model, PromptableModel) or probabilities:
            whole = predict(first.image, probabilities=probabilities)
            return [
                Prediction(
                    whole.annotation, whole.task, whole.classes, first.image, first.name, whole.probabilities
                )
            ]
        found = predict.annotations(samples)
    except ValueError as error:
        if len(group) > 1:
            return [one for picture in group for one in _predicted(predict, [picture], probabilities)]
        return [ValueError(f"{first.name}: {str(error).removeprefix('image: ')}")]
    return [
        Prediction(annotation.to("cpu"), predict.task, predict.classes, sample.image, sample.id)
        for sample, annotation in zip(samples, found, strict=True)
    ]
