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
from ..dataset import Pair
from ..formats.nifti import Volume, affine_of, is_nifti, read_nifti, stem_of
from ..intensity import scale_percentiles
from ..label_encoding import LabelEncoding
from .layout import Layout, folders, split_of
from .pairs import IMAGES, MASKS
from .split_files import by_files

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


# --- layout ---------------------------------------------------------------------------------------


def read_volume(
    path: Path, channels: int
) -> tuple[Float32[Tensor, "c D H W"], tuple[float, float, float] | None]:
    """A volume with each channel scaled by its percentiles, and its spacing; see `ReadImage`.

    The other channels of nnU-Net's `case_0000.nii.gz` are read from `case_0001.nii.gz` and so on.

    Raises:
        ValueError: if a file is damaged, the files do not lie in one place, or there are other channels.
    """
    volumes = [read_nifti(path)]
    named = _CHANNEL.fullmatch(stem_of(path))
    if channels > 1 and volumes[0].voxels.ndim == 3 and named is not None:
        suffix = path.name[len(stem_of(path)) :]
        others = [path.with_name(f"{named[1]}_{number:04}{suffix}") for number in range(1, channels)]
        for other in others:
            volumes.append(read_nifti(other))
            check_same_place(path, volumes[0], other, volumes[-1])
    grids = [grid for volume in volumes for grid in volume.voxels.reshape(-1, *volume.voxels.shape[-3:])]
    if len(grids) != channels:
        raise ValueError(
            f"{path} has {_counted(len(grids))}, {channels} expected: a model takes others with "
            f"--in-channels {len(grids)} (in_channels=)"
        )
    try:
        image = torch.from_numpy(np.stack([scale_percentiles(grid) for grid in grids]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return image, volumes[0].spacing


@dataclass(frozen=True)
class VolumeLabels:
    """Labels from one NIfTI file per volume.

    Attributes:
        classes: the task.
    """

    classes: ClassTable

    def __call__(self, pair: Pair) -> LabelMap:
        """Labels in the place of their image; see `ReadTarget`."""
        assert pair.mask is not None
        volume = read_nifti(pair.mask)
        if np.abs(volume.affine - affine_of(pair.image)).max() > _SAME_PLACE:
            raise ValueError(f"{pair.image} and {pair.mask} lie in different places: their affines differ")
        return LabelMap(_labels(volume, self.classes, pair.mask), volume.spacing)


def matches(root: Path) -> bool:
    """Whether a folder of images and one of labels hold NIfTI files."""
    return any(_volumes(images) and _volumes(labels) for _, images, labels in _places(root))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List volumes and their labels; see `Layout`.

    `train`, `val` and `test` may stand above or below images and labels, or lists of names tell the parts.

    Raises:
        ValueError: if there is no volume with labels, or `dataset.json` cannot be understood.
    """
    cases: dict[str, list[Case]] = {}
    unpaired: list[Path] = []
    for part, images, labels in _places(root):
        found = _cases(images, labels, root)
        cases.setdefault(part, []).extend(found)
        used = {path for case in found for path in (*case.channels, case.labels)}
        unpaired += [path for folder in (images, labels) for path in _volumes(folder) if path not in used]
    if not any(cases.values()):
        raise ValueError(
            f"{root} holds no volume with labels: expected NIfTI files of the same names in images/ and "
            "labels/, or in imagesTr/ and labelsTr/"
        )
    description = root / "dataset.json"
    if encoding is not None:
        classes = encoding.classes
    elif description.is_file():
        classes = _classes_of(description)
    else:
        classes = _classes_in([case.labels for some in cases.values() for case in some if case.labels])
    layout = Layout(
        {part: tuple(Pair(c.channels[0], c.labels, c.id) for c in some) for part, some in cases.items()},
        LabelEncoding.of(classes),
        VolumeLabels(classes),
        read_volume,
        _channels(next(case for some in cases.values() for case in some)),
        tuple(unpaired),
    )
    return by_files(root, layout)


def _places(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Part, folder of images, folder of labels."""
    if not root.is_dir():
        return
    above = [(part, path) for path in folders(root) if (part := split_of(path.name))]
    for part, home in above or [("all", root)]:
        inside = {path.name.lower(): path for path in folders(home)}
        images = next((inside[name] for name in ("imagestr", *IMAGES) if name in inside), None)
        labels = next((inside[name] for name in ("labelstr", *MASKS) if name in inside), None)
        if images is None or labels is None:
            continue
        below = [{split_of(path.name): path for path in folders(one)} for one in (images, labels)]
        both = [name for name in below[0] if name is not None and name in below[1]]
        if both:
            yield from ((str(name), below[0][name], below[1][name]) for name in both)
        else:
            yield part, images, labels


def _channels(case: Case) -> int:
    """How many channels a case has, in one file or in several."""
    voxels = read_nifti(case.channels[0]).voxels
    return voxels.shape[0] if voxels.ndim == 4 else len(case.channels)


def _counted(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"
