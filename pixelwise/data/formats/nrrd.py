"""Volumes in NRRD files: `.nrrd`, or `.nhdr` with the voxels in a file beside it.

The format: http://teem.sourceforge.net/nrrd/format.html. Axes that are not of space, such as several kinds of
MRI, become the first one of the array. Data in a list of several files are not read.
"""

import bz2
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float64, Shaped

from ...files import atomic_write
from .volume import TO_RAS, Volume, affine_from, as_written, check_size, inflated, spacing_of, told

_LARGEST_HEADER = 1 << 20  # bytes
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_SIGNS = {  # of the axes of a space, against right, anterior, superior
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
}
_KEPT = ("space", "space dimension", "space origin", "space units", "measurement frame")


@dataclass(frozen=True)
class NrrdHeader:
    """What a file says of the place of its volume, as text, so that it is written again unchanged.

    Attributes:
        fields: by name.
        directions: the entries of "space directions" or "spacings" for W, H and D.
    """

    fields: dict[str, str]
    directions: tuple[str, str, str]


def read_nrrd(path: str | os.PathLike[str]) -> Volume:
    """Read a volume.

    Raises:
        ValueError: if the file is missing, damaged, no NRRD file, or has not three axes of space.
    """
    path = Path(path)
    with told(path, "a NRRD file"):
        fields, rest = _header(path)
        return _volume(path, fields, rest)


def place_of_nrrd(path: Path) -> Float64[np.ndarray, "4 4"]:
    """The affine alone; the voxels are not read.

    Raises:
        ValueError: as `read_nrrd`.
    """
    with told(path, "a NRRD file"):
        return _place(_header(path)[0])[1]


