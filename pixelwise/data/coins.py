"""The embedded sample: a photograph of 24 coins with an outline of each, drawn for this package.

The photograph comes with scikit-image; `samples/SOURCE.md` tells how the outlines were made.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from ..types import ClassTable, LabelMap
from .formats import write_classes_file, write_image, write_mask

SAMPLES = Path(__file__).parent / "samples"
CLASSES = ClassTable(("background", "coin"), ((0, 0, 0), (255, 176, 0)))

# Rows of pixels, first and one past the last. The cuts run between the four rows of coins; the training part
# are the outer two, where the light is brightest and darkest.
PARTS = {"train": ((0, 84), (225, 303)), "val": ((84, 150),), "test": ((150, 225),)}

# Width of the written windows and distance from one to the next, in pixels.
WINDOWS = {"train": (96, 12), "val": (128, 128), "test": (128, 128)}


@dataclass(frozen=True)
class Coins:
    """The photograph and its annotation.

    Attributes:
        image: grey values, 0 to 255.
        instances: 0 on background, 1 to 24 on the coins, row by row from the top left.
    """

    image: UInt8[Tensor, "H W"]
    instances: Integer[Tensor, "H W"]

    @property
    def labels(self) -> Integer[Tensor, "H W"]:
        """Classes of `CLASSES`: 0 background, 1 coin."""
        return (self.instances > 0).long()


def coins() -> Coins:
    """The 24 coins, 303 x 384 pixels.

    >>> sample = coins()
    >>> sample.image.shape, int(sample.instances.max())
    (torch.Size([303, 384]), 24)
    """
    from skimage import data, draw

    image = np.array(data.coins())
    instances = np.zeros(image.shape, dtype=np.int64)
    table = SAMPLES.joinpath("coins.csv").read_text()
    for row in csv.DictReader(table.splitlines()):
        radii = np.array([float(number) for name, number in row.items() if name.startswith("r")])
        angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
        x = float(row["x"]) + radii * np.cos(angles)
        y = float(row["y"]) + radii * np.sin(angles)
        instances[draw.polygon(y, x, image.shape)] = int(row["coin"])
    return Coins(torch.from_numpy(image), torch.from_numpy(instances))


def write_coins(folder: str | os.PathLike[str]) -> Path:
    """Write the sample as a data folder: `images/PART/NAME.png`, `masks/PART/NAME.png`, `classes.csv`.

    The training part are windows that overlap; those of the other parts do not. No coin and no pixel is in
    two parts.

    Raises:
        ValueError: if the folder cannot be written to.
    """
    folder = Path(folder)
    sample = coins()
    for part, rows in PARTS.items():
        width, step = WINDOWS[part]
        for first, stop in rows:
            for left in range(0, sample.image.shape[1] - width + 1, step):
                window = slice(first, stop), slice(left, left + width)
                name = f"row{first:03d}_column{left:03d}.png"
                write_image(folder / "images" / part / name, sample.image[window][None] / 255)
                write_mask(folder / "masks" / part / name, LabelMap(sample.labels[window]), CLASSES)
    write_classes_file(folder / "classes.csv", CLASSES)
    return folder
