"""What a server answers with: labels, pictures, probabilities, COCO, GeoJSON, Hugging Face's list of masks.

Each output has two steps. The first reads the prediction, in the thread of the model; the second makes bytes
of arrays and pictures, in a thread beside it.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image

from ..data.formats.coco_keypoints import joints_of_category, objects_with_joints
from ..data.formats.geojson_regions import geojson_feature
from ..kernels.masks.components import label_components
from ..predict import Prediction
from ..rle import RleMasks, run_lengths
from ..types import Boxes, ClassMasks, ClassTable, Keypoints, LabelMap, MaskSet, PanopticMap
from .images import palette_png, png
from .problems import Problem
from .wire import arrays_of, packed

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """The body of an answer.

    Attributes:
        content: its bytes.
        media_type: what they are.
        headers: further headers.
    """

    content: bytes
    media_type: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Output:
    """One way to answer.

    Attributes:
        read: prediction and options -> arrays, pictures or numbers.
        encode: those -> the answer.
        probabilities: whether the prediction needs them.
    """

    read: Callable[[Prediction, Options], Any]
    encode: Callable[[Any], Answer]
    probabilities: bool = False


# --- labels -------------------------------------------------------------------------------------------


def label_array(prediction: Prediction) -> Integer[np.ndarray, "H W"]:
    """One number per pixel: its class; for objects the number of the object, 1 being the best, 0 none.

    Raises:
        Problem: if the prediction has several classes per pixel, or no masks.
    """
    annotation = prediction.annotation
    if isinstance(annotation, LabelMap) and annotation.labels.ndim == 2:
        return annotation.labels.numpy()
    if isinstance(annotation, PanopticMap):
        return annotation.id_map.numpy()
    if isinstance(annotation, MaskSet):
        numbers = np.zeros(annotation.size, np.uint16)
        order = annotation.scores.argsort(descending=True).tolist()
        for number, place in reversed(list(enumerate(order, 1))):
            numbers[annotation.take(torch.tensor([place])).dense[0].numpy()] = number
        return numbers
    kind = type(annotation).__name__
    raise Problem(
        "bad-parameter", f"output labels and raw need one number per pixel, this model gives {kind}"
    )


def _labels(prediction: Prediction, options: Options) -> Any:
    labels = label_array(prediction)
    if isinstance(prediction.annotation, LabelMap):
        classes = prediction.classes
        colors = np.full((max(256, len(classes)), 3), 224, np.uint8)  # what counts as no class is grey
        colors[: len(classes)] = np.array(classes.colors, np.uint8)
        return labels, colors[: 256 if len(classes) <= 256 else None]
    return labels, None


def _labels_png(read: Any) -> Answer:
    labels, colors = read
    if colors is None:
        return Answer(png(Image.fromarray(labels.astype(np.uint16))), "image/png", {})
    return Answer(palette_png(labels, colors), "image/png", {})


def _raw(prediction: Prediction, options: Options) -> Any:
    return label_array(prediction)


def raw_answer(labels: Any) -> Answer:
    """One or two bytes per pixel, row by row."""
    small = labels.astype(np.uint8 if labels.max(initial=0) < 256 else "<u2")
    height, width = small.shape
    headers = {"X-Shape": f"{height},{width}", "X-Type": "uint8" if small.itemsize == 1 else "uint16"}
    return Answer(small.tobytes(), "application/octet-stream", headers)


def _overlay(prediction: Prediction, options: Options) -> Any:
    return prediction.overlay()


def _picture(picture: Any) -> Answer:
    return Answer(png(picture), "image/png", {})


# --- probabilities ------------------------------------------------------------------------------------


def _probabilities(prediction: Prediction, options: Options) -> Any:
    assert prediction.probabilities is not None
    return {"probabilities": prediction.probabilities.half().numpy(), "names": _names(prediction.classes)}


def _confidence(prediction: Prediction, options: Options) -> Any:
    return {"confidence": prediction.confidence.half().numpy(), "names": _names(prediction.classes)}


def _names(classes: ClassTable) -> np.ndarray:
    return np.array(classes.names, dtype=np.str_)


def _npz(arrays: Any) -> Answer:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return Answer(file.getvalue(), "application/x-npz", {})


# --- objects ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objects:
    """Masks with a class and a score each.

    Attributes:
        masks: run lengths.
        classes: label of each.
        scores: in [0, 1].
    """

    masks: RleMasks
    classes: list[int]
    scores: list[float]


def objects_of(prediction: Prediction, options: Options) -> Objects:
    """Masks of a prediction: its objects, or the connected regions of its classes.

    Args:
        prediction: of any task with masks.
        options: `instances` is "component" or "class" where pixels have classes.

    Raises:
        Problem: if there are no masks.
    """
    annotation, whole = prediction.annotation, options.get("instances") == "class"
    if isinstance(annotation, MaskSet):
        return Objects(run_lengths(annotation), annotation.classes.tolist(), annotation.scores.tolist())
    if isinstance(annotation, PanopticMap):
        order = {int(number): place for place, number in enumerate(annotation.ids.tolist(), 1)}
        ids = annotation.id_map.numpy()
        known, inverse = np.unique(ids, return_inverse=True)
        places = np.array([order.get(int(number), 0) for number in known])
        numbers = places[inverse.reshape(ids.shape)]
        return _present(numbers, annotation.classes.tolist())
    if isinstance(annotation, ClassMasks):
        maps = [(label, mask == 1) for label, mask in enumerate(annotation.masks.numpy())]
    elif isinstance(annotation, LabelMap) and annotation.labels.ndim == 2:
        labels = annotation.labels.numpy()
        if not whole:
            numbers, count = label_components(labels, background=None)
            _, places = np.unique(numbers, return_index=True)
            return Objects(_numbered(numbers, count), labels.ravel()[places].tolist(), [1.0] * count)
        maps = [(int(label), labels == label) for label in np.unique(labels)]
    else:
        kind = type(annotation).__name__
        raise Problem("bad-parameter", f"this output needs masks, this model gives {kind}")
    found, classes = [], []
    for label, mask in maps:
        numbers, count = label_components(mask.view(np.uint8))
        if whole and count:
            numbers, count = mask.astype(np.int32), 1
        if count:
            found.append(_numbered(numbers, count))
            classes += [label] * count
    if not found:
        height, width = maps[0][1].shape
        return Objects(RleMasks.encode(np.zeros((0, height, width), bool)), [], [])
    return Objects(RleMasks.concatenate(found), classes, [1.0] * len(classes))


def _present(numbers: np.ndarray, classes: list[int]) -> Objects:
    """The segments that have a pixel."""
    there = [i for i in np.unique(numbers).tolist() if i > 0]
    return Objects(RleMasks.from_map(numbers, there), [classes[i - 1] for i in there], [1.0] * len(there))


def _numbered(numbers: Integer[np.ndarray, "H W"], count: int) -> RleMasks:
    """The masks of the regions 1 to `count`."""
    return RleMasks.from_map(numbers, range(1, count + 1))


def _coco(prediction: Prediction, options: Options) -> Any:
    classes, annotation = prediction.classes, prediction.annotation
    image: dict[str, Any] = {"id": 1, "file_name": options.get("name", "")}
    entries: list[dict[str, Any]] = []
    height, width = prediction.image.shape[-2:]
    image |= {"height": height, "width": width}
    if isinstance(annotation, Boxes):
        entries = _written(prediction)
    elif isinstance(annotation, Keypoints):
        entries = [{**one, "label": 0} for one in objects_with_joints(annotation)]
    else:
        found = objects_of(prediction, options)
        boxes, areas = found.masks.boxes.tolist(), found.masks.area.tolist()
        for rle, box, area, label, score in zip(
            found.masks.to_coco(), boxes, areas, found.classes, found.scores, strict=True
        ):
            if label < len(classes):  # the others count as no class
                entries.append(
                    {"segmentation": rle, "area": area, "bbox": box, "score": score, "label": label}
                )
    annotations = []
    for number, entry in enumerate(entries, 1):
        category = classes.category_ids[entry.pop("label")]
        annotations.append({"id": number, "image_id": 1, "category_id": category, "iscrowd": 0, **entry})
    categories: list[dict[str, Any]] = [
        {"id": number, "name": name} for number, name in zip(classes.category_ids, classes.names, strict=True)
    ]
    if classes.skeleton is not None:
        for category in categories:
            category |= joints_of_category(classes.skeleton)
    return {"images": [image], "annotations": annotations, "categories": categories}


def _written(prediction: Prediction) -> list[dict[str, Any]]:
    """What the task's own file of COCO says of the objects, which have no masks."""
    with TemporaryDirectory() as folder:
        path = prediction.save(Path(folder) / "objects.json")
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    for entry in entries:
        entry["label"] = prediction.classes.category_ids.index(entry.pop("category_id"))
        for name in ("id", "image_id", "iscrowd"):
            entry.pop(name, None)
    return entries


