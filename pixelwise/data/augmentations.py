"""Further changes for training by name, as `--augment blur=0.3,mosaic` asks for them.

Three kinds: of pixels (annotations stay), of places (images and annotations move together), and of several
images as one. Each has one number, which may be left out.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from ..types import Annotation, Boxes, ClassMasks, Keypoints, LabelMap, MaskSet, PanopticMap
from ..wording import brief
from . import degradations
from .copy_paste import copy_paste
from .dataset import Mixing
from .degradations import Pixels, Sometimes
from .mixing import classmix, cutmix, mosaic


@dataclass(frozen=True)
class Augmentation:
    """What a name stands for.

    Attributes:
        help: what it does, in a clause.
        number: what its number is.
        usual: the number where none is given.
        high: the largest one.
    """

    help: str
    number: str = "share of the images"
    usual: float = 0.2
    high: float = 1.0


# Of pixels, in the order in which they are made: optics, then the sensor, then what is stored.
DEGRADATIONS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "gamma": degradations.gamma,
    "bias_field": degradations.bias_field,
    "blur": degradations.blur,
    "low_resolution": degradations.low_resolution,
    "noise": degradations.noise,
    "jpeg": degradations.jpeg,
}
PLACES = ("shear", "translate", "balanced_crops")
MIXES: Mapping[str, tuple[type[Annotation], ...]] = {
    "mosaic": (LabelMap, ClassMasks, Boxes, MaskSet, PanopticMap, Keypoints),
    "cutmix": (LabelMap, ClassMasks, MaskSet, PanopticMap),
    "classmix": (LabelMap,),
}
AUGMENTATIONS: Mapping[str, Augmentation] = {
    "gamma": Augmentation("to a power of 0.7 to 1.5", usual=0.3),
    "bias_field": Augmentation("smoothly brighter and darker, as MR scanners are"),
    "blur": Augmentation("Gaussian, of 0.5 to 1.5 pixels"),
    "low_resolution": Augmentation("down to 0.5 to 1 of the size and up again", usual=0.25),
    "noise": Augmentation("normal, of a standard deviation of up to 0.1", usual=0.15),
    "jpeg": Augmentation("compressed with a quality of 30 to 95; 1 or 3 channels"),
    "shear": Augmentation("slanted along both axes", "largest angle in degrees", 10.0, 60.0),
    "translate": Augmentation("moved along both axes", "largest share of the size", 0.1),
    "balanced_crops": Augmentation(
        "crops that hold a pixel of a class that is drawn evenly among those of the image",
        "share of the crops",
        0.5,
    ),
    "mosaic": Augmentation("four images around a point", usual=0.5),
    "cutmix": Augmentation("a rectangle of another image, half as large", usual=0.5),
    "classmix": Augmentation("the pixels of half of the classes of another image", usual=0.5),
}


def parse_augmentations(text: str) -> dict[str, float]:
    """Names with their numbers from `NAME=NUMBER,NAME,...`; nothing from an empty text.

    Raises:
        ValueError: on a name that does not exist or stands twice, or a number out of its range.

    >>> parse_augmentations("blur, shear=5")
    {'blur': 0.2, 'shear': 5.0}
    """
    asked: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        name, equals, written = (word.strip() for word in part.partition("="))
        if name not in AUGMENTATIONS:
            near = get_close_matches(name, AUGMENTATIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(AUGMENTATIONS)}"
            raise ValueError(f"augment names {brief(name)}, which is no augmentation: {hint}")
        if name in asked:
            raise ValueError(f"augment names {name} twice")
        known = AUGMENTATIONS[name]
        try:
            number = float(written) if equals else known.usual
        except ValueError:
            number = math.nan
        if not 0 <= number <= known.high:
            raise ValueError(
                f"{name} of augment must be the {known.number}, from 0 to {known.high:g}, got "
                f"{brief(written)}"
            )
        asked[name] = number
    return asked


def degradations_of(asked: Mapping[str, float]) -> list[Sometimes]:
    """The changes of pixels that are asked for, in their order."""
    return [Sometimes(change, asked[name]) for name, change in DEGRADATIONS.items() if asked.get(name)]


def mixings_of(
    asked: Mapping[str, float], kind: type[Annotation], ignore: int, pasted: float = 0.0
) -> tuple[Mixing, ...]:
    """The mixtures that are asked for: of objects first, then of pixels.

    Args:
        asked: of `parse_augmentations`.
        kind: of the annotations.
        ignore: label of pixels that no image covers.
        pasted: share of the images onto which objects of another one are pasted.

    Raises:
        ValueError: if such annotations cannot be mixed so.
    """
    for name, kinds in MIXES.items():
        if asked.get(name) and kind not in kinds:
            raise ValueError(
                f"{name} of augment is for {' or '.join(one.__name__ for one in kinds)}, not for "
                f"{kind.__name__}"
            )
    mixings = [Mixing(copy_paste, pasted)] if pasted else []
    if asked.get("mosaic"):
        mixings.append(Mixing(partial(mosaic, ignore=ignore), asked["mosaic"], others=3))
    for name, mix in (("cutmix", cutmix), ("classmix", classmix)):
        if asked.get(name):
            mixings.append(Mixing(partial(mix, ignore=ignore), asked[name]))
    return tuple(mixings)


def refuse(asked: Mapping[str, float], names: Collection[str], what: str) -> None:
    """Refuse augmentations that do not suit a task.

    Raises:
        ValueError: if one of `names` is asked for.
    """
    for name in names:
        if asked.get(name):
            raise ValueError(f"{name} of augment is not for {what}")
