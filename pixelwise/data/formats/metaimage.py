"""Volumes in MetaImage files: `.mha`, or `.mhd` with the voxels in a file beside it, as ITK writes them.

The format: https://itk.org/Wiki/ITK/MetaIO/Documentation. Places are in left, posterior, superior; each three
numbers of TransformMatrix are the direction of one axis.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped

from ...files import atomic_write
from .nrrd import beside
from .volume import TO_RAS, Volume, affine_from, as_written, check_size, inflated, spacing_of, told

_LARGEST_HEADER = 1 << 16  # bytes
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_PLACE = {  # the names of a field, the first of which is written
    "offset": ("Offset", "Position", "Origin"),
    "matrix": ("TransformMatrix", "Rotation", "Orientation"),
    "spacing": ("ElementSpacing", "ElementSize"),
}
_TRUE = ("true", "1", "t")


@dataclass(frozen=True)
class MetaHeader:
    """What a file says of the place of its volume, as text, so that it is written again unchanged.

    Attributes:
        place: the values of Offset, TransformMatrix and ElementSpacing.
        anatomy: the value of AnatomicalOrientation.
    """

    place: dict[str, str]
    anatomy: str


def read_metaimage(path: str | os.PathLike[str]) -> Volume:
    """Read a volume; values of several channels become the first axis of the array.

    Raises:
        ValueError: if the file is missing, damaged, no MetaImage, or has not three axes, or four with
            channels.
    """
    path = Path(path)
    with told(path, "a MetaImage"):
        fields, start = _header(path)
        return _volume(path, fields, start)


def place_of_metaimage(path: Path) -> Float64[np.ndarray, "4 4"]:
    """The affine alone; the voxels are not read.

    Raises:
        ValueError: as `read_metaimage`.
    """
    with told(path, "a MetaImage"):
        fields, _ = _header(path)
        return _place(fields, len(fields.get("DimSize", "").split()))[0]


def write_metaimage(path: str | os.PathLike[str], voxels: Shaped[np.ndarray, "D H W"], like: Volume) -> Path:
    """Write a volume in the place of another, its data compressed.

    Args:
        path: ends in `.mha`.
        voxels: on the grid of `like`.
        like: the volume whose place it takes; that of another MetaImage is repeated word for word.

    Raises:
        ValueError: if the file cannot be written.
    """
    voxels = as_written(voxels)
    kind = f"{voxels.dtype.kind}{voxels.dtype.itemsize}"
    if isinstance(like.header, MetaHeader):
        place, anatomy = like.header.place, like.header.anatomy
    else:
        affine = TO_RAS @ like.affine
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        directions = (affine[:3, :3] / lengths).T
        place = {
            "offset": _written(affine[:3, 3]),
            "matrix": _written(directions.ravel()),
            "spacing": _written(lengths),
        }
        anatomy = ""
    little = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    packed = zlib.compress(little.data.cast("B"), 6)
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = True", f"CompressedDataSize = {len(packed)}"]
    lines += [f"{_PLACE[name][0]} = {place[name]}" for name in ("matrix", "offset") if name in place]
    lines += [f"AnatomicalOrientation = {anatomy}"] if anatomy else []
    lines += [f"{_PLACE['spacing'][0]} = {place['spacing']}"] if "spacing" in place else []
    lines += [
        f"DimSize = {' '.join(str(side) for side in reversed(voxels.shape))}",
        f"ElementType = {next(name for name, short in _TYPES.items() if short == kind)}",
        "ElementDataFile = LOCAL",
        "",
    ]
    path = Path(path)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join(lines).encode())
        file.write(packed)
    return path


def _written(numbers: np.ndarray) -> str:
    return " ".join(f"{number + 0.0:.17g}" for number in numbers)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and where the data of an `.mha` file begin."""
    with path.open("rb") as file:
        start = file.read(_LARGEST_HEADER)
    fields: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in fields:
        end = start.find(b"\n", at)
        line, at = (start[at:end], end + 1) if end >= 0 else (start[at:], len(start))
        name, equals, value = line.decode("utf-8", "replace").partition("=")
        if equals:
            fields[name.strip()] = value.strip()
        elif end < 0 or line.strip():
            raise ValueError("its header does not end with ElementDataFile")
    return fields, at


