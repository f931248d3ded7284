"""Matrices of labels in files that are no pictures: MATLAB's `.mat`, and whole numbers as text.

In a `.mat` file the labels are found by the names that data sets use, wherever structures hold them: `GTcls`
of SBD, `LabelMap` of Pascal Context, `S` of SIFT-Flow and COCO-Stuff, `segmentation` of NYU depth; `anno`
of Pascal Parts are the parts of people; otherwise the file must hold a single matrix of whole numbers.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from .matlab import read_matlab
from .pascal_parts import person_parts

MATRIX_SUFFIXES = frozenset((".mat", ".txt"))
_NAMES = ("GTcls", "GTinst", "LabelMap", "S", "segmentation", "Segmentation", "labels", "groundTruth")
_LARGEST = 1 << 28  # bytes of a file of text or of a matrix


def read_matrix(path: str | os.PathLike[str]) -> Int64[np.ndarray, "H W"]:
    """The labels in a `.mat` or text file.

    Raises:
        ValueError: if the file cannot be read, holds none or several such matrices, or is text that is no
            table of whole numbers.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        matrix = _of_text(path) if path.suffix.lower() == ".txt" else _of_matlab(path)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:  # numbers that overflow, text that is none
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"cannot read {path}: {reason}") from error
    return matrix


def is_table(path: Path) -> bool:
    """Whether the first two lines of a text are whole numbers, equally many, and more than one."""
    try:
        with path.open(encoding="ascii") as file:
            lines = [file.readline(1 << 20).split() for _ in range(2)]
        rows = [[int(word) for word in words] for words in lines]
    except (OSError, ValueError):
        return False
    return len(rows[0]) == len(rows[1]) > 1


def _of_text(path: Path) -> Int64[np.ndarray, "H W"]:
    rows = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError("expected a table of whole numbers, one line per row of pixels")
    return np.array([[int(word) for word in row] for row in rows], np.int64)


def _of_matlab(path: Path) -> Int64[np.ndarray, "H W"]:
    content = read_matlab(path)
    if "anno" in content:
        return person_parts(content["anno"])
    named = [content[name] for name in _NAMES if name in content]
    found = [matrix for value in (named[:1] or content.values()) for matrix in _matrices(value)]
    if len(found) > 1 and "groundTruth" in content:
        raise ValueError(
            f"it holds the regions that {len(found)} people drew (BSDS), and no classes: pixelwise.metrics "
            "has BoundaryBenchmark and RegionBenchmark for it"
        )
    if len(found) != 1:
        raise ValueError(
            f"it holds {len(found)} matrices of labels ({', '.join(map(str, content))}), expected one: "
            "which of them counts?"
        )
    return found[0].astype(np.int64)


def _matrices(value: Any) -> list[np.ndarray]:
    """The matrices of whole numbers in a value, through the fields of structures that hold one."""
    if isinstance(value, list):
        return [matrix for one in value for matrix in _matrices(one)]
    if isinstance(value, dict):
        inside = [name for name in ("Segmentation", "labels") if name in value]
        return [matrix for name in (inside or value) for matrix in _matrices(value[name])]
    if not isinstance(value, np.ndarray) or value.ndim != 2 or min(value.shape) < 2:
        return []
    whole = value.dtype.kind != "f" or bool(np.isfinite(value).all() and (value == np.round(value)).all())
    return [value] if whole else []
