"""Pictures of what was found: palette images, overlays, legends, errors, panels side by side."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .types import VOID, ClassMasks, ClassTable, Color, LabelMap, PanopticMap

IGNORED: Color = (224, 224, 192)  # as PASCAL VOC draws its void
WRONG: Color = (230, 25, 45)
UNKNOWN: Color = (128, 128, 128)  # in pictures of errors: what nobody knows
DARKENED: Color = (60, 60, 60)  # about what is right in pictures of errors
# Names of a class that is no thing to look at, in any case; overlays leave it untinted.
BACKGROUND = frozenset("background bg _background_ __background__ backdrop void unlabelled unlabeled".split())
_PAPER: Color = (255, 255, 255)
_INK: Color = (30, 30, 30)
_ROWS = 256
# How far the colours of the things of a class lie towards white, or black where below 0, one after the other.
_SHADES = (0.0, 0.4, -0.35, 0.65, -0.6, 0.2, -0.18)


def rgb_image(image: Float[Tensor, "c H W"] | Image.Image) -> Image.Image:
    """A picture to look at: RGB as it is, grey three times, of further channels the first three."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.shape[0] < 3:
        image = image[:1].expand(3, -1, -1)
    bytes = (image[:3].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(bytes.permute(1, 2, 0).cpu().numpy()))


def palette_image(label_map: LabelMap, classes: ClassTable) -> Image.Image:
    """A "P" image: its pixel values are the labels, its palette the colours of the classes.

    Raises:
        ValueError: if a label is outside the table, or above 255.
    """
    labels = _checked(label_map, classes)
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        wrong = labels[(labels < 0) | (labels > 255)][0]
        raise ValueError(f"a palette image holds labels from 0 to 255, got {wrong}: save as .npy")
    image = Image.fromarray(labels.astype(np.uint8))
    colors = [*classes.colors, *[IGNORED] * (256 - len(classes))][:256]
    image.putpalette([part for color in colors for part in color])
    return image


def color_image(label_map: LabelMap, classes: ClassTable) -> Image.Image:
    """An RGB image of the colours of the classes.

    Raises:
        ValueError: if a label is outside the table.
    """
    return Image.fromarray(_painted(_checked(label_map, classes), classes))


def background_classes(classes: ClassTable) -> tuple[str, ...]:
    """The classes that are background by their names: those of `BACKGROUND`, whatever their case and label.

    >>> background_classes(ClassTable.of("Background", "cat"))
    ('Background',)
    """
    return tuple(name for name in classes.names if name.strip().lower() in BACKGROUND)


