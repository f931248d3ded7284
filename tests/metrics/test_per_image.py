"""Scores of each image, and how sure one may be of those of the data set."""

import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing

from pixelwise.metrics import SegmentationMetrics, confusion_matrix
from pixelwise.metrics.bootstrap import bootstrap_interval
from pixelwise.metrics.pixels.per_image import PerImageMetrics, PerImageScores
from pixelwise.types import ClassTable, LabelMap, voc_palette

CLASSES = ClassTable.of("sky", "road", "car")


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    prediction = torch.randint(0, 3, (count, 6, 7), generator=random)
    target = torch.randint(0, 3, (count, 6, 7), generator=random)
    target[:, 0] = 255
    target[1:2] = 0  # one class only
    target[2:3] = 255  # nothing is labelled
    return prediction, target


def seen(count: int = 6, absent: str = "exclude") -> PerImageScores:
    metrics = PerImageMetrics(CLASSES, absent)
    metrics.update(*images(count))
    return metrics.compute()


def test_every_image_has_its_own_matrix_and_they_add_up() -> None:
    prediction, target = images()
    metrics, together = PerImageMetrics(CLASSES), SegmentationMetrics(CLASSES)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        metrics.update(prediction[part], target[part])
        together.update(prediction[part], target[part])
    scores = metrics.compute()
    assert len(scores.images) == 6
    for i, matrix in enumerate(scores.matrices):
        assert torch.equal(matrix, confusion_matrix(prediction[i], target[i], 3))
    assert torch.equal(scores.data_set.matrix, together.compute().matrix)


def test_label_maps_and_scores_are_taken_too() -> None:
    prediction, target = images()
    logits = torch.nn.functional.one_hot(prediction, 3).movedim(-1, 1).float()
    for given in (LabelMap(prediction), logits):
        metrics = PerImageMetrics(CLASSES)
        metrics.update(given, LabelMap(target))
        assert torch.equal(metrics.compute().matrices, seen().matrices)


def test_means_over_images_are_those_of_plain_sums() -> None:
    prediction, target = (x.numpy() for x in images())
    iou = np.full((6, 3), np.nan)
    for i in range(6):
        for c in range(3):
            valid = target[i] != 255
            one, other = (prediction[i] == c) & valid, (target[i] == c) & valid
            if (one | other).any():
                iou[i, c] = (one & other).sum() / (one | other).sum()
    scores = seen()
    np.testing.assert_allclose(scores.iou.numpy(), iou)
    labelled = np.delete(iou, 2, axis=0)
    assert scores.image_mean_iou == pytest.approx(np.nanmean(np.nanmean(labelled, axis=1)))
    assert scores.class_mean_iou == pytest.approx(np.nanmean(np.nanmean(iou, axis=0)))
    accuracy = scores.of_each(lambda image: image.pixel_accuracy)
    assert accuracy[2].isnan()
    assert accuracy[1] == pytest.approx((prediction[1] == 0).mean())


def test_the_rule_for_absent_classes_is_that_of_each_image() -> None:
    matrix = torch.tensor([[[2, 0, 0], [0, 2, 0], [0, 0, 0]]])
    by_rule = {
        rule: PerImageScores(matrix, CLASSES, rule).image_mean_iou for rule in ("exclude", "zero", "one")
    }
    assert by_rule == {"exclude": 1, "zero": pytest.approx(2 / 3), "one": 1}


def test_no_image_gives_nan() -> None:
    scores = PerImageScores(seen().matrices[:0], CLASSES)
    assert math.isnan(scores.image_mean_iou)
    assert scores.images == []
    assert scores.iou.shape == (0, 3)


def test_a_wrong_label_names_the_image_and_counts_nothing() -> None:
    prediction, target = images()
    target[4, 1, 1] = 7
    metrics = PerImageMetrics(CLASSES)
    with pytest.raises(ValueError, match=r"target holds the label 7 in e\.png"):
        metrics.update(prediction, target, ids=tuple(f"{name}.png" for name in "abcdef"))
    assert metrics.matrices == []


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="exclusive=False"):
        PerImageMetrics(ClassTable(("a", "b"), voc_palette(2), exclusive=False))
    with pytest.raises((ValueError, TypeError), match=r"6 targets need as many predictions, got 5|target"):
        PerImageMetrics(CLASSES).update(images()[0][:5], images()[1])
    with pytest.raises((ValueError, TypeError), match=r"3 x 3|classes"):
        PerImageScores(torch.zeros(2, 2, 2, dtype=torch.long), CLASSES)


