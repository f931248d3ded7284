"""What a request holds: its body up to a limit, the image in it, and the options."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .limits import Limits
from .problems import Problem


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        Problem: if it is longer than `most` bytes, which the length that is told decides at once.
    """
    told = request.headers.get("content-length", "")
    if told and (not told.isdecimal() or int(told) > most):
        kind = "body-too-large" if told.isdecimal() else "malformed"
        raise Problem(kind, f"the body may have at most {most} bytes, Content-Length says {told[:30]}")
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise Problem("body-too-large", f"the body may have at most {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def image_of(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any], bool]:
    """The file of the image in a request.

    It is the body itself, the part `image` of a form, or base64 under `inputs` of Hugging Face's JSON.

    Returns:
        The bytes of the file, options that came beside it, and whether it was Hugging Face's JSON.

    Raises:
        Problem: if there is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await body_of(request, limits.body)
    if kind == "multipart/form-data":
        file, fields = await _of_form(request, body)
        return file, fields, False
    if kind == "application/json":
        file, fields = _of_json(body)
        return file, fields, True
    if not body:
        raise Problem("malformed", "the request holds no image: send a file, or a form with the part `image`")
    return body, {}, False


async def _of_form(request: Request, body: bytes) -> tuple[bytes, dict[str, Any]]:
    async def whole() -> Any:
        yield body

    try:
        form = await MultiPartParser(request.headers, whole(), max_files=4, max_fields=32).parse()
    except (MultiPartException, UnicodeDecodeError, KeyError, ValueError) as error:
        raise Problem("malformed", f"the form cannot be read: {error}") from error
    try:
        images = form.getlist("image")
        if len(images) != 1 or isinstance(images[0], str):
            raise Problem("malformed", f"the form needs one file called `image`, got {len(images)}")
        content = await images[0].read()
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        return content, fields
    finally:
        await form.close()


def _of_json(body: bytes) -> tuple[bytes, dict[str, Any]]:
    content = object_of(body)
    inputs = content.get("inputs")
    if not isinstance(inputs, str):
        raise Problem("malformed", "`inputs` must be an image in base64")
    if inputs.startswith(("http://", "https://", "file:", "ftp:")):
        raise Problem("url-refused", "`inputs` is an address: this server fetches nothing, send the image")
    encoded = inputs.partition(",")[2] if inputs.startswith("data:") else inputs
    try:
        image = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem("malformed", f"`inputs` is not base64: {error}") from error
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise Problem("malformed", "`parameters` must be an object")
    return image, dict(parameters)


def object_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        Problem: if it is none.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed", f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise Problem("malformed", "the body must be a JSON object")
    return content


# --- options ------------------------------------------------------------------------------------------


def options_of(given: Mapping[str, Any], outputs: list[str], usual: str) -> tuple[str, dict[str, Any]]:
    """The output and the options of a prediction.

    Args:
        given: names and values, as text or JSON has them.
        outputs: that the model can answer with.
        usual: the one where none is asked for.

    Raises:
        Problem: on an unknown name or an impossible value.
    """
    options: dict[str, Any] = {}
    output = usual
    for name, value in given.items():
        if name == "output":
            output = str(value)
            if output not in outputs:
                told = ", ".join(outputs)
                raise Problem("bad-parameter", f"output must be one of {told}, got {output[:40]!r}")
        elif name == "threshold":
            options[name] = _number(name, value, 0.0, 1.0)
        elif name == "min_area":
            options[name] = int(_number(name, value, 0, 10**9))
        elif name in ("flip", "unit"):
            if str(value).lower() not in ("0", "1", "true", "false"):
                raise Problem("bad-parameter", f"{name} must be true or false, got {str(value)[:40]!r}")
            options[name] = str(value).lower() in ("1", "true")
        elif name == "instances":
            if value not in ("component", "class"):
                raise Problem("bad-parameter", f"instances is component or class, got {str(value)[:40]!r}")
            options[name] = value
        else:
            known = "output, threshold, min_area, flip, instances"
            raise Problem("bad-parameter", f"there is no option {name[:40]!r}: there are {known}")
    return output, options


def _number(name: str, value: Any, least: float, most: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not least <= number <= most:
        raise Problem("bad-parameter", f"{name} must lie in [{least:g}, {most:g}], got {str(value)[:40]!r}")
    return number


def prompts_of(content: Mapping[str, Any], height: int, width: int, most: int) -> dict[str, Any]:
    """Points, labels and a box of one object, checked.

    Args:
        content: `points` [[x, y], ...], `labels` [1, 0, ...], `box` [x0, y0, x1, y1], `multimask`.
        height: of the image.
        width: of the image.
        most: number of points.

    Raises:
        Problem: if there is none, a point lies outside the image, or a box has no area.
    """
    points, labels, box = content.get("points"), content.get("labels"), content.get("box")
    unknown = set(content) - {"points", "labels", "box", "multimask"}
    if unknown:
        raise Problem("bad-parameter", f"there is no prompt {sorted(unknown)[0][:40]!r}")
    if not points and not box:
        raise Problem("bad-parameter", "a prompt needs points or a box")
    found: dict[str, Any] = {"multimask": bool(content.get("multimask"))}
    if points:
        if not isinstance(points, list) or len(points) > most or not all(_finite(p, 2) for p in points):
            raise Problem("bad-parameter", f"points must be a list of at most {most} pairs x, y")
        for x, y in points:
            if not (0 <= x <= width and 0 <= y <= height):
                told = f"the point {x:g}, {y:g} lies outside the image of {width} x {height} pixels"
                raise Problem("bad-parameter", told)
        labels = [1] * len(points) if labels is None else labels
        if (
            not isinstance(labels, list)
            or len(labels) != len(points)
            or not set(map(str, labels)) <= {"0", "1"}
        ):
            raise Problem("bad-parameter", "labels must be 1 or 0 for each point")
        found |= {"points": points, "labels": [int(label) for label in labels]}
    if box:
        if not _finite(box, 4) or box[0] >= box[2] or box[1] >= box[3]:
            raise Problem("bad-parameter", "box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            raise Problem("bad-parameter", f"the box lies outside the image of {width} x {height} pixels")
        found["box"] = box
    return found


def _finite(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in values)
    )