def overlay(
    image: Float[Tensor, "c H W"] | Image.Image,
    label_map: LabelMap,
    classes: ClassTable,
    *,
    alpha: float = 0.5,
    contours: bool = False,
    clear: Sequence[str] | None = None,
) -> Image.Image:
    """The image, tinted with the colours of the classes. Ignored pixels keep their own colour.

    Args:
        image: what was segmented, in [0, 1] if a tensor.
        label_map: labels "H W".
        classes: give the colours.
        alpha: 0 shows the image alone, 1 the classes alone.
        contours: whether to draw the borders between classes at full strength.
        clear: names of classes that are not tinted; `background_classes` if None, () tints all.

    Raises:
        ValueError: if image and labels differ in size, a label or a name is outside the table, or alpha is
            outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    clear = background_classes(classes) if clear is None else clear
    if unknown := [name for name in clear if name not in classes.names]:
        raise ValueError(f"clear names {unknown[0]!r}, the classes are {', '.join(classes.names)}")
    labels = _checked(label_map, classes)
    picture = np.array(_of_size(image, labels))
    untinted = np.isin(labels, [classes.ignore, *map(classes.names.index, clear)])
    borders = _borders(labels) if contours else None
    for top in range(0, len(labels), _ROWS):  # in strips: floating-point copies of a large image are larger
        rows = slice(top, top + _ROWS)
        strength = np.where(untinted[rows], 0, np.float32(alpha))[..., None]
        if borders is not None:
            # A border belongs to the tinted side, so that it has a colour of its own.
            strength[borders[rows] & ~untinted[rows]] = 1 if alpha else 0
        below = picture[rows].astype(np.float32)
        mixed = below + strength * (_painted(labels[rows], classes) - below)
        picture[rows] = mixed.round().astype(np.uint8)
    return Image.fromarray(picture)


def class_masks(
    image: Float[Tensor, "c H W"] | Image.Image,
    annotation: ClassMasks,
    classes: ClassTable,
    alpha: float = 0.5,
) -> Image.Image:
    """The image, tinted with the mean colour of the classes at each pixel, with the outline of each class.

    Raises:
        ValueError: if image and masks differ in size, or there is not one mask per class.
    """
    masks = _class_masks(annotation, classes)
    picture = np.asarray(_of_size(image, masks[0])).astype(np.float32)
    colors = np.array(classes.colors, np.float32)
    total, count = np.zeros_like(picture), masks.sum(0)[..., None]
    for mask, color in zip(masks, colors, strict=True):
        total[mask] += color
    tint = total / np.maximum(count, 1)
    picture = np.where(count > 0, picture + alpha * (tint - picture), picture)
    for mask, color in zip(masks, colors, strict=True):
        picture[_borders(mask) & mask] = color
    return Image.fromarray(picture.round().astype(np.uint8))


def class_mask_errors(
    image: Float[Tensor, "c H W"] | Image.Image,
    prediction: ClassMasks,
    target: ClassMasks,
    classes: ClassTable,
) -> Image.Image:
    """Pixels with a wrong class red, with an unknown one grey, over the darkened image.

    Raises:
        ValueError: if the sizes differ, or there is not one mask per class.
    """
    got, wanted = (_class_masks(one, classes) for one in (prediction, target))
    if wanted.shape != got.shape:
        raise ValueError(f"prediction and target must have one size, got {got.shape} and {wanted.shape}")
    unknown = target.masks.cpu().numpy() == classes.ignore
    grey = np.asarray(_of_size(image, wanted[0]).convert("L"))
    picture = np.repeat((grey * 0.6).astype(np.uint8)[..., None], 3, axis=2)
    picture[unknown.any(0)] = UNKNOWN
    picture[((wanted != got) & ~unknown).any(0)] = WRONG
    return Image.fromarray(picture)


def error_map(
    prediction: LabelMap,
    target: LabelMap,
    classes: ClassTable,
    *,
    image: Float[Tensor, "c H W"] | Image.Image | None = None,
) -> Image.Image:
    """Wrong pixels red, ignored ones grey, right ones the darkened image (or black).

    Raises:
        ValueError: if the sizes differ or a label of the target is outside the table.
    """
    wanted, got = _checked(target, classes), _grid(prediction)
    if wanted.shape != got.shape:
        raise ValueError(f"prediction and target must have one size, got {got.shape} and {wanted.shape}")
    if image is None:
        picture = np.zeros((*wanted.shape, 3), np.uint8)
    else:
        grey = np.asarray(_of_size(image, wanted).convert("L"))
        picture = np.repeat((grey * 0.6).astype(np.uint8)[..., None], 3, axis=2)
    ignored = wanted == classes.ignore
    picture[(wanted != got) & ~ignored] = WRONG
    picture[ignored] = UNKNOWN
    return Image.fromarray(picture)


def legend(classes: ClassTable, *, size: int = 14, columns: int = 1) -> Image.Image:
    """The colours of the classes with their names.

    Args:
        classes: the table.
        size: height of the letters in pixels.
        columns: number of columns, filled from top to bottom.
    """
    font = ImageFont.load_default(size)
    line, rows = round(size * 1.6), -(-len(classes) // columns)
    cell = round(3 * size + max(font.getlength(name) for name in classes.names))
    sheet = Image.new("RGB", (cell * min(columns, len(classes)) + size // 2, line * rows + size), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
        x, y = size // 2 + i // rows * cell, size // 2 + i % rows * line
        pen.rectangle((x, y + 1, x + round(1.4 * size), y + size + 1), fill=color, outline=_INK)
        pen.text((x + 2 * size, y + size // 2 + 1), name, _INK, font, anchor="lm")
    return sheet


def side_by_side(
    panels: Sequence[tuple[str, Image.Image]], *, columns: int | None = None, gap: int = 8, size: int = 14
) -> Image.Image:
    """Pictures in a grid, each below its caption. Columns are as wide as their widest picture.

    Args:
        panels: captions and pictures, in reading order; a caption that does not fit is cut.
        columns: pictures per row, all in one row if None.
        gap: pixels between the pictures.
        size: height of the letters in pixels.

    Raises:
        ValueError: if there is no panel.
    """
    if not panels:
        raise ValueError("side_by_side needs at least one panel")
    columns = min(columns or len(panels), len(panels))
    font, line = ImageFont.load_default(size), round(size * 1.6)
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    widths = [max(image.width for _, image in panels[i::columns]) for i in range(columns)]
    heights = [max(image.height for _, image in row) + line for row in rows]
    sheet = Image.new(
        "RGB", (sum(widths) + gap * (columns + 1), sum(heights) + gap * (len(rows) + 1)), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for (caption, image), width in zip(row, widths, strict=False):
            pen.text((x, y + line // 2), _fitting(caption, font, width), _INK, font, anchor="lm")
            sheet.paste(image.convert("RGB"), (x, y + line))
            x += width + gap
        y += height + gap
    return sheet


def _class_masks(annotation: ClassMasks, classes: ClassTable) -> Bool[np.ndarray, "k H W"]:
    masks = annotation.masks.detach().cpu().numpy()
    if masks.ndim != 3 or len(masks) != len(classes):
        raise ValueError(
            f"{len(classes)} classes need as many masks of two axes, got the shape {masks.shape}"
        )
    return masks == 1


def _grid(label_map: LabelMap) -> Integer[np.ndarray, "H W"]:
    labels = label_map.labels
    if labels.ndim != 2:
        raise ValueError(f"a picture shows one label map of two axes, got shape {tuple(labels.shape)}")
    return labels.detach().cpu().numpy()


def _checked(label_map: LabelMap, classes: ClassTable) -> Integer[np.ndarray, "H W"]:
    """The labels, all of them in the table."""
    labels = _grid(label_map)
    outside = ((labels < 0) | (labels >= len(classes))) & (labels != classes.ignore)
    if outside.any():
        raise ValueError(f"the label {labels[outside][0]} is outside the table of {len(classes)} classes")
    return labels


def _painted(labels: Integer[np.ndarray, "H W"], classes: ClassTable) -> UInt8[np.ndarray, "H W 3"]:
    """The colour of each label."""
    colors = np.array([*classes.colors, IGNORED], np.uint8)
    return colors[np.where(labels == classes.ignore, len(classes), labels)]


def _of_size(image: Float[Tensor, "c _ _"] | Image.Image, labels: Integer[np.ndarray, "H W"]) -> Image.Image:
    picture = rgb_image(image)
    if picture.size != labels.shape[::-1]:
        raise ValueError(
            f"image and labels must have one size, got {picture.height} x {picture.width} and "
            f"{labels.shape[0]} x {labels.shape[1]}"
        )
    return picture


def _borders(labels: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels that touch one of another class (4-neighbours)."""
    borders = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    return borders


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, with its middle left out where it is wider than `width` pixels."""
    shown, keep = text, len(text)
    while keep > 1 and font.getlength(shown) > width:
        keep -= 1
        shown = f"{text[: keep - keep // 2]}...{text[len(text) - keep // 2 :]}"
    return shown


def segments(
    image: Float[Tensor, "c H W"] | Image.Image,
    panoptic_map: PanopticMap,
    classes: ClassTable,
    *,
    alpha: float = 0.55,
    names: bool = True,
) -> Image.Image:
    """The image with its segments tinted and outlined; void keeps its own colour.

    Stuff has the colour of its class, things have shades of it.

    Args:
        image: what was segmented, in [0, 1] if a tensor.
        panoptic_map: its segments.
        classes: give names and colours.
        alpha: 0 shows the image alone, 1 the segments alone.
        names: whether to write the name of the class on each segment that has room for it.

    Raises:
        ValueError: if image and map differ in size, a label is outside the table, or alpha is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    numbers, labels = _numbered(panoptic_map, classes)
    colors = np.array([(0, 0, 0), *_shades(labels, classes)], np.float32)
    picture = np.array(_of_size(image, numbers))
    borders = np.zeros(numbers.shape, bool)  # one pixel wide, so that small segments are not all outline
    borders[1:] |= numbers[1:] != numbers[:-1]
    borders[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    for top in range(0, len(numbers), _ROWS):
        rows = slice(top, top + _ROWS)
        below = picture[rows].astype(np.float32)
        strength = np.where(numbers[rows] > 0, np.float32(alpha), 0)[..., None]
        mixed = below + strength * (colors[numbers[rows]] - below)
        mixed[borders[rows]] = _PAPER
        picture[rows] = mixed.round().astype(np.uint8)
    drawn = Image.fromarray(picture)
    if names:
        _write_names(drawn, numbers, [classes.names[label] for label in labels])
    return drawn


def segment_errors(
    image: Float[Tensor, "c H W"] | Image.Image,
    prediction: PanopticMap,
    target: PanopticMap,
    classes: ClassTable,
) -> Image.Image:
    """Pixels outside of a match red, void ones of the target grey, over the darkened image.

    Two segments match as in panoptic quality: they have one class, and an IoU above 0.5 where the target is
    not void.

    Raises:
        ValueError: if the sizes differ, or a label is outside the table.
    """
    (got, got_labels), (wanted, wanted_labels) = (_numbered(one, classes) for one in (prediction, target))
    if wanted.shape != got.shape:
        raise ValueError(f"prediction and target must have one size, got {got.shape} and {wanted.shape}")
    known = wanted > 0
    shape = (len(wanted_labels) + 1, len(got_labels) + 1)
    both = np.bincount((wanted * shape[1] + got)[known], minlength=shape[0] * shape[1]).reshape(shape)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    same = np.equal.outer([-1, *wanted_labels], [-2, *got_labels])
    matched = same & (both > 0.5 * union)
    grey = np.asarray(_of_size(image, wanted).convert("L"))
    picture = np.repeat((grey * 0.6).astype(np.uint8)[..., None], 3, axis=2)
    picture[known & ~matched[wanted, got]] = WRONG
    picture[~known] = (128, 128, 128)
    return Image.fromarray(picture)


def _numbered(panoptic_map: PanopticMap, classes: ClassTable) -> tuple[Integer[np.ndarray, "H W"], list[int]]:
    """A map of 0 for void and the segments by their order in the table from 1, and their labels."""
    labels = panoptic_map.classes.tolist()
    if outside := [label for label in labels if not 0 <= label < len(classes)]:
        raise ValueError(f"the label {outside[0]} is outside the table of {len(classes)} classes")
    id_map, ids = panoptic_map.id_map.detach().cpu().numpy(), panoptic_map.ids.cpu().numpy()
    if not len(ids):
        return np.zeros(id_map.shape, np.int64), labels
    order = ids.argsort()
    place = np.searchsorted(ids[order], id_map).clip(max=len(ids) - 1)
    return np.where((ids[order][place] == id_map) & (id_map != VOID), order[place] + 1, 0), labels


def _shades(labels: Sequence[int], classes: ClassTable) -> list[Color]:
    """The colour of each segment: that of its class for stuff, the next of its shades for things."""
    seen = [0] * len(classes)
    colors = []
    for label in labels:
        amount = _SHADES[seen[label] % len(_SHADES)] if label in classes.things else 0.0
        seen[label] += 1
        end = 255 if amount > 0 else 0
        r, g, b = (round(part + abs(amount) * (end - part)) for part in classes.colors[label])
        colors.append((r, g, b))
    return colors


def _write_names(picture: Image.Image, numbers: Integer[np.ndarray, "H W"], names: Sequence[str]) -> None:
    """Write a name into each segment, in the middle of the row at half its height, where it has room."""
    size = max(9, min(picture.size) // 32)
    font, pen = ImageFont.load_default(size), ImageDraw.Draw(picture)
    for number, name in enumerate(names, 1):
        rows = (numbers == number).sum(1).cumsum()
        if not rows[-1]:
            continue
        y = int(np.searchsorted(rows, rows[-1] / 2))
        inside = np.flatnonzero(numbers[y] == number)
        runs = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
        longest = max(runs, key=len)
        column = numbers[max(0, y - size) : y + size, longest[len(longest) // 2]]
        if len(longest) >= font.getlength(name) and (column == number).sum() >= size:
            pen.text(
                (longest[len(longest) // 2], y), name, _PAPER, font, "mm", stroke_width=1, stroke_fill=_INK
            )
