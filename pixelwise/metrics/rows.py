"""Metrics that keep rows of numbers, some for every image, and gather them from all processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """A metric with states made of rows, also in a process that saw no image.

    torchmetrics gathers the states of all processes as tensors and needs the same number of axes and the same
    type from each; an empty list has neither. A state that is added by `add_rows` therefore gets a tensor
    without rows before it is sent.

    >>> metric = RowMetric()
    >>> metric.add_rows("sizes", 2, dtype=torch.int64)
    >>> metric.rows("sizes").shape
    torch.Size([0, 2])
    """

    def __init__(self) -> None:
        super().__init__()
        self._row_shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}

    def add_rows(self, name: str, *shape: int, dtype: torch.dtype) -> None:
        """Add the state `name`: a list, to which `update` appends tensors of any number of rows.

        Args:
            name: of the state and attribute.
            shape: of one row.
            dtype: of the numbers.
        """
        self.add_state(name, [], dist_reduce_fx="cat")
        self._row_shapes[name] = shape, dtype

    def rows(self, name: str) -> Tensor:
        """All rows of a state in one tensor; none where nothing was seen."""
        found = getattr(self, name)
        return torch.cat([self._no_rows(name), *([found] if isinstance(found, Tensor) else found)])

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any = None,
        should_sync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> None:
        """Gather the rows of all processes, also of one without any (torchmetrics calls this)."""
        for name in self._row_shapes:
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                setattr(self, name, [self._no_rows(name)])
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def update(self, *_: Any, **__: Any) -> None:
        """Add some rows; each metric has its own."""
        raise NotImplementedError

    def compute(self) -> Any:
        """Scores of all rows; each metric has its own."""
        raise NotImplementedError

    def _no_rows(self, name: str) -> Tensor:
        shape, dtype = self._row_shapes[name]
        return torch.zeros(0, *shape, dtype=dtype, device=self.device)
