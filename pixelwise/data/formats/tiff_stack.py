"""Volumes in TIFF files with a page per slice, as microscopes write them; spacing from ImageJ or OME tags."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ...files import atomic_write
from .volume import Volume, as_written, check_size, quiet, spacing_of

SUFFIXES = (".tif", ".tiff")
_MM = {  # of a unit
    **dict.fromkeys(("micron", "microns", "um", "µm", "\u03bcm", "\\u00b5m", "micrometer"), 1e-3),
    **dict.fromkeys(("nm", "nanometer"), 1e-6),
    **dict.fromkeys(("mm", "millimeter"), 1.0),
    **dict.fromkeys(("cm", "centimeter"), 10.0),
    **dict.fromkeys(("inch", "in"), 25.4),
}
_RESOLUTION_UNITS = {2: 25.4, 3: 10.0}  # of the tag ResolutionUnit, in mm
_SLICES = "ZQIT"  # names of the axis of the slices, the surest first


def read_tiff_stack(path: str | os.PathLike[str]) -> Volume:
    """Read the slices of a TIFF file; several channels become the first axis of the array.

    Raises:
        ValueError: if the file is missing, damaged, or has not three axes, or four with channels.
    """
    import tifffile

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with quiet("tifffile"), tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape, axes = tuple(map(int, series.shape)), str(series.axes)
            dtype = np.dtype(series.dtype)
            check_size(path.stat().st_size, shape, dtype.itemsize, compressed=True)
            voxels = np.asarray(series.asarray())
            spacing = _spacing(file)
    except Exception as error:  # damaged files make decoders raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"cannot read {path} as a TIFF stack: {reason}") from error
    if dtype.kind not in "buif":
        raise ValueError(f"{path} holds {dtype}, expected numbers")
    channels = next((axis for axis in "CS" if axis in axes and shape[axes.index(axis)] > 1), "")
    many = [axis for axis, side in zip(axes, shape, strict=True) if side > 1 and axis not in "YX" + channels]
    many = many or [axis for axis in _SLICES if axis in axes][:1]
    if len(many) != 1 or "Y" not in axes or "X" not in axes:
        raise ValueError(
            f"{path} has the axes {axes} of {' x '.join(map(str, shape))}, expected slices (and channels)"
        )
    wanted = [axes.index(axis) for axis in (*channels, *many, "Y", "X")]
    others = [axis for axis in range(len(axes)) if axis not in wanted]
    array = voxels.transpose([*others, *wanted])[(0,) * len(others)]
    d, h, w = spacing or (1.0, 1.0, 1.0)
    affine = np.diag([w, h, d, 1.0])
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return Volume(native, spacing_of(affine), affine, None, placed=spacing is not None)


def write_tiff_stack(path: str | os.PathLike[str], voxels: Shaped[np.ndarray, "D H W"], like: Volume) -> Path:
    """Write a volume with a page per slice and its spacing as ImageJ has it.

    Args:
        path: ends in `.tif` or `.tiff`.
        voxels: on the grid of `like`.
        like: the volume whose spacing it takes.

    Raises:
        ValueError: if the file cannot be written.
    """
    import tifffile

    voxels = as_written(voxels)
    if voxels.dtype.kind in "iu" and voxels.dtype != np.uint8:  # ImageJ knows no others
        voxels = voxels.astype(np.uint16)
    if voxels.dtype.kind == "f":
        voxels = voxels.astype(np.float32)
    metadata: dict[str, Any] = {"axes": "ZYX"}
    options: dict[str, Any] = {}
    if like.placed:
        small = max(like.spacing) < 0.1
        d, h, w = (side * (1e3 if small else 1.0) for side in like.spacing)
        metadata |= {"spacing": d, "unit": "micron" if small else "mm"}
        options["resolution"] = (1 / w, 1 / h)
    path = Path(path)
    with atomic_write(path) as temporary:
        tifffile.imwrite(temporary, voxels, imagej=True, metadata=metadata, compression="zlib", **options)
    return path


def slices_in(path: Path) -> int:
    """How many pages a TIFF file has; 0 where that cannot be told."""
    import tifffile

    try:
        with quiet("tifffile"), tifffile.TiffFile(path) as file:
            return len(file.pages)
    except Exception:  # as above; whoever reads it says what is wrong
        return 0


def _spacing(file: Any) -> tuple[float, float, float] | None:
    """Size of a voxel along D, H and W in mm; None where the file does not tell all three."""
    if file.is_ome and file.ome_metadata:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", file.ome_metadata)
        return _whole([_of_ome(pixels[0], axis) for axis in "ZYX"] if pixels else [])
    about = file.imagej_metadata
    if about is None or "spacing" not in about:
        return None
    tags = file.pages[0].tags
    unit = _MM.get(str(about.get("unit", "")).strip().lower())
    if unit is None and "ResolutionUnit" in tags:
        unit = _RESOLUTION_UNITS.get(int(tags["ResolutionUnit"].value))
    if unit is None:
        return None
    sides = [float(about["spacing"]) * unit]
    for name in ("YResolution", "XResolution"):
        if name not in tags:
            return None
        per, of = tags[name].value
        sides.append(of / per * unit if per else 0.0)
    return _whole(sides)


def _of_ome(pixels: str, axis: str) -> float | None:
    size = re.search(rf'PhysicalSize{axis}="([^"]+)"', pixels)
    unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', pixels)
    factor = _MM.get(unit[1].lower() if unit else "µm")
    return float(size[1]) * factor if size and factor else None


def _whole(sides: Sequence[float | None]) -> tuple[float, float, float] | None:
    known = [side for side in sides if side is not None and np.isfinite(side) and side > 0]
    return (known[0], known[1], known[2]) if len(known) == 3 else None
