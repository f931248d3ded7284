"""Pictures inside a page, small enough that a page of eight large photographs stays below 3 MB."""

import base64
import html
import io

from PIL import Image

_WIDTHS = (960, 800, 640, 480, 360, 240)  # pixels; the first that fits is taken
_BYTES = {"photograph": 80_000, "map": 40_000}  # of one picture
_SMALL = 240  # pixels: narrower pictures are enlarged without blur


def embedded(picture: Image.Image, caption: str, *, photograph: bool) -> str:
    """An `img` element that holds the picture.

    A map of few colours is a PNG and stays exact, a photograph a JPEG unless it is small. Both are reduced
    until they fit.

    Args:
        picture: RGB.
        caption: for those who cannot see it.
        photograph: whether its colours run into each other.
    """
    limit = _BYTES["photograph" if photograph else "map"]
    way = Image.Resampling.LANCZOS if photograph else Image.Resampling.NEAREST
    for width in _WIDTHS:
        shown = picture.copy()
        shown.thumbnail((width, 2 * width), way)
        kind, data = "png", b""
        if not photograph or shown.width * shown.height <= limit // 4:
            data = _encoded(shown, "PNG")
        if photograph and not 0 < len(data) <= limit // 2:
            kind, data = "jpeg", _encoded(shown, "JPEG")
        if len(data) <= limit:
            break
    small = " class=small" if picture.width < _SMALL else ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f"<img alt='{html.escape(caption)}'{small} src='{source}'>"


def _encoded(picture: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    if format == "JPEG":
        picture.save(buffer, format, quality=82, optimize=True)
    else:  # optimize=True takes ten times as long for 7 % fewer bytes
        picture.save(buffer, format)
    return buffer.getvalue()
