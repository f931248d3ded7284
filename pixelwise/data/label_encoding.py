"""What the values and colours of mask files mean: the bridge between files and a class table."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ..kernels.images.values import looked_up
from ..types import ClassTable, Color
from ..wording import brief

_UNKNOWN = np.iinfo(np.int64).min
_HIGHEST = 65_535  # of a file with 16 bits
_INSTANCES = (
    "; this looks like an instance map, in which every object has a number: the mask rule above-0 "
    "(--mask-rule above-0) reads all of them as foreground"
)
_TWO = (
    "; a mask rule (--mask-rule above-127 or above-0) makes all brighter pixels the second class, whatever "
    "their value"
)

_TWO_CHANNELS = (
    "is a mask in colours of 16 bits, in which no class table has colours: if its first channel holds the "
    "classes and the others number objects (SYNTHIA), give the mask rule first-channel (--mask-rule "
    "first-channel)"
)
_NEAR = 24  # levels of a channel within which a colour is said to be near another

MaskRule = Literal["exact", "above-127", "above-0", "first-channel"]
MASK_RULES: tuple[MaskRule, ...] = get_args(MaskRule)
_ABOVE = {"above-127": 127, "above-0": 0}


@dataclass(frozen=True)
class LabelEncoding:
    """A class table, and how mask files write its classes.

    Attributes:
        classes: the task. Labels are positions in it.
        values: the value in a mask file of each class.
        ignored: the values in a mask file that mean "not known".
        ignored_colors: the same for masks that are drawn in colours.
        from_files: whether the table was made up from the masks themselves, for want of a better one.
        above: pixels brighter than this are the second class, all others the first; None where values tell
            the class. Of colours (also those of a palette) the brightest channel counts.
        further: (value, label) of further values that mean a class, where several do.
        further_colors: (colour, label), the same for masks that are drawn in colours.
        others_ignored: whether all values and colours that are not named are ignored.
        channel: which channel of a mask with several holds the classes; None where colours are classes.

    >>> encoding = LabelEncoding(ClassTable.of("background", "foreground"), (0, 255), ())
    >>> encoding.labels(np.array([[0, 255]]), "mask.png").tolist()
    [[0, 1]]
    """

    classes: ClassTable
    values: tuple[int, ...]
    ignored: tuple[int, ...]
    ignored_colors: tuple[Color, ...] = ()
    from_files: bool = False
    above: int | None = None
    further: tuple[tuple[int, int], ...] = ()
    further_colors: tuple[tuple[Color, int], ...] = ()
    others_ignored: bool = False
    channel: int | None = None

    def __post_init__(self) -> None:
        """Reject a encoding that does not tell its classes apart.

        Raises:
            ValueError: on a missing, doubled or negative value, one above 65535, one that is also ignored, or
                a further one that belongs to no class.
        """
        if len(self.values) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes need as many mask values, got {len(self.values)}")
        seen: set[int] = set()
        if wrong := [y for _, y in (*self.further, *self.further_colors) if not 0 <= y < len(self.classes)]:
            raise ValueError(f"a further value or colour belongs to the label {wrong[0]}, which is no class")
        meant = [*enumerate(self.values), *((label, value) for value, label in self.further)]
        for value, name in ((value, self.classes.names[label]) for label, value in meant):
            if value < 0 or value in seen:
                raise ValueError(
                    f"the mask value (id) of {brief(name)} must be its own and not negative, got {value}"
                )
            if value in self.ignored:
                raise ValueError(f"the mask value {value} of {brief(name)} is also the one that is ignored")
            seen.add(value)
        if (highest := max(*seen, *self.ignored, 0)) > _HIGHEST:
            raise ValueError(f"a mask value (id) is at most {_HIGHEST}, got {brief(highest)}")

    @classmethod
    def of(cls, classes: ClassTable) -> "LabelEncoding":
        """The plain encoding: the value in the file is the label."""
        return cls(classes, tuple(range(len(classes))), (classes.ignore,))

    @classmethod
    def by_rule(cls, rule: MaskRule, classes: ClassTable | None = None) -> "LabelEncoding":
        """Background and foreground by brightness; without `classes` they are called so.

        Raises:
            ValueError: on an unknown rule, or a table of more or fewer than two classes.
        """
        if rule not in _ABOVE:
            raise ValueError(f"a rule of brightness is one of {', '.join(_ABOVE)}, got {brief(rule)}")
        if classes is None:
            classes = ClassTable(("background", "foreground"), ((0, 0, 0), (255, 255, 255)))
        if len(classes) != 2:
            raise ValueError(
                f"the mask rule {rule} tells background and foreground apart, the class table has "
                f"{len(classes)} classes"
            )
        return cls(classes, (0, 1), (), above=_ABOVE[rule])

    def labels(self, pixels: np.ndarray, path: object) -> Int64[Tensor, "H W"]:
        """Labels of the pixels of a mask file; see `array`.

        Raises:
            ValueError: on a value or colour that the table does not have.
        """
        return torch.from_numpy(self.array(pixels, path))

    def array(
        self, pixels: np.ndarray, path: object, *, few_bits: bool = False
    ) -> Int64[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"]:
        """Labels of the pixels of a mask file, as an array.

        Args:
            pixels: values (H W), or colours (H W 3) in 0..255.
            path: the file, for messages.
            few_bits: whether values of 8 bits become labels of 8 bits where these have room for all labels.

        Raises:
            ValueError: on a value or colour that the table does not have.
        """
        if self.above is not None:
            brightness = pixels.max(axis=-1) if pixels.ndim == 3 else pixels
            return (brightness > self.above).astype(np.int64)
        if pixels.ndim == 3 and self.channel is not None:
            pixels = pixels[..., self.channel]
        if pixels.ndim == 3 and pixels.dtype != np.uint8:
            if not (pixels == pixels[..., :1]).all():
                raise ValueError(f"{path} {_TWO_CHANNELS}")
            pixels = pixels[..., 0]
        if pixels.ndim == 3:
            labels, unknown = self._of_colors(pixels)
            wrong = bool(unknown.all() if self.others_ignored else unknown.any())
            if wrong and (pixels == pixels[..., :1]).all():
                pixels = pixels[..., 0]  # a grey mask that was saved as RGB
            elif wrong and not self.others_ignored:
                color = tuple(int(part) for part in pixels[unknown][0])
                raise ValueError(
                    f"{path} holds the colour {color}, which no class of the table has{self._nearest(color)}"
                )
            else:
                return labels
        if few_bits and pixels.dtype == np.uint8 and self._byte_table is not None:
            few = looked_up(pixels, self._byte_table)
            if not (few == self._byte_table[-1]).any():
                return few
        labels = looked_up(pixels, self._table)
        if labels.min(initial=0) == _UNKNOWN:
            value = pixels[labels == _UNKNOWN].min()
            rule = _TWO if len(self.classes) == 2 and not self.further else ""
            if pixels.dtype != np.uint8 and value > 255:
                rule = _INSTANCES
            raise ValueError(f"{path} holds the value {value}, but {self._known}{rule}")
        return labels

    def meaning(self, label: int) -> str:
        """How mask files write a class: its values, its colour.

        >>> table = ClassTable(("road", "car"), ((128, 64, 128), (0, 0, 142)))
        >>> LabelEncoding(table, (7, 26), (), further=((8, 0),)).meaning(0)
        '7..8 or (128, 64, 128)'
        """
        if self.above is not None:
            return (f"0..{self.above}", f"above {self.above}")[label]
        values = _ranges((self.values[label], *(value for value, at in self.further if at == label)))
        colors = [self.classes.colors[label], *(color for color, at in self.further_colors if at == label)]
        more = f" and {len(colors) - 1} more colours" if len(colors) > 1 else ""
        return f"{values} or {colors[0]}{more}"

    @property
    def _known(self) -> str:
        values = (*self.values, *(value for value, _ in self.further))
        allowed = f"the table has {len(self.classes)} classes with the values {_ranges(values)}"
        return allowed + (f" and {_ranges(self.ignored)} is ignored" if self.ignored else "")

    def _of_colors(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels, ignored where a colour is unknown, and where that is."""
        codes, meanings = self._colors
        packed = pixels[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        place = np.searchsorted(codes, packed).clip(max=len(codes) - 1)
        unknown = codes[place] != packed
        return np.where(unknown, self.classes.ignore, meanings[place]), unknown

    def _nearest(self, color: tuple[int, ...]) -> str:
        """Which class is meant by a colour that is a little off."""
        distance = [max(abs(a - b) for a, b in zip(color, own, strict=True)) for own in self.classes.colors]
        near = min(range(len(distance)), key=distance.__getitem__)
        if distance[near] > _NEAR:
            return ""
        return (
            f": {self.classes.names[near]!r} has {self.classes.colors[near]}, which is near (blurred "
            "by JPEG or "
            "by resizing, or drawn a little off? write the masks without loss)"
        )

    @cached_property
    def _table(self) -> np.ndarray:
        """The label of every value; the last entry stands for all values above."""
        highest = max(255, *self.values, *self.ignored, *(value for value, _ in self.further))
        other = self.classes.ignore if self.others_ignored else _UNKNOWN
        table = np.full(highest + 2, other, dtype=np.int64)
        for value in self.ignored:
            if value >= 0:
                table[value] = self.classes.ignore
        table[list(self.values)] = np.arange(len(self.values))
        for value, label in self.further:
            table[value] = label
        return table

    @cached_property
    def _byte_table(self) -> UInt8[np.ndarray, " 257"] | None:
        """The label of every byte; the last entry is none, and stands for all that are unknown.

        None where 8 bits have no room for all of them.
        """
        table = self._table[:256]
        known = table != _UNKNOWN
        free = set(range(256)) - set(table[known].tolist())
        if not free or table[known].min() < 0 or table[known].max() > 255:
            return None
        return np.append(np.where(known, table, max(free)), max(free)).astype(np.uint8)

    @cached_property
    def _colors(self) -> tuple[np.ndarray, np.ndarray]:
        """Packed colours in ascending order, and their labels."""
        meanings = {(r << 16) | (g << 8) | b: self.classes.ignore for r, g, b in self.ignored_colors}
        for label, (r, g, b) in reversed(list(enumerate(self.classes.colors))):
            meanings[(r << 16) | (g << 8) | b] = label
        meanings |= {(r << 16) | (g << 8) | b: label for (r, g, b), label in self.further_colors}
        codes = sorted(meanings)
        return np.array(codes), np.array([meanings[code] for code in codes], dtype=np.int64)


def _ranges(values: tuple[int, ...]) -> str:
    """0, 1, 2, 5 -> "0..2, 5"."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value])
    return ", ".join("..".join(map(str, part)) for part in parts)
