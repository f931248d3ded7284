"""Weights with all that is needed to use them, in one safetensors file."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import atomic_write
from .registry import BuiltBy, build
from .types import ClassTable, Model

_FORMAT = "pixelwise-1"
_METADATA_LIMIT = 16 * 2**20  # bytes; safetensors reads no header above 100 MB
IN_A_RUN = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What `load` gives.

    Attributes:
        model: in eval mode, on the CPU, in float32.
        classes: the task it was trained for.
        built_by: builder and arguments.
        notes: free text by name, such as scores and training settings.
    """

    model: Model
    classes: ClassTable
    built_by: BuiltBy
    notes: dict[str, str]


def save(
    model: Model,
    path: str | os.PathLike[str],
    classes: ClassTable,
    *,
    notes: dict[str, str] | None = None,
) -> None:
    """Write weights, builder, arguments and class table to a safetensors file.

    The file appears whole or not at all. Weights keep their type; `load` gives float32.

    Args:
        model: made by `pixelwise.build`, which notes how.
        path: of the file, usually ending in .safetensors; parent folders are made.
        classes: the task; one class per channel of the logits.
        notes: free text to keep beside the weights.

    Raises:
        ValueError: if the model does not know how it was built, the table has another number of classes, the
            notes are longer than a checkpoint can hold, or the file cannot be written.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps the model and renames its weights
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
        "preprocessing": json.dumps(_preprocessing(model)),
        "notes": json.dumps(notes or {}),
    }
    size = sum(len(text.encode()) for text in metadata.values())
    if size > _METADATA_LIMIT:
        raise ValueError(
            f"the notes make {size >> 20} MiB, a checkpoint holds at most {_METADATA_LIMIT >> 20}"
        )
    weights = _apart(model.state_dict())
    with atomic_write(path) as temporary:
        try:
            save_file(weights, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save` wrote. Pickled files are refused: they can run code.

    Args:
        path: of a safetensors file, or of a run directory, whose best weights are taken (the last ones
            where there are no best yet).

    Raises:
        ValueError: if there is no such file, it is not a whole pixelwise checkpoint, or what it says of
            itself does not fit together.
    """
    path = find(path)
    metadata, weights = _read(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} holds weights but not how to use them: it was not written by pixelwise")
    try:
        builder = metadata["builder"]
        arguments, preprocessing, notes = (
            _fields(metadata, name) for name in ("arguments", "preprocessing", "notes")
        )
        classes = read_classes(_fields(metadata, "classes"))
        # Weights come from the file, so nothing is to be fetched.
        offline = {"pretrained": False} if "pretrained" in arguments else {}
        model = build(builder, **{**arguments, **offline})
    except KeyError as error:
        raise ValueError(f"{path} is no whole checkpoint: it lacks {error.args[0]!r}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if preprocessing != _preprocessing(model):
        raise ValueError(
            f"{path} wants images prepared as {preprocessing}, its model takes {_preprocessing(model)}"
        )
    if len(classes) != model.num_classes:
        raise ValueError(f"{path} names {len(classes)} classes for a model of {model.num_classes}")
    if problem := _difference(weights, model.state_dict()):
        raise ValueError(f"the weights in {path} do not fit {builder!r}: {problem}")
    model.load_state_dict(weights)
    model.built_by = BuiltBy(builder, arguments)
    return Checkpoint(model.eval(), classes, model.built_by, notes)


def find(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that `path` means: itself, or the best (else the last) of a run directory.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        inside = [path / name for name in IN_A_RUN if (path / name).is_file()]
        if not inside:
            raise ValueError(f"the folder {path} holds no checkpoint ({' or '.join(IN_A_RUN)})")
        return inside[0]
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    return path


def read_classes(fields: dict[str, Any]) -> ClassTable:
    """A class table from the dictionary that JSON gives back."""
    return ClassTable(
        names=tuple(fields["names"]),
        colors=tuple((int(r), int(g), int(b)) for r, g, b in fields["colors"]),
        ignore=fields["ignore"],
        exclusive=fields["exclusive"],
        things=tuple(fields["things"]),
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, nothing else."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise ValueError(f"{path} is empty")
    # torch.save writes zip archives, or plain pickles before 1.6. A safetensors file starts with eight bytes
    # of length, which may look like either, and a brace.
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise ValueError(
            f"{path} is a pickle, which can run code when it is read: pixelwise reads safetensors files only"
        )
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
            return file.metadata() or {}, weights
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _fields(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """What an entry of the metadata tells, by name."""
    fields = json.loads(metadata[name])
    if not isinstance(fields, dict):
        raise ValueError(f"its {name} are {fields!r:.40}, not names with values")
    return fields


def _preprocessing(model: Model) -> dict[str, Any]:
    """What an image must be before the model takes it; mean and std are inside the model."""
    return {"channels": model.in_channels, "range": [0, 1]}


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own: safetensors refuses shared (tied) ones."""
    apart, seen = {}, set()
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(memory.data_ptr())
        apart[name] = tensor
    return apart


def _difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first thing that keeps `given` from being loaded, "" where nothing does."""
    for name, tensor in wanted.items():
        if name in given and given[name].shape != tensor.shape:
            return f"{name} has shape {tuple(given[name].shape)}, the model needs {tuple(tensor.shape)}"
    if missing := [name for name in wanted if name not in given]:
        return f"{missing[0]} is missing ({len(missing)} of {len(wanted)})"
    if extra := [name for name in given if name not in wanted]:
        return f"{extra[0]} has no place in it ({len(extra)} of {len(given)})"
    return ""