def _volume(path: Path, fields: dict[str, str], start: int) -> Volume:
    for name in ("NDims", "DimSize", "ElementType"):
        if name not in fields:
            raise ValueError(f"its header does not tell {name}")
    sizes = [int(word) for word in fields["DimSize"].split()[:16]]
    axes = len(sizes)
    if axes != int(fields["NDims"]):
        raise ValueError(f"it has {axes} sizes and the dimension {fields['NDims'][:20]}")
    if axes not in (3, 4):
        raise ValueError(f"it has {axes} axes, expected three, or four with channels")
    element = fields["ElementType"].upper().removesuffix("_ARRAY")
    if element not in _TYPES:
        raise ValueError(f"its values are of the type {fields['ElementType'][:40]!r}, expected numbers")
    big = fields.get("ElementByteOrderMSB", fields.get("BinaryDataByteOrderMSB", "False")).lower() in _TRUE
    dtype = np.dtype((">" if big else "<") + _TYPES[element])
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    voxels = _data(path, fields, start, dtype, (*reversed(sizes), channels))
    if channels > 1 and axes == 4:
        raise ValueError("it has four axes and channels as well, expected three axes")
    voxels = voxels[..., 0] if channels == 1 else np.moveaxis(voxels, -1, 0)
    if voxels.ndim == 4 and len(voxels) == 1:
        voxels = voxels[0]
    affine, header = _place(fields, axes)
    native = np.ascontiguousarray(voxels, dtype.newbyteorder("="))
    return Volume(native, spacing_of(affine), affine, header)


def _place(fields: dict[str, str], axes: int) -> tuple[Float64[np.ndarray, "4 4"], MetaHeader]:
    """The affine, and what is written again."""
    if axes not in (3, 4):
        raise ValueError(f"it has {axes} axes, expected three, or four with channels")
    place = {
        name: next(fields[one] for one in names if one in fields)
        for name, names in _PLACE.items()
        if any(one in fields for one in names)
    }
    spacing = _numbers(place.get("spacing", " ".join(["1"] * axes)), axes)
    matrix = _numbers(place.get("matrix", " ".join(map(str, np.eye(axes).ravel()))), axes * axes)
    offset = _numbers(place.get("offset", " ".join(["0"] * axes)), axes)
    directions = matrix.reshape(axes, axes)[:3, :3].T * spacing[:3]
    affine = TO_RAS @ affine_from(directions, offset[:3])
    if axes == 4:  # what is written again has three axes
        place = {"spacing": _written(spacing[:3]), "offset": _written(offset[:3])}
        place["matrix"] = _written(matrix.reshape(4, 4)[:3, :3].ravel())
    return affine, MetaHeader(place, fields.get("AnatomicalOrientation", ""))


def _numbers(text: str, count: int) -> np.ndarray:
    numbers = np.array([float(word) for word in text.split()[: count + 1]])
    if numbers.shape != (count,):
        raise ValueError(f"expected {count} numbers, got {text[:80]!r}")
    return numbers


def _data(
    path: Path, fields: dict[str, str], start: int, dtype: np.dtype, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "..."]:
    name = fields["ElementDataFile"]
    if name.upper() != "LOCAL":
        if len(name.split()) > 1 and name.split()[-1].isdigit():
            raise ValueError("its data lie in several files, which are not read: join them first")
        path, start = beside(path, name), 0
    compressed = fields.get("CompressedData", "False").lower() in _TRUE
    if fields.get("BinaryData", "True").lower() not in _TRUE:
        raise ValueError("its values are written as text, which is not read")
    stored = path.stat().st_size
    size = check_size(stored, shape, dtype.itemsize, compressed=compressed)
    skipped = int(fields.get("HeaderSize", "0"))
    with path.open("rb") as file:
        if compressed:
            file.seek(start)
            content = inflated(file.read(), size)
        else:
            file.seek(stored - size if skipped == -1 else start + max(0, skipped))
            content = file.read(size)
    if len(content) < size:
        raise ValueError(f"its data are cut off: {len(content):,} of {size:,} bytes")
    return np.frombuffer(content, dtype).reshape(shape)
