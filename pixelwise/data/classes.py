"""A class table made up from the masks, where nobody gave one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..types import ClassTable, Color, voc_palette
from .formats.mask import read_mask_pixels, read_palette
from .label_encoding import LabelEncoding, MaskRule

_MOST, _MOST_IN_16_BITS = 256, 64
_MOST_WITH_LOSS = 64
_LOSS = (
    "the masks up to {} hold {} different {} (JPEG blurs masks): save them without loss, or, if they show "
    "one bright foreground, give the mask rule above-127 (--mask-rule above-127)"
)
_EXTREME, _GREYS = 0.8, 3  # share of pixels near black and white; values in each half between them
_MASK_SUFFIXES_WITH_LOSS = (".jpg", ".jpeg", ".jpe", ".jfif")


def encoding_from_masks(
    paths: Sequence[Path],
    on_error: Callable[[Path, ValueError], None] | None = None,
    *,
    channel: int | None = None,
) -> LabelEncoding:
    """The class table that mask files suggest. Every file is read.

    - Values 0, 1, 2, ... become "class 0", "class 1", ... up to the largest; 255 is ignored.
    - Only 0 and 255: a binary task drawn in black and white, "background" and "foreground".
    - Values with more gaps than entries (0, 100, 200): one class per value, "value 0", "value 100", ...
    - Colours: one class per colour, in ascending order.

    The colours of the classes are those of the palette or of the masks where they have any. Masks in black
    and white with greys between them (JPEG, smooth edges), and maps with more values than classes may have,
    need a mask rule or a class table.

    Args:
        paths: the mask files.
        on_error: told of a file that cannot be read and of masks that need a rule, which are then read by
            the one that is suggested; without it both raise.
        channel: the channel of masks in colours that holds the classes; None where colours are classes.

    Raises:
        ValueError: if a file cannot be read, or there are too many values or colours to be classes.
    """
    try:
        return _looked_through(paths, on_error, channel)
    except NeedsRule as error:
        if on_error is None:
            raise
        on_error(error.path, error)
        return LabelEncoding.by_rule(error.rule)


class NeedsRule(ValueError):
    """Masks that are no map of classes; says which rule can read them.

    Attributes:
        path: one of them.
        rule: the mask rule.
    """

    def __init__(self, path: Path, why: str, rule: MaskRule) -> None:
        super().__init__(
            f"{why}: give the mask rule {rule} (--mask-rule {rule}, mask_rule={rule!r}), which reads them as "
            "background and foreground, or a class table"
        )
        self.path, self.rule = path, rule


def _looked_through(
    paths: Sequence[Path], on_error: Callable[[Path, ValueError], None] | None, channel: int | None
) -> LabelEncoding:
    values: set[int] = set()
    colors: set[int] = set()
    greys = np.zeros(256, dtype=np.int64)
    unread: list[ValueError] = []
    for path in paths:
        try:
            pixels = read_mask_pixels(path)
        except ValueError as error:
            if on_error is None:
                raise
            on_error(path, error)
            unread.append(error)
            continue
        if pixels.ndim == 3 and channel is not None:
            pixels = pixels[..., channel]
        if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        if pixels.ndim == 3 and pixels.dtype != np.uint8:
            LabelEncoding.of(ClassTable.of("any")).labels(pixels, path)  # says what such a mask needs
        if pixels.ndim == 3:
            colors.update(np.unique(pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])).tolist())
        elif pixels.dtype == np.uint8:
            counts = np.bincount(pixels.ravel(), minlength=256)
            greys += counts
            values.update(np.flatnonzero(counts).tolist())
        else:
            values.update(np.unique(pixels).tolist())
        _not_too_many(values, colors, path, _MOST if pixels.dtype == np.uint8 else _MOST_IN_16_BITS)
    if unread and len(unread) == len(paths):
        raise ValueError(f"none of the {len(paths)} masks can be read: {unread[0]}")
    lossy = [path for path in paths if path.suffix.lower() in _MASK_SUFFIXES_WITH_LOSS]
    if _blurred(greys, lossy=bool(lossy)):
        raise NeedsRule(
            paths[0],
            f"the masks, such as {paths[0]}, are black and white with greys between (JPEG or smooth edges)",
            "above-127",
        )
    if lossy and len(values) > _MOST_WITH_LOSS:
        raise ValueError(_LOSS.format(lossy[-1], len(values), "values"))
    if colors:
        return _from_colors(colors | {value * 0x10101 for value in values})
    return _from_values(values, _palette(paths))


def _not_too_many(values: set[int], colors: set[int], path: Path, most: int) -> None:
    many = max(len(values), len(colors))
    if len(colors) > _MOST_WITH_LOSS and path.suffix.lower() in _MASK_SUFFIXES_WITH_LOSS:
        raise ValueError(_LOSS.format(path, len(colors), "colours"))
    if many > most:
        raise NeedsRule(
            path,
            f"the masks up to {path} hold {many} different values and look like instance maps, in which "
            "every object has a number (are these instances, not classes? --task instance reads them so)",
            "above-0",
        )
    if values and (min(values) < 0 or max(values) > 65535):
        raise ValueError(f"{path} holds values outside 0..65535: give a class table")


def _blurred(greys: np.ndarray, *, lossy: bool) -> bool:
    """Whether 8-bit values are black and white with greys between: most pixels near 0 or 255, some between.

    JPEG leaves few greys; without it three values in each half are asked for, which class tables of small
    numbers do not have.
    """
    total, extreme = int(greys.sum()), int(greys[:16].sum() + greys[240:].sum())
    if not greys[200:].any() or extreme < _EXTREME * total:
        return False
    dark, bright = int(np.count_nonzero(greys[1:128])), int(np.count_nonzero(greys[128:255]))
    return dark + bright > 0 if lossy else min(dark, bright) >= _GREYS


def _from_values(values: set[int], palette: tuple[Color, ...]) -> LabelEncoding:
    if values and values <= {0, 255} and 255 in values:
        classes = ClassTable(("background", "foreground"), ((0, 0, 0), (255, 255, 255)))
        return LabelEncoding(classes, (0, 255), (), from_files=True)
    found = sorted(values - {255}) or [0]
    count = found[-1] + 1
    if len(found) * 2 < count and count > 2:
        coded = tuple(found)
        names = tuple(f"value {value}" for value in coded)
    else:
        coded = tuple(range(count))
        names = tuple(f"class {value}" for value in coded)
    backup = voc_palette(len(coded))
    colors = tuple(palette[v] if v < len(palette) else backup[i] for i, v in enumerate(coded))
    return LabelEncoding(
        ClassTable(names, colors, _ignore(len(names))),
        coded,
        (255,) if 255 not in coded else (),
        from_files=True,
    )


def _from_colors(colors: set[int]) -> LabelEncoding:
    rgb: tuple[Color, ...] = tuple((code >> 16, code >> 8 & 255, code & 255) for code in sorted(colors))
    names = tuple(f"class {i}" for i in range(len(rgb)))
    classes = ClassTable(names, rgb, _ignore(len(names)))
    return LabelEncoding(classes, tuple(range(len(rgb))), (classes.ignore,), from_files=True)


def _ignore(count: int) -> int:
    return 255 if count <= 255 else 65535


def _palette(paths: Sequence[Path]) -> tuple[Color, ...]:
    """The palette of the first mask that can be read; none where it is not one of colours."""
    for path in paths:
        if path.suffix.lower() in (".npy", ".mat", ".txt"):
            return ()
        try:
            palette = read_palette(path)
        except ValueError:
            continue
        return palette if len(set(palette)) > 1 else ()
    return ()
