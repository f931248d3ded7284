"""Data sets as PyTorch sees them: pairs of files that become samples, and their parts."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer, Shaped, UInt64
from torch import Tensor
from torch.utils.data import Dataset

from ..types import Annotation, ClassMasks, ClassTable, LabelMap, MaskSet, PanopticMap, Sample
from ..wording import brief, some_of
from .formats.image import read_pixels, read_stored
from .formats.mask import read_labels, turned_by_exif
from .intensity import PERCENTILES
from .label_encoding import LabelEncoding

SPLITS = ("train", "val", "test")
_TURNED = (
    ": the EXIF orientation turns the image but not the mask; turn the mask, or write the image upright "
    "without that tag"
)


@dataclass(frozen=True)
class Pair:
    """An image and where its annotation lies.

    Attributes:
        image: the file of the image.
        mask: the file of the annotation; None where there is none.
        id: the path of the image inside the data folder.
        window: top, left, height and width of the part that is meant; None for the whole.
    """

    image: Path
    mask: Path | None
    id: str
    window: tuple[int, int, int, int] | None = None


@runtime_checkable
class ReadTarget(Protocol):
    """How the annotation of a pair is read: from a mask file, or from an annotation file for many images."""

    def __call__(self, pair: Pair) -> Annotation:
        """The annotation of the image of `pair`, which has one.

        Raises:
            ValueError: if the file is damaged or holds what is not in the table.
        """


@runtime_checkable
class LabelArrays(ReadTarget, Protocol):
    """How labels are read without a tensor, too, so that any thread may do it."""

    def array(self, pair: Pair) -> Int64[np.ndarray, "H W"]:
        """The labels of the image of `pair`; see `ReadTarget`."""


@runtime_checkable
class StoredLabels(ReadTarget, Protocol):
    """How labels are read without making large numbers of small ones."""

    def stored(self, pair: Pair) -> LabelMap:
        """The labels of the image of `pair`, in 8 bits where these are enough; see `ReadTarget`."""


@dataclass(frozen=True)
class MaskFiles:
    """Labels from one mask file per image.

    Attributes:
        encoding: what the values in the files mean.
    """

    encoding: LabelEncoding

    def __call__(self, pair: Pair) -> LabelMap:
        """Labels of the mask; see `ReadTarget`."""
        return LabelMap(torch.from_numpy(self.array(pair)))

    def array(self, pair: Pair) -> Int64[np.ndarray, "H W"]:
        """Labels of the mask; see `LabelArrays`."""
        assert pair.mask is not None
        return read_labels(pair.mask, self.encoding)

    def stored(self, pair: Pair) -> LabelMap:
        """Labels of the mask in few bits; see `StoredLabels`."""
        assert pair.mask is not None
        return LabelMap(torch.from_numpy(read_labels(pair.mask, self.encoding, few_bits=True)))


@runtime_checkable
class ReadImage(Protocol):
    """How an image or a volume is read."""

    def __call__(
        self, path: Path, channels: int
    ) -> tuple[Float[Tensor, "c *grid"], tuple[float, ...] | None]:
        """Values in [0, 1], and the size of a pixel or voxel along each axis in mm, where the file knows it.

        Raises:
            ValueError: if the file is damaged or has other channels.
        """


@runtime_checkable
class ReadPart(ReadImage, Protocol):
    """How parts of images are read, too."""

    def part(self, pair: Pair, channels: int) -> tuple[Float[Tensor, "c *grid"], tuple[float, ...] | None]:
        """The window of a pair; see `ReadImage`."""


@runtime_checkable
class ImageArrays(ReadImage, Protocol):
    """How images are read without a tensor, too, so that any thread may do it."""

    def array(self, pair: Pair, channels: int) -> Float32[np.ndarray, "c H W"]:
        """The image of a pair, or its window, whose pixels have no size; see `ReadImage`."""


@runtime_checkable
class StoredImages(ReadImage, Protocol):
    """How images are read without making large numbers of small ones."""

    def stored(self, pair: Pair, channels: int) -> Shaped[Tensor, "c H W"]:
        """The image of a pair in 8 bits where its file has 8, else values in [0, 1]; see `ReadImage`."""


@dataclass(frozen=True)
class ReadPlainImage:
    """How an image file is read, whose pixels have no size; see `ReadImage`.

    Attributes:
        intensity: which values become 0 and 1; see `formats.image.read_image`.
    """

    intensity: str = PERCENTILES

    def __call__(self, path: Path, channels: int) -> tuple[Float[Tensor, "c H W"], None]:
        """An image."""
        return torch.from_numpy(read_pixels(path, channels, intensity=self.intensity)), None

    def array(self, pair: Pair, channels: int) -> Float32[np.ndarray, "c H W"]:
        """The image of a pair; see `ImageArrays`."""
        return read_pixels(pair.image, channels, intensity=self.intensity)

    def stored(self, pair: Pair, channels: int) -> Shaped[Tensor, "c H W"]:
        """The image of a pair in 8 bits; see `StoredImages`."""
        return torch.from_numpy(read_stored(pair.image, channels, intensity=self.intensity))


read_plain_image = ReadPlainImage()


class SegmentationData(Dataset[Sample]):
    """Images and their annotations, read when asked for.

    Args:
        pairs: the files.
        classes: of the annotations.
        read_target: how annotations are read; from mask files whose values are labels unless told otherwise.
        read_image: how images are read.
        channels: of the images.
        name: of the layout or data set that they are read as, see `DataSplits.format`; "" where none tells.
    """

    def __init__(
        self,
        pairs: tuple[Pair, ...],
        classes: ClassTable,
        *,
        read_target: ReadTarget | None = None,
        read_image: ReadImage = read_plain_image,
        channels: int = 3,
        name: str = "",
    ) -> None:
        self.name = name
        self.pairs, self.classes, self.channels = tuple(pairs), classes, channels
        self.read_target = read_target or MaskFiles(LabelEncoding.of(classes))
        self.read_image = read_image
        # Asked once: it takes longer than to open a file.
        self._stores_images = isinstance(read_image, StoredImages)
        self._stores_labels = isinstance(self.read_target, StoredLabels)

    def __repr__(self) -> str:
        images = "1 image" if len(self) == 1 else f"{len(self)} images"
        first = f", first {brief(self.pairs[0].id)[1:-1]}" if self.pairs else ""
        return f"<SegmentationData: {images}{first}; {_classes_in_words(self.classes)}>"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pairs)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """One sample, as it is on disk.

        Raises:
            ValueError: if a file is damaged, image and mask differ in size, or a label is not in the table.
        """
        return self._sample(index, *self.image(index), self.read_target)

    def stored(self, index: int) -> Sample:
        """One sample, image and labels in 8 bits where these are enough: for transforms that take them.

        Raises:
            ValueError: as `__getitem__`.
        """
        pair = self.pairs[index]
        image: Shaped[Tensor, "c *grid"]
        if pair.window is None and self._stores_images:
            image, spacing = self.read_image.stored(pair, self.channels), None  # type: ignore[attr-defined]
        else:
            image, spacing = self.image(index)
        target = self.read_target.stored if self._stores_labels else self.read_target  # type: ignore[attr-defined]
        return self._sample(index, image, spacing, target)

    def _sample(
        self,
        index: int,
        image: Shaped[Tensor, "c *grid"],
        spacing: tuple[float, ...] | None,
        read_target: Callable[[Pair], Annotation],
    ) -> Sample:
        """An image with its annotation."""
        pair = self.pairs[index]
        if pair.mask is None:
            return Sample(image, None, pair.id, spacing)
        target = read_target(pair)
        self.check_size(index, tuple(image.shape[1:]), target)
        return Sample(image, target, pair.id, spacing)

    def check_size(self, index: int, size: tuple[int, ...], target: Annotation) -> None:
        """Refuse an annotation of another size than its image.

        Args:
            index: of the sample.
            size: of the image.
            target: its annotation.

        Raises:
            ValueError: if they differ.
        """
        pair, given = self.pairs[index], grid_of(target)
        if given is not None and given != size:
            turned = given == size[::-1] and turned_by_exif(pair.image)
            raise ValueError(
                f"the image {pair.image} has {' x '.join(map(str, size))} pixels, its annotation in "
                f"{pair.mask} "
                f"{' x '.join(map(str, given))}{_TURNED if turned else ''}"
            )

    def image(self, index: int) -> tuple[Float[Tensor, "c *grid"], tuple[float, ...] | None]:
        """The image alone, and the size of its pixels where that is known.

        Raises:
            ValueError: if the file is damaged.
        """
        pair = self.pairs[index]
        if pair.window is not None and isinstance(self.read_image, ReadPart):
            return self.read_image.part(pair, self.channels)
        return self.read_image(pair.image, self.channels)

    def target(self, index: int) -> Annotation:
        """The annotation alone.

        Raises:
            ValueError: if there is none, the file is damaged, or a label is not in the table.
        """
        pair = self.pairs[index]
        if pair.mask is None:
            raise ValueError(f"there is no mask of {pair.image}")
        return self.read_target(pair)

    def labels(self, index: int) -> Integer[Tensor, "*grid"]:
        """The labels alone, of data with one class per pixel.

        Raises:
            ValueError: as `target`, or if the annotation is of another kind.
        """
        target = self.target(index)
        if not isinstance(target, LabelMap):
            raise ValueError(f"{self.pairs[index].id} is annotated by {type(target).__name__}, not by labels")
        return target.labels

    def take(self, indices: Sequence[int]) -> "SegmentationData":
        """The same data with some of the images."""
        return self._with(pairs=tuple(self.pairs[i] for i in indices))

    def joined(self, other: "SegmentationData") -> "SegmentationData":
        """The images of both, read as these are."""
        return self.with_pairs((*self.pairs, *other.pairs))

    def with_pairs(self, pairs: Sequence[Pair]) -> "SegmentationData":
        """Other files, read in the same way."""
        return self._with(pairs=tuple(pairs))

    def with_channels(self, channels: int) -> "SegmentationData":
        """The same data, its images read with so many channels."""
        return self if self.channels == channels else self._with(channels=channels)

    def with_reading(self, read_image: ReadImage) -> "SegmentationData":
        """The same data, its images read in another way where they are read in a way of that kind."""
        if self.read_image == read_image or not isinstance(read_image, type(self.read_image)):
            return self
        return self._with(read_image=read_image)

    def with_intensity(self, intensity: str) -> "SegmentationData":
        """The same data, other values of its image files being 0 and 1; see `ReadPlainImage`."""
        if not isinstance(self.read_image, ReadPlainImage):
            return self
        return self.with_reading(replace(self.read_image, intensity=intensity))

    def with_classes(self, classes: ClassTable, read_target: ReadTarget) -> "SegmentationData":
        """The same images with annotations read in another way."""
        return self._with(classes=classes, read_target=read_target)

    def _with(self, **changes: Any) -> "SegmentationData":
        fields = {
            "pairs": self.pairs,
            "classes": self.classes,
            "read_target": self.read_target,
            "read_image": self.read_image,
            "channels": self.channels,
            "name": self.name,
        }
        return SegmentationData(**{**fields, **changes})


def grid_of(annotation: Annotation) -> tuple[int, ...] | None:
    """The size of the image that an annotation belongs to, None where it does not tell."""
    if isinstance(annotation, LabelMap):
        return tuple(annotation.labels.shape)
    if isinstance(annotation, ClassMasks):
        return tuple(annotation.masks.shape[1:])
    if isinstance(annotation, MaskSet):
        return annotation.size
    if isinstance(annotation, PanopticMap):
        return tuple(annotation.id_map.shape)
    return None


@dataclass(frozen=True)
class DataSplits:
    """The parts of a data set.

    Attributes:
        train: to learn from.
        val: to choose by.
        test: to report on; None where the data set has none.
        classes: the task.
        format: the layout it was read from.
        root: the folder it was read from.
        encoding: how the files write the classes.
        unpaired: images without a mask and masks without an image, which are left out.
        made_val: whether `val` was cut from `train` because the data set has none.
        problems: what `open_data` refuses and `check_data` reports, one sentence each.
        remarks: what is worth knowing about the files, one sentence each.
        made_test: whether `test` was cut from `train` because the data set names no parts.
    """

    train: SegmentationData
    val: SegmentationData
    test: SegmentationData | None
    classes: ClassTable
    format: str
    root: Path
    encoding: LabelEncoding
    unpaired: tuple[Path, ...] = ()
    made_val: bool = False
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    made_test: bool = False

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(data)} {name}" for name, data in self.parts().items()) or "no images"
        return f"<DataSplits {self.root} ({self.format}): {parts}; {_classes_in_words(self.classes)}>"

    def part(self, name: str) -> SegmentationData:
        """The part called `train`, `val` or `test`.

        Raises:
            ValueError: if there is no such part, or no image in it.
        """
        parts = self.parts()
        if name not in SPLITS:
            raise ValueError(f"a part of a data set is one of {', '.join(SPLITS)}, got {brief(name)}")
        if name not in parts:
            raise ValueError(f"{self.root} has no {name} part: it has {', '.join(parts)}")
        return parts[name]

    def parts(self) -> Mapping[str, SegmentationData]:
        """The parts that hold images, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: data for name, data in named.items() if data is not None and len(data)}


