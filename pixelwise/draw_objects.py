"""Pictures of single objects: masks and boxes with their names and scores, and which of them are wrong.

Lines and letters grow with the picture, so that they can be read on a thumbnail and on a poster.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from .draw import UNKNOWN, WRONG, rgb_image
from .types import Boxes, ClassTable, Color, MaskSet, Prompts

_PAPER: Color = (255, 255, 255)
_INK: Color = (20, 20, 20)
_INSIDE: Color = (20, 150, 60)  # of what is said to be on an object
_SMALLEST_LETTERS = 11  # pixels


def instances(
    image: Float[Tensor, "c H W"] | Image.Image,
    annotation: MaskSet,
    classes: ClassTable,
    *,
    alpha: float = 0.4,
    min_score: float = 0.5,
) -> Image.Image:
    """The image with each instance tinted and outlined, and its class and score beside it.

    Args:
        image: in [0, 1] if a tensor.
        annotation: masks; scores are written where they are not all 1.
        classes: give names and colours.
        alpha: strength of the tint; 0 leaves the outlines.
        min_score: instances below it are left out.

    Raises:
        ValueError: if image and masks differ in size.
    """
    shown = annotation.take(annotation.scores >= min_score)
    picture = _pixels(image, shown.size)
    width = _line(picture)
    order = shown.scores.argsort().tolist()  # the best on top
    tops = {}
    for place, mask in _masks(shown, order):
        color = _color(classes, shown.classes[place])
        _paint(picture, mask, color, alpha=alpha, line=2 * width)
        _paint(picture, mask, _PAPER, line=width)
        if mask.any():
            tops[place] = _top(mask)
    drawn = Image.fromarray(picture)
    _name(drawn, shown.boxes, classes, tops, centered=True)
    return drawn


def boxes(
    image: Float[Tensor, "c H W"] | Image.Image,
    annotation: Boxes,
    classes: ClassTable,
    *,
    min_score: float = 0.5,
) -> Image.Image:
    """The image with the box of each object, and its class and score beside it.

    Args:
        image: in [0, 1] if a tensor.
        annotation: boxes; scores are written where they are not all 1.
        classes: give names and colours.
        min_score: objects below it are left out.
    """
    shown = annotation.take(annotation.scores >= min_score)
    drawn = rgb_image(image)
    width, pen = _line(np.asarray(drawn)), ImageDraw.Draw(drawn)
    tops = {}
    for place in shown.scores.argsort().tolist():
        x1, y1, x2, y2 = (round(x) for x in shown.boxes[place].tolist())
        inner = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        outer = (inner[0] - width, inner[1] - width, inner[2] + width, inner[3] + width)
        pen.rectangle(outer, outline=_PAPER, width=width)
        pen.rectangle(inner, outline=_color(classes, shown.classes[place]), width=width)
        tops[place] = outer[:2]
    _name(drawn, shown, classes, tops)
    return drawn


def prompts(image: Float[Tensor, "c H W"] | Image.Image, annotation: Prompts) -> Image.Image:
    """The image with what a person points at: discs on the object, crosses beside it, and boxes.

    Args:
        image: in [0, 1] if a tensor.
        annotation: points that are none (-1) are left out.
    """
    drawn = rgb_image(image)
    width, pen = _line(np.asarray(drawn)), ImageDraw.Draw(drawn)
    for x1, y1, x2, y2 in [] if annotation.boxes is None else annotation.boxes.tolist():
        for away, color in ((width, _PAPER), (0, _INSIDE)):
            right, bottom = max(x1, x2 - 1), max(y1, y2 - 1)
            pen.rectangle((x1 - away, y1 - away, right + away, bottom + away), outline=color, width=width)
    if annotation.points is None or annotation.point_labels is None:
        return drawn
    points = annotation.points.flatten(0, 1).tolist()
    for (x, y), label in zip(points, annotation.point_labels.flatten().tolist(), strict=True):
        r = 2 * width
        if label == 1:
            pen.ellipse((x - r, y - r, x + r, y + r), fill=_INSIDE, outline=_PAPER, width=width)
        elif label == 0:
            for thick, color in ((3 * width, _PAPER), (width, WRONG)):
                pen.line((x - r, y - r, x + r, y + r), fill=color, width=thick)
                pen.line((x - r, y + r, x + r, y - r), fill=color, width=thick)
    return drawn


def wrong_instances(
    image: Float[Tensor, "c H W"] | Image.Image, missed: MaskSet, false: MaskSet, unknown: MaskSet
) -> Image.Image:
    """The darkened image with missed instances filled red, false ones outlined red, unknown ones grey.

    Raises:
        ValueError: if image and masks differ in size.
    """
    picture = _darkened(_pixels(image, missed.size))
    for _, mask in _masks(unknown, range(len(unknown))):
        picture[mask] = UNKNOWN
    for _, mask in _masks(missed, range(len(missed))):
        _paint(picture, mask, WRONG, alpha=0.75)
    for _, mask in _masks(false, range(len(false))):
        _paint(picture, mask, WRONG, line=2 * _line(picture))
    return Image.fromarray(picture)


def wrong_boxes(
    image: Float[Tensor, "c H W"] | Image.Image, missed: Boxes, false: Boxes, unknown: Boxes
) -> Image.Image:
    """The darkened image with missed boxes filled red, false ones outlined red, unknown ones grey."""
    picture = _darkened(np.array(rgb_image(image)))
    for some, color, alpha in ((unknown, UNKNOWN, 1.0), (missed, WRONG, 0.75)):
        for corners in some.boxes.tolist():
            x1, y1, x2, y2 = (max(0, round(x)) for x in corners)
            inside = picture[y1:y2, x1:x2]
            inside += (
                ((np.array(color) - inside.astype(np.float32)) * alpha).astype(np.int16).astype(np.uint8)
            )
    drawn = Image.fromarray(picture)
    pen, width = ImageDraw.Draw(drawn), 2 * _line(picture)
    for corners in false.boxes.tolist():
        x1, y1, x2, y2 = (round(x) for x in corners)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=WRONG, width=width)
    return drawn


def _pixels(image: Float[Tensor, "c _ _"] | Image.Image, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    picture = np.array(rgb_image(image))
    if picture.shape[:2] != size:
        given, wanted = (" x ".join(map(str, x)) for x in (picture.shape[:2], size))
        raise ValueError(f"image and masks must have one size, got {given} and {wanted}")
    return picture


def _darkened(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    return np.repeat((grey * 0.6).astype(np.uint8)[..., None], 3, axis=2)


def _line(picture: UInt8[np.ndarray, "H W 3"]) -> int:
    """Width of lines in pixels."""
    return max(1, round(min(picture.shape[:2]) / 400))


def _color(classes: ClassTable, label: Tensor) -> Color:
    return classes.colors[int(label)]


def _masks(shown: MaskSet, order: Sequence[int]) -> Iterator[tuple[int, Bool[np.ndarray, "H W"]]]:
    """The masks one by one: all of them at once may not fit into memory."""
    for place in order:
        yield place, shown.take(torch.tensor([place])).dense[0].numpy()


def _paint(
    picture: UInt8[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    color: Color,
    *,
    alpha: float = 0.0,
    line: int = 0,
) -> None:
    """Tint the pixels of a mask, and draw a line of so many pixels along its inner edge."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    part, inside = picture[window], mask[window]
    if alpha:
        below = part[inside].astype(np.float32)
        part[inside] = (below + alpha * (np.array(color, np.float32) - below)).round().astype(np.uint8)
    if line:
        part[inside & ~_eroded(inside, line)] = color


