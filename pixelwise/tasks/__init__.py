"""The tasks, one file each: all that is particular to a task stands there, and nowhere else."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .. import data
from ..data import DataSplits
from ..types import Annotation
from .detection import DETECTION
from .instance import INSTANCE
from .keypoint_detection import KEYPOINT_DETECTION
from .keypoints import KEYPOINTS
from .multilabel import MULTILABEL
from .panoptic import PANOPTIC
from .promptable import PROMPTABLE
from .semantic import SEMANTIC
from .task import (
    Collector as Collector,
    Settings as Settings,
    Task as Task,
    TaskMetrics as TaskMetrics,
    Writer as Writer,
)
from .volume import VOLUME
from .volume_slices import VOLUME_SLICES

GUESSED = "instance_maps"  # a layout that no folder shows: masks of pairs may number objects
# The first one is meant where nothing says which.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        SEMANTIC,
        MULTILABEL,
        INSTANCE,
        DETECTION,
        PANOPTIC,
        KEYPOINTS,
        KEYPOINT_DETECTION,
        VOLUME,
        VOLUME_SLICES,
        PROMPTABLE,
    )
}


def get_task(name: str | None = None) -> Task:
    """The task of that name; without a name, one class per pixel.

    Raises:
        ValueError: if there is none (suggests one).

    >>> get_task("semantic").monitor
    'mean_iou'
    """
    if name is None:
        return next(iter(TASKS.values()))
    if name in TASKS:
        return TASKS[name]
    near = get_close_matches(name, TASKS, n=1)
    hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(TASKS)}"
    raise ValueError(f"there is no task {name!r:.80}{hint}")


def task_for(annotation: type[Annotation]) -> Task:
    """The first task whose annotations are of that type.

    Raises:
        StopIteration: if there is none.

    >>> from pixelwise.types import MaskSet
    >>> task_for(MaskSet).name
    'instance'
    """
    return next(task for task in TASKS.values() if task.annotation is annotation)


def open_data(root: str | os.PathLike[str], *, task: str | None = None, **options: Any) -> DataSplits:
    """Open a folder of images and annotations.

    Args:
        root: the folder; for COCO also the json file.
        task: name of the task, which decides how annotations are read; None for the first task that knows the
            layout of the folder, one class per pixel where there is a choice.
        options: those of `pixelwise.data.open_data`: `format`, `classes`, `val_fraction`, `test_fraction`,
            `seed`, `channels`, `mask_rule`.

    Raises:
        ValueError: as `pixelwise.data.open_data`.
    """
    chosen = get_task(task) if task is not None else task_of_folder(Path(root), options.get("format", "auto"))
    if not chosen.formats:
        raise ValueError(f"the task {chosen.name} reads no data: its models are used by prompts")
    return data.open_data(root, formats=chosen.formats, **options)


def task_for_conversion(root: Path, format: str, among: tuple[str, ...]) -> str:
    """The task whose reading of a folder suits a conversion: the first that matches.

    Masks of pairs are classes of pixels unless the caller says that they number objects, which nobody can
    see.

    Raises:
        ValueError: if another task alone reads the folder.
    """
    for name in among:
        formats = get_task(name).formats
        if format == "auto" and root.exists():
            layout = next((layout for layout, finder in formats.items() if finder.matches(root)), None)
            if layout is not None and layout != GUESSED:
                return name
        elif format in formats:
            return name
    other = task_of_folder(root, format).name
    if other not in among:
        raise ValueError(
            f"{root} is read by the task {other}, whose annotations are not converted: only objects, "
            "segments and classes of pixels are"
        )
    return other


def others_that_read(root: Path, task: str, *, numbered: bool = False) -> tuple[str, ...]:
    """Names of the other tasks that are planned and could learn from a folder.

    Args:
        root: the folder.
        task: the one that is taken.
        numbered: whether its masks look as if they numbered objects, which nobody can see from outside.
    """
    return tuple(
        other.name
        for other in TASKS.values()
        if other.planning is not None
        and other.name != task
        and any(layout.matches(root) for name, layout in other.formats.items() if numbered or name != GUESSED)
    )


def task_of_folder(root: Path, format: str = "auto", among: tuple[str, ...] = tuple(TASKS)) -> Task:
    """The first task that has this format, or whose formats match the folder.

    Args:
        root: the folder.
        format: name of a layout, or "auto" to look at the folder.
        among: names of the tasks that may be chosen; the first one where none matches.
    """
    tasks = [get_task(name) for name in among]
    for task in tasks:
        if format == "auto" and root.exists():
            if any(layout.matches(root) for layout in task.formats.values()):
                return task
        elif format in task.formats:
            return task
    return tasks[0]
