"""Samples: what is read, what is refused, and random changes that depend on seed, epoch and index alone."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pixelwise.data import Augmented, Pair, SegmentationData, open_data, training_transform
from pixelwise.data.augmentations import DEGRADATIONS, degradations_of
from pixelwise.data.dataset import MaskFiles, random_numbers_of
from pixelwise.data.label_encoding import LabelEncoding
from pixelwise.data.transforms import Compose
from pixelwise.types import Batch, ClassTable, LabelMap, Sample


def collate(samples: list[Sample]) -> Batch:
    return Batch.collate(samples)


@pytest.fixture
def data(pair_folder) -> SegmentationData:
    return open_data(pair_folder(6), val_fraction=0.0).train


def test_a_sample_is_an_image_its_labels_and_a_name(data) -> None:
    sample = data[2]
    assert sample.id == "images/2.png"
    assert sample.image.dtype == torch.float32
    assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert sample.target.labels.dtype == torch.int64
    assert torch.equal(sample.target.labels, data.labels(2))
    assert [s.id for s in data] == [pair.id for pair in data.pairs]


def test_labels_are_stored_in_8_bits_where_they_have_room(data, draw_mask) -> None:
    stored = data.stored(2)
    assert stored.image.dtype == stored.target.labels.dtype == torch.uint8
    assert torch.equal(stored.target.labels.long(), data.labels(2))
    outside = replace(data.classes, ignore=-1)
    encoding = LabelEncoding(outside, (0, 1, 2), (255,))
    far = SegmentationData(data.pairs, outside, read_target=MaskFiles(encoding))
    assert far.stored(2).target.labels.dtype == torch.int64
    draw_mask(data.pairs[1].mask, values=(0, 37))
    with pytest.raises(ValueError, match=r"masks/1\.png holds the value 37"):
        data.stored(1)


@pytest.mark.parametrize("ignore", [255, -1, 300])
def test_pixels_from_outside_get_any_label(data, ignore: int) -> None:
    turned = training_transform((40, 40), scale=(1.0, 1.0), rotation=10.0, ignore=ignore)
    labels = Augmented(data, turned, seed=0)[0].target.labels
    assert labels.dtype == torch.int64
    assert (labels == ignore).any()
    assert set(labels.unique().tolist()) <= {ignore, *data.labels(0).unique().tolist()}


def test_some_of_the_data(data) -> None:
    assert [pair.id for pair in data.take([4, 1]).pairs] == ["images/4.png", "images/1.png"]


def test_an_image_without_a_mask_has_no_target(data) -> None:
    alone = SegmentationData((Pair(data.pairs[0].image, None, "a"),), data.classes, channels=1)
    assert alone[0].target is None
    assert alone[0].image.shape == (1, 12, 16)
    with pytest.raises(ValueError, match="there is no mask of"):
        alone.labels(0)


def test_image_and_mask_of_different_size_name_both_files(data, draw_mask) -> None:
    draw_mask(data.pairs[1].mask, size=(12, 15))
    with pytest.raises(
        ValueError, match=r"images/1\.png has 12 x 16 pixels, its annotation in .*masks/1\.png 12 x 15"
    ):
        data[1]


def test_a_label_outside_the_table_names_file_and_value(data, draw_mask) -> None:
    draw_mask(data.pairs[1].mask, values=(0, 37))
    with pytest.raises(ValueError, match=r"masks/1\.png holds the value 37"):
        data[1]


def test_damaged_files_are_named(data) -> None:
    data.pairs[0].image.write_bytes(data.pairs[0].image.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cannot read .*images/0\.png"):
        data[0]
    data.pairs[1].mask.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot read .*masks/1\.png"):
        data[1]


def test_other_numbers_of_channels(pair_folder) -> None:
    assert open_data(pair_folder(), channels=1).train[0].image.shape == (1, 12, 16)


# --- augmented ------------------------------------------------------------------------------------


def noisy(sample: Sample) -> Sample:
    """Draws from every generator there is."""
    noise = torch.rand(1).item() + random.random() + np.random.rand()  # noqa: NPY002
    return Sample(torch.full_like(sample.image, noise / 3), sample.target, sample.id)


def test_the_same_seed_epoch_and_index_give_the_same_sample(data) -> None:
    one, other = Augmented(data, noisy, seed=5), Augmented(data, noisy, seed=5)
    other[3], other[0]
    assert torch.equal(one[2].image, other[2].image)


def test_another_seed_epoch_or_index_gives_another_sample(data) -> None:
    augmented = Augmented(data, noisy, seed=5)
    first = augmented[2].image[0, 0, 0]
    assert augmented[3].image[0, 0, 0] != first
    assert Augmented(data, noisy, seed=6)[2].image[0, 0, 0] != first
    augmented.epoch = 1
    assert augmented.epoch == 1
    assert augmented[2].image[0, 0, 0] != first
    augmented.epoch = 0
    assert augmented[2].image[0, 0, 0] == first


def test_the_random_numbers_outside_are_left_alone(data) -> None:
    augmented = Augmented(data, noisy, seed=0)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    augmented[0]
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected  # noqa: NPY002


@pytest.mark.parametrize("shared", [True, False])
def test_changes_that_draw_from_torch_alone_leave_the_other_generators_alone(
    data, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All changes of this package do; those of a user are not known."""
    asked = dict.fromkeys(DEGRADATIONS, 1.0)
    steps = [training_transform((8, 8), rotation=5.0, elastic=1.0, rotate90=0.5), *degradations_of(asked)]
    change = Compose(steps if shared else [*steps, noisy])
    assert change.draws_from_torch is shared
    state, touched = np.random.get_state(), []  # noqa: NPY002
    monkeypatch.setattr(np.random, "seed", touched.append)
    monkeypatch.setattr(random, "seed", touched.append)
    augmented = Augmented(data, change, seed=2)
    first = augmented[1].image
    assert bool(touched) is not shared
    assert all((np.random.get_state()[1] == state[1]).tolist())  # noqa: NPY002
    if shared:
        assert torch.equal(first, augmented[1].image)


def test_random_numbers_are_restored_after_an_error() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), random_numbers_of(1, 2, 3):
        torch.rand(5).tolist()[0] / 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_live_on_see_the_epoch_and_give_the_same_samples(data, context) -> None:
    augmented = Augmented(data, training_transform((8, 8)), seed=1)
    loader = DataLoader(
        augmented,
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
        collate_fn=collate,
    )
    seen = []
    for epoch in (0, 1):
        augmented.epoch = epoch
        batches = list(loader)
        alone = [augmented[i] for i in range(len(augmented))]
        assert torch.equal(torch.cat([b.image for b in batches]), torch.stack([s.image for s in alone]))
        seen.append(batches[0].image)
    assert not torch.equal(*seen)


def test_data_can_be_pickled(data) -> None:
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1].target.labels, data[1].target.labels)


def test_padding_has_the_ignore_label_of_the_table() -> None:
    table = ClassTable.of("a", "b", ignore=2)
    sample = Sample(torch.rand(3, 8, 8), LabelMap(torch.zeros(8, 8, dtype=torch.long)), "x")
    one = training_transform((32, 32), scale=(1.0, 1.0), ignore=table.ignore)(sample)
    assert one.target.labels.unique().tolist() == [0, 2]
    assert (one.target.labels == 0).sum() == 64
