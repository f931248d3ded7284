"""The order of images depends on seed and epoch, and on nothing else."""

import pytest
import torch
from hypothesis import given, strategies as st

from pixelwise.data import Augmented
from pixelwise.training.samplers import PartOf, TrainBatches
from pixelwise.types import LabelMap, Sample


class Images(torch.utils.data.Dataset[Sample]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.zeros(3, 4, 4), LabelMap(torch.zeros(4, 4, dtype=torch.long)), str(index))


def order(
    length: int, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1
) -> list[list[int]]:
    batches = TrainBatches(
        Augmented(Images(length), lambda x: x, seed=0), batch_size, seed=seed, rank=rank, world=world
    )
    batches.set_epoch(epoch)
    listed = list(batches)
    assert len(listed) == len(batches)
    return listed


def test_the_order_changes_with_epoch_and_seed_only() -> None:
    assert order(20, 4) == order(20, 4)
    assert order(20, 4) != order(20, 4, epoch=1)
    assert order(20, 4) != order(20, 4, seed=1)
    torch.manual_seed(5)
    assert order(20, 4, epoch=3) == order(20, 4, epoch=3)


def test_the_augmentation_is_told_the_epoch() -> None:
    batches = TrainBatches(Augmented(Images(4), lambda x: x, seed=0), 2, seed=0)
    batches.set_epoch(7)
    assert batches.data.epoch == 7


@pytest.mark.parametrize(
    "length, batch_size, sizes",
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 4]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (5, 2, [2, 2]),
    ],
)
def test_a_last_batch_of_one_image_is_left_out_where_there_are_others(
    length: int, batch_size: int, sizes: list[int]
) -> None:
    assert [len(batch) for batch in order(length, batch_size)] == sizes


@given(st.integers(2, 60), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_the_parts_of_all_processes_are_the_batches_of_one(
    length: int, each: int, world: int, epoch: int
) -> None:
    parts = [order(length, each * world, epoch=epoch, rank=rank, world=world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    alone = order(length, each * world, epoch=epoch)
    for together, batch in zip(zip(*parts, strict=True), alone, strict=False):
        assert len({len(part) for part in together}) == 1  # gradients are averaged with equal weight
        joined = sorted(i for part in together for i in part)
        assert len(joined) == len(set(joined))
        assert set(joined) <= set(batch)
        assert len(joined) > len(batch) - world


@given(st.integers(0, 30), st.integers(1, 5))
def test_validation_images_are_dealt_to_the_processes_once_each(length: int, world: int) -> None:
    parts = [list(PartOf(length, rank=rank, world=world)) for rank in range(world)]
    assert sorted(i for part in parts for i in part) == list(range(length))
    assert [len(PartOf(length, rank=rank, world=world)) for rank in range(world)] == [len(p) for p in parts]