@dataclass(frozen=True)
class Mixing:
    """A way to make one sample of several, and how often.

    Attributes:
        mix: a sample and `others` further ones -> one, such as `copy_paste`.
        share: of the samples that are mixed, in [0, 1].
        others: how many further samples it takes.
    """

    mix: Callable[..., Sample]
    share: float
    others: int = 1


class Augmented(Dataset[Sample]):
    """Data under a random transform that depends on nothing but seed, epoch and index.

    However many processes load the data, and whichever of them loads an image, it comes out the same.

    Args:
        data: where the samples come from.
        transform: changes a sample; may draw from the generators of PyTorch, NumPy and Python. If its
            `takes_bytes` is true, it gets images and labels in 8 bits where these are enough. If its
            `draws_from_torch` is true, the generators of NumPy and Python are left alone.
        seed: of all random numbers.
        mixings: how changed samples are mixed with random other ones, one after the other.
    """

    def __init__(
        self,
        data: Dataset[Sample],
        transform: Callable[[Sample], Sample],
        *,
        seed: int,
        mixings: Sequence[Mixing] = (),
    ) -> None:
        self.data, self.transform, self.seed = data, transform, seed
        self.mixings = tuple(mixings)
        self._all_generators = not getattr(transform, "draws_from_torch", False)
        self._read: Callable[[int], Sample] = data.__getitem__
        if isinstance(data, SegmentationData) and getattr(transform, "takes_bytes", False):
            # A class of the user's own may read samples in another way.
            if type(data).__getitem__ is SegmentationData.__getitem__:
                self._read = data.stored
        # Processes that live on from epoch to epoch must see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Which pass over the data this is. Set it before each pass."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        """One transformed sample; an index beyond the last image is another view of one of them."""
        sample = self._read(index % len(self))
        with random_numbers_of(self.seed, self.epoch, index, everyones=self._all_generators):
            changed = self.transform(sample)
            for mixing in self.mixings:
                if torch.rand(()) < mixing.share:
                    changed = mixing.mix(changed, *(self._another() for _ in range(mixing.others)))
            return changed

    def _another(self) -> Sample:
        """Any changed sample."""
        return self.transform(self._read(int(torch.randint(len(self), ()))))


