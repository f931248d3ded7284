"""Routes of the images that people walk through, and of labels that they draw."""

import asyncio
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from fastapi import APIRouter
from jaxtyping import Integer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..data.formats.yolo import write_yolo_classes, write_yolo_labels
from ..data.shapes import BACKGROUND
from ..predict import Prediction
from ..tasks import get_task
from ..types import ClassTable, LabelMap, MaskSet
from .collection import Collection
from .images import decode_image
from .limits import Limits
from .objects import ObjectCollection, all_objects, objects_in, objects_told, write_objects
from .outputs import OUTPUTS, Answer, objects_of, raw_answer
from .problems import Problem
from .requests import body_of, object_of
from .served import Served

T = TypeVar("T")
_LABELS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_OBJECTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "height": {"type": "integer"},
                        "width": {"type": "integer"},
                        "objects": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "label": {"type": "integer"},
                                    "rle": {"type": "object"},
                                    "crowd": {"type": "boolean"},
                                },
                                "required": ["label", "rle"],
                            },
                        },
                    },
                    "required": ["height", "width", "objects"],
                }
            }
        },
    }
}


def labels_of(body: bytes, most_pixels: int) -> Integer[np.ndarray, "H W"]:
    """The labels in a PNG of one channel, whose indices or grey values they are.

    Raises:
        Problem: if it is none.
    """
    image = decode_image(body, most_pixels, formats=("PNG",))
    if image.mode not in ("P", "L", "I;16", "I"):
        raise Problem("bad-parameter", "labels must be a PNG with a palette or of grey values, got colours")
    return np.asarray(image).astype(np.int64)


def write_labels(labels: Integer[np.ndarray, "H W"], classes: ClassTable, output: str, name: str) -> Answer:
    """Labels of one class per pixel in the format of another tool.

    Args:
        labels: of `classes`; others count as no class.
        classes: of the labels.
        output: "coco", "geojson" or "yolo".
        name: of the image file.

    Raises:
        Problem: on another format.
    """
    height, width = labels.shape
    image = torch.zeros(3, 1, 1).expand(3, height, width)
    prediction = Prediction(LabelMap(torch.from_numpy(labels)), get_task(), classes, image, name)
    if output in ("coco", "geojson"):
        return OUTPUTS[output].encode(OUTPUTS[output].read(prediction, {"name": name}))
    if output != "yolo":
        raise Problem("bad-parameter", f"output must be coco, geojson or yolo, got {output[:40]!r}")
    found = objects_of(prediction, {})
    behind = _behind(classes)
    kept = [i for i, label in enumerate(found.classes) if behind <= label < len(classes)]
    numbers = torch.tensor([found.classes[i] - behind for i in kept], dtype=torch.int64)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "labels.txt"
        write_yolo_labels(path, MaskSet.of(found.masks[kept], numbers))
        return Answer(path.read_bytes(), "text/plain", {})


def everything_saved(collection: Collection, output: str, most_bytes: int) -> Answer:
    """The labels of all images that were saved, in the format of another tool.

    Args:
        collection: the images.
        output: "coco" (one file), or "yolo" or "png" (a zip archive of one file per image, with the classes).
        most_bytes: of the answer.

    Raises:
        Problem: on another format, if nothing was saved, or there is more than that.
    """
    if output not in ("coco", "yolo", "png"):
        raise Problem("bad-parameter", f"output must be coco, yolo or png, got {output[:40]!r}")
    saved = collection.saved()
    if not saved:
        raise Problem("no-labels", "no labels were saved yet")
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    file, size = io.BytesIO(), 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in saved:
            labels = collection.labels(number)
            if output == "png":
                content = collection.file_of(labels)
            else:
                content = write_labels(labels, collection.classes, output, name).content
            size += len(content)
            if size > most_bytes:
                raise Problem(
                    "response-too-large", f"these are more than {most_bytes} bytes: take the folder"
                )
            stem = PurePosixPath(name).with_suffix("").as_posix()
            if output == "png":
                archive.writestr(f"{stem}.png", content)
            elif output == "yolo":
                archive.writestr(f"labels/{stem}.txt", content)
            else:
                _add_to(coco, json.loads(content), number + 1)
        if output != "coco":
            with TemporaryDirectory() as folder:
                table = _classes_file(collection, output, Path(folder))
                archive.write(table, table.name)
    if output == "coco":
        return Answer(json.dumps(coco, sort_keys=True).encode(), "application/json", {})
    return Answer(file.getvalue(), "application/zip", {})


def _add_to(whole: dict[str, Any], one: dict[str, Any], id: int) -> None:
    """Take the COCO file of one image into that of all."""
    whole["images"].append({**one["images"][0], "id": id})
    first = len(whole["annotations"]) + 1
    for place, annotation in enumerate(one["annotations"], first):
        whole["annotations"].append({**annotation, "id": place, "image_id": id})
    whole["categories"] = one["categories"]


def _classes_file(collection: Collection, output: str, folder: Path) -> Path:
    if output == "png":
        return collection.write_classes(folder)
    classes = collection.classes
    behind = _behind(classes)
    kept = ClassTable(classes.names[behind:], classes.colors[behind:], classes.ignore)
    write_yolo_classes(folder / "data.yaml", kept, {"train": "images", "val": "images"})
    return folder / "data.yaml"


