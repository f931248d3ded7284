"""BoxSup: nuclei are segmented by a network that has seen boxes only (Dai, He and Sun, ICCV 2015).

    python recipes/boxsup.py path/to/dsb2018_nuclei

The folder holds images/ and labels/ with one number per nucleus, of which only the boxes are used. Three
networks learn with the same number of steps: from the masks, from filled boxes, and from boxes with proposed
regions, which are chosen again in every round but the first by what the network says so far (the best one:
there are too few for the paper's lot among five). The first round learns filled boxes, because weights are
random here, where the paper's are pretrained. Every fourth image is for validation. Prints one table:
how good the labels were that the network learned from in the end, and its own IoU of nuclei.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.algorithms import Region, choose_regions, propose_regions
from pixelwise.training import Optimization
from pixelwise.types import Batch, ClassTable, DenseModel

CLASSES = ClassTable(("background", "nucleus"), ((0, 0, 0), (230, 200, 40)))
SUPERVISIONS = ("masks", "boxes", "boxsup")


class Picture(NamedTuple):
    """An image with what may be known of it."""

    image: np.ndarray  # H W 3, uint8
    truth: np.ndarray  # H W, 1 on nuclei
    boxes: np.ndarray  # n 4: left, top, right, bottom


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        supervision: what was known.
        labels: IoU of nuclei between the labels of the last round and the truth, over the training images.
        iou: of nuclei between prediction and truth, over the validation images.
    """

    supervision: str
    labels: float
    iou: float


def read_pictures(data: str | Path) -> tuple[list[Picture], list[Picture]]:
    """Training and validation pictures of a folder with images/ and labels/.

    Raises:
        ValueError: if there are fewer than two images, or one has no labels.
    """
    pictures = []
    for path in sorted((Path(data) / "images").glob("*.png")):
        labels = Path(data) / "labels" / path.name
        if not labels.exists():
            raise ValueError(f"{path} needs labels in {labels}")
        numbers = np.array(Image.open(labels)).astype(np.int64)
        places = [place for place in ndimage.find_objects(numbers) if place is not None]
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in places]
        image = np.array(Image.open(path).convert("RGB"))
        pictures.append(Picture(image, (numbers > 0).astype(np.int64), np.array(boxes).reshape(-1, 4)))
    if len(pictures) < 2:
        raise ValueError(f"{data} must hold at least two images in images/, got {len(pictures)}")
    val = pictures[1::4]
    return [one for number, one in enumerate(pictures) if number % 4 != 1], val


def boxsup(
    data: str | Path,
    supervisions: Sequence[str] = SUPERVISIONS,
    *,
    rounds: int = 4,
    steps: int = 60,
    crop: int = 128,
    batch_size: int = 8,
    width: int = 12,
    seed: int = 0,
) -> list[Row]:
    """The table.

    Args:
        data: folder of the images.
        supervisions: any of "masks", "boxes" and "boxsup".
        rounds: how often regions are chosen.
        steps: of the optimiser in each round.
        crop: side of the squares that are cut out for training, in pixels.
        batch_size: squares per step.
        width: channels of the U-Net at full resolution.
        seed: of weights and squares.
    """
    train, val = read_pictures(data)
    regions = [propose_regions(one.image) for one in train] if "boxsup" in supervisions else []
    rows = []
    for supervision in supervisions:
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        model = pw.build("unet", len(CLASSES), width=width)
        criterion = pw.make_criterion("cross_entropy", CLASSES)
        optimizer, schedule = Optimization(rounds * steps, lr=0.003).make(model)
        for number in range(rounds):
            if supervision == "masks":
                labels = [one.truth for one in train]
            else:
                chosen = supervision == "boxsup" and number > 0  # filled boxes first
                own = regions if chosen else [[]] * len(train)
                labels = labels_of(train, own, model if chosen else None)
            model.train()
            for _ in range(steps):
                batch = squares(train, labels, crop, batch_size, random)
                optimizer.zero_grad()
                criterion(model(batch.image), batch).backward()
                optimizer.step()
                schedule.step()
        truth = [one.truth for one in train]
        found = [probabilities(model, one).argmax(0) for one in val]
        rows.append(Row(supervision, iou(labels, truth), iou(found, [one.truth for one in val])))
    return rows


def labels_of(
    pictures: Sequence[Picture],
    regions: Sequence[Sequence[Region]],
    model: DenseModel | None,
) -> list[np.ndarray]:
    """What boxes and regions say of each picture; without regions, filled boxes."""
    found = []
    for one, own in zip(pictures, regions, strict=True):
        said = None if model is None else probabilities(model, one)
        ones = np.ones(len(one.boxes), np.int64)
        found.append(choose_regions(own, one.boxes, ones, one.truth.shape, said))
    return found


def squares(
    pictures: Sequence[Picture],
    labels: Sequence[np.ndarray],
    crop: int,
    count: int,
    random: np.random.Generator,
) -> Batch:
    """Random squares of random pictures, each mirrored or not."""
    images, targets = [], []
    for number in random.integers(len(pictures), size=count):
        image, target = pictures[number].image, labels[number]
        down, right = max(crop - target.shape[0], 0), max(crop - target.shape[1], 0)
        image = np.pad(image, ((0, down), (0, right), (0, 0)))
        target = np.pad(target, ((0, down), (0, right)), constant_values=CLASSES.ignore)
        top, left = (int(random.integers(side - crop + 1)) for side in target.shape)
        window = (slice(top, top + crop), slice(left, left + crop))
        flip = -1 if random.random() < 0.5 else 1
        images.append(image[window][:, ::flip])
        targets.append(target[window][:, ::flip])
    image = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return Batch.of(image.contiguous(), torch.from_numpy(np.stack(targets)))


def probabilities(model: DenseModel, picture: Picture) -> np.ndarray:
    """Of each class at each pixel, as the model says."""
    image = torch.from_numpy(picture.image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return F.softmax(model.eval()(image).logits, 1)[0].numpy()


def iou(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """Of nuclei, over all pixels of all pictures."""
    both = sum(int(((a == 1) & (b == 1)).sum()) for a, b in zip(found, truth, strict=True))
    either = sum(int(((a == 1) | (b == 1)).sum()) for a, b in zip(found, truth, strict=True))
    return both / max(either, 1)


if __name__ == "__main__":
    print("supervision  IoU of the labels  IoU of predictions")
    for row in boxsup(sys.argv[1]):
        print(f"{row.supervision:<11}  {row.labels:17.3f}  {row.iou:18.3f}")
