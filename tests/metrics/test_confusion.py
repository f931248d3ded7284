"""The confusion matrix counts exactly, and says what it cannot count."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelwise.metrics import confusion_matrix


def example(*grid: int, k: int = 5) -> tuple[Tensor, Tensor]:
    prediction, target = torch.randint(0, k, grid), torch.randint(0, k, grid)
    target[torch.rand(grid) < 0.2] = 255
    return prediction, target


@pytest.mark.parametrize("grid", [(50,), (9, 11), (2, 9, 11), (2, 3, 4, 5)])
def test_each_cell_is_the_number_of_pixels_with_that_pair(grid: tuple[int, ...]) -> None:
    prediction, target = example(*grid)
    matrix = confusion_matrix(prediction, target, 5)
    assert matrix.dtype == torch.int64
    for i in range(5):
        for j in range(5):
            assert matrix[i, j] == np.sum((target.numpy() == i) & (prediction.numpy() == j))
    assert matrix.sum() == (target != 255).sum()


@pytest.mark.parametrize("predicted", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("annotated", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_type_counts_the_same(predicted: torch.dtype, annotated: torch.dtype) -> None:
    prediction, target = example(9, 11)
    expected = confusion_matrix(prediction, target, 5)
    assert torch.equal(confusion_matrix(prediction.to(predicted), target.to(annotated), 5), expected)


def test_products_of_labels_do_not_overflow_small_types() -> None:
    prediction = torch.arange(150, dtype=torch.uint8)
    matrix = confusion_matrix(prediction, prediction, 150)  # 149 * 150 + 149 needs 15 bits
    assert torch.equal(matrix, torch.eye(150, dtype=torch.int64))


@pytest.mark.parametrize("ignore", [-1, 5, 255, 1000])
def test_any_label_outside_the_table_can_be_the_ignored_one(ignore: int) -> None:
    prediction, target = example(9, 11)
    renamed = torch.where(target == 255, ignore, target)
    expected = confusion_matrix(prediction, target, 5)
    assert torch.equal(confusion_matrix(prediction, renamed, 5, ignore=ignore), expected)


def test_what_is_predicted_on_ignored_pixels_does_not_matter() -> None:
    prediction, target = example(9, 11)
    expected = confusion_matrix(prediction, target, 5)
    assert torch.equal(confusion_matrix(torch.where(target == 255, 255, prediction), target, 5), expected)


def test_nothing_to_count_gives_zeros() -> None:
    ignored = torch.full((3, 3), 255)
    assert not confusion_matrix(ignored, ignored, 4).any()
    assert not confusion_matrix(
        torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long), 4
    ).any()


def test_views_of_any_layout_count_the_same() -> None:
    prediction, target = example(8, 10)
    expected = confusion_matrix(prediction[::2, 1::3].contiguous(), target[::2, 1::3].contiguous(), 5)
    assert torch.equal(confusion_matrix(prediction[::2, 1::3], target[::2, 1::3], 5), expected)
    assert torch.equal(confusion_matrix(prediction.T, target.T, 5), confusion_matrix(prediction, target, 5))


@pytest.mark.parametrize(("wrong", "dtype"), [(37, torch.int64), (-3, torch.int64), (254, torch.uint8)])
@pytest.mark.parametrize("whose", ["target", "prediction"])
def test_a_label_outside_the_table_is_named(whose: str, wrong: int, dtype: torch.dtype) -> None:
    maps = {"prediction": torch.zeros(4, 4, dtype=dtype), "target": torch.zeros(4, 4, dtype=dtype)}
    maps[whose][1, 2] = wrong
    with pytest.raises(
        ValueError, match=f"{whose} holds the label {wrong} in a/b.png, outside .* 11 classes"
    ):
        confusion_matrix(**maps, num_classes=11, where="a/b.png")
    with pytest.raises(ValueError, match=f"{whose} holds the label {wrong}, outside"):
        confusion_matrix(**maps, num_classes=11)


def test_the_ignored_label_is_no_excuse_for_a_prediction_on_a_labelled_pixel() -> None:
    with pytest.raises(ValueError, match="prediction holds the label 255"):
        confusion_matrix(torch.tensor([255, 0]), torch.tensor([0, 0]), 2)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="target"):  # TypeError where shapes are checked
        confusion_matrix(torch.zeros(4, 4, dtype=torch.long), torch.zeros(4, 5, dtype=torch.long), 2)
    with pytest.raises((ValueError, TypeError), match="target"):
        confusion_matrix(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(4, 4, dtype=torch.long), 2)
