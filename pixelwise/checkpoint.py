"""Weights with all that is needed to use them, in one safetensors file."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .catalogue import BuiltBy, build
from .files import replacing
from .types import ClassTable, DenseModel

_FORMAT = "pixelwise-1"


@dataclass(frozen=True)
class Checkpoint:
    """What `load` gives.

    Attributes:
        model: in eval mode, on the CPU.
        classes: the task it was trained for.
        built_by: builder and arguments.
        notes: free text by name, such as scores and training settings.
    """

    model: DenseModel
    classes: ClassTable
    built_by: BuiltBy
    notes: dict[str, str]


def save(
    model: DenseModel,
    path: str | os.PathLike[str],
    classes: ClassTable,
    *,
    notes: dict[str, str] | None = None,
) -> None:
    """Write weights, builder, arguments and class table to a safetensors file.

    Args:
        model: made by `pixelwise.build`, which notes how.
        path: of the file, usually ending in .safetensors; parent folders are made.
        classes: the task; one class per channel of the logits.
        notes: free text to keep beside the weights.

    Raises:
        ValueError: if the model does not know how it was built, the table has another number of classes, or
            the file cannot be written.
    """
    built_by = getattr(model, "built_by", None)
    if not isinstance(built_by, BuiltBy):
        raise ValueError("this model does not know how it was built: make it with pixelwise.build(...)")
    try:
        arguments = json.dumps(built_by.arguments)
    except TypeError as error:
        raise ValueError(
            f"an argument of {built_by.builder!r} cannot be written down: pass encoders by name"
        ) from error
    if len(classes) != model.num_classes:
        raise ValueError(f"the model has {model.num_classes} classes, the class table {len(classes)}")
    metadata = {
        "format": _FORMAT,
        "builder": built_by.builder,
        "arguments": arguments,
        "classes": json.dumps(asdict(classes)),
        "preprocessing": json.dumps({"channels": model.in_channels, "range": [0, 1]}),
        "notes": json.dumps(notes or {}),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as beside:
        try:
            save_file(weights, beside, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save` wrote. Pickled files are refused: they can run code.

    Args:
        path: of a safetensors file, or of a run directory, whose best weights are taken.

    Raises:
        ValueError: if there is no such file, or it is not a whole pixelwise checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise ValueError(
            f"{path} is a pickle, which can run code when it is read: pixelwise reads safetensors files only"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} holds weights but not how to use them: it was not written by pixelwise")
    arguments: dict[str, Any] = json.loads(metadata["arguments"])
    classes = read_classes(json.loads(metadata["classes"]))
    model = build(metadata["builder"], **{**arguments, **_without_download(arguments)})
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit {metadata['builder']!r}: {error}") from error
    model.built_by = BuiltBy(metadata["builder"], arguments)
    return Checkpoint(model.eval(), classes, model.built_by, json.loads(metadata["notes"]))


def read_classes(fields: dict[str, Any]) -> ClassTable:
    """A class table from the dictionary that JSON gives back."""
    return ClassTable(
        names=tuple(fields["names"]),
        colors=tuple((int(r), int(g), int(b)) for r, g, b in fields["colors"]),
        ignore=fields["ignore"],
        exclusive=fields["exclusive"],
        things=tuple(fields["things"]),
    )


def _without_download(arguments: dict[str, Any]) -> dict[str, Any]:
    """Weights come from the file, so nothing is to be fetched."""
    return {"pretrained": False} if "pretrained" in arguments else {}
