"""Panoptic quality of two annotation files in COCO's panoptic format, as panopticapi's `pq_compute`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...kernels import parallel_map
from ...types import ClassTable, voc_palette
from ...wording import brief
from .panoptic_map import SegmentArrays
from .quality import Counted, PanopticMetrics, PanopticScores, count_segments

StrPath = str | os.PathLike[str]


def panoptic_file_scores(
    prediction_json: StrPath,
    target_json: StrPath,
    prediction_folder: StrPath | None = None,
    target_folder: StrPath | None = None,
    *,
    threads: int = 1,
) -> PanopticScores:
    """Score a result file against an annotation file, each with its folder of PNG files.

    Every image of the target needs a prediction; further predictions are not looked at. The classes are the
    target's categories in the order of the file. The areas of target segments are those in the file, as in
    panopticapi, not those in the PNG. All sums are made in the order of the file, so the scores are equal to
    the last bit to those of panopticapi on one core, for any number of threads.

    Args:
        prediction_json: image_id, file_name and segments_info (id, category_id) of each image.
        target_json: the same with iscrowd and area, and the categories.
        prediction_folder: where the PNG files are; by default the name of the JSON file without its suffix.
        target_folder: likewise.
        threads: how many images are read and counted at the same time.

    Raises:
        ValueError: if a file or folder is missing or not in the format, an image has no prediction or another
            size than its prediction, or as `PanopticMetrics.update` says; names the image.
    """
    target_json, prediction_json = Path(target_json), Path(prediction_json)
    targets, predictions = _content(target_json), _content(prediction_json)
    classes, label_of = _classes(targets, target_json)
    folders = [
        _folder(folder, path)
        for folder, path in ((prediction_folder, prediction_json), (target_folder, target_json))
    ]
    predicted = _by_image(predictions, prediction_json)
    images = _by_image(targets, target_json)
    for image in images:
        if image not in predicted:
            raise ValueError(f"{prediction_json} has no prediction for the image {image} of {target_json}")

    def counted(image: object) -> Counted:
        maps = [
            SegmentArrays.of_coco(
                _pixels(folder / entry["file_name"]), entry["segments_info"], label_of, str(image)
            )
            for folder, entry in zip(folders, (predicted[image], images[image]), strict=True)
        ]
        return count_segments(maps[0], maps[1], classes, str(image))

    metrics = PanopticMetrics(classes)
    metrics.add(parallel_map(counted, list(images), threads))
    scores = PanopticScores(
        metrics.iou, metrics.true_positives, metrics.false_positives, metrics.false_negatives, classes
    )
    return scores


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a file of panoptic annotations: it holds a {type(content).__name__}")
    return content


def _by_image(content: Mapping[str, Any], path: Path) -> dict[object, Mapping[str, Any]]:
    """The annotations of a file by their image."""
    images: dict[object, Mapping[str, Any]] = {}
    try:
        for entry in content["annotations"]:
            if entry["image_id"] in images:
                raise ValueError(f"the image {entry['image_id']} stands there twice")
            name = Path(entry["file_name"])
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{brief(str(name))} leaves the folder of the segments")
            images[entry["image_id"]] = {key: entry[key] for key in ("file_name", "segments_info")}
    except (KeyError, TypeError, ValueError) as error:
        raise _not_panoptic(path, error) from error
    return images


def _classes(content: Mapping[str, Any], path: Path) -> tuple[ClassTable, dict[int, int]]:
    """The class table of a file, and the label of each category id."""
    try:
        entries = list(content["categories"])
        names: list[str] = []
        for entry in entries:
            name = str(entry["name"])
            names.append(name if name not in names else f"{name} {entry['id']}")
        colors = tuple(
            tuple(int(part) for part in entry.get("color", drawn))
            for entry, drawn in zip(entries, voc_palette(len(entries)), strict=True)
        )
        things = tuple(label for label, entry in enumerate(entries) if entry["isthing"] == 1)
        ignore = 255 if len(names) <= 255 else 65535
        table = ClassTable(tuple(names), colors, ignore, things=things)  # type: ignore[arg-type]
        return table, {int(entry["id"]): label for label, entry in enumerate(entries)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_panoptic(path, error) from error


def _not_panoptic(path: Path, error: Exception) -> ValueError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else error
    return ValueError(f"{path} is not a file of panoptic annotations: {reason}")


def _folder(folder: StrPath | None, path: Path) -> Path:
    folder = path.with_suffix("") if folder is None else Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} with the PNG files of {path}")
    return folder


def _pixels(path: Path) -> np.ndarray:
    """Colours (H W 3) of a PNG file."""
    try:
        with Image.open(path) as image:
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
