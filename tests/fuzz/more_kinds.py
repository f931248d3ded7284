"""Further kinds of files for `test_readers`: volumes, polygons, tables of parts, layers, joints, segments."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from pixelwise.data import open_data
from pixelwise.data.datasets.layers import read_layers
from pixelwise.data.formats.cityscapes_instances import read_instance_ids
from pixelwise.data.formats.coco_keypoints import read_coco_keypoints
from pixelwise.data.formats.coco_panoptic import read_coco_panoptic, read_segments
from pixelwise.data.formats.nifti import affine_of, read_nifti
from pixelwise.data.formats.strokes import read_strokes
from pixelwise.data.formats.yolo import read_yolo_classes, read_yolo_labels
from pixelwise.planning import read_plan
from pixelwise.planning.plan import TIMES
from pixelwise.recipe import read_settings

PLAN = {"budget": 60.0, "times": dict.fromkeys((*TIMES, "most_steps"), 1)}
Reader = Callable[[Path], object]
SQUARE = [[1.0, 1.0], [6.0, 1.0], [6.0, 6.0], [1.0, 6.0]]


def coded(value: Any) -> bytes:
    return json.dumps(value).encode()


def volume() -> bytes:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    return bytes(image.to_bytes())


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pages() -> bytes:
    file = io.BytesIO()
    first, *others = [Image.fromarray(np.eye(5, 7, k).astype(np.uint8) * 255) for k in range(3)]
    first.save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


def joints() -> dict[str, Any]:
    person = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81.0, "iscrowd": 0}
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "person", "keypoints": ["left", "right"], "skeleton": [[1, 2]]}],
        "annotations": [{**person, "keypoints": [2, 3, 2, 7, 8, 1], "num_keypoints": 2}],
    }


def segments() -> dict[str, Any]:
    info = [{"id": 1, "category_id": 1, "iscrowd": 0, "area": 6, "bbox": [0, 0, 3, 2]}]
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 9, "width": 11}],
        "categories": [{"id": 1, "name": "car", "isthing": 1, "color": [1, 2, 3]}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": info}],
    }


def colored_ids() -> bytes:
    pixels = np.zeros((9, 11, 3), np.uint8)
    pixels[:4, :5, 0] = 1
    return png(pixels)


def volume_with_place(path: Path) -> object:
    affine_of(path)
    return read_nifti(path)


def parts_of_pairs(path: Path) -> object:
    """A table or JSON of parts beside two images with masks."""
    root = path.parent / f"parts{path.suffix}"
    if not root.is_dir():
        for kind in ("images", "masks"):
            for stem in "ab":
                (root / kind).mkdir(parents=True, exist_ok=True)
                (root / kind / f"{stem}.png").write_bytes(png(np.eye(5, dtype=np.uint8)))
    (root / f"split{path.suffix}").write_bytes(path.read_bytes())
    return open_data(root, format="pairs")


def beside(format: str, place: str, image: str) -> Reader:
    """What a layout reads from a file that lies at a place of a folder with one image."""

    def read(path: Path) -> object:
        root = path.parent / f"beside_{format}_{path.suffix}"
        target = root / f"{place}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        if not (root / image).exists():
            Image.new("RGB", (16, 12)).save(root / image)
        target.write_bytes(path.read_bytes())
        splits = open_data(root, format=format)
        return [part.target(i) for part in splits.parts().values() for i in range(len(part))]

    return read


def via() -> dict[str, Any]:
    region = {
        "shape_attributes": {"name": "polygon", "all_points_x": [1, 6, 6], "all_points_y": [1, 1, 6]},
        "region_attributes": {"type": "car"},
    }
    box = {
        "shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 5, "height": 4},
        "region_attributes": {"type": "car"},
    }
    file = {"filename": "a.png", "size": 100, "regions": [region, box], "file_attributes": {}}
    return {"a.png100": file}


def more_kinds() -> dict[str, tuple[dict[str, bytes], Reader, int]]:
    """Good contents by suffix, the reader, and how many of them there are."""
    nifti = volume()
    polygons = {
        "imgHeight": 12,
        "imgWidth": 16,
        "objects": [{"label": "car", "polygon": SQUARE}, {"label": "road", "polygon": SQUARE}],
    }
    city = "leftImg8bit/train/x/x_000000_000019_leftImg8bit.png"
    return {
        "nifti": ({".nii": nifti, ".nii.gz": gzip.compress(nifti)}, volume_with_place, 3),
        "via": ({".json": coded(via())}, beside("via", "via", "a.png"), 2),
        "cityscapes_polygons": (
            {".json": coded(polygons)},
            beside("cityscapes_polygons", "gtFine/train/x/x_000000_000019_gtFine_polygons", city),
            2,
        ),
        "coco_keypoints": ({".json": coded(joints())}, read_coco_keypoints, 2),
        "coco_panoptic": ({".json": coded(segments())}, read_coco_panoptic, 2),
        "segments": (
            {".png": colored_ids()},
            lambda path: read_segments(path, segments()["annotations"][0]["segments_info"], {1: 0}),
            1,
        ),
        "instance ids": (
            {".png": png(np.full((9, 11), 26001, np.uint16))},
            lambda path: read_instance_ids(path, {26: 0}),
            1,
        ),
        "yolo classes": ({".yaml": b"train: images\nnames:\n  0: car\n  1: dog\n"}, read_yolo_classes, 1),
        "yolo labels": (
            {".txt": b"0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.2 0.2 0.6 0.2 0.6 0.6 0.2 0.6\n"},
            lambda path: read_yolo_labels(path, 12, 16, {0: 0, 1: 1}).masks.decode(),
            1,
        ),
        "parts": (
            {
                ".csv": b"image,split\na,train\nb,val\n",
                ".json": coded({"train": ["a"], "val": ["b"]}),
            },
            parts_of_pairs,
            2,
        ),
        "layers": ({".tif": pages()}, read_layers, 1),
        "strokes": ({".png": png(np.eye(5, dtype=np.uint8))}, read_strokes, 1),
        "settings": ({".toml": b'epochs = 3\ncrop = [64, 64]\nmodel = "unet"\n'}, read_settings, 1),
        "plan": ({".json": coded(PLAN)}, read_plan, 1),
    }
