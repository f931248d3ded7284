"""Annotations as bytes and back: a client holds exactly what the model of the server found.

The bytes are a NumPy archive: `header` is JSON with the kind of the annotation and the types of its fields,
the other arrays are its fields, as narrow as their values allow. Masks of objects travel as run lengths.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rle import RleMasks, run_lengths
from ..types import Annotation, Boxes, ClassMasks, Keypoints, LabelMap, MaskSet, PanopticMap

_KINDS: Mapping[str, type[Annotation]] = {
    kind.__name__: kind for kind in (Boxes, ClassMasks, Keypoints, LabelMap, MaskSet, PanopticMap)
}
_NARROW = (np.uint8, np.uint16, np.int32)
Arrays = dict[str, np.ndarray]


def arrays_of(annotation: Annotation) -> Arrays:
    """The fields of an annotation as arrays, and a header.

    The probabilities of `ClassMasks` are left out: they are sent where they are asked for.
    """
    header: dict[str, Any] = {"kind": type(annotation).__name__, "types": {}}
    arrays: Arrays = {}
    for one in fields(annotation):
        value = getattr(annotation, one.name)
        if one.name == "spacing":
            header["spacing"] = value
        elif isinstance(annotation, MaskSet) and one.name == "masks":
            header["dense"] = isinstance(value, Tensor)
            runs = run_lengths(annotation)
            arrays |= {"counts": runs.counts, "offsets": runs.offsets, "size": np.array(annotation.size)}
        elif isinstance(value, Tensor) and one.name != "probabilities":
            header["types"][one.name] = str(value.dtype).removeprefix("torch.")
            arrays[one.name] = _narrowed(value.detach().cpu().numpy())
    return {"header": np.array(json.dumps(header)), **arrays}


def annotation_of(arrays: Mapping[str, np.ndarray]) -> Annotation:
    """What `arrays_of` was given.

    Raises:
        ValueError: if the arrays are none that it made.
    """
    try:
        header = json.loads(str(arrays["header"]))
        kind = _KINDS[header["kind"]]
        given: dict[str, Any] = {
            name: torch.from_numpy(np.array(arrays[name])).to(getattr(torch, type_of))
            for name, type_of in header["types"].items()
        }
        if kind is MaskSet:
            height, width = arrays["size"].tolist()
            runs = RleMasks(arrays["counts"], arrays["offsets"], height, width)
            given["masks"] = torch.from_numpy(runs.decode()) if header["dense"] else runs
        if header.get("spacing") is not None:
            given["spacing"] = tuple(header["spacing"])
        return kind(**given)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no annotation of pixelwise: {type(error).__name__} {error}") from error


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An archive of arrays, the same bytes for the same arrays."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in sorted(arrays.items()):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asanyarray(array), allow_pickle=False)
    return file.getvalue()


def unpacked(content: bytes) -> Arrays:
    """The arrays of an archive.

    Raises:
        ValueError: if it is none.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, zipfile.BadZipFile, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"this is no archive of arrays: {error}") from error


def _narrowed(array: np.ndarray) -> np.ndarray:
    """Integers in the first type that holds all of them."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    lowest, highest = int(array.min()), int(array.max())
    for kind in _NARROW:
        if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
            return array.astype(kind)
    return array
