"""Strokes that somebody drew to say what is foreground."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from .image import opened

BACKGROUND, FOREGROUND, UNKNOWN = 0, 1, 2


def read_strokes(path: str | os.PathLike[str]) -> Int64[np.ndarray, "H W"]:
    """Strokes: 0 background, 1 foreground, 2 unknown.

    A grey or palette image has these values; in a colour image pure red (255, 0, 0) is foreground, pure blue
    (0, 0, 255) background and all else unknown, so that one may draw on a copy of the photograph.

    Raises:
        ValueError: if the file is no image, or has other values.
    """
    path = Path(path)
    with opened(path) as image:
        if image.mode in ("1", "L", "P"):
            values = np.array(image).astype(np.int64)
            if not np.isin(values, (BACKGROUND, FOREGROUND, UNKNOWN)).all():
                raise ValueError(
                    f"strokes are 0 (background), 1 (foreground) or 2 (unknown), got {values.max()}: "
                    "or draw in red and blue on a colour image"
                )
            return values
        colors = np.array(image.convert("RGB"))
    strokes = np.full(colors.shape[:2], UNKNOWN, np.int64)
    strokes[(colors == (255, 0, 0)).all(2)] = FOREGROUND
    strokes[(colors == (0, 0, 255)).all(2)] = BACKGROUND
    return strokes
