"""One network, three tasks: one short training, whose weights segment, count and label in new processes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.product.test_objects import ended
from tests.tasks.panoptic_scenes import CATEGORIES, write_scenes

pytestmark = pytest.mark.slow

NAMES = ("car", "sky", "ground")  # in the order of the ids
NETWORK = [
    "--encoder",
    "tiny",
    "--scratch",
    "--set",
    "width=16",
    "--set",
    "num_queries=8",
    "--set",
    "blocks=1",
]


@pytest.fixture(scope="module")
def town(place: Path) -> Path:
    """A panoptic folder, and the same scenes as instances in `things` and as labels in `labels`."""
    town = write_scenes(place / "town")
    categories = sorted(CATEGORIES, key=lambda one: one["id"])
    label_of = {one["id"]: label for label, one in enumerate(categories)}
    for kind in ("images", "masks"):
        (place / "labels" / kind).mkdir(parents=True)
    (place / "labels" / "classes.txt").write_text("\n".join(NAMES))
    (place / "things" / "images").mkdir(parents=True)
    for part in ("train", "val"):
        content = json.loads((town / "annotations" / f"panoptic_{part}.json").read_text())
        instances = []
        for entry, annotation in zip(content["images"], content["annotations"], strict=True):
            name = f"{part}_{entry['file_name']}"
            with Image.open(town / part / entry["file_name"]) as image:
                image.save(place / "labels" / "images" / name)
                image.save(place / "things" / "images" / name)
            entry["file_name"] = name
            path = town / "annotations" / f"panoptic_{part}" / annotation["file_name"]
            colors = np.asarray(Image.open(path).convert("RGB")).astype(int)
            ids = colors @ [1, 256, 65536]
            labels = np.full(ids.shape, 255, np.uint8)
            for segment in annotation["segments_info"]:
                labels[ids == segment["id"]] = label_of[segment["category_id"]]
                if segment["category_id"] == 3 and not segment["iscrowd"]:
                    x, y, w, h = segment["bbox"]
                    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
                    number = {"id": len(instances) + 1, "image_id": entry["id"], "segmentation": [outline]}
                    instances.append(segment | number)
            Image.fromarray(labels).save(place / "labels" / "masks" / name)
        content = {"images": content["images"], "annotations": instances, "categories": categories}
        (place / "things" / f"instances_{part}.json").write_text(json.dumps(content))
    return town


@pytest.fixture(scope="module")
def run(pixelwise: Callable, town: Path) -> str:
    """Two steps on segments."""
    folder = "runs/mask2former"
    options = ["--task", "panoptic", "--steps", "2", "--workers", "0", "--out", folder]
    assert "PQ" in ended(pixelwise("train", "town", "--model", "mask2former", *NETWORK, *options))
    return folder


@pytest.mark.parametrize(
    ("data", "task", "score"),
    [("town", "panoptic", "pq"), ("things", "instance", "mask_ap"), ("labels", "semantic", "mean_iou")],
)
def test_one_checkpoint_is_scored_for_each_task(
    data: str, task: str, score: str, pixelwise: Callable, place: Path, run: str
) -> None:
    report = f"{task}.html"
    options = ["--task", task, "--csv", f"{task}.csv", "--report", report, "--overwrite"]
    ended(pixelwise("evaluate", run, data, *options))
    with (place / f"{task}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(row[score] == "" or 0 <= float(row[score]) <= 1 for row in rows)
    assert (place / report).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("task", "files"),
    [
        ("panoptic", ["one.png", "one.json", "one_overlay.png"]),
        ("instance", ["one.json", "one_overlay.png"]),
        ("semantic", ["one.png", "one_overlay.png"]),
    ],
)
def test_one_checkpoint_predicts_for_each_task(
    task: str, files: list[str], pixelwise: Callable, place: Path, run: str
) -> None:
    image = next((place / "town" / "val").glob("*.png"))
    (place / "one").mkdir(exist_ok=True)
    (place / "one" / "one.png").write_bytes(image.read_bytes())
    out = f"{run}_{task}"
    ended(pixelwise("predict", run, "one", "--task", task, "--overlay", "--out", out))
    found = sorted(path.name for path in (place / out).iterdir())
    assert set(files) <= set(found), found


def test_a_table_without_things_has_no_segments(pixelwise: Callable, place: Path, run: str) -> None:
    outcome = pixelwise("train", "labels", "--model", "mask2former", "--task", "panoptic", "--steps", "1")
    assert outcome.code == 2
    assert len(outcome.err.strip().splitlines()) == 1
