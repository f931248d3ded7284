"""Which runtime a path means, by its suffix."""

import os
from collections.abc import Callable
from pathlib import Path

from .. import checkpoint
from ..checkpoint import Checkpoint
from ..types import ClassTable
from . import onnx_model, openvino_model, torch_program
from .onnx_model import Difference, export_onnx, load_onnx
from .openvino_model import export_openvino, load_openvino
from .torch_program import export_torch, load_torch

# How the command line calls them, and the suffix of their files.
RUNTIMES = {"torch": torch_program.SUFFIX, "onnx": onnx_model.SUFFIX, "openvino": openvino_model.SUFFIX}
_WRITERS: dict[str, Callable[..., list[Difference]]] = {
    torch_program.SUFFIX: export_torch,
    onnx_model.SUFFIX: export_onnx,
    openvino_model.SUFFIX: export_openvino,
}


def export(found: Checkpoint, path: str | os.PathLike[str], *, labels: bool = False) -> list[Difference]:
    """Write a trained model for another runtime, as the suffix of the file says: .pt2, .onnx or .xml.

    The file appears only if it computes what the model computes, at three sizes that were not traced.

    Args:
        found: model, classes, task and settings of decoding.
        path: of the file.
        labels: whether it gives the class of every pixel instead of scores.

    Returns:
        The largest difference at each of three sizes.

    Raises:
        ValueError: on another suffix, or as `export_torch`, `export_onnx` and `export_openvino`.
    """
    writer = _WRITERS.get(Path(path).suffix)
    if writer is None:
        raise ValueError(f"an exported model ends in {', '.join(_WRITERS)}, got {path}")
    return writer(found.model, path, found.classes, task=found.task, decoding=found.decoding, labels=labels)


def load(path: str | os.PathLike[str], classes: ClassTable | None = None) -> Checkpoint:
    """What a path means: an exported model, or whatever `checkpoint.load` reads.

    Args:
        path: of a file or a run directory.
        classes: of an ONNX file that another program wrote, see `load_onnx`.

    Raises:
        ValueError: as `load_onnx`, `load_openvino`, `load_torch` and `checkpoint.load`.
    """
    suffix = Path(path).suffix
    if suffix == onnx_model.SUFFIX:
        return load_onnx(path, classes)
    if suffix == openvino_model.SUFFIX:
        return load_openvino(path)
    return load_torch(path) if suffix == torch_program.SUFFIX else checkpoint.load(path)
