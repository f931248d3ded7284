"""ONNX files of other programs: images "b c H W" in [0, 1] -> scores "b k h w", or labels "b H W"."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..types import ClassTable, DenseModel

_SCORES, _LABELS = "pixelwise.types:DenseLogits", "pixelwise.export.labels:PixelLabels"


class ForeignSession:
    """A session of ONNX Runtime whose input and output have names of their own."""

    def __init__(self, session: Any, given: str, wanted: str) -> None:
        self.session, self.given, self.wanted = session, given, wanted

    def run(self, names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the file says of the image."""
        return self.session.run([self.wanted], {self.given: inputs["image"]})


def described(session: Any, path: Path, classes: ClassTable) -> tuple[ForeignSession, dict[str, Any]]:
    """How a file is to be used, by its shapes; the first output that fits is taken.

    Raises:
        ValueError: if there is another input than images, or no output fits the classes.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not isinstance(inputs[0].shape[1], int):
        raise ValueError(
            f"{path} is not usable: its only input must be images b x c x H x W, got {_told(inputs)}"
        )
    if inputs[0].type != "tensor(float)":
        raise ValueError(f"{path} is not usable: images must be float32, got {inputs[0].type}")
    for output in outputs:
        shape = output.shape
        if len(shape) == 4 and shape[1] == len(classes) and "float" in output.type:
            kind, field = _SCORES, "coarse"
        elif len(shape) == 3 and "int" in output.type and classes.exclusive:
            kind, field = _LABELS, "labels"
        else:
            continue
        tasks = DenseModel.tasks if kind == _SCORES else DenseModel.tasks[:1]
        about = {
            "task": None,
            "decoding": {},
            "tasks": tasks,
            "in_channels": inputs[0].shape[1],
            "minimum_size": 1,
            "output": {"type": kind, "tensors": [field], "constants": {}},
        }
        return ForeignSession(session, inputs[0].name, output.name), about
    raise ValueError(
        f"{path} does not fit the class table: an output must be scores b x {len(classes)} x h x w, got "
        f"{_told(outputs)}"
    )


def _told(ends: Sequence[Any]) -> str:
    return ", ".join(f"{end.name:.40} ({' x '.join(map(str, end.shape))})" for end in ends)
