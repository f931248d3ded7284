"""Plain JPEG and PNG files, decoded without Pillow, which takes up to twice the time.

All that is unusual about a file (a turned or damaged picture, another colour space, transparency, several
pictures) gives None: Pillow has it, and says what is wrong. What is decoded here has the pixels of Pillow.
Of a JPEG file that is damaged but decodes, libjpeg itself says so on standard error.

Layout of the files: ITU-T T.81, Annex B (JPEG); W3C, Portable Network Graphics (PNG) Specification, second
edition.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ...kernels.pixels.png import unfilter


@cache
def _of_torchvision(name: str) -> Callable[..., Any] | None:
    """A function of libjpeg-turbo as torchvision brings it; None where it does not.

    torchvision is imported with the first picture, which programs that read none need not wait for.
    Its functions in Python are deprecated since 0.29, for TorchCodec. What they call is the same everywhere.
    """
    try:
        import torchvision.io  # registers it

        assert torchvision.io
        return cast(Callable[..., Any], getattr(torch.ops.image, name))
    except (ImportError, AttributeError):
        return None


_MANY_PIXELS, _PIXELS_PER_BYTE = 50_000_000, 100_000  # a constant image in PNG has some 8,000 per byte
_ORIENTATION = 0x0112  # EXIF tag
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, all with Huffman codes
_EXIF, _APP1, _SCAN = b"Exif\0\0", 0xE1, 0xDA
_PLAIN_CHUNKS = frozenset(b"IHDR PLTE gAMA sRGB cHRM pHYs bKGD tIME sBIT iCCP".split())
_METADATA = (b"Raw profile", b"XML:com.adobe.xmp")  # of texts that may turn a picture
_GREY, _PALETTE = 0, 3  # colour types of PNG


def direct_jpeg(content: bytes, channels: int, max_pixels: int) -> UInt8[np.ndarray, "c H W"] | None:
    """The pixels of a JPEG file in colours or in grey values; None where Pillow is to read it.

    Args:
        content: of the file.
        channels: of the result; grey becomes three equal channels.
        max_pixels: largest height times width.
    """
    if content[:2] != b"\xff\xd8" or content[-2:] != b"\xff\xd9":
        return None
    frame, decode = _frame(content), _of_torchvision("decode_jpeg")
    if frame is None or decode is None:
        return None
    height, width, components = frame
    if not 0 < height * width <= max_pixels or components not in (1, 3) or channels not in (3, components):
        return None
    if not plausible(height * width, len(content)):
        return None
    try:
        coded = torch.from_numpy(np.frombuffer(bytearray(content), np.uint8))
        # The second argument is torchvision's number of grey or of colours, which are 1 and 3 as well.
        pixels = decode(coded, components, False).numpy()
    except RuntimeError:
        return None
    if pixels.shape != (components, height, width):
        return None
    return pixels if components == channels else np.repeat(pixels, channels, 0)


def plausible(pixels: int, size: int) -> bool:
    """Whether a file of so many bytes may hold so many pixels; a damaged header may claim any number."""
    return pixels <= _MANY_PIXELS or pixels <= _PIXELS_PER_BYTE * size


def as_jpeg(pixels: UInt8[np.ndarray, "H W c"], quality: int) -> UInt8[np.ndarray, "H W c"]:
    """Pixels of one or three channels as they are after they were written as JPEG and read again.

    Args:
        pixels: contiguous.
        quality: from 1 to 100.
    """
    encode, decode = _of_torchvision("encode_jpeg"), _of_torchvision("decode_jpeg")
    if encode is not None and decode is not None:
        content = encode(torch.from_numpy(pixels).permute(2, 0, 1), quality)
        return cast(np.ndarray, decode(content, pixels.shape[2], False).permute(1, 2, 0).numpy())
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(pixels.shape)


def _frame(content: bytes) -> tuple[int, int, int] | None:
    """Height, width and number of components of a JPEG file that is upright."""
    at, frame = 2, None
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : at + 2 + length]
        if marker == _SCAN:
            return frame
        if marker == _APP1 and not _is_upright(segment):
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xCC):  # not the tables of Huffman and others
            if frame is not None or marker not in _FRAMES or len(segment) < 6 or segment[0] != 8:
                return None
            frame = (
                int.from_bytes(segment[1:3], "big"),
                int.from_bytes(segment[3:5], "big"),
                segment[5],
            )
        at += 2 + length
    return None


def _is_upright(segment: bytes) -> bool:
    """Whether metadata turn no picture."""
    if not segment.startswith(_EXIF):
        return b"rientation" not in segment  # of XMP
    exif = Image.Exif()
    try:
        exif.load(segment)
        return bool(exif.get(_ORIENTATION, 1) == 1)
    except Exception:  # whatever Pillow makes of damaged metadata
        return False


def direct_png(content: bytes, max_pixels: int, *, indices: bool = True) -> UInt8[np.ndarray, "H W"] | None:
    """The grey values or the indices of a PNG file of 8 bits; None where Pillow is to read it.

    Args:
        content: of the file.
        max_pixels: largest height times width.
        indices: whether the indices of a palette are wanted; else files with a palette are left to Pillow.
    """
    head = content[16:29]
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(head) < 13:
        return None
    width, height = (int.from_bytes(head[start : start + 4], "big") for start in (0, 4))
    depth, kind = head[8], head[9]
    if depth != 8 or any(head[10:]) or not 0 < height * width <= max_pixels:
        return None
    if kind not in ((_GREY, _PALETTE) if indices else (_GREY,)):
        return None
    packed = []
    try:
        for name, part in chunks(content):
            if name == b"IDAT":
                packed.append(part)
            elif name not in _PLAIN_CHUNKS and (name != b"tEXt" or part.startswith(_METADATA)):
                return None
    except ValueError:
        return None
    rows = unpacked(b"".join(packed), height, width)
    if rows is None:
        return None
    pixels = np.empty((height, width), np.uint8)
    return pixels if unfilter(rows, 1, pixels) else None


def check_png(content: bytes) -> None:
    """Refuse a PNG file that is damaged, where Pillow takes it.

    Raises:
        ValueError: as `chunks`.
    """
    for _ in chunks(content):
        pass


def chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names and contents of the chunks of a PNG file, up to the one that ends it.

    Their checksums are compared, as libpng does: a single wrong bit of packed pixels may give others, and
    Pillow takes them.

    Raises:
        ValueError: if a checksum is wrong, or the end is missing.
    """
    at = 8
    while at + 8 <= len(content):
        length, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if name == b"IEND":
            return
        part, at = content[at + 8 : at + 8 + length], at + 12 + length
        if at > len(content):
            break
        if zlib.crc32(part, zlib.crc32(name)) != int.from_bytes(content[at - 4 : at], "big"):
            raise ValueError(f"it is damaged: a checksum is wrong ({name.decode('ascii', 'replace')})")
        yield name, part
    raise ValueError("it is cut: the end of the PNG file is missing")


def unpacked(packed: bytes, height: int, count: int) -> UInt8[np.ndarray, "H n1"] | None:
    """The rows of a PNG file with the byte that names the filter; None where there are fewer.

    Args:
        packed: the contents of its IDAT chunks.
        height: number of rows.
        count: bytes of the pixels of a row.
    """
    wanted = height * (count + 1)
    try:
        content = zlib.decompressobj().decompress(packed, wanted)
    except zlib.error:
        return None
    return np.frombuffer(content, np.uint8).reshape(height, -1) if len(content) == wanted else None