# --- several processes --------------------------------------------------------------------------------


def test_images_of_all_processes_are_gathered() -> None:
    metrics = PerImageMetrics(CLASSES)
    metrics.update(*images(2))
    metrics.update(*images(1))
    metrics.distributed_available_fn = lambda: True
    metrics.dist_sync_fn = lambda counts, group=None: [counts, counts[:0], 10 * counts]
    scores = metrics.compute()
    own = torch.cat([seen(2).matrices, seen(1).matrices])
    assert torch.equal(scores.matrices, torch.cat([own, 10 * own]))
    metrics.update(*images(1))  # and each goes on with its own
    assert len(torch.cat(metrics.matrices)) == 4


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    for count in (0, 2):  # images of the first process; the second has the others
        prediction, target = images(5)
        metrics = PerImageMetrics(CLASSES)
        mine = slice(0, count) if rank == 0 else slice(count, 5)
        if count or rank:
            metrics.update(prediction[mine], target[mine])
        torch.save(metrics.compute().matrices, Path(folder) / f"{rank}-{count}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_the_images_of_both_also_where_one_has_none(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    for name in ("0-0", "1-0", "0-2", "1-2"):
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.equal(found, seen(5).matrices)


# --- intervals -----------------------------------------------------------------------------------------


def matrices(count: int) -> Tensor:
    random = torch.Generator().manual_seed(5)
    return torch.randint(0, 50, (count, 3, 3), generator=random) + 100 * torch.eye(3, dtype=torch.long)


def test_an_interval_is_that_of_drawing_images_one_by_one() -> None:
    given = matrices(12)
    interval = bootstrap_interval(given, CLASSES, lambda s: s.pixel_accuracy, draws=3000, level=0.9)
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(3000):
        total = given.numpy()[random.integers(0, 12, 12)].sum(0)
        drawn.append(np.trace(total) / total.sum())
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert interval.score == pytest.approx(np.trace(given.sum(0).numpy()) / given.sum().item())
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.06 * width)
    assert interval.high == pytest.approx(high, abs=0.06 * width)


def test_the_seed_decides_and_the_score_lies_inside() -> None:
    one, same, other = (bootstrap_interval(matrices(9), CLASSES, seed=seed, draws=300) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one.low <= one.score <= one.high
    assert one.score == other.score


def test_images_that_are_all_alike_leave_no_doubt() -> None:
    alike = matrices(1).expand(5, 3, 3)
    interval = bootstrap_interval(alike, CLASSES, draws=50)
    assert interval.low == pytest.approx(interval.score)
    assert interval.high == pytest.approx(interval.score)


def test_a_higher_level_gives_a_wider_interval_and_more_images_a_narrower_one() -> None:
    def width(count: int, level: float) -> float:
        interval = bootstrap_interval(matrices(count), CLASSES, level=level, draws=400)
        return interval.high - interval.low

    assert width(20, 0.5) < width(20, 0.9) < width(20, 0.99)
    assert width(200, 0.9) < width(20, 0.9)


def test_counts_stay_exact_in_a_draw() -> None:
    given = torch.full((3, 3, 3), 2**40 + 1)
    seen_matrices = []
    bootstrap_interval(given, CLASSES, lambda s: seen_matrices.append(s.matrix) or 0.5, draws=3)
    assert all((matrix == 3 * (2**40 + 1)).all() for matrix in seen_matrices)


def test_images_without_labels_may_be_drawn() -> None:
    given = torch.zeros(4, 3, 3, dtype=torch.long)
    given[0] = matrices(1)[0]  # a third of the draws holds no labelled pixel
    interval = bootstrap_interval(given, CLASSES, draws=200)
    assert interval.low == interval.high == pytest.approx(interval.score)
    with pytest.warns(UserWarning, match="no labelled pixel was counted"):
        nothing = bootstrap_interval(given[1:], CLASSES)
    assert all(math.isnan(value) for value in nothing)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"level": 1.0}, "between 0 and 1"), ({"level": 0.0}, "between 0 and 1"), ({"draws": 0}, "one draw")],
)
def test_intervals_that_are_none_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(matrices(3), CLASSES, **options)
    with pytest.raises(ValueError, match="at least one image"):
        bootstrap_interval(matrices(3)[:0], CLASSES)
