"""What a validation during training does with each network of objects: a loss or none, and an annotation."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from pixelwise.losses import NoLoss
from pixelwise.registry import build, describe, list_models, taken_by
from pixelwise.tasks import TASKS
from pixelwise.training import Recipe
from pixelwise.types import ClassMasks, DenseModel
from tests.learning.test_one_batch import BATCHES, CLASSES, kind_of, small


def one_of_each_class() -> list[tuple[str, str]]:
    """The builder with most settings of each class of networks that do more than score pixels."""
    found: dict[str, str] = {}
    for name in sorted(list_models(), key=lambda name: -len(taken_by(name, small(name)))):
        if describe(name).tasks[0] not in (*DenseModel.tasks, "volume", "keypoints", "promptable"):
            found.setdefault(kind_of(name), name)
    return [(name, describe(name).tasks[-1]) for name in sorted(found.values())]


@pytest.mark.parametrize("name, task_name", one_of_each_class())
def test_a_validation_has_finite_losses_or_none_and_an_annotation(name: str, task_name: str) -> None:
    torch.manual_seed(0)
    task, data = TASKS[task_name], BATCHES[task_name]()
    classes = replace(CLASSES, exclusive=task.annotation is not ClassMasks)
    model = build(name, **taken_by(name, small(name) | {"in_channels": 3})).eval()
    criterion = task.criterion(classes, Recipe("").as_dict() | dict(task.defaults))
    with torch.no_grad():
        output = model(*model.inputs(data))
        with suppress(NoLoss):
            parts = criterion.parts(output, data)
            assert all(part.isfinite() for part in parts.values())
        found = task.decode(output, classes, task.decoding)
    assert len(found) == len(data.ids)
