"""Large GeoTIFF images with masks, as pairs (see there), read in tiles: no copies are cut and kept on disk.

A folder is read so where pairs would not do: images of more than 2048 x 2048 pixels, of other bands or types
than pictures have, or with a nodata value. Parts are cut by files, then each file becomes tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from ..dataset import MaskFiles, Pair, ReadPlainImage
from ..formats.mask import read_mask_pixels
from ..formats.raster import describe, has_rasterio, is_geotiff, read_raster, read_unit, tiles_of
from ..label_encoding import LabelEncoding
from . import pairs
from .layout import Layout

SIDE = 1024  # pixels of a tile
_LARGE = 2048 * 2048


@dataclass(frozen=True)
class ReadRaster(ReadPlainImage):
    """How images and their tiles are read; see `ReadImage`."""

    def __call__(self, path: Path, channels: int) -> tuple[Float[torch.Tensor, "c H W"], None]:
        """A whole raster."""
        return torch.from_numpy(read_unit(path, channels, intensity=self.intensity)[0]), None

    def part(self, pair: Pair, channels: int) -> tuple[Float[torch.Tensor, "c H W"], None]:
        """A tile."""
        return torch.from_numpy(self.array(pair, channels)), None

    def array(self, pair: Pair, channels: int) -> Float32[np.ndarray, "c H W"]:
        """A tile, or the whole where none is meant; see `ImageArrays`."""
        return read_unit(pair.image, channels, pair.window, self.intensity)[0]


@dataclass(frozen=True)
class RasterLabels(MaskFiles):
    """Labels from a mask file for each raster; where the image is not known, they are ignored."""

    def array(self, pair: Pair) -> Int64[np.ndarray, "H W"]:
        """Labels of a raster, or of a tile of it; see `LabelArrays`."""
        assert pair.mask is not None
        if is_geotiff(pair.mask):
            values, of_mask = read_raster(pair.mask, pair.window)
            pixels = values[0] if len(values) == 1 else values[:3].transpose(1, 2, 0)
        else:
            pixels = read_mask_pixels(pair.mask)
            if pair.window is not None:
                top, left, height, width = pair.window
                pixels = pixels[top : top + height, left : left + width]
            of_mask = np.ones(pixels.shape[:2], bool)
        known = read_raster(pair.image, pair.window)[1]
        if known.shape != of_mask.shape:
            raise ValueError(f"the image {pair.image} and its mask {pair.mask} differ in size")
        if pixels.ndim == 2 and not of_mask.all():
            # A nodata value that is a class as well means the class.
            named = {*self.encoding.values, *(value for value, _ in self.encoding.further)}
            holes = ~of_mask & ~np.isin(pixels, list(named))
            pixels = np.where(holes, self.encoding.values[0], pixels)
            known &= ~holes
        labels = self.encoding.array(pixels, pair.mask)
        labels[~known] = self.encoding.classes.ignore
        return labels


def matches(root: Path) -> bool:
    """Whether the images of pairs are GeoTIFF files that are not read as pictures."""
    first = pairs.first_pair(root) if has_rasterio() else None
    if first is None or not is_geotiff(first[0]):
        return False
    try:
        about = describe(first[0])
    except ValueError:  # a damaged file is told when it is read
        return False
    pictures = about.bands in (1, 3, 4) and about.dtype in (np.uint8, np.uint16)
    return not pictures or about.holes or about.size[0] * about.size[1] > _LARGE


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List rasters and masks; see `Layout`.

    Raises:
        ValueError: if there is no raster with a mask, or one is damaged.
    """
    layout = pairs.find(root, encoding)
    files = [pair for some in layout.pairs.values() for pair in some]
    if not files:
        raise ValueError(f"{root} holds no GeoTIFF image with a mask")
    return replace(
        layout,
        read_masks=RasterLabels,
        read_image=ReadRaster(),
        channels=None if describe(files[0].image).bands in (1, 3, 4) else describe(files[0].image).bands,
        tiles=tiles,
    )


def tiles(files: Sequence[Pair]) -> tuple[Pair, ...]:
    """The tiles of rasters, as pairs whose names tell their upper left corner.

    Raises:
        ValueError: if a raster is damaged.
    """
    return tuple(
        replace(pair, id=f"{pair.id}#{window[0]},{window[1]}", window=window)
        for pair in files
        for window in tiles_of(describe(pair.image).size, SIDE)
    )
