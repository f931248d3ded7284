"""PNG files in colours of 16 bits: Pillow opens them with 8 bits and so loses labels.

Layout of the file: W3C, Portable Network Graphics (PNG) Specification, second edition.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from ...kernels.pixels.png import unfilter
from .direct import chunks, unpacked

_CHANNELS = {2: 3, 6: 4}  # of the colour types RGB and RGBA
_HEAD = 26  # bytes up to the depth and the colour type


def has_deep_colors(path: Path) -> bool:
    """Whether a file begins as a PNG file in colours of 16 bits.

    Raises:
        ValueError: if there is no such file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    return head[:4] == b"\x89PNG" and len(head) == _HEAD and head[24] == 16 and head[25] in _CHANNELS


def read_deep_colors(path: Path, size: tuple[int, int]) -> UInt16[np.ndarray, "H W 3"]:
    """The colours, without transparency.

    Args:
        path: of the file.
        size: width and height, which someone has found to be bearable.

    Raises:
        ValueError: if the file is damaged, or interlaced.
    """
    content = path.read_bytes()
    width, height = size
    channels = _CHANNELS[content[25]]
    if content[28]:
        raise ValueError("it is an interlaced PNG of 16 bits: save it without interlacing")
    if (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) != size:
        raise ValueError("its header contradicts itself")
    packed = b"".join(part for name, part in chunks(content) if name == b"IDAT")
    rows = unpacked(packed, height, 2 * channels * width)
    if rows is None:
        raise ValueError("its pixels are damaged, or some are missing")
    plain = np.empty((height, 2 * channels * width), np.uint8)
    if not unfilter(rows, 2 * channels, plain):
        raise ValueError("it has an unknown filter")
    pixels = plain.view(">u2").reshape(height, width, channels)
    return pixels[..., :3].astype(np.uint16)
