"""Rare classes come more often, and batches hold images of one shape."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.data import classes_of_images, sizes_of_images
from pixelwise.data.dataset import Augmented
from pixelwise.training import recipe_of
from pixelwise.training.run import make_experiment
from pixelwise.training.samplers import TrainBatches, grouped_order, repeat_factors, weighted_order


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Ten images of two shapes; the class "rare" is in one of them."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number in range(10):
        width, height = (60, 40) if number % 3 else (40, 60)
        name = f"{number}.png"
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / "images" / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 2 if number == 4 else 1, "iscrowd": 0,
             "bbox": [5, 5, 10, 10], "area": 100, "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}
        )  # fmt: skip
    categories = [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for part in ("train", "val"):
        (tmp_path / f"instances_{part}.json").write_text(json.dumps(content))
    return tmp_path


def test_factors_are_those_of_lvis() -> None:
    # A class in 1 of 10 images, threshold 0.4: sqrt(0.4 / 0.1) = 2; the other, in 9 of 10, stays at 1.
    found = repeat_factors([(0,)] * 9 + [(1,)], 0.4)
    assert found == pytest.approx([1.0] * 9 + [2.0])
    assert repeat_factors([(), (0,)], 0.9) == pytest.approx([1.0, (0.9 / 0.5) ** 0.5])


def test_images_come_as_often_as_their_weights_say() -> None:
    weights = [1.0, 3.0, 0.5, 1.5]
    counts: Counter[int] = Counter()
    for seed in range(50):
        order = weighted_order(weights, 12, torch.Generator().manual_seed(seed))
        assert len(set(order)) == 12  # further views of an image have numbers of their own
        counts.update(index % 4 for index in order)
    for index, weight in enumerate(weights):
        assert counts[index] == pytest.approx(50 * 12 * weight / 6, abs=50)


def test_batches_hold_one_group_where_they_can() -> None:
    groups = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0]
    found = grouped_order(list(range(11)), groups, 4)
    assert sorted(found) == list(range(11))
    assert {groups[i] for i in found[:4]} == {0}
    assert {groups[i] for i in found[4:8]} == {1}


def test_two_processes_see_the_parts_of_the_same_batches(coco: Path) -> None:
    data = pw.open_data(coco, task="instance").train
    arguments = {
        "seed": 5,
        "weights": repeat_factors(classes_of_images(data), 0.5),
        "shapes": [int(width > height) for height, width in sizes_of_images(data)],
    }
    whole, *parts = (
        list(TrainBatches(Augmented(data, lambda s: s, seed=0), 4, rank=rank, world=world, **arguments))
        for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    for batch, *own in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(own[0] + own[1])


def test_the_recipe_asks_for_them_and_they_reach_the_batches(coco: Path) -> None:
    arguments = {"encoder": "tiny", "width": 8, "min_size": None, "pretrained": False}
    small = {
        "model": "mask_rcnn",
        "model_arguments": arguments,
        "data": str(coco),
        "batch_size": 3,
        "epochs": 1,
    }
    experiment = make_experiment(recipe_of({**small, "repeat_rare": 0.9, "group_shapes": True}))
    counts: Counter[int] = Counter()
    shapes = []
    for epoch in range(20):
        experiment.batches.set_epoch(epoch)
        for batch in experiment.batches:
            counts.update(index % 10 for index in batch)
            shapes.append(len({bool(index % 10 % 3) for index in batch}))
    assert counts[4] > 2 * max(count for index, count in counts.items() if index != 4)
    assert np.mean(np.array(shapes) == 1) > 0.5
    pasted = make_experiment(recipe_of({**small, "copy_paste": 1.0, "crop": (32, 32)}))
    assert max(len(pasted.batches.data[index].target) for index in range(10)) == 2


@pytest.mark.parametrize("setting", [{"copy_paste": 0.5}, {"repeat_rare": 0.5}])
def test_what_does_not_suit_the_task_is_told(tmp_path: Path, setting: dict[str, float]) -> None:
    for kind, value in (("images", 90), ("masks", 1)):
        (tmp_path / kind).mkdir()
        for number in range(4):
            Image.fromarray(np.full((40, 40), value, np.uint8)).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    settings = {"data": str(tmp_path), "model_arguments": {"width": 8}, "crop": (32, 32), "epochs": 1}
    recipe = recipe_of({**settings, "model": "unet", **setting})
    if "copy_paste" in setting:
        with pytest.raises(ValueError, match="copy_paste is for objects with masks"):
            make_experiment(recipe)
    else:
        assert len(make_experiment(recipe).batches) == 1