def _eroded(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """The pixels from which a square of side `2 * radius + 1` stays inside."""
    outside = F.pad(torch.from_numpy(~mask).float()[None, None], (radius,) * 4, value=1.0)
    side = 2 * radius + 1
    near = F.max_pool2d(F.max_pool2d(outside, (side, 1), 1), (1, side), 1)
    return near[0, 0].numpy() < 0.5


def _top(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int]:
    """The middle of the first row of a mask that is not empty: x and y."""
    row = int(mask.any(1).argmax())
    return round(float(np.flatnonzero(mask[row]).mean())), row


def _name(
    drawn: Image.Image,
    shown: Boxes,
    classes: ClassTable,
    tops: Mapping[int, tuple[int, int]],
    *,
    centered: bool = False,
) -> None:
    """Write class and score of each object above its top, but inside the picture.

    Args:
        drawn: is painted on.
        shown: the objects.
        classes: give names and colours.
        tops: x and y of a point of each object, which the text begins at or has in its middle.
        centered: whether the text has it in its middle.
    """
    size = max(_SMALLEST_LETTERS, round(min(drawn.size) / 40))
    font, pen, margin = ImageFont.load_default(size), ImageDraw.Draw(drawn), max(2, size // 6)
    with_scores = bool((shown.scores != 1).any())
    if len(classes) == 1 and not with_scores:
        return  # the same word on every object tells nothing
    for place, (x, y) in tops.items():
        text = classes.names[int(shown.classes[place])]
        if with_scores:
            text += f" {float(shown.scores[place]):.2f}"
        red, green, blue = color = _color(classes, shown.classes[place])
        ink = _INK if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else _PAPER
        wide, high = round(font.getlength(text)) + 2 * margin, size + 2 * margin
        left = max(0, min(x - wide // 2 if centered else x, drawn.width - wide))
        top = max(0, min(y - high, drawn.height - high))
        pen.rectangle((left, top, left + wide - 1, top + high - 1), fill=color)
        pen.text((left + margin, top + high // 2), text, ink, font, anchor="lm")
