"""Multilabel: scores per class, also where there is one."""

import pytest
import torch

from pixelwise.tasks import TASKS
from pixelwise.types import ClassMasks, ClassTable


@pytest.mark.parametrize("names", [("person",), ("person", "hat")])
def test_every_class_has_a_row_of_scores(names: tuple[str, ...]) -> None:
    colors = tuple((i, 0, 9) for i in range(len(names)))
    task, classes = TASKS["multilabel"], ClassTable(names, colors, exclusive=False)
    target = torch.zeros(len(names), 4, 6, dtype=torch.long)
    target[:, :2] = 1
    probabilities = torch.where(target == 1, 0.7, 0.2)
    metrics = task.metrics(classes, task.scoring)
    metrics.update([ClassMasks((probabilities > 0.5).long(), probabilities)], [ClassMasks(target)], ["a"])
    report = metrics.compute()
    assert list(report.per_class) == list(names)
    assert all(row["AP"] == 1 for row in report.per_class.values())
    assert all(row["best threshold"] == pytest.approx(0.201) for row in report.per_class.values())
    assert report["mean_dice"] == report["mean_ap"] == 1