def _json(content: Any) -> Answer:
    return Answer(json.dumps(content, sort_keys=True).encode(), "application/json", {})


def _geojson(prediction: Prediction, options: Options) -> Any:
    found = objects_of(prediction, options)
    names = prediction.classes.names
    areas = found.masks.area.tolist()
    features = []
    for polygons, area, label, score in zip(
        found.masks.polygons(), areas, found.classes, found.scores, strict=True
    ):
        if label >= len(names):
            continue
        told = {"class": names[label], "label": label, "area": area, "score": score}
        features.append(geojson_feature(polygons, told))
    return {"type": "FeatureCollection", "features": features}


def _geojson_bytes(content: Any) -> Answer:
    return Answer(json.dumps(content, sort_keys=True).encode(), "application/geo+json", {})


def _hugging_face(prediction: Prediction, options: Options) -> Any:
    annotation, names = prediction.annotation, prediction.classes.names
    if isinstance(annotation, LabelMap):  # one mask per class, as their models for semantic segmentation
        labels = annotation.labels.numpy()
        present = [label for label in np.unique(labels).tolist() if label < len(names)]
        return [(names[label], None, labels == label) for label in present]
    found = objects_of(prediction, {"instances": "class"})
    masks = found.masks.decode()
    return [
        (names[label], score, mask)
        for label, score, mask in zip(found.classes, found.scores, masks, strict=True)
    ]


