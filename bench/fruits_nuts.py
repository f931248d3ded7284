"""Mask R-CNN on photographs of dates, figs and hazelnuts, beside torchvision's: same encoder, data and time.

    python bench/fruits_nuts.py fruits_nuts/ --epochs 70

Ours is `recipes/fruits_nuts_mask_rcnn.py`, as it is. What it took of processor time, torchvision's gets too,
once for each setting: `MaskRCNN` on ResNet-18 with a pyramid of its 256 channels, all layers trained and
batch norms that learn (frozen ones are of no use from random weights), images at the same size as ours,
batches of two, flips. The settings are those of its references (SGD, a rate of 0.02 for sixteen images, rates
for fewer in proportion, warm-up, two drops), and Adam's with the rate of our recipe. All start from random
weights, and are scored by the same code (our COCO AP, which equals pycocotools') on the same held-out images.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from auto_loops import boxes_of
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import pixelwise as pw
from pixelwise.predict.evaluation import scored
from pixelwise.tasks import get_task
from pixelwise.types import MaskSet, Report

RECIPE = Path(__file__).parents[1] / "recipes" / "fruits_nuts_mask_rcnn.py"
SIZES = {"min_size": 256, "max_size": 384}  # those of the recipe
SETTINGS = {"SGD 0.0025": 0.0025, "AdamW 8e-4": 8e-4}


def ours(data: Path, out: Path, epochs: int) -> float:
    """Train by the recipe; its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(RECIPE), str(data), str(out), "--epochs", str(epochs)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def theirs(data: Path, seconds: float, setting: str) -> tuple[Report, int]:
    """Scores on the held-out images after `seconds` of processor time, and the number of steps."""
    torch.manual_seed(0)
    random.seed(0)
    started, folder = time.process_time(), pw.open_data(data, task="instance")
    assert folder.val is not None
    learnt, classes = folder.train, folder.train.classes
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    model = MaskRCNN(backbone, len(classes) + 1, **SIZES).train()
    rate = SETTINGS[setting]
    if setting.startswith("SGD"):
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    step, order = 0, list[int]()
    while (part := (time.process_time() - started) / seconds) < 1:
        drops = sum(part >= epoch / 26 for epoch in (16, 22))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10) * 0.1**drops
        if len(order) < 2:
            order = random.sample(range(len(learnt)), len(learnt))
        images, targets = [], []
        for sample in (learnt[order.pop()] for _ in range(2)):
            assert isinstance(sample.target, MaskSet)
            image, masks = sample.image, sample.target.dense
            if random.random() < 0.5:
                image, masks = image.flip(-1), masks.flip(-1)
            images.append(image)
            labels = sample.target.classes.long() + 1
            targets.append({"boxes": boxes_of(masks), "labels": labels, "masks": masks.to(torch.uint8)})
        loss = sum(model(images, targets).values(), start=torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    model.eval()
    pairs = [(sample, found(model, sample.image)) for sample in folder.val]
    return scored(pairs, get_task("instance"), classes).report, step


@torch.no_grad()
def found(model: MaskRCNN, image: Tensor) -> MaskSet:
    """The objects that torchvision's network finds."""
    (result,) = model([image])
    return MaskSet.of(result["masks"][:, 0] >= 0.5, result["labels"] - 1, result["scores"])


def row(name: str, values: dict[str, float], seconds: float, note: str) -> str:
    """A row of the table."""
    scores = " | ".join(f"{values[key]:.3f}" for key in ("mask_ap", "mask_ap50", "box_ap"))
    return f"| {name} | {scores} | {seconds:.0f} | {note} |"


def main(data: Path, out: Path, epochs: int) -> None:
    seconds = ours(data, out, epochs)
    values = json.loads((out / "run" / "scores.json").read_text())["values"]
    print("| network | mask AP | mask AP50 | box AP | processor s | |\n|---|---|---|---|---|---|")
    print(row("pixelwise", values, seconds, f"{epochs} epochs"), flush=True)
    for setting in SETTINGS:
        report, steps = theirs(out / "data", seconds, setting)
        print(row(f"torchvision, {setting}", dict(report.values), seconds, f"{steps} steps"), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=70)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        main(given.data, Path(place), given.epochs)
