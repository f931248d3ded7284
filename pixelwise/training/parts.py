"""Which images a training learns from, is chosen by and is scored on."""

from collections.abc import Sequence
from typing import NamedTuple

from ..data import DataSplits, SegmentationData, parts_by_name
from ..data.kinship import fold_numbers
from ..recipe import Recipe


class Parts(NamedTuple):
    """The parts of the data as a training uses them.

    Attributes:
        train: to learn from.
        val: to choose by.
        test: on which nothing is chosen; None where there is none.
    """

    train: SegmentationData
    val: SegmentationData
    test: SegmentationData | None = None


def parts_of(recipe: Recipe, data: DataSplits | tuple[SegmentationData, SegmentationData] | Parts) -> Parts:
    """The parts that a recipe makes of data; `Parts` are not cut again.

    The images that a recipe names come first; of folds, the validation part is the one that the training is
    without.

    Raises:
        ValueError: if the recipe names an image that is not there, or there are too few for so many folds.
    """
    if isinstance(data, Parts):
        return data
    made = isinstance(data, DataSplits) and data.made_val
    train, val, test = (data.train, data.val, data.test) if isinstance(data, DataSplits) else (*data, None)
    if recipe.val_images or recipe.test_images or recipe.left_out:
        if made:  # a part that nothing but chance tells
            train, val = train.joined(val), val.with_pairs(())
        named = parts_by_name(train, val, recipe.val_images, recipe.test_images, recipe.left_out)
        train, val, test = *named[:2], named[2] or test
    if recipe.fold is not None:
        assert recipe.folds is not None
        pooled = train.joined(val)
        train, val = without_fold(pooled, fold_numbers(pooled, recipe.folds, recipe.seed), recipe.fold)
    return Parts(train, val, test)


def without_fold(
    pooled: SegmentationData, fold_of_each: Sequence[int], fold: int
) -> tuple[SegmentationData, SegmentationData]:
    """All images but those of a fold, and those.

    Args:
        pooled: all images.
        fold_of_each: see `data.kinship.fold_numbers`.
        fold: counted from 1.
    """
    others, held = (
        [i for i, number in enumerate(fold_of_each) if (number == fold) == inside] for inside in (False, True)
    )
    return pooled.take(others), pooled.take(held)
