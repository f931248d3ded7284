"""Label Studio's ML backend: `health`, `setup` and `predict` for a project that labels images.

Label Studio sends its tasks and its labelling configuration, and gets back regions of the control that the
configuration has for the image: brushes (run lengths of its own), polygons, or rectangles, of the classes
whose names are labels there. Nothing is fetched: images are read from a folder that both programs see, or
come within the task as `data:` addresses.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from fastapi import FastAPI
from skimage.measure import approximate_polygon
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..data.formats.label_studio import encode_brush
from ..predict import Prediction
from ..types import Boxes, Keypoints
from .images import decode_image
from .limits import Limits
from .outputs import Objects, Options, Output, objects_of
from .problems import Problem
from .requests import body_of, object_of
from .served import Served

_CONTROLS = ("BrushLabels", "PolygonLabels", "RectangleLabels")  # in the order in which they are preferred
_MOST_TASKS = 64
_SHOWN = 0.5  # score from which an object is told
_TOLERANCE = 1.0  # pixels by which a polygon may leave the outline, so that a person can edit it
_PREFIX = "/data/"  # what Label Studio puts before the path of an image


@dataclass(frozen=True)
class Control:
    """How a project labels its images.

    Attributes:
        kind: one of `_CONTROLS`.
        from_name: of the control.
        to_name: of the image.
        key: of the image in the data of a task.
        labels: the label for each class of the model that has one, by the number of the class.
    """

    kind: str
    from_name: str
    to_name: str
    key: str
    labels: Mapping[int, str]


def control_of(config: Any, names: tuple[str, ...]) -> Control:
    """The control of a labelling configuration that the classes of a model fit.

    Args:
        config: the configuration, in XML.
        names: of the classes; capitals do not matter.

    Raises:
        Problem: if it cannot be read, has no such control for an image, or no label is a class.
    """
    from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

    try:
        root = fromstring(config)
    except Exception as error:  # of the parser, or of what it forbids
        raise Problem("malformed", f"the labelling configuration is no XML: {str(error)[:100]}") from error
    images = {one.get("name"): one.get("value", "") for one in root.iter("Image")}
    controls = [one for kind in _CONTROLS for one in root.iter(kind) if one.get("toName") in images]
    if not controls:
        wanted = ", ".join(_CONTROLS)
        raise Problem("bad-parameter", f"the labelling configuration needs one of {wanted} for an image")
    number_of = {name.casefold(): number for number, name in enumerate(names)}
    found = controls[0]
    values = [label.get("value", "") for label in found.iter("Label")]
    labels = {number_of[one.casefold()]: one for one in values if one.casefold() in number_of}
    if not labels:
        told = f"the labels {', '.join(values)[:100]}; the model has {', '.join(names)[:200]}"
        raise Problem("bad-parameter", f"no label is a class of the model: the project has {told}")
    to_name = str(found.get("toName"))
    return Control(found.tag, str(found.get("name")), to_name, images[to_name].lstrip("$"), labels)


def bytes_of(address: Any, folder: Path, limits: Limits) -> bytes:
    """The file of an image that a task names.

    Args:
        address: `data:image/png;base64,...`, `/data/upload/1/a.jpg`, or `/data/local-files/?d=a.jpg`.
        folder: where paths lead; nothing outside it is read.
        limits: of the server.

    Raises:
        Problem: if it is somewhere else, missing or too large.
    """
    text = str(address)
    if text.startswith("data:"):
        try:
            return base64.b64decode(text.partition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Problem("malformed", "the image of the task is not base64") from error
    try:
        parts = urlsplit(text)
        local = parse_qs(parts.query).get("d")
    except ValueError as error:
        raise Problem("malformed", f"the image {text[:100]!r} of the task is no address") from error
    if parts.scheme or parts.netloc:
        raise Problem("url-refused", "this server fetches nothing: use files that it sees (--label-studio)")
    place = local[0] if local else unquote(parts.path).removeprefix(_PREFIX)
    try:
        path = (folder / place.lstrip("/")).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        if not inside:
            raise Problem("unusable-image", f"there is no image {place[:200]!r} in the folder of the server")
        if path.stat().st_size > limits.body:
            raise Problem("body-too-large", f"an image may have at most {limits.body} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise Problem("unusable-image", f"the image {place[:200]!r} cannot be read") from error


# --- regions ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a model found, as arrays.

    Attributes:
        boxes: x0 y0 x1 y1 of each object.
        classes: number of each.
        scores: in [0, 1].
        objects: with their masks, where there are masks.
    """

    boxes: np.ndarray
    classes: list[int]
    scores: list[float]
    objects: Objects | None


