"""Folders of volumes with labels, as NIfTI files.

- `images/` with `labels/` (or `masks/`, ...): files of the same name;
- the Medical Segmentation Decathlon and nnU-Net: `imagesTr/`, `labelsTr/` and `dataset.json`, which names the
  classes. nnU-Net writes each channel of a case to a file of its own, `case_0000.nii.gz`, `case_0001.nii.gz`.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from ...types import ClassTable, LabelMap, Sample
from ..formats.nifti import Volume, is_nifti, read_nifti, stem_of
from ..intensity import scale_percentiles
from .pairs import IMAGES, MASKS

Normalise = Callable[[Shaped[np.ndarray, "*grid"]], Float32[np.ndarray, "*grid"]]

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_SAME_PLACE = 1e-3  # mm that affines may differ by


@dataclass(frozen=True)
class Case:
    """One volume and where its labels lie.

    Attributes:
        channels: the files of its channels; one file may hold several.
        labels: the file of its labels; None where there is none.
        id: the path of the first file inside the data folder.
    """

    channels: tuple[Path, ...]
    labels: Path | None
    id: str


class VolumeData(Dataset[Sample]):
    """Volumes and their labels, read when asked for.

    Args:
        cases: the files.
        classes: the task.
        normalise: takes one channel as it is measured to values in [0, 1].
    """

    def __init__(
        self, cases: Sequence[Case], classes: ClassTable, *, normalise: Normalise = scale_percentiles
    ) -> None:
        self.cases, self.classes, self.normalise = tuple(cases), classes, normalise

    def __len__(self) -> int:
        """Number of volumes."""
        return len(self.cases)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """One volume: image "c D H W", labels "D H W", spacing in mm.

        Raises:
            ValueError: if a file is damaged, the files do not lie in one place, or a label is unknown.
        """
        case = self.cases[index]
        volumes = [read_nifti(path) for path in case.channels]
        for path, volume in zip(case.channels[1:], volumes[1:], strict=True):
            check_same_place(case.channels[0], volumes[0], path, volume)
        image = torch.from_numpy(
            np.stack([channel for volume in volumes for channel in self._channels(volume)])
        )
        target = None
        if case.labels is not None:
            volume = read_nifti(case.labels)
            check_same_place(case.channels[0], volumes[0], case.labels, volume)
            target = LabelMap(_labels(volume, self.classes, case.labels))
        return Sample(image, target, case.id, volumes[0].spacing)

    def _channels(self, volume: Volume) -> list[Float32[np.ndarray, "D H W"]]:
        grids = volume.voxels.reshape(-1, *volume.voxels.shape[-3:])
        return [self.normalise(grid) for grid in grids]

    def take(self, indices: Sequence[int]) -> "VolumeData":
        """The same data with some of the volumes."""
        return VolumeData([self.cases[i] for i in indices], self.classes, normalise=self.normalise)


def open_volumes(
    root: str | os.PathLike[str],
    *,
    classes: ClassTable | None = None,
    normalise: Normalise = scale_percentiles,
) -> VolumeData:
    """Open the labelled volumes of a folder.

    Args:
        root: the folder.
        classes: the task; None for the names in `dataset.json`, or "class 0", "class 1", ... up to the
            largest label, for which every file of labels is read.
        normalise: takes one channel as it is measured to values in [0, 1]; see `data.intensity`.

    Raises:
        ValueError: if there is no volume with labels, or `dataset.json` cannot be understood.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"there is no data folder {root}")
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    if "imagestr" in folders and "labelstr" in folders:
        images, labels = folders["imagestr"], folders["labelstr"]
    else:
        found = [next((folders[n] for n in names if n in folders), None) for names in (IMAGES, MASKS)]
        if found[0] is None or found[1] is None:
            raise ValueError(
                f"{root} holds no volumes: expected images/ and labels/, or imagesTr/ and labelsTr/"
            )
        images, labels = found[0], found[1]
    cases = _cases(images, labels, root)
    if not cases:
        raise ValueError(f"{images} holds no NIfTI file whose name is also in {labels}")
    description = root / "dataset.json"
    if classes is None and description.is_file():
        classes = _classes_of(description)
    if classes is None:
        classes = _classes_in([case.labels for case in cases if case.labels is not None])
    return VolumeData(cases, classes, normalise=normalise)


def check_same_place(path: Path, volume: Volume, other_path: Path, other: Volume) -> None:
    """Refuse two files that are not on one grid in one place.

    Raises:
        ValueError: if shapes or affines differ.
    """
    if volume.voxels.shape[-3:] != other.voxels.shape[-3:]:
        raise ValueError(
            f"{path} has {volume.voxels.shape[-3:]} voxels, {other_path} {other.voxels.shape[-3:]}"
        )
    if np.abs(volume.affine - other.affine).max() > _SAME_PLACE:
        raise ValueError(f"{path} and {other_path} lie in different places: their affines differ")


def _cases(images: Path, labels: Path, root: Path) -> list[Case]:
    there = {stem_of(path): path for path in _volumes(labels)}
    named: dict[str, list[Path]] = defaultdict(list)
    for path in _volumes(images):
        stem = stem_of(path)
        channel = _CHANNEL.fullmatch(stem)
        named[stem if stem in there or channel is None else channel[1]].append(path)
    return [
        Case(tuple(paths), there[stem], paths[0].relative_to(root).as_posix())
        for stem, paths in named.items()
        if stem in there
    ]


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_nifti(path) and not path.name.startswith("."))


def _labels(volume: Volume, classes: ClassTable, path: Path) -> Int64[Tensor, "D H W"]:
    voxels = volume.voxels
    if voxels.ndim != 3:
        raise ValueError(f"{path} has the shape {voxels.shape}, expected labels on three axes")
    labels = _whole(voxels, path)
    wrong = labels[((labels < 0) | (labels >= len(classes))) & (labels != classes.ignore)]
    if wrong.size:
        raise ValueError(f"{path} holds the label {wrong[0]}, the table has {len(classes)} classes")
    return torch.from_numpy(labels)


def _whole(voxels: Shaped[np.ndarray, "D H W"], path: Path) -> Any:
    """Labels as integers; some tools write them as floating-point numbers."""
    labels = voxels.astype(np.int64)
    if voxels.dtype.kind == "f" and not (labels == voxels).all():
        raise ValueError(f"{path} holds values that are no whole numbers, expected labels")
    return labels


def _classes_of(path: Path) -> ClassTable:
    """The classes of `dataset.json`: {"0": "background", ...} or {"background": 0, ...}."""
    try:
        content = json.loads(path.read_bytes())
        entries = content["labels"]
        if all(str(key).isdigit() for key in entries):
            names = {int(key): str(name) for key, name in entries.items()}
        else:
            names = {int(number): str(name) for name, number in entries.items()}
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"its labels must be 0, 1, 2, ..., got {sorted(names)}")
        return ClassTable.of(*(names[number] for number in range(len(names))))
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"cannot read the classes from {path}: {reason}") from error


def _classes_in(paths: Sequence[Path]) -> ClassTable:
    largest = max(int(_whole(read_nifti(path).voxels, path).max()) for path in paths)
    if not 0 <= largest < 255:
        raise ValueError(
            f"the labels go up to {largest} (are these instances, not classes?): give a class table"
        )
    return ClassTable.of(*(f"class {number}" for number in range(largest + 1)))
