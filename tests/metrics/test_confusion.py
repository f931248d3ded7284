"""The confusion matrix counts exactly, and says what it cannot count."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelwise.metrics import confusion_matrix
from pixelwise.metrics.pixels.confusion import _counted, _counted_by_torch, confusion_from_logits


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


def test_an_ignored_class_is_not_counted_either() -> None:
    prediction, target = torch.tensor([0, 1, 9, 1, 0]), torch.tensor([1, 1, 0, 0, 1])
    assert confusion_matrix(prediction, target, 2, ignore=0).tolist() == [[0, 0], [2, 1]]
    bytes_ = prediction.to(torch.uint8), target.to(torch.uint8)
    assert confusion_matrix(*bytes_, 2, ignore=0).tolist() == [[0, 0], [2, 1]]
    logits = torch.zeros(1, 2, 5)
    logits[0, 1, 1] = 1
    assert confusion_from_logits(logits, target[None], ignore=0).tolist() == [[0, 0], [2, 1]]


def test_yes_and_no_are_labels_too() -> None:
    prediction, target = torch.tensor([True, False, True]), torch.tensor([1, 1, 0])
    assert _counted(prediction, target, 2, 255, None).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_any_number_of_threads_counts_the_same(threads: int | None) -> None:
    prediction, target = example(3, 400, 500)
    expected = (target[target != 255] * 5 + prediction[target != 255]).bincount(minlength=25).reshape(5, 5)
    for dtype in (torch.uint8, torch.int64):
        found = confusion_matrix(prediction.to(dtype), target.to(dtype), 5, threads=threads)
        assert torch.equal(found, expected)


def test_an_accelerator_counts_the_same() -> None:
    # The path of other devices, here on a CPU.
    prediction, target = example(9, 11)
    for dtype in (torch.uint8, torch.int16, torch.int64):
        found = _counted_by_torch(prediction.to(dtype), target.to(dtype), 5, 255)
        assert torch.equal(found, confusion_matrix(prediction, target, 5))
    renamed = torch.where(target == 255, -1, target)
    assert torch.equal(_counted_by_torch(prediction, renamed, 5, -1), confusion_matrix(prediction, target, 5))
    assert _counted_by_torch(prediction.clamp(min=1), target.clamp(max=5), 5, -1) is None
    target[0, 0] = 1
    prediction[0, 0] = 5
    assert _counted_by_torch(prediction, target, 5, 255) is None


# --- from scores ---------------------------------------------------------------------------------------


def plainly(logits: Tensor, target: Tensor) -> Tensor:
    found = logits.argmax(1)
    valid = target != 255
    k = logits.shape[1]
    return (target[valid].long() * k + found[valid]).bincount(minlength=k * k).reshape(k, k)


@pytest.mark.parametrize("shape", [(1, 1, 7), (2, 5), (3, 19, 40, 50), (2, 300, 9, 11), (2, 4, 5, 6, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_scores_count_as_the_labels_they_stand_for(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.randn(shape).to(dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    target[torch.rand(target.shape) < 0.2] = 255 if shape[1] <= 255 else 0
    ignored = 255 if shape[1] <= 255 else 0
    renamed = torch.where(target == ignored, 1000, target)
    expected = confusion_matrix(logits.argmax(1), renamed, shape[1], ignore=1000)
    assert torch.equal(confusion_from_logits(logits, renamed, ignore=1000), expected)


def test_scores_of_any_layout_and_on_threads_count_the_same() -> None:
    logits, target = torch.randn(2, 6, 400, 700), torch.randint(0, 6, (2, 400, 700))
    target[:, :9] = 255
    expected = plainly(logits, target)
    for view in (logits, logits.contiguous(memory_format=torch.channels_last), logits.requires_grad_()):
        for threads in (1, 2, 3):
            assert torch.equal(confusion_from_logits(view, target.to(torch.uint8), threads=threads), expected)
    turned = logits.detach().transpose(2, 3)
    assert torch.equal(confusion_from_logits(turned, target.transpose(1, 2)), expected)


def test_ties_go_to_the_first_class_and_nan_to_the_first_nan() -> None:
    nan = float("nan")
    rows = [[1, 1, 0], [0, 2, 2], [nan, 5, nan], [3, nan, nan], [-1, nan, 9], [0, 0, 0]]
    logits = torch.tensor(rows).T[None].contiguous()
    assert logits.argmax(1).tolist() == [[0, 1, 0, 1, 1, 0]]
    found = confusion_from_logits(logits, torch.zeros(1, 6, dtype=torch.long))
    assert found.tolist() == [[3, 3, 0], [0, 0, 0], [0, 0, 0]]


def test_a_wrong_target_of_scores_is_named() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, 2, 1] = 3
    with pytest.raises(ValueError, match=r"target holds the label 3 in a\.png, outside the table of 3"):
        confusion_from_logits(torch.zeros(1, 3, 4, 4), target, where="a.png")
    with pytest.raises((ValueError, TypeError), match=r"logits|target"):
        confusion_from_logits(torch.zeros(1, 3, 4, 4), target[:, 1:])


def test_counting_scores_makes_no_map_of_labels() -> None:
    logits, target = torch.randn(1, 30, 512, 512), torch.randint(0, 30, (1, 512, 512))
    confusion_from_logits(logits, target)
    tracemalloc.start()
    with torch.profiler.profile(profile_memory=True) as profile:
        confusion_from_logits(logits, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(event.cpu_memory_usage for event in profile.events()) < 512 * 512
    assert peak < 4 * 512 * 512  # labels alone are 2 MB, scores 31 MB