def _hugging_face_json(found: Any) -> Answer:
    content = []
    for name, score, mask in found:
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        content.append({"label": name, "score": score, "mask": base64.b64encode(png(picture)).decode()})
    return Answer(json.dumps(content).encode(), "application/json", {})


def _annotation(prediction: Prediction, options: Options) -> Any:
    arrays = arrays_of(prediction.annotation)
    if prediction.probabilities is not None:
        arrays["probabilities"] = prediction.probabilities.half().numpy()
    return arrays


def _archive(arrays: Any) -> Answer:
    return Answer(packed(arrays), "application/x-npz", {})


OUTPUTS: Mapping[str, Output] = {
    "labels": Output(_labels, _labels_png),
    "raw": Output(_raw, raw_answer),
    "overlay": Output(_overlay, _picture),
    "probabilities": Output(_probabilities, _npz, probabilities=True),
    "confidence": Output(_confidence, _npz, probabilities=True),
    "coco": Output(_coco, _json),
    "geojson": Output(_geojson, _geojson_bytes),
    "hf": Output(_hugging_face, _hugging_face_json),
    "annotation": Output(_annotation, _archive),
    "annotation_probabilities": Output(_annotation, _archive, probabilities=True),
}


def usual_output(annotation: type[Any]) -> str:
    """The output where none is asked for: labels where every pixel has one, else COCO's json."""
    return "labels" if issubclass(annotation, LabelMap | PanopticMap) else "coco"
