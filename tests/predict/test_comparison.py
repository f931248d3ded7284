"""Two models on the same images."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.metrics import ImageStates, SegmentationMetrics
from pixelwise.predict import Predictor
from pixelwise.predict.comparison import compare
from pixelwise.types import ClassTable


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve grey images; the labels are those of `Brightness`."""
    random = np.random.default_rng(0)
    for number in range(12):
        grey = random.integers(0, 256, (16, 24), np.uint8)
        for kind, pixels in (("images", grey), ("masks", np.digitize(grey, [64, 192]).astype(np.uint8))):
            (tmp_path / "data" / kind / "val").mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / kind / "train").mkdir(parents=True, exist_ok=True)
            part = "train" if number < 2 else "val"
            Image.fromarray(pixels).save(tmp_path / "data" / kind / part / f"{number:02}.png")
    (tmp_path / "data" / "classes.csv").write_text(
        "name,r,g,b\ndark,20,20,120\nmiddle,0,160,0\nbright,250,220,0\n"
    )
    return tmp_path / "data"


def test_the_better_model_is_named_and_equal_ones_are_not_told_apart(
    data: Path, brightness, classes: ClassTable
) -> None:
    part = pw.open_data(data).val
    good, bad = Predictor(brightness(), classes), Predictor(brightness(), classes)
    bad.model.levels.data = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)
    found = compare(bad, good, part, progress=False)
    assert found.difference is not None
    assert found.difference.score == pytest.approx(found.second.score - found.first.score)
    assert 0 < found.difference.low < found.difference.score < found.difference.high
    assert "the second is better" in found.sentence()
    assert found.rows()["mean IoU"]["difference"] == pytest.approx(found.difference.score)
    assert found.rows()["IoU of dark"]["second"] > 0.9
    gaps = np.abs(found.gaps[found.ranked])
    assert (np.diff(gaps) <= 0).all()
    assert len(gaps) == 10
    assert "the first is better" in compare(good, bad, part, progress=False).sentence()
    same = compare(good, good, part, progress=False)
    assert same.difference == (0, 0, 0)
    assert "do not tell which is better" in same.sentence()


def test_the_interval_is_that_of_draws_of_images_for_both(classes: ClassTable) -> None:
    # By hand: draw images with replacement, score both sums, take the quantiles of the differences.
    random = torch.Generator().manual_seed(1)
    targets = torch.randint(3, (6, 40), generator=random)
    states = []
    for error in (0.2, 0.4):
        wrong = torch.rand(targets.shape, generator=random) < error
        predictions = torch.where(wrong, (targets + 1) % 3, targets)
        metric, each = SegmentationMetrics(classes), ImageStates(SegmentationMetrics(classes))
        for prediction, target in zip(predictions, targets, strict=True):
            metric.reset()
            metric.update(prediction, target)
            each.note(metric)
        states.append((each, predictions))
    (one, right), (other, wrong) = states
    found = one.difference_from(other, lambda s: s.pixel_accuracy, level=0.8, draws=50, seed=3)
    generator = torch.Generator().manual_seed(3)
    draws = torch.randint(6, (50, 6), generator=generator)
    gaps = [
        float((right[i] == targets[i]).float().mean() - (wrong[i] == targets[i]).float().mean())
        for i in draws
    ]
    low, high = np.quantile(gaps, [0.1, 0.9])
    assert found.low == pytest.approx(low, abs=1e-6)
    assert found.high == pytest.approx(high, abs=1e-6)
    with pytest.raises(ValueError, match="got 6 and 0"):
        one.difference_from(ImageStates(SegmentationMetrics(classes)), lambda s: s.pixel_accuracy)
    with pytest.raises(ValueError, match="level"):
        one.difference_from(other, lambda s: s.pixel_accuracy, level=2)


def test_models_of_other_tasks_or_classes_are_not_compared(data: Path, brightness, classes) -> None:
    part = pw.open_data(data).val
    other = ClassTable(("a", "b", "c"), classes.colors)
    with pytest.raises(ValueError, match="class"):
        compare(Predictor(brightness(), classes), Predictor(brightness(), other), part, progress=False)


def test_scores_of_images_are_written_most_different_first(
    data: Path, brightness, classes: ClassTable, tmp_path: Path
) -> None:
    part = pw.open_data(data).val
    bad = Predictor(brightness(), classes)
    bad.model.levels.data = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)
    found = compare(Predictor(brightness(), classes), bad, part, progress=False)
    rows = list(csv.DictReader(found.write_csv(tmp_path / "images.csv").read_text().splitlines()))
    gaps = [abs(float(row["difference"])) for row in rows]
    assert gaps == sorted(gaps, reverse=True)
    assert all(
        math.isclose(float(r["second"]) - float(r["first"]), float(r["difference"]), abs_tol=2e-6)
        for r in rows
    )


def test_scores_without_draws_are_compared_by_their_images(tmp_path: Path) -> None:
    from pixelwise.predict.comparison import _mean_difference
    from pixelwise.predict.evaluation import Evaluation, ImageScores
    from pixelwise.tasks import get_task
    from pixelwise.types import Report

    def of(scores: list[float]) -> Evaluation:
        images = [
            ImageScores(i, str(i), score, Report({"mask_ap": score}, {})) for i, score in enumerate(scores)
        ]
        return Evaluation(
            Report({"mask_ap": 0.5}, {}), tuple(images), get_task("instance"), ClassTable.of("a")
        )

    found = _mean_difference(of([0.1, 0.2, math.nan, 0.3]), of([0.4, 0.4, 0.9, 0.4]))
    assert found is not None
    assert found.score == pytest.approx(0.2)
    assert 0.0999 < found.low < 0.2 < found.high < 0.3001
    assert _mean_difference(of([0.1]), of([0.2])) is None
