"""MATLAB files of version 5 (`.mat`), as far as label data need them: numbers, texts, cells and structures.

An own reader, since that of SciPy can end the process on a damaged file. Layout: MathWorks, MAT-File Format,
level 5.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_CELL, _STRUCT, _TEXT, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 2, 4, 6, 15  # classes of arrays
_TEXTS = {1: "latin1", 2: "latin1", 16: "utf-8"}  # types of texts in bytes; numbers of two bytes else
_HEAD, _DEEPEST, _LARGEST, _MOST_CELLS = 128, 8, 1 << 28, 1 << 16


def read_matlab(path: Path) -> dict[str, Any]:
    """The variables of a file: arrays, lists of the elements of cells, lists of structures as dictionaries.

    Raises:
        ValueError: if it is no such file, or damaged.
    """
    content = path.read_bytes()
    if content[:10] == b"MATLAB 7.3":
        raise ValueError("it is a MATLAB 7.3 file (HDF5): save it with -v7, or convert it to PNG")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5")
    found = {}
    for kind, body in _elements(content[_HEAD:], order):
        if kind == _COMPRESSED:
            try:
                unpacked = zlib.decompressobj().decompress(body, _LARGEST)
            except zlib.error as error:
                raise ValueError(f"a variable is damaged: {error}") from error
            kind, body = next(_elements(unpacked, order), (0, b""))
        if kind == _MATRIX:
            name, value = _array(body, order, 0)
            found[name] = value
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element; short ones hold their content in the tag."""
    at = 0
    while at + 8 <= len(content):
        first, size = struct.unpack_from(order + "II", content, at)
        if first >> 16:
            kind, size, start, step = first & 0xFFFF, first >> 16, at + 4, 8
            if size > 4:
                raise ValueError("an element is damaged")
        else:
            kind, start = first, at + 8
            step = 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(content):
            raise ValueError("it ends within an element")
        yield kind, content[start : start + size]
        at += step


def _array(body: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of an array; None for kinds that hold no labels (sparse matrices, functions)."""
    if depth > _DEEPEST:
        raise ValueError("its structures are nested too deeply")
    parts = _elements(body, order)
    flags, dims, name = (_next(parts) for _ in range(3))
    kind = int(_numbers(flags, order)[0]) & 0xFF
    shape = [int(side) for side in _numbers(dims, order)]
    count = 1
    for side in shape:
        count *= side
    if min(shape, default=-1) < 0 or count > _LARGEST:
        raise ValueError(f"an array claims the shape {shape[:8]}")
    text = name[1].decode("ascii", "replace")
    if _FIRST_NUMERIC <= kind <= _LAST_NUMERIC:
        values = _numbers(_next(parts), order)
        if len(values) != count:
            raise ValueError(f"an array holds {len(values)} of {count} numbers")
        return text, values.reshape(shape, order="F")
    if kind in (_CELL, _STRUCT) and count > _MOST_CELLS:
        raise ValueError(f"a cell array claims {count} cells")
    if kind == _CELL:
        return text, [_array(_matrix(parts), order, depth + 1)[1] for _ in range(count)]
    if kind == _STRUCT:
        width = int(_numbers(_next(parts), order)[0])
        names = _next(parts)[1]
        if not 0 < width <= len(names) or len(names) // width > _MOST_CELLS:
            raise ValueError("the names of a structure are damaged")
        fields = [
            names[i : i + width].split(b"\0")[0].decode("ascii", "replace")
            for i in range(0, len(names) - width + 1, width)
        ]
        every = [
            {field: _array(_matrix(parts), order, depth + 1)[1] for field in fields} for _ in range(count)
        ]
        return text, every
    if kind == _TEXT:
        coded, letters = _next(parts)
        return text, letters.decode(_TEXTS.get(coded, "utf-16" + ("le" if order == "<" else "be")), "replace")
    return text, None


def _next(parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    found = next(parts, None)
    if found is None:
        raise ValueError("an array is incomplete")
    return found


def _matrix(parts: Iterator[tuple[int, bytes]]) -> bytes:
    kind, body = _next(parts)
    if kind != _MATRIX:
        raise ValueError("a cell holds no array")
    return body


def _numbers(element: tuple[int, bytes], order: Any) -> np.ndarray:
    kind, body = element
    if kind not in _NUMBERS:
        raise ValueError(f"numbers have the unknown type {kind}")
    dtype = np.dtype(_NUMBERS[kind]).newbyteorder(order)
    if not body or len(body) % dtype.itemsize:
        if not body and kind:
            return np.zeros(0, dtype)
        raise ValueError("numbers are incomplete")
    return np.frombuffer(body, dtype).astype(dtype.newbyteorder("="))
