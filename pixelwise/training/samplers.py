"""Which images come when: an order that depends on nothing but seed and epoch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data import Augmented
from ..types import Batch, ClassTable, Sample


class TrainBatches(Sampler[list[int]]):
    """Shuffled batches of indices; each process gets its part of every batch.

    The last batch of an epoch may be smaller. It is dropped if it holds a single image and there are others,
    and with several processes it is cut to what divides evenly. An epoch of more images than there are goes
    through them several times: `index + n * len(data)` is the n-th further view of an image.

    Args:
        data: told the epoch, for its augmentation.
        batch_size: images per batch, of all processes together.
        seed: of the order.
        rank: number of this process.
        world: number of processes; divides `batch_size`.
        images: of an epoch; None for each one once.
    """

    def __init__(
        self,
        data: Augmented,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        images: int | None = None,
    ) -> None:
        self.data, self.batch_size, self.seed, self.rank, self.world = data, batch_size, seed, rank, world
        self._epoch = 0
        images = len(data) if images is None else images
        rest = images % batch_size // world * world
        single = rest == 1 and images > batch_size
        self.count = images // batch_size * batch_size + (0 if single else rest)

    def set_epoch(self, epoch: int) -> None:
        """Which pass over the data comes next, counted from 0."""
        self._epoch = self.data.epoch = epoch

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self._epoch))
        images = len(self.data)
        views = [
            torch.randperm(images, generator=generator) + first for first in range(0, self.count, images)
        ]
        order = torch.cat(views)[: self.count].tolist() if views else []
        for start in range(0, self.count, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world]


class PartOf(Sampler[int]):
    """Every image once, in turn among the processes: no image counts twice.

    Args:
        length: number of images.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(self, length: int, *, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, length, world)

    def __len__(self) -> int:
        """Number of images of this process."""
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class Collate:
    """`Batch.collate` for a task.

    Args:
        classes: give the label of padding.
    """

    def __init__(self, classes: ClassTable) -> None:
        self.ignore = classes.ignore

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Samples, stacked."""
        return Batch.collate(samples, self.ignore)


def train_loader(
    batches: TrainBatches, classes: ClassTable, *, workers: int, pin: bool = False
) -> DataLoader[Sample]:
    """Batches of augmented images."""
    return DataLoader(
        batches.data,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=Collate(classes),
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),  # else each epoch would draw from the global generator
    )


def val_loader(
    data: Dataset[Sample],
    part: PartOf,
    classes: ClassTable,
    *,
    batch_size: int = 1,
    workers: int,
    pin: bool = False,
) -> DataLoader[Sample]:
    """Whole images, as they are."""
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=part,
        num_workers=workers,
        collate_fn=Collate(classes),
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),
    )


def seed_of(*key: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1
