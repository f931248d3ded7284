"""Networks on CamVid from random weights, each for the same processor time on one thread.

Images have a quarter of CamVid's pixels (240 x 180) and 11 classes. Every network learns from batches of 4
in the same order, scaled by 0.75 to 1.33, cut to 160 x 224, mirrored or not, with AdamW, cross-entropy and
the same learning rate (a tenth of it for FCN on VGG16, which has no batch normalisation), which falls to zero
over the time. The clock is the processor's, so that other programs on the machine change little; reading
batches and steps count, the scoring at the end does not: the last weights on the validation part, other
sequences.

`fcn32s`, `fcn16s` and `fcn8s` are the skips of the paper (a map is scored by a 1x1 convolution, the scores of
coarser maps are upsampled and added) on the ResNet-18 that most others have, so that nothing but the skips
differs. `fcn8s_vgg16` is the network as published: 134 million parameters and 100 pixels of padding, of which
one thread makes a few dozen steps in this time.

    python bench/camvid_equal_time.py --data ../shared/data/camvid --minutes 10
    python bench/camvid_equal_time.py --data ../shared/data/camvid --minutes 20 --models segformer_b0 unet
"""

import argparse
import datetime
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.data import training_transform
from pixelwise.encoders import make_encoder
from pixelwise.training import Optimization
from pixelwise.training.environment import cpu_name
from pixelwise.types import Batch, DenseLogits, DenseModel, LabelMap, Report, Sample

SIZE, CROP, BATCH = (240, 180), (160, 224), 4  # width and height; height and width; images
CLASSES = pw.ClassTable.of(
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"
)
ON_RESNET18 = {"encoder": "resnet18", "pretrained": False}


class Entry(NamedTuple):
    """A network of the table: builder, its arguments, and learning rate."""

    model: str
    arguments: dict[str, Any]
    lr: float = 1e-3


ENTRIES = {
    "fcn32s": Entry("", {"stages": ("c5",)}),
    "fcn16s": Entry("", {"stages": ("c5", "c4")}),
    "fcn8s": Entry("", {"stages": ("c5", "c4", "c3")}),
    "segnet": Entry("segnet", {}),
    "unet": Entry("unet", ON_RESNET18),
    "pspnet": Entry("pspnet", ON_RESNET18),
    "deeplabv3plus": Entry("deeplabv3plus", ON_RESNET18),
    "hrnetv2_w18": Entry("hrnetv2_w18", {}),
    "bisenet": Entry("bisenet", ON_RESNET18),
    "linknet": Entry("linknet", ON_RESNET18),
    "fcn8s_vgg16": Entry("fcn8s_vgg16", {}, 1e-4),
    "segformer_b0": Entry("segformer_b0", {}),
}


class SkipFCN(DenseModel):
    """FCN's skips on ResNet-18: `stages` from coarse to fine."""

    def __init__(self, num_classes: int, stages: tuple[str, ...]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = make_encoder("resnet18", stages=stages)
        self.scores = nn.ModuleDict(
            {stage: nn.Conv2d(getattr(self.encoder.channels, stage), num_classes, 1) for stage in stages}
        )

    def forward(self, image: torch.Tensor) -> DenseLogits:
        """Score every pixel."""
        maps = self.encoder(image)
        x = image.new_zeros(1, 1, 1, 1)
        for stage, score in self.scores.items():
            finer = score(getattr(maps, stage))
            x = finer + F.interpolate(x, size=finer.shape[-2:], mode="bilinear")
        size = (image.shape[-2], image.shape[-1])
        return DenseLogits(F.interpolate(x, size=size, mode="bilinear"), size)


def samples(camvid: Path, part: str) -> list[Sample]:
    """The images of a part and their labels, at a quarter of the pixels."""
    found = []
    for line in (camvid / f"{part}.txt").read_text().split():
        name = Path(line).stem
        image, labels = (
            Image.open(next((camvid / kind).rglob(f"{name}.*"))) for kind in ("images", "labels")
        )
        small = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BOX))
        target = torch.from_numpy(np.asarray(labels.resize(SIZE, Image.Resampling.NEAREST)).astype(np.int64))
        target[target == len(CLASSES)] = CLASSES.ignore
        found.append(Sample(torch.from_numpy(small.copy()).permute(2, 0, 1) / 255, LabelMap(target), name))
    return found


