"""Cityscapes: instances in a PNG file of ids, and predicted ones as a text file that lists masks.

A pixel of `x_instanceIds.png` is 1000 · class id + number where it belongs to an instance; below 1000 it is
the id of a class, which is a crowd of such objects where the class has instances (cityscapesScripts,
`helpers/labels.py` and `evalInstanceLevelSemanticLabeling.py`).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...files import atomic_write
from ...rle import RleMasks
from ...types import ClassTable, MaskSet
from .image import opened

_PER_CLASS = 1000


def read_instance_ids(path: Path, label_of: Mapping[int, int]) -> MaskSet:
    """The instances of one image, groups as crowds.

    Args:
        path: of the PNG file.
        label_of: the label of each class id that has instances; other ids are left out.

    Raises:
        ValueError: if the file cannot be read, or is no map of ids.
    """
    with opened(path) as image:
        if not image.mode.startswith("I"):
            raise ValueError(f"{path} must be a PNG file of 16 or 32 bits, it has the mode {image.mode}")
        ids = np.asarray(image, np.int64)
    masks, labels, crowds = [], [], []
    for number in np.unique(ids).tolist():
        kind = number // _PER_CLASS if number >= _PER_CLASS else number
        if kind in label_of:
            masks.append(ids == number)
            labels.append(label_of[kind])
            crowds.append(number < _PER_CLASS)
    stacked = np.stack(masks) if masks else np.zeros((0, *ids.shape), bool)
    crowd = torch.tensor(crowds, dtype=torch.bool)
    return MaskSet.of(RleMasks.encode(stacked), torch.tensor(labels).long(), is_crowd=crowd)


def write_instance_ids(path: Path, instances: MaskSet, classes: ClassTable) -> None:
    """Write a PNG file of ids of 16 bits; 0 where nothing is, `classes.ids` are the ids of classes.

    Raises:
        ValueError: if instances overlap, or a class has more than a thousand or two crowds.
    """
    ids = np.zeros(instances.size, np.int64)
    counts: dict[int, int] = {}
    columns = (instances.classes.tolist(), instances.is_crowd.tolist())
    for mask, label, crowd in zip(instances.dense.cpu().numpy(), *columns, strict=True):
        kind = classes.category_ids[label]
        number = kind if crowd else _PER_CLASS * kind + counts.get(kind, 0)
        if (ids[mask] != 0).any():
            raise ValueError(f"{path}: instances overlap, which a map of ids cannot say")
        if (not crowd and counts.get(kind, 0) >= _PER_CLASS) or not 0 < number < 2**16:
            raise ValueError(f"{path}: instance {counts.get(kind, 0)} of class id {kind} has no number")
        if crowd and (ids == kind).any():
            raise ValueError(f"{path}: two crowds of class id {kind} would become one")
        if not crowd:
            counts[kind] = counts.get(kind, 0) + 1
        ids[mask] = number
    with atomic_write(path) as temporary:
        Image.fromarray(ids.astype(np.uint16)).save(temporary, format="PNG")


def write_cityscapes_results(path: Path, instances: MaskSet, classes: ClassTable) -> list[Path]:
    """Write predictions of an image: a line `mask class confidence` each, and a PNG file per mask.

    Args:
        path: of the text file; the masks lie in a folder `masks` beside it.
        instances: best first or not.
        classes: whose ids are those of Cityscapes.

    Returns:
        The files: the list, and the masks.
    """
    files, lines = [path], []
    columns = (instances.classes.tolist(), instances.scores.tolist())
    for number, (mask, label, score) in enumerate(zip(instances.dense.cpu().numpy(), *columns, strict=True)):
        file = path.parent / "masks" / f"{path.stem}_{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
        files.append(file)
        lines.append(f"masks/{file.name} {classes.category_ids[label]} {score:.6f}\n")
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return files


def read_cityscapes_results(path: Path, label_of: Mapping[int, int]) -> MaskSet:
    """Predictions of an image from a list of masks, as the official evaluation takes them.

    Any pixel of a mask that is not 0 belongs to it.

    Args:
        path: of the text file.
        label_of: the label of each class id.

    Raises:
        ValueError: if a file is missing, a line is wrong, or masks differ in size; names the file.
    """
    masks, labels, scores = [], [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            name, kind, score = line.rsplit(maxsplit=2)
            labels.append(label_of[int(kind)])
            scores.append(float(score))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a mask, a class id and a confidence, got {line!r:.80}"
            ) from error
        with opened(path.parent / name) as image:
            masks.append(np.asarray(image.convert("I")) != 0)
    if len({mask.shape for mask in masks}) > 1:
        raise ValueError(f"{path} lists masks of different sizes")
    stacked = np.stack(masks) if masks else np.zeros((0, 0, 0), bool)
    return MaskSet.of(RleMasks.encode(stacked), torch.tensor(labels).long(), torch.tensor(scores).float())
