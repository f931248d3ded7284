"""Arrays by name from a pickle of NumPy arrays, as Detectron2 publishes weights; no other object is made.

A pickle names the functions that make its objects. Here the few that make plain arrays are known, and every
other name is an error, so that no code of a stranger runs.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_pickled_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays under "model" in the file, as tensors.

    Raises:
        ValueError: if it is no pickle, or holds anything but arrays of numbers, texts, lists and dicts.
    """
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever it stumbles over
        raise ValueError(f"{path} is no pickle of arrays: {error}") from error
    arrays = found.get("model", found) if isinstance(found, dict) else None
    if not isinstance(arrays, dict) or not all(
        isinstance(key, str) and isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        for key, value in arrays.items()
    ):
        raise ValueError(f"{path} holds something else than arrays by name")
    return {key: torch.from_numpy(np.array(value, order="C")) for key, value in arrays.items()}


class _ArraysOnly(pickle._Unpickler):  # in Python: that in C can be made to fill the memory
    def find_class(self, module: str, name: str) -> Any:
        """What makes a plain array; see `pickle.Unpickler`.

        Raises:
            pickle.UnpicklingError: for every other name.
        """
        known = _MAKERS.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which makes no array")
        return known


def _empty(kind: object, shape: tuple[int, ...], code: bytes | str) -> np.ndarray:
    """An array that is filled afterwards: NumPy's pickles begin with one without elements."""
    if kind is not _ARRAY or shape != (0,):
        raise pickle.UnpicklingError("it begins an array in an unknown way")
    return np.empty(0, np.uint8)


def _dtype(code: str, *rest: object) -> np.dtype[Any]:
    """A type of numbers. One of objects could hold anything."""
    made = np.dtype(code)
    if made.kind not in "fiub":
        raise pickle.UnpicklingError(f"it asks for an array of type {code!r}")
    return made


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes, which pickles of the second protocol hold as text."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


_ARRAY = object()  # stands for the type of arrays, which a pickle must not call
_MAKERS: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): OrderedDict,
}
