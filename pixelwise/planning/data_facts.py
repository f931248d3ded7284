"""What a data set is like, as far as a training plan asks."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..wording import counted

UPRIGHT_LABELS = 0.15  # mean label maps that differ more from their mirror image have an up
UPRIGHT_IMAGES = 0.65  # share of images told from their mirror image above which they have an up
GROUPS_TO_TELL = 40  # independent images that this test needs


@dataclass(frozen=True)
class ClassFacts:
    """What one class is like.

    Attributes:
        name: of the class.
        share: of the labelled pixels; where objects are annotated, of the objects.
        images: share of the images that show it.
        thickness: in pixels, the median over the middle lines of its regions; nan where it is not seen.
        small: area in pixels below which one in a hundred of its regions or objects lies; nan likewise.
        area: median of these areas.
    """

    name: str
    share: float
    images: float = 1.0
    thickness: float = math.nan
    small: float = math.nan
    area: float = math.nan


@dataclass(frozen=True)
class DataFacts:
    """What a data set is like.

    Attributes:
        train: images to learn from.
        val: images of the validation part that the data name, 0 where they name none.
        size: median extent of the images along each axis in pixels or voxels.
        smallest: extents of the smallest image.
        largest: extents of the largest image.
        channels: that tell something: 1 where red, green and blue are the same.
        classes: what each is like.
        exclusive: whether a pixel has one class.
        empty: share of the images that show nothing but class 0; where pixels have several classes, none.
        ignored: share of the pixels that nobody labelled.
        spread: 90 % over 10 % quantile of the thickness over images.
        neighbours: mean correlation of images that are next to each other by name.
        random_order: largest mean correlation of neighbours in 200 random orders.
        gap: images after which the correlation in a sequence has fallen below a half of what is above that.
        groups: independent groups of images: near-duplicates and images of one name stem belong together.
        duplicates: images that are almost the same as another one.
        crossing: images of a validation part that the data name, of which the training part has a
            near-duplicate.
        mirrored: distance in [0, 1] between the mean label map and its upside-down mirror image, or, if
            larger, between the mean maps of structures of half of the images and the mirror images of those
            of the others, less their own distance; of volumes this along all axes but the last.
        sideways: the latter along the last axis, left and right.
        placed: mean IoU of the commonest class at each place less that of the commonest class everywhere, on
            images that were left out of the count, a fifth at a time; nan where it is not known.
        told_apart: share of the images that a classifier tells from their upside-down mirror image; nan where
            there are too few.
        sides: whether class names speak of left and right, or of text and digits.
        numbered: whether the labels look like numbers of objects rather than classes.
        mask_rule: how the masks are read.
        looked_at: images that were looked at closely.
        names: of the training images, in order.
        group_of: the group of each.
        shown: the classes that each shows; empty where it was not looked at.
        val_names: of the images of a validation part that the data name.
    """

    train: int
    size: tuple[int, ...]
    classes: tuple[ClassFacts, ...]
    val: int = 0
    smallest: tuple[int, ...] = ()
    largest: tuple[int, ...] = ()
    channels: int = 3
    exclusive: bool = True
    empty: float = 0.0
    ignored: float = 0.0
    spread: float = 1.0
    neighbours: float = 0.0
    random_order: float = 0.0
    gap: int = 1
    groups: int = 0
    duplicates: int = 0
    crossing: int = 0
    mirrored: float = 1.0
    sideways: float = 0.0
    placed: float = math.nan
    told_apart: float = math.nan
    sides: bool = False
    numbered: bool = False
    mask_rule: str = "exact"
    looked_at: int = 0
    names: tuple[str, ...] = ()
    group_of: tuple[int, ...] = ()
    shown: tuple[tuple[int, ...], ...] = ()
    val_names: tuple[str, ...] = ()

    @property
    def sequence(self) -> bool:
        """Whether the images, in the order of their names, are frames or slices of one thing."""
        return self.neighbours > self.random_order + 0.1

    @property
    def independent(self) -> int:
        """Independent groups of images; a sequence is one."""
        return 1 if self.sequence else self.groups or self.train

    @property
    def free(self) -> bool:
        """Whether images and labels cannot be told from their upside-down mirror image; in doubt they can.

        Labels and images must agree: labels alone look free where objects lie anywhere but stand upright. The
        classifier knows nothing from a few images or one sequence; there, images of one channel or of more
        than three (microscopes, scanners, satellites) count as free and photographs do not.
        """
        if self.sides or self.mirrored >= UPRIGHT_LABELS:
            return False
        if self.independent >= GROUPS_TO_TELL and not math.isnan(self.told_apart):
            return self.told_apart < UPRIGHT_IMAGES
        return self.channels == 1 or self.channels > 3

    @property
    def thinnest(self) -> float:
        """Thickness of the thinnest class in pixels; nan where none is known."""
        return min((one.thickness for one in self._thick), default=math.nan)

    @property
    def thickest(self) -> float:
        """Thickness of the thickest class in pixels; nan where none is known."""
        return max((one.thickness for one in self._thick), default=math.nan)

    @property
    def _thick(self) -> list[ClassFacts]:
        return [one for one in self.classes if not math.isnan(one.thickness)]

    @property
    def pixels(self) -> float:
        """Pixels or voxels of the training part."""
        return float(self.train) * math.prod(self.size)

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON knows them, without what is told of single images."""
        each = ("names", "group_of", "shown", "val_names")
        plain = {name: value for name, value in asdict(self).items() if name not in each}
        return plain | {"sequence": self.sequence, "free_orientation": self.free}

    def sentence(self) -> str:
        """The facts in a few words."""
        low, high = ("x".join(map(str, size)) for size in (self.smallest, self.largest))
        span = low if low == high else f"{low} to {high}"
        colour = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} channels")
        val = f" and {self.val} for validation" if self.val else ""
        thin = self.thinnest
        told = [
            f"{counted(self.train, 'image')}{val}, {span} pixels, {colour}",
            counted(len(self.classes), "class", "classes")
            + ("" if math.isnan(thin) else f", {thin:.0f} to {self.thickest:.0f} pixels thick"),
            "a sequence" if self.sequence else "no sequence",
            f"{self.duplicates} near-duplicates" if self.duplicates else "no near-duplicates",
            "no up or down" if self.free else "upright",
        ]
        return "; ".join(told)
