"""Weights with all that is needed to use them, in one safetensors file."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import ensembles
from .ensembles import Ensemble, averaged_weights
from .files import atomic_write
from .reduced import build_network
from .types import BuiltBy, ClassTable, Model, Skeleton

_FORMAT = "pixelwise-2"
_KNOWN = ("pixelwise-1", _FORMAT)  # the first has no task and no settings of decoding
_METADATA_LIMIT = 16 * 2**20  # bytes; safetensors reads no header above 100 MB
_LARGEST_ARGUMENT = 2**20  # no builder takes a larger number; a list of so many channels would fill memory
Average = Literal["outputs", "weights"]
IN_A_RUN = ("best.safetensors", "last.safetensors")
FROM_HUB = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What `load` gives.

    Attributes:
        model: in eval mode, on the CPU, in float32.
        classes: what its labels mean.
        built_by: builder and arguments.
        notes: free text by name, such as scores and training settings.
        task: name of the task it was trained for; None where the file does not tell.
        decoding: settings of decoding that belong to these weights, such as tuned thresholds.
    """

    model: Model
    classes: ClassTable
    built_by: BuiltBy
    notes: dict[str, str]
    task: str | None = None
    decoding: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Builder, size, classes and notes in at most three lines.

        >>> table = ClassTable.of("sky", "road")
        >>> from pixelwise import build
        >>> Checkpoint(build("pspnet", 2, encoder="tiny"), table, BuiltBy("pspnet", {}), {"epoch": "3"})
        Checkpoint of pspnet, 6,584 parameters
          2 classes: sky, road
          notes: epoch 3
        """
        size = sum(parameter.numel() for parameter in self.model.parameters())
        arguments = ", ".join(
            f"{name}={value}" for name, value in self.built_by.arguments.items() if name != "num_classes"
        )
        named = f"{self.built_by.builder}({arguments})" if arguments else self.built_by.builder
        names, notes = ", ".join(self.classes.names), ", ".join(f"{k} {v}" for k, v in self.notes.items())
        lines = [
            f"Checkpoint of {_short(named)}, {size:,} parameters",
            f"  {len(self.classes)} classes: {_short(names)}",
        ]
        return "\n".join([*lines, f"  notes: {_short(notes)}"] if notes else lines)


def save(
    model: Model,
    path: str | os.PathLike[str],
    classes: ClassTable,
    *,
    task: str | None = None,
    decoding: Mapping[str, Any] | None = None,
    notes: dict[str, str] | None = None,
) -> None:
    """Write weights, builder, arguments, class table and task to a safetensors file.

    The file appears whole or not at all, and the same model gives the same bytes. Weights keep their type;
    `load` gives float32.

    Args:
        model: made by `pixelwise.build`, which notes how.
        path: of the file, usually ending in .safetensors; parent folders are made.
        classes: what the labels mean; as many as the model tells apart.
        task: name of the task it was trained for; None for the first that the model serves.
        decoding: settings of decoding that belong to these weights, such as tuned thresholds.
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
    if model.num_classes not in (None, len(classes)):
        raise ValueError(f"the model has {model.num_classes} classes, the class table {len(classes)}")
    metadata = {
        "format": _FORMAT,
        "builder": built_by.builder,
        "arguments": arguments,
        "classes": json.dumps(asdict(classes)),
        "preprocessing": json.dumps(_preprocessing(model)),
        "task": json.dumps({"name": task or model.tasks[0], "decoding": dict(decoding or {})}),
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
        _sort_header(temporary)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save` wrote. Pickled files are refused: they can run code.

    Args:
        path: of a safetensors file, or of a run directory, whose best weights are taken (the last ones
            where there are no best yet). Several with commas between them, or a folder of run directories,
            are an ensemble; see `ensemble`.

    Raises:
        ValueError: if there is no such file, it is not a whole pixelwise checkpoint, or what it says of
            itself does not fit together.
    """
    found = find_all(path)
    return _load(found[0]) if len(found) == 1 else ensemble(found)


def ensemble(
    sources: Sequence[Checkpoint | str | os.PathLike[str]], *, average: Average = "outputs"
) -> Checkpoint:
    """Several trained models as one, to be used and saved like any other.

    Settings of decoding on which the models agree are kept; of thresholds the mean is.

    Args:
        sources: checkpoints, or paths as `load` takes them.
        average: "outputs" runs every model and averages their answers; "weights" averages the weights of
            models that were built alike and trained from the same start, which is one model then.

    Raises:
        ValueError: if there are fewer than two models, they differ in classes or task, or they have no
            average.

    >>> table = ClassTable.of("sky", "road")
    >>> from pixelwise import build
    >>> models = [build("pspnet", 2, encoder="tiny") for _ in range(2)]
    >>> found = ensemble([Checkpoint(model.eval(), table, model.built_by, {}) for model in models])
    >>> found.built_by.builder
    'ensemble'
    """
    if average not in get_args(Average):
        raise ValueError(f"average must be one of {', '.join(get_args(Average))}, got {average!r:.80}")
    members = [one if isinstance(one, Checkpoint) else load(one) for one in sources]
    if len(members) < 2:
        raise ValueError(f"an ensemble needs at least two models, got {len(members)}")
    first = members[0]
    for other in members[1:]:
        if other.classes.names != first.classes.names or other.task != first.task:
            raise ValueError(
                "the models of an ensemble differ in classes or task: "
                f"{_short(', '.join(first.classes.names))} ({first.task}) and "
                f"{_short(', '.join(other.classes.names))} ({other.task})"
            )
    models = [member.model for member in members]
    model: Model = (
        averaged_weights(models)
        if average == "weights"
        else Ensemble(models, exclusive=first.classes.exclusive).eval()
    )
    if model.built_by is None:
        raise ValueError("the models of an ensemble must know how they were built: make them with build(...)")
    notes = {"average": average, "members": str(len(models))}
    return Checkpoint(model, first.classes, model.built_by, notes, first.task, _agreed(members))


def _agreed(members: Sequence[Checkpoint]) -> dict[str, Any]:
    """The settings of decoding that all have: equal ones, and the means of numbers and of tables of them."""
    agreed: dict[str, Any] = {}
    for name, value in members[0].decoding.items():
        given = [member.decoding[name] for member in members if name in member.decoding]
        if len(given) < len(members):
            continue
        if all(one == value for one in given):
            agreed[name] = value
        elif all(isinstance(one, float) for one in given):
            agreed[name] = sum(given) / len(given)
        elif all(isinstance(one, list) and np.shape(one) == np.shape(value) for one in given):
            agreed[name] = np.mean(given, 0).tolist()
    return agreed


def _load(path: Path) -> Checkpoint:
    """One file."""
    metadata, weights = _read(path)
    if metadata.get("format") not in _KNOWN:
        raise ValueError(f"{path} holds weights but not how to use them: it was not written by pixelwise")
    try:
        builder = metadata["builder"]
        arguments, preprocessing, notes = (
            _fields(metadata, name) for name in ("arguments", "preprocessing", "notes")
        )
        classes = read_classes(_fields(metadata, "classes"))
        task = {"name": None, "decoding": {}} | (_fields(metadata, "task") if "task" in metadata else {})
    except KeyError as error:
        raise ValueError(f"{path} is no whole checkpoint: it lacks {error.args[0]!r}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    model = _build(path, builder, arguments, weights)
    if preprocessing != _preprocessing(model):
        raise ValueError(
            f"{path} wants images prepared as {preprocessing}, its model takes {_preprocessing(model)}"
        )
    if model.num_classes not in (None, len(classes)):
        raise ValueError(f"{path} names {len(classes)} classes for a model of {model.num_classes}")
    model.load_state_dict(weights)
    model.built_by = BuiltBy(builder, arguments)
    if task["name"] is not None and task["name"] not in model.tasks:
        raise ValueError(
            f"{path} is for the task {task['name']!r:.80}, its model serves {', '.join(model.tasks)}"
        )
    return Checkpoint(model.eval(), classes, model.built_by, notes, task["name"], task["decoding"])


def find(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that `path` means: itself, or the best (else the last) of a run directory.

    Raises:
        ValueError: if there is none, or several.
    """
    found = find_all(path)
    if len(found) > 1:
        raise ValueError(f"{path} means {len(found)} checkpoints: one is needed here")
    return found[0]


def find_all(path: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints that `path` means: those of several with commas between them, or of a folder of runs.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        if inside := _inside(path):
            return inside[:1]
        runs = [_inside(folder)[0] for folder in sorted(path.iterdir()) if _inside(folder)]
        if not runs:
            raise ValueError(f"the folder {path} holds no checkpoint ({' or '.join(IN_A_RUN)})")
        return runs
    if path.is_file():
        return [path]
    if "," in os.fspath(path):
        return [found for part in os.fspath(path).split(",") for found in find_all(part)]
    raise ValueError(f"there is no checkpoint {path}")


def _inside(folder: Path) -> list[Path]:
    """The checkpoints of a run directory, the best one first; that of a folder as the hub has it."""
    of_hub = (FROM_HUB,) if (folder / "config.json").is_file() else ()
    return [folder / name for name in (*IN_A_RUN, *of_hub) if (folder / name).is_file()]


def read_classes(fields: dict[str, Any]) -> ClassTable:
    """A class table from the dictionary that JSON gives back."""
    skeleton = fields.get("skeleton")
    return ClassTable(
        names=tuple(fields["names"]),
        colors=tuple((int(r), int(g), int(b)) for r, g, b in fields["colors"]),
        ignore=fields["ignore"],
        exclusive=fields["exclusive"],
        things=tuple(fields["things"]),
        skeleton=None if skeleton is None else _skeleton(skeleton),
        ids=tuple(fields.get("ids", ())),
        flip_pairs=tuple((int(a), int(b)) for a, b in fields.get("flip_pairs", ())),
    )


def _skeleton(fields: dict[str, Any]) -> Skeleton:
    return Skeleton(
        names=tuple(fields["names"]),
        edges=tuple((int(a), int(b)) for a, b in fields["edges"]),
        flip_pairs=tuple((int(a), int(b)) for a, b in fields["flip_pairs"]),
        sigmas=tuple(float(sigma) for sigma in fields["sigmas"]),
    )


def _build(path: Path, builder: str, arguments: dict[str, Any], weights: Mapping[str, Tensor]) -> Model:
    """The model that a checkpoint names, of the shapes that its weights have.

    It is built without memory for its weights first, so a file that asks for a huge one is refused at once.

    Raises:
        ValueError: if there is no such model, or the weights are not its own; names the file.
    """
    if any(abs(number) > _LARGEST_ARGUMENT for number in _numbers(arguments)):
        raise ValueError(f"{path} cannot be used: an argument of its model is above {_LARGEST_ARGUMENT:,}")
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                if builder == ensembles.NAME:
                    model: Model = ensembles.build_ensemble(**arguments)
                else:
                    model = build_network(builder, arguments)
        except Exception as error:  # what a builder raises on arguments that make no sense
            if device == "meta" and "meta tensor" in str(error):
                continue  # an encoder that cannot be built without memory
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{path} cannot be used: {reason}") from error
        if problem := _difference(weights, model.state_dict()):
            raise ValueError(f"the weights in {path} do not fit {builder!r}: {problem}")
    return model


def _numbers(value: Any) -> Iterator[float]:
    """Every number in what JSON gave."""
    if isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value


def _sort_header(path: Path) -> None:
    """Write the header of a safetensors file anew, sorted: safetensors orders metadata at random.

    The header is as long as before, with spaces at its end as the format allows, so no tensor moves.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


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
    try:
        fields = json.loads(metadata[name])
    except RecursionError as error:
        raise ValueError(f"its {name} are nested too deeply") from error
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
