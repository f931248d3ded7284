"""Folders of volumes with labels: NIfTI, NRRD, MetaImage, TIFF stacks, and folders of DICOM slices.

- `images/` with `labels/` (or `masks/`, ...): files, or folders of slices, of the same name;
- the Medical Segmentation Decathlon and nnU-Net: `imagesTr/`, `labelsTr/` and `dataset.json`, which names the
  classes. nnU-Net writes each channel of a case to a file of its own, `case_0000.nii.gz`, `case_0001.nii.gz`;
- `derivatives/` of BIDS, as ISLES 2022 has it: labels in `derivatives/`, their images in the same places
  outside it;
- labels beside their image, in one folder or in a folder for each case: BraTS (`case_flair`, `case_t1`,
  `case_t1ce`, `case_t2` and `case_seg`, where each kind of MRI is a channel), ACDC (`a`, `a_gt`), PROMISE12
  (`a`, `a_segmentation`), LiTS (`volume-0`, `segmentation-0`), `a_image` and `a_label`, ...
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from ...types import ClassTable, LabelMap, Sample
from ..dataset import Pair
from ..formats import volume_files
from ..formats.dicom import is_series
from ..formats.dicom_seg import labels_on, names_in, read_seg, seg_file
from ..formats.tiff_stack import slices_in
from ..formats.volume import Volume
from ..formats.volume_files import is_stack, is_volume, place_of, stem_of
from ..intensity import Normalise, normaliser, scale_percentiles
from ..label_encoding import LabelEncoding
from .layout import Layout, folders, split_of
from .pairs import IMAGES, MASKS
from .split_files import by_files

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_KINDS = "t1 t1w t1n t1c t1ce t1gd t2 t2w t2f flair pd dwi adc ct pt pet suv cbf cbv mtt tmax".split()
_MODALITY = re.compile(rf"(.+)[_-]({'|'.join(_KINDS)})", re.IGNORECASE)
_LABEL_WORDS = "seg|segmentation|label|labels|mask|masks|gt|msk|groundtruth"
_LABEL = re.compile(rf"(.+)[_-](?:{_LABEL_WORDS})|(?:{_LABEL_WORDS})[_-](.+)", re.IGNORECASE)
_IMAGE = re.compile(
    r"(.+)[_-](?:image|img|volume|vol|scan)|(?:image|img|volume|vol|scan|ct)[_-](.+)", re.IGNORECASE
)
_SAME_PLACE = 1e-3  # mm that affines may differ by, or a share of a voxel that is smaller than 1 mm


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
        volumes = [volume_files.read_volume(path) for path in case.channels]
        for path, volume in zip(case.channels[1:], volumes[1:], strict=True):
            check_same_place(case.channels[0], volumes[0], path, volume)
        image = torch.from_numpy(
            np.stack([channel for volume in volumes for channel in self._channels(volume)])
        )
        target = None
        if case.labels is not None:
            volume = volume_files.read_volume(case.labels)
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
        raise ValueError(f"{images} holds no volume whose name is also in {labels}")
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
    if volume.placed and other.placed and _apart(volume.affine, other.affine):
        raise ValueError(f"{path} and {other_path} lie in different places: their affines differ")


def _apart(affine: Float64[np.ndarray, "4 4"], other: Float64[np.ndarray, "4 4"]) -> bool:
    """Whether two files lie in different places."""
    smallest = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    return bool(np.abs(affine - other).max() > _SAME_PLACE * min(1.0, smallest))


def _cases(images: Path, labels: Path, root: Path) -> list[Case]:
    """The cases of two folders: by their names, or by what these add to those of the folders (BTCV)."""
    return _cases_by(stem_of, images, labels, root) or _cases_by(_own_stem, images, labels, root)


def _own_stem(path: Path) -> str:
    """`img/img0001` and `label/label0001` are both 0001."""
    stem, folder = stem_of(path), path.parent.name
    return stem[len(folder) :] if stem.lower().startswith(folder.lower()) else stem


def _cases_by(name_of: Callable[[Path], str], images: Path, labels: Path, root: Path) -> list[Case]:
    there = {name_of(path): path for path in _volumes(labels)}
    named: dict[str, list[Path]] = defaultdict(list)
    for path in _volumes(images):
        stem = name_of(path)
        channel = _CHANNEL.fullmatch(stem) or _MODALITY.fullmatch(stem)
        named[stem if stem in there or channel is None else channel[1]].append(path)
    return [
        Case(tuple(paths), there[stem], paths[0].relative_to(root).as_posix())
        for stem, paths in named.items()
        if stem in there
    ]


def _cases_beside(folder: Path, root: Path) -> list[Case]:
    """The cases of a folder in which labels lie beside their images."""
    labels: dict[str, Path] = {}
    images: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in _volumes(folder):
        stem = stem_of(path)
        if (labelled := _LABEL.fullmatch(stem)) is not None:
            labels[labelled[1] or labelled[2]] = path
            continue
        # Where several could be the image, that of the surest name is.
        images[stem].append((2, path))
        if (image := _IMAGE.fullmatch(stem)) is not None:
            images[image[1] or image[2]].append((1, path))
        if (channel := _CHANNEL.fullmatch(stem) or _MODALITY.fullmatch(stem)) is not None:
            images[channel[1]].append((0, path))
    cases = []
    for name, file in labels.items():
        if name in images:
            surest = min(rank for rank, _ in images[name])
            files = tuple(path for rank, path in images[name] if rank == surest)
            cases.append(Case(files, file, files[0].relative_to(root).as_posix()))
    return cases


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_volume(path))


def channel_files(path: Path, channels: int) -> list[Path]:
    """The files of a case of which one is given: nnU-Net's `_0000`, `_0001`, ... or kinds of MRI and CT.

    A model of one channel takes the file alone.

    >>> channel_files(Path("a_0000.nii.gz"), 2)[1].name
    'a_0001.nii.gz'
    """
    stem = stem_of(path)
    if channels == 1:
        return [path]
    if (numbered := _CHANNEL.fullmatch(stem)) is not None:
        suffix = path.name[len(stem) :]
        return [path.with_name(f"{numbered[1]}_{number:04}{suffix}") for number in range(channels)]
    if (kind := _MODALITY.fullmatch(stem)) is not None and path.parent.is_dir():
        others = [(_MODALITY.fullmatch(stem_of(other)), other) for other in _volumes(path.parent)]
        return [other for match, other in others if match is not None and match[1] == kind[1]]
    return [path]


def find_volumes(folder: Path, channels: int) -> list[Path]:
    """The volumes in a folder and its sub-folders; of one in several files, that of its first channel.

    A folder of DICOM slices is one volume. Hidden files are left out.
    """
    if is_series(folder):
        return [folder]
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += find_volumes(path, channels)
        elif is_volume(path):
            files = channel_files(path, channels)
            if path == files[0] or not all(file.exists() for file in files):
                found.append(path)
    return found


def _labels(volume: Volume, classes: ClassTable, path: Path) -> Int64[Tensor, "D H W"]:
    voxels = volume.voxels
    if voxels.ndim != 3:
        raise ValueError(f"{path} has the shape {voxels.shape}, expected labels on three axes")
    labels = _whole(voxels, path)
    if len(classes) == 2 and _black_and_white(labels):
        labels = labels // 255
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


def _black_and_white(labels: Int64[np.ndarray, "D H W"]) -> bool:
    """Whether labels are 0 and 255, as stacks of pictures have them (ISBI 2012)."""
    return bool(((labels == 0) | (labels == 255)).all() and (labels == 255).any() and (labels == 0).any())


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
    if (seg := seg_file(paths[0])) is not None:
        names = names_in(seg)
        told = [names.get(number, f"class {number}") for number in range(1, max(names) + 1)]
        return ClassTable.of("background", *told)
    largest = 0
    for path in paths:
        labels = _whole(volume_files.read_volume(path).voxels, path)
        largest = max(largest, 1 if _black_and_white(labels) else int(labels.max()))
    if not 0 <= largest < 255:
        raise ValueError(
            f"the labels go up to {largest} (are these instances, not classes?): give a class table"
        )
    return ClassTable.of(*(f"class {number}" for number in range(largest + 1)))


# --- layout ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadVolume:
    """How a volume is read; see `ReadImage`.

    Attributes:
        intensity: how the values of each channel become 0 to 1; see `data.intensity.normaliser`.
    """

    intensity: str = "percentiles"

    def __call__(
        self, path: Path, channels: int
    ) -> tuple[Float32[Tensor, "c D H W"], tuple[float, float, float] | None]:
        """A volume with each channel scaled, and its spacing.

        Other channels are read from the files that `channel_files` names.

        Raises:
            ValueError: if a file is damaged, the files do not lie in one place, or there are other channels.
        """
        normalise = normaliser(self.intensity)
        volumes = [volume_files.read_volume(path)]
        if volumes[0].voxels.ndim == 3:
            files = channel_files(path, channels)
            volumes = [volumes[0] if file == path else volume_files.read_volume(file) for file in files]
            for other, volume in zip(files, volumes, strict=True):
                check_same_place(path, volumes[0], other, volume)
        grids = [grid for volume in volumes for grid in volume.voxels.reshape(-1, *volume.voxels.shape[-3:])]
        if len(grids) != channels:
            raise ValueError(
                f"{path} has {_counted(len(grids))}, {channels} expected: a model takes others with "
                f"--in-channels {len(grids)} (in_channels=)"
            )
        try:
            image = torch.from_numpy(np.stack([normalise(grid) for grid in grids]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return image, volumes[0].spacing


@dataclass(frozen=True)
class ReadSlices(ReadVolume):
    """How a volume is read whose slices a network takes that may want colours; see `ReadImage`."""

    def __call__(
        self, path: Path, channels: int
    ) -> tuple[Float32[Tensor, "c D H W"], tuple[float, float, float] | None]:
        """As `ReadVolume`; of one channel three equal ones are made where three are wanted.

        Raises:
            ValueError: as `ReadVolume`.
        """
        files = [file for file in channel_files(path, channels) if file.exists()]
        if channels != 3 or len(files) > 1:
            return super().__call__(path, channels)
        try:
            image, spacing = super().__call__(path, 1)
        except ValueError:  # it holds three channels, or it is damaged
            return super().__call__(path, channels)
        return image.expand(3, *image.shape[1:]).contiguous(), spacing


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
        if (seg := seg_file(pair.mask)) is not None:
            return _segments_on(pair.image, seg, self.classes)
        volume = volume_files.read_volume(pair.mask)
        affine, placed = place_of(pair.image)
        if placed and volume.placed and _apart(volume.affine, affine):
            raise ValueError(f"{pair.image} and {pair.mask} lie in different places: their affines differ")
        return LabelMap(_labels(volume, self.classes, pair.mask), volume.spacing)


def _segments_on(image: Path, seg: Path, classes: ClassTable) -> LabelMap:
    """Labels of a DICOM SEG file on the grid of its image."""
    volume, segments = volume_files.read_volume(image), read_seg(seg)
    try:
        labels = labels_on(segments, volume.affine, volume.voxels.shape[-3:])
    except ValueError as error:
        raise ValueError(f"{seg} does not fit {image}: {error}") from error
    return LabelMap(_labels(replace(volume, voxels=labels), classes, seg), volume.spacing)


def matches(root: Path) -> bool:
    """Whether a folder holds volumes with labels; TIFF files with one page are images."""
    for _, images, labels in _places(root):
        files = _volumes(images)
        if files and _volumes(labels) and not (is_stack(files[0]) and slices_in(files[0]) < 2):
            return True
    if root.is_dir() and _cases_of_derivatives(root):
        return True
    return root.is_dir() and any(
        not is_stack(case.channels[0]) for _, folder in _beside(root) for case in _cases_beside(folder, root)
    )


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
    if not cases and root.is_dir():
        cases["all"] = _cases_of_derivatives(root)
    if not any(cases.values()) and root.is_dir():
        for part, folder in _beside(root):
            cases.setdefault(part, []).extend(_cases_beside(folder, root))
    if not any(cases.values()):
        raise ValueError(
            f"{root} holds no volume with labels: expected NIfTI, NRRD, MetaImage or TIFF files, or folders "
            "of DICOM files, of the same names in images/ and labels/ or in imagesTr/ and labelsTr/, or "
            "labels beside their images, such as a_image.nrrd and a_label.nrrd"
        )
    _check_channels([case for some in cases.values() for case in some])
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
        ReadVolume(),
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


def _beside(root: Path) -> Iterator[tuple[str, Path]]:
    """Part and folder of labels beside their images: the folder itself, and those one or two levels below."""
    yield "all", root
    for one in folders(root):
        part = split_of(one.name) or "all"
        yield part, one
        yield from ((part, two) for two in folders(one))


def _cases_of_derivatives(root: Path) -> list[Case]:
    """The cases whose labels lie in `derivatives/`, their images elsewhere under the same name.

    `sub-1_ses-1_msk` belongs to `sub-1_ses-1_dwi` and `sub-1_ses-1_adc`. Of the folders that hold such files,
    the one with most counts: others have grids of their own (the FLAIR of ISLES 2022).
    """
    home = root / "derivatives"
    if not home.is_dir():
        return []
    images: dict[str, dict[Path, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(root.rglob("*_*")):
        if home not in path.parents and not path.name.startswith(".") and path.is_file() and is_volume(path):
            kind = _MODALITY.fullmatch(stem_of(path))
            if kind is not None:
                images[kind[1]][path.parent].append(path)
    cases = []
    for path in sorted(home.rglob("*_*")):
        labelled = _LABEL.fullmatch(stem_of(path)) if path.is_file() and is_volume(path) else None
        if labelled is not None and (found := images.get(labelled[1] or "")):
            files = max(found.values(), key=len)
            cases.append(Case(tuple(files), path, files[0].relative_to(root).as_posix()))
    return cases


def _check_channels(cases: Sequence[Case]) -> None:
    """Refuse cases of which files are missing.

    Raises:
        ValueError: if two cases have other numbers of files.
    """
    for case in cases:
        if len(case.channels) != len(cases[0].channels):
            first, other = cases[0].channels, case.channels
            raise ValueError(
                f"the case of {first[0]} has {len(first)} files of images, that of {other[0]} {len(other)}"
            )


def _channels(case: Case) -> int:
    """How many channels a case has, in one file or in several."""
    voxels = volume_files.read_volume(case.channels[0]).voxels
    return voxels.shape[0] if voxels.ndim == 4 else len(case.channels)


def _counted(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"