def _found(prediction: Prediction, options: Options) -> Found:
    annotation = prediction.annotation
    if isinstance(annotation, Keypoints):
        raise Problem("bad-parameter", "Label Studio gets masks and boxes: this model gives key points")
    if isinstance(annotation, Boxes):
        boxes = annotation.boxes.numpy()
        return Found(boxes, annotation.classes.tolist(), annotation.scores.tolist(), None)
    found = objects_of(prediction, {"instances": "class"})
    x, y, width, height = found.masks.boxes.T
    return Found(np.stack([x, y, x + width, y + height], 1), found.classes, found.scores, found)


FOUND = Output(_found, lambda read: read)


def regions_of(found: Found, control: Control, height: int, width: int) -> list[dict[str, Any]]:
    """The regions of an image, as Label Studio's results have them.

    Args:
        found: what the model found.
        control: of the project.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        Problem: if the control wants masks and the model gives boxes.
    """
    kind = control.kind.lower()
    if found.objects is None and kind != "rectanglelabels":
        raise Problem("bad-parameter", f"{control.kind} needs masks, this model gives boxes: RectangleLabels")
    regions: list[dict[str, Any]] = []
    for number, (label, score) in enumerate(zip(found.classes, found.scores, strict=True)):
        if label not in control.labels or score < _SHOWN:
            continue
        for value in _values(found, number, kind, height, width):
            regions.append(
                {
                    "id": f"pixelwise-{len(regions) + 1}",
                    "from_name": control.from_name,
                    "to_name": control.to_name,
                    "type": kind,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "score": score,
                    "value": {**value, kind: [control.labels[label]]},
                }
            )
    return regions


def _values(found: Found, number: int, kind: str, height: int, width: int) -> list[dict[str, Any]]:
    """Place and form of one object; several for an object of several parts as polygons."""
    percent = np.array([100 / width, 100 / height])
    if kind == "rectanglelabels":
        x0, y0, x1, y1 = (found.boxes[number].reshape(2, 2) * percent).ravel().tolist()
        return [{"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}]
    assert found.objects is not None
    mask = found.objects.masks[np.array([number])]
    if kind == "brushlabels":
        return [{"format": "rle", "rle": encode_brush(mask.decode()[0])}]
    values = []
    for polygon in mask.polygons()[0]:
        outline = polygon.outer.astype(np.float64)
        points = approximate_polygon(np.concatenate([outline, outline[:1]]), _TOLERANCE)[:-1]
        if len(points) >= 3:
            values.append({"points": (points * percent).tolist(), "closed": True})
    return values


# --- routes -------------------------------------------------------------------------------------------


def add_routes(
    app: FastAPI,
    folder: Path,
    limits: Limits,
    pool: Executor,
    model_of: Callable[[str], Served],
    run: Callable[[Served, Any, Request], Awaitable[Any]],
) -> None:
    """The routes of the backend; its address in Label Studio is `/v1/label-studio/MODEL`.

    Args:
        app: of the server.
        folder: with the images.
        limits: of the server.
        pool: threads for pixels.
        model_of: name -> model, ready.
        run: model, image and request -> what `FOUND` reads.
    """

    def version(one: Served) -> str:
        return f"{one.name}@{one.sha256[:12]}"

    @app.get("/v1/label-studio/{model}/health", summary="Label Studio: whether the backend runs")
    async def health(model: str) -> Response:
        return JSONResponse({"status": "UP", "model_class": version(model_of(model))})

    @app.post("/v1/label-studio/{model}/setup", summary="Label Studio: whether a project fits the model")
    async def setup(model: str, request: Request) -> Response:
        one = model_of(model)
        content = object_of(await body_of(request, limits.body))
        if content.get("schema"):
            control_of(content["schema"], one.predictor.classes.names)
        return JSONResponse({"model_version": version(one)})

    @app.post("/v1/label-studio/{model}/predict", summary="Label Studio: regions for tasks")
    async def predict(model: str, request: Request) -> Response:
        one = model_of(model)
        if one.promptable:
            raise Problem("bad-parameter", f"the model {one.name} answers prompts, which a task has not")
        content = object_of(await body_of(request, limits.body))
        tasks = content.get("tasks")
        if not isinstance(tasks, list) or len(tasks) > _MOST_TASKS:
            raise Problem("malformed", f"`tasks` must be a list of at most {_MOST_TASKS} tasks")
        control = control_of(content.get("label_config"), one.predictor.classes.names)
        loop, results = asyncio.get_running_loop(), []
        for task in tasks:
            data = task.get("data") if isinstance(task, dict) else None
            if not isinstance(data, dict) or control.key not in data:
                raise Problem("malformed", f"a task has no {control.key!r} among its data")
            body = await loop.run_in_executor(pool, bytes_of, data[control.key], folder, limits)
            image = await loop.run_in_executor(pool, decode_image, body, limits.pixels)
            found = await run(one, image, request)
            size = image.height, image.width
            regions = await loop.run_in_executor(pool, regions_of, found, control, *size)
            scores = [region["score"] for region in regions]
            score = sum(scores) / len(scores) if scores else 0.0
            results.append({"result": regions, "score": score, "model_version": version(one)})
        return JSONResponse({"results": results})
