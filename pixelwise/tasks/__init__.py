"""The tasks, one file each: all that is particular to a task stands there, and nowhere else."""

from difflib import get_close_matches

from .multilabel import MULTILABEL
from .semantic import SEMANTIC
from .task import (
    Collector as Collector,
    Task as Task,
    TaskMetrics as TaskMetrics,
    Writer as Writer,
)

TASKS: dict[str, Task] = {task.name: task for task in (SEMANTIC, MULTILABEL)}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: if there is none (suggests one).

    >>> get_task("semantic").monitor
    'mean_iou'
    """
    if name in TASKS:
        return TASKS[name]
    near = get_close_matches(name, TASKS, n=1)
    hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(TASKS)}"
    raise ValueError(f"there is no task {name!r:.80}{hint}")