def batches(pictures: list[Sample], seed: int) -> Iterator[Batch]:
    """Endless batches of changed pictures, the same for every network."""
    torch.manual_seed(seed)
    transform = training_transform(CROP, scale=(0.75, 1.33), flip=True, ignore=CLASSES.ignore)
    while True:
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed)).tolist()
        seed += 1
        for at in range(0, len(order) - BATCH + 1, BATCH):
            yield Batch.collate([transform(pictures[i]) for i in order[at : at + BATCH]])


def one(name: str, camvid: Path, seconds: float, seed: int) -> str:
    """Train a network and give its row of the table."""
    torch.set_num_threads(1)
    train, val = samples(camvid, "train"), samples(camvid, "val")
    entry = ENTRIES[name]
    torch.manual_seed(seed)
    if entry.model:
        model = pw.build(entry.model, len(CLASSES), **entry.arguments)
    else:
        model = SkipFCN(len(CLASSES), **entry.arguments)
    criterion = pw.make_criterion("cross_entropy", CLASSES)
    steps, spent = fit(
        model, lambda batch: criterion(model(batch.image), batch), train, seconds, entry.lr, seed
    )
    values = score(model, val).values
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return (
        f"{name:14} {count:9.1f} {steps:6} {steps * BATCH / len(train):7.1f} {values['mean_iou']:9.3f} "
        f"{values['pixel_accuracy']:9.3f} {spent:8.0f} s"
    )


def fit(
    model: nn.Module,
    loss_of: Callable[[Batch], torch.Tensor],
    pictures: list[Sample],
    seconds: float,
    lr: float,
    seed: int,
) -> tuple[int, float]:
    """Train for so much processor time; the number of steps and the time that they took."""
    optimizer, _ = Optimization(1, lr=lr).make(model)
    rates = [group["lr"] for group in optimizer.param_groups]
    started, steps = time.process_time(), 0
    model.train()
    for batch in batches(pictures, seed):
        if (spent := time.process_time() - started) > seconds:
            break
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - spent / seconds) ** 0.9
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            print(f"{spent:.0f} s, step {steps}, loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return steps, spent


def score(model: DenseModel, pictures: list[Sample]) -> Report:
    """The scores on some pictures."""
    task = pw.tasks.get_task("semantic")
    metrics = task.metrics(CLASSES, task.scoring)
    model.eval()
    with torch.inference_mode():
        for picture in pictures:
            assert picture.target is not None
            labels = model(picture.image[None]).logits.argmax(1)[0]
            metrics.update([LabelMap(labels)], [picture.target], [""])
    return metrics.compute()


def main() -> None:
    """Print the table, a process per network."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--models", nargs="+", choices=ENTRIES, default=list(ENTRIES)[:10])
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # the process of a network
    given = arguments.parse_args()
    if given.alone:
        print(one(given.models[0], given.data, 60 * given.minutes, given.seed))
        return
    machine = f"{cpu_name()}, 1 thread, torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{datetime.date.today()}, {machine}; {given.minutes:g} minutes each, seed {given.seed}")
    print("network        million p  steps  epochs  mean IoU  pixel acc  processor", flush=True)
    for name in given.models:
        words = ["--data", given.data, "--minutes", given.minutes, "--seed", given.seed, "--models", name]
        done = subprocess.run(
            [sys.executable, __file__, *map(str, words), "--alone"],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        print(done.stdout, end="", flush=True)


if __name__ == "__main__":
    main()