def write_nrrd(path: str | os.PathLike[str], voxels: Shaped[np.ndarray, "D H W"], like: Volume) -> Path:
    """Write a volume in the place of another, its data compressed.

    Args:
        path: ends in `.nrrd`.
        voxels: on the grid of `like`.
        like: the volume whose place it takes; that of another NRRD file is repeated word for word.

    Raises:
        ValueError: if the file cannot be written.
    """
    voxels = as_written(voxels)
    kind = f"{voxels.dtype.kind}{voxels.dtype.itemsize}"
    lines = ["NRRD0004", f"type: {_TYPES[kind][-1]}", "dimension: 3"]
    if isinstance(like.header, NrrdHeader):
        lines += [f"{name}: {like.header.fields[name]}" for name in _KEPT if name in like.header.fields]
        axes = "space directions" if "space directions" in like.header.fields else "spacings"
        lines.append(f"{axes}: {' '.join(like.header.directions)}")
    else:
        affine = TO_RAS @ like.affine
        columns = ["(" + ",".join(f"{x:.17g}" for x in affine[:3, axis]) + ")" for axis in range(4)]
        lines += [
            "space: left-posterior-superior",
            f"space directions: {' '.join(columns[:3])}",
            f"space origin: {columns[3]}",
        ]
    sizes = " ".join(str(side) for side in reversed(voxels.shape))
    lines += [f"sizes: {sizes}", "kinds: domain domain domain", "endian: little", "encoding: gzip", "", ""]
    packed = zlib.compressobj(6, wbits=zlib.MAX_WBITS | 16)
    little = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    path = Path(path)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join(lines).encode())
        file.write(packed.compress(little.data.cast("B")))
        file.write(packed.flush())
    return path


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and where the data begin."""
    with path.open("rb") as file:
        start = file.read(_LARGEST_HEADER)
    if not re.match(rb"NRRD\d{4}\r?\n", start):
        raise ValueError("it does not begin with NRRD000x")
    found = re.search(rb"\r?\n\r?\n", start)
    if found is None and path.suffix.lower() != ".nhdr":
        raise ValueError("its header does not end")
    end = len(start) if found is None else found.end()
    fields: dict[str, str] = {}
    for line in start[:end].decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#") and ":=" not in name:
            fields[name.strip().lower()] = value.strip()
    return fields, end


def _volume(path: Path, fields: dict[str, str], start: int) -> Volume:
    for name in ("type", "dimension", "sizes", "encoding"):
        if name not in fields:
            raise ValueError(f"its header does not tell {name}")
    kind = next((kind for kind, names in _TYPES.items() if fields["type"].lower() in names), None)
    if kind is None:
        raise ValueError(f"its values are of the type {fields['type'][:40]!r}, expected numbers")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "little").lower())
    if order is None:
        raise ValueError(f"its endian is {fields['endian'][:40]!r}, expected little or big")
    dtype = np.dtype(order + kind)
    sizes = [int(word) for word in fields["sizes"].split()[:16]]
    if len(sizes) != int(fields["dimension"]):
        raise ValueError(f"it has {len(sizes)} sizes and the dimension {fields['dimension'][:20]}")
    spatial, affine, header = _place(fields)
    voxels = _data(path, fields, start, dtype, tuple(reversed(sizes)))
    # From here on the axes are those of the file, the fastest first.
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    turned = voxels.T.transpose([*spatial, *others])
    shape = tuple(sizes[axis] for axis in spatial)
    array = turned.reshape(*shape, -1) if others and turned[0, 0, 0].size > 1 else turned.reshape(shape)
    native = np.ascontiguousarray(array.T, dtype.newbyteorder("="))
    return Volume(native, spacing_of(affine), affine, header)


def _place(fields: dict[str, str]) -> tuple[list[int], Float64[np.ndarray, "4 4"], NrrdHeader]:
    """The axes of space, the affine, and what is written again."""
    spatial, steps, texts = _axes(fields, len(fields.get("sizes", "").split()))
    if len(spatial) != 3:
        raise ValueError(f"it has {len(spatial)} axes of space, expected three")
    origin = _vector(fields.get("space origin", ""), 3)
    signs = np.array(_SIGNS.get(fields.get("space", "").lower(), (-1.0, -1.0, 1.0)))
    start_at = np.zeros(3) if origin is None else origin
    affine = affine_from(signs[:, None] * np.stack(steps, 1), signs * start_at)
    w, h, d = texts
    return spatial, affine, NrrdHeader(fields, (w, h, d))


def _axes(fields: dict[str, str], axes: int) -> tuple[list[int], list[np.ndarray], list[str]]:
    """The axes of space, the step along each of them in the space of the file, and how the file says it."""
    if "space directions" in fields:
        words = re.findall(r"\([^)]*\)|none", fields["space directions"])
        if len(words) != axes:
            raise ValueError(f"it has {axes} axes and directions of {len(words)}")
        vectors = [_vector(word, 3) for word in words]
        spatial = [axis for axis, vector in enumerate(vectors) if vector is not None]
        return spatial, [v for v in vectors if v is not None], [words[axis] for axis in spatial]
    kinds = fields.get("kinds", "").split()
    spatial = [
        axis for axis in range(axes) if len(kinds) != axes or kinds[axis] in ("domain", "space", "???")
    ]
    if len(spatial) == 4:
        spatial = spatial[:3]  # the slowest one holds channels
    given = fields.get("spacings", "").split()
    texts = [given[axis] if len(given) == axes else "1" for axis in spatial]
    sizes = [abs(float(text)) for text in texts]
    sizes = [size if np.isfinite(size) and size > 0 else 1.0 for size in sizes]
    steps = [np.eye(3)[number] * size for number, size in enumerate(sizes[:3])]
    return spatial, steps, texts


def _vector(text: str, length: int) -> np.ndarray | None:
    """(1,0,0) as numbers; None where there is no vector."""
    if not text.startswith("("):
        return None
    numbers = np.array([float(word) for word in text.strip("()").split(",")])
    if numbers.shape != (length,):
        raise ValueError(f"its vectors must have {length} numbers, got {text[:80]}")
    return numbers


def _data(
    path: Path, fields: dict[str, str], start: int, dtype: np.dtype, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "..."]:
    encoding = fields["encoding"].lower()
    name = fields.get("data file", fields.get("datafile"))
    if name is not None:
        path, start = beside(path, name), 0
    stored = path.stat().st_size
    plain = encoding in ("raw", "ascii", "text", "txt")
    # Text needs a digit and a blank for a value; bzip2 reaches rates far beyond those of deflate.
    itemsize = 1 if encoding in ("ascii", "text", "txt") else dtype.itemsize
    check_size(stored, shape, itemsize, compressed=not plain)
    size = dtype.itemsize * int(np.prod(shape))
    skipped = int(fields.get("byte skip", fields.get("byteskip", "0")))
    lines = int(fields.get("line skip", fields.get("lineskip", "0")))
    if lines > 0 or skipped > 0:
        raise ValueError("its data begin behind a skipped part, which is not read")
    with path.open("rb") as file:
        if encoding == "raw":
            file.seek(stored - size if skipped == -1 else start)
            content = file.read(size)
        else:
            file.seek(start)
            content = file.read()
    if encoding in ("gzip", "gz"):
        content = inflated(content, size)
    elif encoding in ("bzip2", "bz2"):
        content = bz2.BZ2Decompressor().decompress(content, size)
    elif encoding in ("ascii", "text", "txt"):
        values = content.split()
        if len(values) < np.prod(shape):
            raise ValueError(f"its data are cut off: {len(values):,} of {int(np.prod(shape)):,} values")
        numbers = np.array([float(value) for value in values[: int(np.prod(shape))]])
        return numbers.astype(dtype).reshape(shape)
    elif encoding != "raw":
        raise ValueError(f"its encoding {encoding[:40]!r} is not read, expected raw, gzip, bzip2 or text")
    if len(content) < size:
        raise ValueError(f"its data are cut off: {len(content):,} of {size:,} bytes")
    return np.frombuffer(content, dtype, int(np.prod(shape))).reshape(shape)


def beside(path: Path, name: str) -> Path:
    """The file of the data, which lies beside the header or below it.

    Raises:
        ValueError: if the name leads elsewhere, or to several files.
    """
    given = PurePosixPath(name.replace("\\", "/"))
    if given.is_absolute() or ".." in given.parts or ":" in name:
        raise ValueError(f"its data file {name[:200]!r} does not lie beside it")
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError("its data lie in several files, which are not read: join them first")
    found = path.parent / given
    if not found.is_file():
        raise ValueError(f"its data file {name[:200]!r} is missing")
    return found