@contextmanager
def random_numbers_of(*key: int, everyones: bool = True) -> Iterator[None]:
    """Inside, the generators of PyTorch (CPU), NumPy and Python start from `key`; outside nothing changes.

    Args:
        key: whole numbers.
        everyones: whether the generators of NumPy and Python are meant as well; to put them aside and back
            takes 0.15 ms.
    """
    seeds = np.random.SeedSequence([part & (2**64 - 1) for part in key]).generate_state(3, np.uint64)
    with _seeded(seeds[1:]) if everyones else nullcontext():
        torch_state = torch.get_rng_state()
        torch.default_generator.manual_seed(int(seeds[0]) >> 1)
        try:
            yield
        finally:
            torch.set_rng_state(torch_state)


@contextmanager
def _seeded(seeds: UInt64[np.ndarray, "2"]) -> Iterator[None]:
    """Inside, the generators of NumPy and Python start from these numbers."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    np.random.seed(int(seeds[0]) >> 32)  # noqa: NPY002
    random.seed(int(seeds[1]))
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def divided(
    data: SegmentationData, val_fraction: float, seed: int
) -> tuple[SegmentationData, SegmentationData]:
    """Cut a validation part off: the same images for the same seed, at least one on each side.

    Raises:
        ValueError: if the fraction is not in [0, 1).
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    count = round(len(data) * val_fraction)
    if val_fraction > 0 and len(data) > 1:
        count = min(max(count, 1), len(data) - 1)
    if len(data) < 2:
        count = 0
    order = list(range(len(data)))
    random.Random(seed).shuffle(order)
    return data.take(sorted(order[count:])), data.take(sorted(order[:count]))


