"""Key points end to end, in a loop written by hand: crops, heatmaps, decoding, back into images, OKS AP."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pixelwise as pw
from pixelwise.data.datasets.coco_keypoints import KeypointData, open_coco_keypoints
from pixelwise.data.object_crops import ObjectCrops
from pixelwise.decode import keypoints
from pixelwise.heatmaps import dark, with_flip_test
from pixelwise.losses import HeatmapLoss
from pixelwise.metrics import CocoScores, KeypointMetrics
from pixelwise.types import HeatmapModel


def learn(model: HeatmapModel, crops: ObjectCrops, steps: int, lr: float) -> None:
    """The same batch of all crops again and again."""
    batch = pw.Batch.collate(list(crops))
    criterion = HeatmapLoss(unbiased=True)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(steps):
        loss = criterion(model(*model.inputs(batch)), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def score(model: HeatmapModel, data: KeypointData, crops: ObjectCrops, *, flip: bool = False) -> CocoScores:
    """OKS AP of the crops around the annotated boxes."""
    model.eval()
    f = with_flip_test(model, data.classes.skeleton) if flip else model
    with torch.no_grad():
        found = [keypoints(f(sample.image[None]), dark)[0] for sample in crops]
    metrics = KeypointMetrics(data.classes)
    for index, objects in enumerate(crops.in_images(found)):
        metrics.update(objects, data.keypoints(index), data.id(index))
    return metrics.compute()


@pytest.mark.slow
def test_a_small_hrnet_learns_four_photographs_by_heart(
    shared_data: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_coco_keypoints(shared_data("data", "coco_pose") / "test_coco.json")
    crops = ObjectCrops(data, (192, 144))
    model = pw.build("hrnet_pose", num_joints=17, width=16, modules=(1, 1, 1), blocks=1)
    started = time.perf_counter()
    before = score(model, data, crops).ap
    learn(model, crops, steps=150, lr=4e-3)
    after = score(model, data, crops)
    with capsys.disabled():
        print(f"\nOKS AP {before:.3f} -> {after.ap:.3f} in {time.perf_counter() - started:.0f} s")
    assert before < 0.1
    assert after.ap >= 0.9
