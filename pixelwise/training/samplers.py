"""Which images come when: an order that depends on nothing but seed and epoch."""

import math
from collections import Counter
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
        weights: how often each image comes relative to the others; None for equally often. An image of twice
            the weight comes twice as often, as evenly as whole numbers allow.
        shapes: group of each image; batches have images of one group where that leaves no batch unfilled.
            None for any.
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
        weights: Sequence[float] | None = None,
        shapes: Sequence[int] | None = None,
    ) -> None:
        self.weights, self.shapes = weights, shapes
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
        if self.weights is None:
            views = [
                torch.randperm(images, generator=generator) + first for first in range(0, self.count, images)
            ]
            order = torch.cat(views)[: self.count].tolist() if views else []
        else:
            order = weighted_order(self.weights, self.count, generator)
        if self.shapes is not None:
            order = grouped_order(order, [self.shapes[index % images] for index in order], self.batch_size)
        for start in range(0, self.count, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world]


def repeat_factors(classes: Sequence[Sequence[int]], threshold: float) -> list[float]:
    """How often each image is to come so that rare classes are seen (repeat-factor sampling).

    Gupta, Dollár, Girshick, "LVIS", CVPR 2019, Sec. 5.2: a class c in a share f of the images has the factor
    max(1, sqrt(threshold / f)); an image has the largest factor of its classes.

    Args:
        classes: the classes in each image.
        threshold: share of the images below which a class is rare.

    >>> repeat_factors([(0,), (0,), (0,), (0, 1)], 0.5)
    [1.0, 1.0, 1.0, 1.4142135623730951]
    """
    share = {c: n / len(classes) for c, n in Counter(c for some in classes for c in set(some)).items()}
    factor = {c: max(1.0, math.sqrt(threshold / f)) for c, f in share.items()}
    return [max((factor[c] for c in some), default=1.0) for some in classes]


def weighted_order(weights: Sequence[float], count: int, generator: torch.Generator) -> list[int]:
    """`count` indices in random order, each as often as its weight says, rounded up or down.

    The n-th further time of an image has the index `index + n * len(weights)`.
    """
    shuffled = torch.randperm(len(weights), generator=generator)
    ends = torch.tensor(weights, dtype=torch.float64)[shuffled].cumsum(0)
    first = torch.rand((), generator=generator, dtype=torch.float64)
    places = (torch.arange(count) + first) * ends[-1] / count
    drawn = shuffled[torch.searchsorted(ends, places, right=True).clamp(max=len(weights) - 1)]
    seen: Counter[int] = Counter()
    order = []
    for index in drawn[torch.randperm(count, generator=generator)].tolist():
        order.append(index + seen[index] * len(weights))
        seen[index] += 1
    return order


def grouped_order(order: Sequence[int], groups: Sequence[int], batch_size: int) -> list[int]:
    """The same indices so that every batch has one group; what fills no batch of its own group comes last.

    Args:
        order: indices.
        groups: of each of them.
        batch_size: indices per batch.

    >>> grouped_order([0, 1, 2, 3, 4], [0, 1, 0, 1, 0], 2)
    [0, 2, 1, 3, 4]
    """
    waiting: dict[int, list[int]] = {}
    found: list[int] = []
    for index, group in zip(order, groups, strict=True):
        batch = waiting.setdefault(group, [])
        batch.append(index)
        if len(batch) == batch_size:
            found += batch
            waiting[group] = []
    return found + [index for rest in waiting.values() for index in rest]


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
