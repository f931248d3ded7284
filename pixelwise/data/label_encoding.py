"""What the values and colours of mask files mean: the bridge between files and a class table."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

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

MaskRule = Literal["exact", "above-127", "above-0"]
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

    def __post_init__(self) -> None:
        """Reject a encoding that does not tell its classes apart.

        Raises:
            ValueError: on a missing, doubled or negative value, one above 65535, or one that is also ignored.
        """
        if len(self.values) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes need as many mask values, got {len(self.values)}")
        seen: set[int] = set()
        for value, name in zip(self.values, self.classes.names, strict=True):
            if value < 0 or value in seen:
                raise ValueError(
                    f"the mask value (id) of {brief(name)} must be its own and not negative, got {value}"
                )
            if value in self.ignored:
                raise ValueError(f"the mask value {value} of {brief(name)} is also the one that is ignored")
            seen.add(value)
        if (highest := max(*self.values, *self.ignored, 0)) > _HIGHEST:
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
            raise ValueError(f"mask_rule must be one of {', '.join(MASK_RULES)}, got {brief(rule)}")
        if classes is None:
            classes = ClassTable(("background", "foreground"), ((0, 0, 0), (255, 255, 255)))
        if len(classes) != 2:
            raise ValueError(
                f"the mask rule {rule} tells background and foreground apart, the class table has "
                f"{len(classes)} classes"
            )
        return cls(classes, (0, 1), (), above=_ABOVE[rule])

    def labels(self, pixels: np.ndarray, path: object) -> Int64[Tensor, "H W"]:
        """Labels of the pixels of a mask file.

        Args:
            pixels: values (H W), or colours (H W 3) in 0..255.
            path: the file, for messages.

        Raises:
            ValueError: on a value or colour that the table does not have.
        """
        if self.above is not None:
            brightness = pixels.max(axis=-1) if pixels.ndim == 3 else pixels
            return torch.from_numpy((brightness > self.above).astype(np.int64))
        if pixels.ndim == 3:
            labels, wrong = self._of_colors(pixels)
            if len(wrong) and (pixels == pixels[..., :1]).all():
                pixels = pixels[..., 0]  # a grey mask that was saved as RGB
            elif len(wrong):
                color = tuple(int(part) for part in wrong[0])
                raise ValueError(f"{path} holds the colour {color}, which no class of the table has")
            else:
                return torch.from_numpy(labels)
        labels = self._of_values(pixels)
        if (labels == _UNKNOWN).any():
            value = pixels[labels == _UNKNOWN].min()
            rule = _TWO if len(self.classes) == 2 else ""
            if pixels.dtype != np.uint8 and value > 255:
                rule = _INSTANCES
            raise ValueError(f"{path} holds the value {value}, but {self._known}{rule}")
        return torch.from_numpy(labels)

    @property
    def _known(self) -> str:
        allowed = f"the table has {len(self.classes)} classes with the values {_ranges(self.values)}"
        return allowed + (f" and {_ranges(self.ignored)} is ignored" if self.ignored else "")

    def _of_values(self, pixels: np.ndarray) -> np.ndarray:
        table = self._table
        if pixels.dtype == np.uint8:
            return table[pixels]
        outside = (pixels < 0) | (pixels >= len(table) - 1)
        return table[np.where(outside, len(table) - 1, pixels)]

    def _of_colors(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels, and the first pixel whose colour is unknown (none, or one row)."""
        codes, meanings = self._colors
        packed = pixels[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        place = np.searchsorted(codes, packed).clip(max=len(codes) - 1)
        wrong = pixels[codes[place] != packed][:1]
        return meanings[place], wrong

    @cached_property
    def _table(self) -> np.ndarray:
        """The label of every value; the last entry stands for all values above."""
        highest = max(255, *self.values, *self.ignored)
        table = np.full(highest + 2, _UNKNOWN, dtype=np.int64)
        for value in self.ignored:
            if value >= 0:
                table[value] = self.classes.ignore
        table[list(self.values)] = np.arange(len(self.values))
        return table

    @cached_property
    def _colors(self) -> tuple[np.ndarray, np.ndarray]:
        """Packed colours in ascending order, and their labels."""
        meanings = {(r << 16) | (g << 8) | b: self.classes.ignore for r, g, b in self.ignored_colors}
        for label, (r, g, b) in reversed(list(enumerate(self.classes.colors))):
            meanings[(r << 16) | (g << 8) | b] = label
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
