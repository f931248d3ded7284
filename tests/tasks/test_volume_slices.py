"""Volumes by networks for images: slices are learnt, predictions lie over their volume."""

from pathlib import Path

import numpy as np
import pytest
import torch

import pixelwise as pw
from pixelwise.data.datasets.volumes import ReadSlices
from pixelwise.data.formats.volume import Volume
from pixelwise.data.formats.volume_files import read_volume, write_volume
from pixelwise.data.slices import VolumeSlices
from pixelwise.predict import Predictor
from pixelwise.tasks import get_task, open_data
from pixelwise.tasks.volume_slices import VOLUME_SLICES, inferred
from pixelwise.types import ClassTable, DenseLogits, Sample

AFFINE = np.array([[0.0, 0.0, 2.0, 5.0], [0.0, 1.5, 0.0, -3.0], [-1.0, 0.0, 0.0, 7.0], [0, 0, 0, 1.0]])
SHAPE = (5, 7, 9)


def volumes(root: Path, shape: tuple[int, int, int] = SHAPE, count: int = 3) -> Path:
    """Volumes whose structure is brighter."""
    chance = np.random.default_rng(0)
    for number in range(count):
        labels = (np.kron(chance.integers(0, 2, (2, 2, 2)), np.ones([-(-s // 2) for s in shape])))[
            tuple(slice(side) for side in shape)
        ].astype(np.uint8)
        image = (labels * 300.0 + chance.normal(100, 20, shape)).astype(np.float32)
        for kind, voxels in (("images", image), ("labels", labels)):
            like = Volume(voxels, (1.0, 1.5, 2.0), AFFINE, None)
            (root / kind).mkdir(parents=True, exist_ok=True)
            write_volume(root / kind / f"{number}.nii.gz", voxels, like)
    return root


@pytest.mark.parametrize(("axis", "place"), [("depth", 0), ("height", 1), ("width", 2)])
def test_samples_are_the_slices_of_all_volumes(tmp_path: Path, axis: str, place: int) -> None:
    data = open_data(volumes(tmp_path), task="volume_slices", val_fraction=0).train
    data = data.with_reading(ReadSlices())
    slices = VolumeSlices(data, axis)
    assert len(slices) == 3 * SHAPE[place]
    whole, number = data[1], SHAPE[place] - 1
    sample = slices[SHAPE[place] + number]
    assert torch.equal(sample.image, whole.image.select(1 + place, number))
    assert torch.equal(sample.target.labels, whole.target.labels.select(place, number))
    assert sample.spacing == tuple(s for i, s in enumerate(whole.spacing) if i != place)
    assert sample.id == f"{whole.id}#{number}"
    with pytest.raises(ValueError, match="slices are cut across depth, height, width, got 'axial'"):
        VolumeSlices(data, "axial")


def test_one_channel_becomes_three_equal_ones_where_a_network_wants_colours(tmp_path: Path) -> None:
    data = open_data(volumes(tmp_path), task="volume_slices", val_fraction=0).train
    image = data.with_reading(ReadSlices()).with_channels(3)[0].image
    assert image.shape == (3, *SHAPE)
    assert torch.equal(image, data[0].image.expand(3, *SHAPE))
    with pytest.raises(ValueError, match="has 1 channel, 2 expected"):
        data.with_reading(ReadSlices()).with_channels(2)[0]


@pytest.mark.parametrize("axis", ["depth", "height", "width"])
def test_predicted_slices_are_stacked_where_they_were(axis: str) -> None:
    """A network that calls bright pixels class 1, and looks at the column too, so that turns are seen."""
    image = torch.rand(1, 11, 13, 17, generator=torch.Generator().manual_seed(0))

    def network(images: torch.Tensor) -> DenseLogits:
        assert min(images.shape[2:]) >= 32
        scores = images[:, 0] - 0.5 + torch.linspace(-0.2, 0.2, images.shape[3])
        return DenseLogits(torch.stack([-scores, scores], 1), tuple(images.shape[2:]))

    settings = {"slices": axis, "min_component": 0}
    found = inferred(network, Sample(image, None, "a", None), ClassTable.of("a", "b"), settings)
    place = ("depth", "height", "width").index(axis)
    along = 2 if place < 2 else 1
    columns = torch.linspace(-0.2, 0.2, 32)[(32 - image.shape[1 + along]) // 2 :]
    shape = [1, 1, 1]
    shape[along] = -1
    expected = image[0] - 0.5 + columns[: image.shape[1 + along]].view(shape) > 0
    assert torch.equal(found.labels, expected.long())


def test_small_slices_lie_among_zeros_as_in_the_windows_of_their_training() -> None:
    """Networks that never saw slices without the zeros around them lost half of the structures there."""
    image = torch.rand(1, 5, 51, 35, generator=torch.Generator().manual_seed(0)) + 0.1
    seen = []

    def network(images: torch.Tensor) -> DenseLogits:
        seen.append(images)
        return DenseLogits(torch.cat([-images + 0.5, images - 0.5], 1), tuple(images.shape[2:]))

    settings = {"slices": "depth", "min_component": 0, "window": [48, 48]}
    found = inferred(network, Sample(image, None, "a", None), ClassTable.of("a", "b"), settings)
    assert torch.equal(found.labels, (image[0] > 0.5).long())
    (whole,) = seen
    assert whole.shape == (5, 1, 51, 48)
    assert torch.equal(whole[:, 0, :, 6:41], image[0])
    assert not whole[..., :6].any()
    assert not whole[..., 41:].any()
    assert VOLUME_SLICES.decoding_of({**settings, "intensity": "min-max", "crop": (48, 40)}) == {
        "intensity": "min-max",
        "slices": "depth",
        "window": [48, 40],
    }


def test_slices_are_learnt_and_a_prediction_lies_over_its_volume(tmp_path: Path) -> None:
    folder = volumes(tmp_path / "data", (12, 34, 36))
    learnt = pw.train(
        folder,
        out=tmp_path / "run",
        model="unet",
        model_arguments={"encoder": "tiny", "width": 4},
        crop=(32, 32),
        steps=60,
        lr=0.01,
        scale=(1.0, 1.0),
        color=0.0,
        batch_size=4,
        workers=0,
        slices="height",
        progress=False,
    )
    predict = Predictor(learnt.best)
    assert predict.task.name == "volume_slices"
    assert predict.decoding["slices"] == "height"
    predict.folder(folder / "images", tmp_path / "found", progress=False)
    scores = []
    for path in sorted((tmp_path / "found").glob("*.nii.gz")):
        given, found = read_volume(folder / "images" / path.name), read_volume(path)
        np.testing.assert_array_equal(found.affine, given.affine)
        truth = read_volume(folder / "labels" / path.name).voxels
        scores.append((found.voxels == truth).mean())
    assert len(scores) == 3
    assert np.mean(scores) > 0.9
    assert learnt.report is not None
    with pytest.raises(ValueError, match="not the task volume_slices"):
        predict.stream(str(folder / "images" / "0.nii.gz"), tmp_path / "a.npy")


def test_a_folder_of_volumes_is_cut_into_slices_for_a_network_for_images_alone(tmp_path: Path) -> None:
    from pixelwise.training import Recipe, make_experiment

    folder = volumes(tmp_path, (16, 16, 16))
    arguments = {"encoder": "tiny", "width": 4}
    flat = Recipe(str(folder), model="unet", model_arguments=arguments, crop=(32, 32))
    assert make_experiment(flat).task is get_task("volume_slices")
    deep = Recipe(str(folder), model="unet3d", model_arguments={"width": 2}, crop=(16, 16, 16))
    assert make_experiment(deep).task is get_task("volume")
