"""Whole-slide images of microscopes, at a level of their pyramid or at a size of pixels in microns.

Needs the extra `pixelwise[slides]` (OpenSlide, LGPL-2.1).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .opened import Closing, readable

_ROWS, _COLUMNS = 64, 4096  # pixels that are made at once
_SAME = 0.01  # pixels of a level are taken as they are where they differ from those wanted by less


class SlideSource(Closing):
    """A slide whose rows are decoded as they are needed; what was not scanned is white.

    Args:
        path: of a file that OpenSlide reads (Aperio, Hamamatsu, Leica, Mirax, Ventana, tiled TIFF, ...).
        level: of the pyramid, 0 for the finest, -1 for the coarsest.
        mpp: microns per pixel instead: the next finer level, reduced to it. The slide must tell its own.

    Raises:
        ValueError: if the extra is missing, the file is no slide, or has no such level or resolution.
    """

    def __init__(self, path: str | Path, *, level: int | None = None, mpp: float | None = None) -> None:
        try:
            import openslide
        except ImportError as error:
            raise ValueError(f"{path} is read by OpenSlide: pip install pixelwise[slides]") from error
        if level is not None and mpp is not None:
            raise ValueError("give a level or microns per pixel (mpp), not both")
        if not Path(path).is_file():
            raise ValueError(f"there is no file {path}")
        self.name, self.channels, self.dtype = str(path), 3, np.dtype(np.uint8)
        self.geography: list[tuple[Any, ...]] = []
        with readable(self.name):
            self._slide = openslide.OpenSlide(str(path))
        try:
            told = self._slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
            finest = float(told) if told else None
            color = self._slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
            self._background = f"#{color}"
            self.level = self._level_of(level or 0) if mpp is None else self._level_at(mpp, finest)
            width, height = self._slide.level_dimensions[self.level]
            self.finest: tuple[int, int] = self._slide.level_dimensions[0][::-1]
            own = None if finest is None else finest * self._slide.level_downsamples[self.level]
            larger = 1.0 if mpp is None or own is None else mpp / own
            if abs(larger - 1) < _SAME:
                larger = 1.0
            self.mpp = None if own is None else own * larger
            self._level_size = (height, width)
            self.size: tuple[int, ...] = (max(1, round(height / larger)), max(1, round(width / larger)))
        except BaseException:
            self._slide.close()
            raise

    def _level_of(self, level: int) -> int:
        count = self._slide.level_count
        if not -count <= level < count:
            raise ValueError(f"{self.name} has {count} levels, 0 to {count - 1}, got {level}")
        return level % count

    def _level_at(self, mpp: float, finest: float | None) -> int:
        """The coarsest level whose pixels are not larger than wanted."""
        if finest is None:
            raise ValueError(f"{self.name} does not tell its microns per pixel: choose a level (--level)")
        if not math.isfinite(mpp) or mpp < (1 - _SAME) * finest:
            raise ValueError(
                f"{self.name} has {finest:g} microns per pixel at its finest level, got mpp {mpp:g}"
            )
        limit = (1 + _SAME) * mpp / finest
        return max(i for i, by in enumerate(self._slide.level_downsamples) if i == 0 or by <= limit)

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `PixelSource`."""
        rows = np.empty((stop - start, self.size[1], 3), np.uint8)
        for top, bottom in self._spans(start, stop):
            first, last = max(start, top), min(stop, bottom)
            for left in range(0, self.size[1], _COLUMNS):
                right = min(left + _COLUMNS, self.size[1])
                with readable(self.name):
                    part = self._part(top, bottom, left, right)
                rows[first - start : last - start, left:right] = part[first - top : last - top]
        return rows

    def _spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Rows that are made together: always the same ones, since the last bit depends on the cut."""
        if self._level_size == self.size:
            return [(start, stop)]
        tops = range(start // _ROWS * _ROWS, stop, _ROWS)
        return [(top, min(top + _ROWS, self.size[0])) for top in tops]

    def _part(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Pixels of the result, from those of the level that they cover, and of their neighbours."""
        (height, width), (rows, columns) = self._level_size, self.size
        down, across = height / rows, width / columns
        margin = math.ceil(2 * max(down, across)) if (height, width) != (rows, columns) else 0
        x, y = max(0, math.floor(left * across) - margin), max(0, math.floor(top * down) - margin)
        end_x = min(width, math.ceil(right * across) + margin)
        end_y = min(height, math.ceil(bottom * down) + margin)
        by = self._slide.level_downsamples[self.level]
        corner = (round(x * by), round(y * by))  # OpenSlide counts pixels of the finest level
        found = self._slide.read_region(corner, self.level, (end_x - x, end_y - y))
        whole = Image.new("RGB", found.size, self._background)
        whole.paste(found, mask=found.getchannel("A"))
        if margin:
            box = (left * across - x, top * down - y, right * across - x, bottom * down - y)
            whole = whole.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box)
        return np.asarray(whole)

    def close(self) -> None:
        """See `PixelSource`."""
        self._slide.close()
