"""The random changes of training images, from the settings of a training; tasks add what is their own."""

from collections.abc import Callable, Sequence

from ..data import degradations_of, parse_augmentations, training_transform
from ..data.transforms import Compose
from ..types import Sample, Skeleton
from .task import Settings


def random_changes(
    settings: Settings,
    *,
    ignore: int = 0,
    flip_pairs: Sequence[tuple[int, int]] = (),
    skeleton: Skeleton | None = None,
) -> Callable[[Sample], Sample]:
    """Scale and crop, mirror, rotate, deform, recolour, and what else is asked for by `augment`.

    Args:
        settings: those of a recipe.
        ignore: label of pixels that come from outside the image.
        flip_pairs: labels that change places in the mirror.
        skeleton: of key points; says which joints change places in the mirror.

    Raises:
        ValueError: on a setting that makes no sense.
    """
    asked = parse_augmentations(settings["augment"])
    moved = training_transform(
        settings["crop"],
        scale=settings["scale"],
        scale_to=settings["scale_to"],
        flip=settings["flip"],
        color=settings["color"],
        rotation=settings["rotation"],
        elastic=settings["elastic"],
        flip_vertical=settings["flip_vertical"],
        rotate90=settings["rotate90"],
        rare_crops=settings["rare_crops"],
        ignore=ignore,
        flip_pairs=flip_pairs,
        skeleton=skeleton,
        places=asked,
    )
    return Compose([moved, *degradations_of(asked)])
