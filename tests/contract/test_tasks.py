"""What every task keeps. A new task is tested by these without a new line."""

import pickle
from dataclasses import replace

import pytest

from pixelwise.registry import list_models
from pixelwise.tasks import TASKS, get_task
from pixelwise.types import Annotation, ClassTable, Model, Skeleton

TABLE = ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)), things=(1,))
POSE = replace(TABLE, skeleton=Skeleton(("head", "foot")))


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_found_and_travels_by_its_name(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert get_task(name) is task
    assert pickle.loads(pickle.dumps(task)) is task
    assert len(pickle.dumps(task)) < 200


@pytest.mark.parametrize("name", TASKS)
def test_a_task_reads_and_writes_something(name: str) -> None:
    task = TASKS[name]
    assert task.annotation in Annotation.__args__
    assert task.formats or name == "promptable"  # its format comes with its first network
    assert task.writers or task.collectors
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in task.writers)
    for layout in task.formats.values():
        assert callable(layout.matches)
        assert callable(layout.find)
    assert task.suffixes
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in task.suffixes)


@pytest.mark.parametrize("name", TASKS)
def test_settings_that_a_task_does_not_have_are_refused_with_those_that_there_are(name: str) -> None:
    task = TASKS[name]
    for settings, change in ((task.decoding, task.decoding_with), (task.scoring, task.scoring_with)):
        assert change({}) == settings
        assert change(dict(settings)) == settings
        known = ", ".join(settings) or "none"
        with pytest.raises(ValueError, match=f"no setting 'nonsense' of .* {name}: there are {known}"):
            change({"nonsense": 1})


@pytest.mark.parametrize("name", TASKS)
def test_arguments_of_models_follow_from_the_classes(name: str) -> None:
    arguments = TASKS[name].model_arguments(POSE)
    assert next(arguments[key] for key in ("num_classes", "num_joints") if key in arguments) == 2


def test_a_task_that_there_is_not_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="there is no task 'multilable': did you mean 'multilabel'"):
        get_task("multilable")
    with pytest.raises(ValueError, match=f"there is no task 'x': there are {', '.join(TASKS)}"):
        get_task("x")
    assert get_task() is next(iter(TASKS.values()))


def network_classes(base: type[Model] = Model) -> set[type[Model]]:
    below = set(base.__subclasses__())
    return below.union(*(network_classes(kind) for kind in below))


def test_every_model_serves_tasks_that_there_are() -> None:
    assert list_models()  # imports them all
    kinds = [kind for kind in network_classes() if kind.__module__.startswith("pixelwise.models.")]
    assert len(kinds) > 5
    for kind in kinds:
        if not hasattr(kind, "tasks"):
            assert kind.__subclasses__(), f"{kind} is no base of others"
            continue
        assert kind.tasks
        assert set(kind.tasks) <= set(TASKS), kind
        assert isinstance(kind.output, type)
