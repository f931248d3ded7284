"""Decoded images and labels kept in memory or in a file, so that each is decoded once and not in every epoch.

What is kept is exact: images in 8 or 16 bits where these give the same values back, labels in 8, 16 or 64
bits. Annotations other than labels are read as before, from files that are mostly small.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from ..types import Annotation, LabelMap
from .dataset import Pair, ReadImage, ReadPart, ReadTarget, SegmentationData
from .parallel import Spacing, batches, image_array, label_array, map_images, map_labels

Place = Literal["ram", "disk"]
Part = tuple[Path, tuple[int, int, int, int] | None]  # of a file; the window, None for the whole
_TRIED = 16  # images from which the size is estimated
_MOST = 0.8  # of what is free
_AT_ONCE = 64  # images that are decoded and not yet kept
_WHOLE = {np.uint8: 255, np.uint16: 65535}  # divisor of images


@dataclass(frozen=True)
class CacheSize:
    """How much a cache will take.

    Attributes:
        needed: bytes, estimated from some images.
        free: bytes where they will lie.
        place: "ram", or the folder.
        images: number of images.
    """

    needed: int
    free: int
    place: str
    images: int

    def __str__(self) -> str:
        where = "memory" if self.place == "ram" else self.place
        return (
            f"the cache of {self.images} images takes about {_in_words(self.needed)} of {where}, where "
            f"{_in_words(self.free)} are free"
        )


def cache_size(data: Sequence[SegmentationData], place: Place) -> CacheSize:
    """What `cached` would take, from a few images of each part.

    Args:
        data: parts that are kept.
        place: "ram" or "disk".

    Raises:
        ValueError: if an image cannot be read.
    """
    needed = 0
    for part in data:
        step = max(1, len(part) // _TRIED)
        tried = [one.nbytes for one in _all_decoded(part, range(0, len(part), step)[:_TRIED])]
        needed += round(sum(tried) / max(len(tried), 1) * len(part))
    images = sum(map(len, data))
    if place == "ram":
        return CacheSize(needed, _free_memory(), "ram", images)
    folder = tempfile.gettempdir()
    return CacheSize(needed, shutil.disk_usage(folder).free, folder, images)


def cached(
    data: SegmentationData, place: Place, *, progress: Callable[[int, int], None] | None = None
) -> SegmentationData:
    """The same data, every image decoded now and kept.

    In memory, processes that are forked share it; on disk, all processes share one file in the folder of
    temporary files (`TMPDIR`), which is removed at the end of this process.

    Args:
        data: whose images are kept.
        place: "ram" or "disk".
        progress: called with the number of images done and of all.

    Raises:
        ValueError: if an image cannot be read, or there is not enough room.
    """
    size = cache_size([data], place)
    if size.needed > _MOST * size.free:
        raise ValueError(f"{size}: take another place for it, or none")
    store = Store(place)
    images: dict[Part, tuple[int, tuple[float, ...] | None]] = {}
    labels: dict[str, tuple[int, tuple[float, ...] | None]] = {}
    for some in batches(data, _AT_ONCE):
        for index, decoded in zip(some, _all_decoded(data, some), strict=True):
            pair = data.pairs[index]
            images[pair.image, pair.window] = store.keep(decoded.image), decoded.spacing
            if decoded.labels is not None:
                labels[pair.id] = store.keep(decoded.labels), decoded.label_spacing
            if progress is not None:
                progress(index + 1, len(data))
    return SegmentationData(
        data.pairs,
        data.classes,
        read_target=CachedTargets(data.read_target, labels, store),
        read_image=CachedImages(data.read_image, data.channels, images, store),
        channels=data.channels,
    )


@dataclass(frozen=True)
class CachedImages:
    """Images that are decoded, and others as they are read; see `ReadImage`.

    Attributes:
        read: images that are not kept, or that are asked for with other channels.
        channels: with which images are kept.
        places: number in the store, and size of a pixel, of each image or part of one.
        store: where they are kept.
    """

    read: ReadImage
    channels: int
    places: dict[Part, tuple[int, tuple[float, ...] | None]]
    store: "Store"

    def __call__(
        self, path: Path, channels: int
    ) -> tuple[Float[Tensor, "c *grid"], tuple[float, ...] | None]:
        """The image, and the size of its pixels."""
        if channels != self.channels or (path, None) not in self.places:
            return self.read(path, channels)
        return self._kept(path, None)

    def part(self, pair: Pair, channels: int) -> tuple[Float[Tensor, "c *grid"], tuple[float, ...] | None]:
        """The window of a pair, and the size of its pixels."""
        if channels != self.channels or (pair.image, pair.window) not in self.places:
            assert isinstance(self.read, ReadPart)
            return self.read.part(pair, channels)
        return self._kept(pair.image, pair.window)

    def stored(self, pair: Pair, channels: int) -> Shaped[Tensor, "c H W"]:
        """The image of a pair in 8 bits where it is kept in 8; see `StoredImages`."""
        if channels != self.channels or (pair.image, None) not in self.places:
            return self(pair.image, channels)[0]
        kept = self.store[self.places[pair.image, None][0]]
        return torch.from_numpy(kept.copy() if kept.dtype == np.uint8 else _values(kept))

    def shape(self, pair: Pair) -> tuple[int, ...]:
        """Channels and sizes of an image that is kept."""
        return tuple(self.store[self.places[pair.image, pair.window][0]].shape)

    def across(
        self, pair: Pair, axis: int, number: int
    ) -> tuple[Float[Tensor, "c *grid"], tuple[float, ...] | None]:
        """One slice of an image that is kept, across an axis, and the size of the voxels of the whole."""
        place, spacing = self.places[pair.image, pair.window]
        return torch.from_numpy(_values(np.take(self.store[place], number, axis))), spacing

    def _kept(
        self, path: Path, window: tuple[int, int, int, int] | None
    ) -> tuple[Float[Tensor, "c *grid"], tuple[float, ...] | None]:
        number, spacing = self.places[path, window]
        return torch.from_numpy(_values(self.store[number])), spacing


@dataclass(frozen=True)
class CachedTargets:
    """Labels that are decoded, and other annotations as they are read; see `ReadTarget`.

    Attributes:
        read: the annotations that are not kept.
        places: number in the store, and size of a pixel, of the labels of each image.
        store: where they are kept.
    """

    read: ReadTarget
    places: dict[str, tuple[int, tuple[float, ...] | None]]
    store: "Store"

    def __call__(self, pair: Pair) -> Annotation:
        """The annotation of the image."""
        if pair.id not in self.places:
            return self.read(pair)
        number, spacing = self.places[pair.id]
        return LabelMap(torch.from_numpy(self.store[number].astype(np.int64)), spacing)

    def across(self, pair: Pair, axis: int, number: int) -> Int64[Tensor, "*grid"]:
        """One slice of labels that are kept, across an axis."""
        plane = np.take(self.store[self.places[pair.id][0]], number, axis)
        return torch.from_numpy(plane.astype(np.int64))


class Store:
    """Arrays by number: in memory, or one behind the other in a file that goes with this process.

    Args:
        place: "ram" or "disk".
    """

    def __init__(self, place: Place) -> None:
        self.arrays: list[np.ndarray] = []
        self.places: list[tuple[int, np.dtype, tuple[int, ...]]] = []
        self.path: Path | None = None
        if place == "disk":
            handle, name = tempfile.mkstemp(prefix="pixelwise-", suffix=".cache")
            os.close(handle)
            self.path = Path(name)
            weakref.finalize(self, _remove, name, os.getpid())

    def keep(self, array: np.ndarray) -> int:
        """Keep an array; gives its number.

        Raises:
            ValueError: if the file cannot be written.
        """
        if self.path is None:
            self.arrays.append(array)
            return len(self.arrays) - 1
        try:
            with self.path.open("ab") as file:
                self.places.append((file.tell(), array.dtype, array.shape))
                file.write(np.ascontiguousarray(array).data)
        except OSError as error:
            raise ValueError(f"cannot write the cache {self.path}: {error.strerror or error}") from error
        return len(self.places) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        """The array, which is not to be changed."""
        if self.path is None:
            return self.arrays[number]
        offset, dtype, shape = self.places[number]
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.asarray(np.memmap(self.path, dtype, "r", offset, shape))


def _remove(name: str, process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked from it
        Path(name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Decoded:
    """What is kept of one sample."""

    image: np.ndarray
    spacing: tuple[float, ...] | None
    labels: np.ndarray | None
    label_spacing: tuple[float, ...] | None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + (0 if self.labels is None else self.labels.nbytes)


def _all_decoded(data: SegmentationData, indices: Sequence[int]) -> list[_Decoded]:
    """Some images in few bits, with their labels where they have any."""

    def image_of(index: int) -> tuple[np.ndarray, Spacing]:
        image, spacing = image_array(data, index)
        return _small(image), spacing

    def labels_of(index: int) -> tuple[np.ndarray | None, Spacing]:
        labels, spacing = label_array(data, index)
        return None if labels is None else _fewest_bits(labels), spacing

    images, labels = map_images(image_of, data, indices), map_labels(labels_of, data, indices)
    return [_Decoded(*image, *own) for image, own in zip(images, labels, strict=True)]


def _small(image: np.ndarray) -> np.ndarray:
    """Whole numbers that give exactly these values when they are divided; else the values."""
    for kind, divisor in _WHOLE.items():
        whole = np.rint(image * np.float32(divisor)).astype(kind)
        if np.array_equal(_values(whole), image):
            return whole
    return image


def _values(kept: np.ndarray) -> np.ndarray:
    """A new array of the values of an image."""
    divisor = _WHOLE.get(kept.dtype.type)
    return kept.astype(np.float32) if divisor is None else kept.astype(np.float32) / np.float32(divisor)


def _fewest_bits(labels: np.ndarray) -> np.ndarray:
    low, high = labels.min(initial=0), labels.max(initial=0)
    kinds = (kind for kind in (np.uint8, np.uint16) if 0 <= low and high <= np.iinfo(kind).max)
    return labels.astype(next(kinds, np.int64))


def _free_memory() -> int:
    """Bytes of memory that are free, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