def parts_by_name(
    train: SegmentationData,
    val: SegmentationData,
    val_images: Sequence[str] = (),
    test_images: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> tuple[SegmentationData, SegmentationData, SegmentationData | None]:
    """Other parts of the same images, told by their names: training, validation and test part.

    Args:
        train: the training part.
        val: a validation part that the data name; images of it that are not in `val_images` are not trained
            on.
        val_images: names of the new validation part, from both; empty to keep the old one.
        test_images: names of a test part, from both; empty for none.
        left_out: names of images that are in no part.

    Raises:
        ValueError: if there is no image of such a name.
    """
    both = {pair.id: pair for pair in (*train.pairs, *val.pairs)}
    for name in (*val_images, *test_images, *left_out):
        if name not in both:
            raise ValueError(f"the data hold no image {brief(name)}, which the recipe names")
    tested, out = set(test_images), {*test_images, *left_out}
    validating = (set(val_images) or {pair.id for pair in val.pairs}) - out
    trained = {pair.id for pair in train.pairs} - validating - out
    parts = [
        train.with_pairs([both[name] for name in sorted(names)]) for names in (trained, validating, tested)
    ]
    return parts[0], parts[1], parts[2] if tested else None


def _classes_in_words(classes: ClassTable) -> str:
    return f"{len(classes)} classes: {some_of([brief(name, 40)[1:-1] for name in classes.names])}"
