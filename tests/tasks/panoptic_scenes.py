"""A small data set in COCO's panoptic format: sky, ground and up to three cars in a row, side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 72
CATEGORIES = [
    {"id": 9, "name": "ground", "isthing": 0, "color": [120, 90, 40]},
    {"id": 3, "name": "car", "isthing": 1, "color": [200, 30, 30]},
    {"id": 5, "name": "sky", "isthing": 0, "color": [90, 150, 230]},
]
COLORS = {9: (110, 80, 40), 3: (220, 40, 40), 5: (80, 140, 230)}


def scene(random: np.random.Generator, *, crowd: bool = False) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """An image, its ids, and what they are; the last rows are void."""
    horizon = int(random.integers(14, 20))
    ids = np.where(np.arange(HEIGHT)[:, None] < horizon, 70000, 300) * np.ones((1, WIDTH), int)
    segments = [{"id": 70000, "category_id": 5, "iscrowd": 0}, {"id": 300, "category_id": 9, "iscrowd": 0}]
    for number in range(3):
        top, left = int(random.integers(18, 24)), 2 + 24 * number
        ids[top : top + 14, left : left + 20] = number + 1
        segments.append({"id": number + 1, "category_id": 3, "iscrowd": int(crowd and number == 2)})
    image = random.integers(0, 30, (HEIGHT, WIDTH, 3))
    for segment in segments:
        inside = ids == segment["id"]
        image[inside] += COLORS[segment["category_id"]]
        rows, columns = inside.nonzero()
        corner = [int(columns.min()), int(rows.min())]
        size = [int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
        segment |= {"area": int(inside.sum()), "bbox": [*corner, *size]}
    ids[-3:] = 0
    segments[1]["area"] = int((ids == 300).sum())
    return image.clip(0, 255).astype(np.uint8), ids, segments


def write_png(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coded = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(coded).save(path)


def write_scenes(root: Path, *, train: int = 2, val: int = 2) -> Path:
    """`annotations/panoptic_train.json`, a folder of PNG files beside it, and `train/`; the same for val."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for number in range(count):
            image, ids, segments = scene(random, crowd=part == "val" and number == 0)
            name = f"{number + 10 * (part == 'val') + 1:012d}"
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / part / f"{name}.png")
            write_png(root / "annotations" / f"panoptic_{part}" / f"{name}.png", ids)
            images.append({"id": int(name), "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH})
            annotations.append({"image_id": int(name), "file_name": f"{name}.png", "segments_info": segments})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"panoptic_{part}.json").write_text(json.dumps(content))
    return root