def _behind(classes: ClassTable) -> int:
    """The first class that is no background."""
    return int(len(classes) > 1 and classes.names[0] in BACKGROUND)


def label_routes(
    collection: Collection | None, models: Sequence[Served], limits: Limits, pool: Executor
) -> APIRouter:
    """The routes under `/v1/images` and `/v1/labels`.

    Args:
        collection: the images; None where there are none.
        models: whose classes drawn labels may have.
        limits: of the server.
        pool: threads that read and write files.
    """
    routes = APIRouter()

    async def apart(work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)

    def images() -> Collection:
        if collection is None:
            raise Problem("no-such-image", "this server has no images: start it with --images FOLDER")
        return collection

    def number_of(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise Problem("no-such-image", "images have numbers")
        return int(text)

    @routes.get("/v1/images", summary="The images to walk through")
    async def list_images(score: str | None = None) -> Response:
        if collection is None:
            return JSONResponse({"classes": [], "saves": False, "evaluations": [], "images": []})
        return JSONResponse(collection.described(score))

    @routes.get("/v1/images/{number}", summary="One image")
    async def one_image(number: str) -> Response:
        body, kind = await apart(images().picture, number_of(number))
        return Response(body, media_type=kind)

    @routes.get("/v1/images/{number}/labels", summary="Its labels: those saved, or those of the data")
    async def labels(number: str, of: str = "saved") -> Response:
        if of not in ("saved", "data"):
            raise Problem("bad-parameter", f"of must be saved or data, got {of[:40]!r}")
        found = await apart(lambda: images().labels(number_of(number), given=of == "data"))
        answer = raw_answer(found)
        return Response(answer.content, 200, dict(answer.headers), answer.media_type)

    @routes.put("/v1/images/{number}/labels", summary="Save labels", openapi_extra=_LABELS_BODY)
    async def save_labels(number: str, request: Request) -> Response:
        place = number_of(number)
        chosen = images()
        body = await body_of(request, limits.body)
        found = await apart(labels_of, body, limits.pixels)
        return JSONResponse({"file": await apart(chosen.save, place, found)})

    def of_objects() -> ObjectCollection:
        found = images()
        if not isinstance(found, ObjectCollection):
            raise Problem("bad-parameter", "this server has labels of pixels: start it with --task instance")
        return found

    @routes.get("/v1/images/{number}/objects", summary="Its objects: those saved, or those of the data")
    async def objects(number: str, of: str = "saved") -> Response:
        if of not in ("saved", "data"):
            raise Problem("bad-parameter", f"of must be saved or data, got {of[:40]!r}")
        found = await apart(lambda: of_objects().objects(number_of(number), given=of == "data"))
        return JSONResponse(await apart(objects_told, found))

    @routes.put("/v1/images/{number}/objects", summary="Save objects", openapi_extra=_OBJECTS_BODY)
    async def save_objects(number: str, request: Request) -> Response:
        place = number_of(number)
        chosen = of_objects()
        content = object_of(await body_of(request, limits.body))
        found = await apart(objects_in, content, chosen.classes, limits.pixels)
        return JSONResponse({"file": await apart(chosen.save_objects, place, found)})

    @routes.post("/v1/objects", summary="Objects in the format of another tool", openapi_extra=_OBJECTS_BODY)
    async def convert_objects(request: Request, output: str = "coco", name: str = "image") -> Response:
        classes = of_objects().classes
        content = object_of(await body_of(request, limits.body))
        found = await apart(objects_in, content, classes, limits.pixels)
        answer = await apart(write_objects, found, classes, output, name[:200])
        return Response(answer.content, 200, dict(answer.headers), answer.media_type)

    @routes.get("/v1/labels", summary="All labels that were saved, in the format of another tool")
    async def all_labels(output: str = "coco") -> Response:
        chosen = images()
        if isinstance(chosen, ObjectCollection):
            answer = await asyncio.to_thread(all_objects, chosen, output, limits.response)
        else:
            answer = await asyncio.to_thread(everything_saved, chosen, output, limits.response)
        return Response(answer.content, 200, dict(answer.headers), answer.media_type)

    @routes.post("/v1/labels", summary="Labels in the format of another tool", openapi_extra=_LABELS_BODY)
    async def convert_labels(
        request: Request, output: str = "coco", name: str = "image", model: str | None = None
    ) -> Response:
        body = await body_of(request, limits.body)
        classes = _classes(collection, models, model)
        found = await apart(labels_of, body, limits.pixels)
        answer = await apart(write_labels, found, classes, output, name[:200])
        return Response(answer.content, 200, dict(answer.headers), answer.media_type)

    return routes


def _classes(collection: Collection | None, models: Sequence[Served], model: str | None) -> ClassTable:
    if model is None and collection is not None:
        return collection.classes
    for one in models:
        if model in (None, one.name) and not one.promptable:
            return one.predictor.classes
    raise Problem("no-such-model", f"there is no model {str(model)[:60]!r}")
