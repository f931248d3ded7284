"""A folder as a repository of the hub has it: weights, config and model card. No network is needed."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .. import __version__
from ..checkpoint import FROM_HUB, IN_A_RUN, Checkpoint, find, load, save
from ..files import atomic_write, check_targets, record
from .card import model_card

CONFIG, CARD = "config.json", "README.md"
LIBRARY = "pixelwise"
Source = Checkpoint | str | os.PathLike[str]


def save_for_hub(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write what a repository of the hub holds: `model.safetensors`, `config.json` and `README.md`.

    The card tells settings and scores where the weights lie in a run directory. Paths and pictures of the
    run are not told. `load`, `from_hub` and every command take the folder.

    Args:
        source: a run directory, the path of a checkpoint, or a checkpoint.
        folder: where to; made where it is missing.
        name: of the model in the card, such as "owner/name"; None for the folder's.
        licence: of the weights, as the hub calls it, such as "apache-2.0"; None for that of published
            weights, if they are some.
        overwrite: whether files that pixelwise wrote earlier may be replaced.

    Returns:
        The files.

    Raises:
        ValueError: if there is no such checkpoint, or a file must not be replaced or cannot be written.
    """
    folder = Path(folder)
    path = None if isinstance(source, Checkpoint) else find(source)
    known = source if isinstance(source, Checkpoint) else load(source)
    run = path.parent if path is not None and path.name == IN_A_RUN[0] else None  # it tells of the best
    writers: dict[str, Callable[[Path], object]] = {
        FROM_HUB: lambda at: save(
            known.model,
            at,
            known.classes,
            task=known.task,
            decoding=known.decoding,
            notes=_without_paths(known.notes),
        ),
        CONFIG: lambda at: at.write_text(_config(known), encoding="utf-8"),
        CARD: lambda at: at.write_text(
            model_card(known, name or folder.resolve().name, run, licence), encoding="utf-8"
        ),
    }
    targets = [folder / file for file in writers]
    check_targets(targets, folder, sources=[] if path is None else [path], overwrite=overwrite)
    for target, write in zip(targets, writers.values(), strict=True):
        with atomic_write(target) as temporary:
            write(temporary)
        record(target, folder)
    return targets


def _without_paths(notes: dict[str, str]) -> dict[str, str]:
    """Notes for strangers: of the data only the name of their folder."""
    return {key: Path(text).name if key == "data" else text for key, text in notes.items()}


def _config(checkpoint: Checkpoint) -> str:
    """What other programs, and the hub's pages, may want to know."""
    names = checkpoint.classes.names
    told = {
        "library_name": LIBRARY,
        "pixelwise_version": __version__,
        "architectures": [type(checkpoint.model).__name__],
        "builder": checkpoint.built_by.builder,
        "arguments": checkpoint.built_by.arguments,
        "task": checkpoint.task or checkpoint.model.tasks[0],
        "decoding": checkpoint.decoding,
        "num_channels": checkpoint.model.in_channels,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "classes": asdict(checkpoint.classes),
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"
