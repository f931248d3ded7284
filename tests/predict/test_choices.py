"""Test-time choices are taken where they help by more than noise, kept with the weights, and overridden."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from skimage.measure import label, regionprops
from torch import Tensor, nn

import pixelwise as pw
from pixelwise.data import SegmentationData
from pixelwise.data.dataset import Pair
from pixelwise.decode import component_sizes, without_small_components, without_small_holes
from pixelwise.layers import size_of
from pixelwise.predict.choices import choose
from pixelwise.types import ClassTable, DenseLogits, DenseModel, Sample

TABLE = ClassTable.of("ground", "thing")


class Bright(DenseModel):
    """Probability of the second class: the brightness, on the left half with something added."""

    def __init__(self, *, left: float = 0.0) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.minimum_size, self.left = 2, 3, 8, left
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        size = size_of(image, self.minimum_size)
        brightness = image.mean(1, keepdim=True).clamp(0.01, 0.99)
        brightness[..., : image.shape[-1] // 2] += self.left
        scores = brightness.clamp(0.01, 0.99).logit() * self.scale
        return DenseLogits(torch.cat([torch.zeros_like(scores), scores], 1), size)


def folder(root: Path, images: list[np.ndarray], masks: list[np.ndarray]) -> SegmentationData:
    pairs = []
    for i, arrays in enumerate(zip(images, masks, strict=True)):
        for kind, array in zip(("images", "masks"), arrays, strict=True):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / kind / f"{i}.png")
        pairs.append(Pair(root / "images" / f"{i}.png", root / "masks" / f"{i}.png", f"{i}"))
    return SegmentationData(tuple(pairs), TABLE)


def squares(count: int) -> list[np.ndarray]:
    masks = []
    for i in range(count):
        mask = np.zeros((40, 48), np.uint8)
        mask[6 : 24 + i, 6:22] = mask[10:30, 27 : 40 + i] = 1
        masks.append(mask)
    return masks


def test_fewer_images_are_looked_at_where_time_is_short(tmp_path, monkeypatch) -> None:
    masks = squares(12)
    data = folder(tmp_path, [np.where(mask, 200, 140) for mask in masks], masks)
    predictor, now = pw.Predictor(Bright(), classes=TABLE), [0.0]
    in_ways = type(predictor).in_ways

    def slowly(self, sample, settings):
        now[0] += len(settings)
        return in_ways(self, sample, settings)

    monkeypatch.setattr(type(predictor), "in_ways", slowly)
    monkeypatch.setattr("pixelwise.predict.choices.time.monotonic", lambda: now[0])
    assert choose([(predictor, data)], patience=200.0).images == 12
    assert choose([(predictor, data)], patience=48.0).images == 6
    began = now[0]
    late = choose([(predictor, data)], patience=3.0)
    assert (late.trials, late.images < 4, now[0] - began) == ((), True, 1.0)


def test_a_threshold_that_helps_every_image_is_taken(tmp_path) -> None:
    masks = squares(6)
    data = folder(tmp_path, [np.where(mask, 200, 140) for mask in masks], masks)  # 0.55 counts as a thing
    choices = choose([(pw.Predictor(Bright(), TABLE), data)])
    assert choices.images == 6
    assert choices.decoding == {"threshold": 0.6}
    taken = [trial for trial in choices.trials if trial.taken]
    assert len(taken) == 1
    assert taken[0].gain > 0.3
    assert "threshold=0.60: mean IoU +0." in str(taken[0])
    assert str(taken[0]).endswith(", taken")


def test_nothing_is_taken_where_predictions_are_right_already(tmp_path) -> None:
    masks = squares(5)
    data = folder(tmp_path, [np.where(mask, 230, 20) for mask in masks], masks)
    choices = choose([(pw.Predictor(Bright(), TABLE), data)])
    assert choices.decoding == {}
    assert len(choices.trials) >= 3
    assert not any(trial.taken for trial in choices.trials)


def test_small_specks_are_removed_where_that_helps(tmp_path) -> None:
    masks, random = squares(5), np.random.default_rng(0)
    images = []
    for mask in masks:
        image = np.where(mask, 230, 20)
        speck = random.integers(0, 40, (60, 2))
        image[speck[:, 0], speck[:, 1]] = 230 - image[speck[:, 0], speck[:, 1]] + 20
        images.append(image)
    choices = choose([(pw.Predictor(Bright(), TABLE), folder(tmp_path, images, masks))])
    assert choices.decoding["min_component"] >= 2
    assert "threshold" not in choices.decoding


def test_mirror_images_are_taken_where_one_side_is_unsure(tmp_path) -> None:
    masks = squares(5)
    data = folder(tmp_path, [np.where(mask, 210, 40) for mask in masks], masks)
    choices = choose([(pw.Predictor(Bright(left=0.36), TABLE), data)])  # 0.16 + 0.36 on one side
    assert choices.decoding == {"flip": True}


def test_a_gain_on_one_image_only_is_noise(tmp_path) -> None:
    masks = squares(8)
    images = [np.where(mask, 230, 20) for mask in masks]
    images[3] = np.where(masks[3], 230, 140)  # a threshold of 0.6 helps here
    images[4] = np.where(masks[4], 145, 20)  # and hurts there
    assert (
        "threshold" not in choose([(pw.Predictor(Bright(), TABLE), folder(tmp_path, images, masks))]).decoding
    )


def test_three_images_tell_no_error_so_nothing_is_tried(tmp_path) -> None:
    masks = squares(3)
    data = folder(tmp_path, [np.where(mask, 200, 140) for mask in masks], masks)
    assert choose([(pw.Predictor(Bright(), TABLE), data)]).trials == ()


def test_images_of_folds_count_together(tmp_path) -> None:
    masks = squares(6)
    data = folder(tmp_path, [np.where(mask, 200, 140) for mask in masks], masks)
    predictor = pw.Predictor(Bright(), TABLE)
    parts = [(predictor, data.take(range(3))), (predictor, data.take(range(3, 6)))]
    assert choose(parts).decoding == choose([(predictor, data)]).decoding == {"threshold": 0.6}


def test_what_was_chosen_is_applied_and_overridden(tmp_path) -> None:
    torch.manual_seed(0)
    model = pw.build("pspnet", 2, encoder="tiny").eval()
    path = tmp_path / "best.safetensors"
    image = torch.rand(3, 48, 56)
    middle = float(pw.Predictor(model, TABLE)(image, probabilities=True).probabilities[1].median())
    chosen = {"threshold": middle, "flip": True, "min_component": 6}
    pw.save(model, path, TABLE, task="semantic", decoding=chosen)

    def labels(**settings) -> Tensor:
        source = settings.pop("source", path)
        return pw.Predictor(source, **settings)(image).label_map.labels

    with_all, plain = labels(), labels(plain=True)
    bare = pw.Predictor(model, TABLE)(image).label_map.labels
    assert plain.equal(bare)
    assert not with_all.equal(plain)
    off = {"threshold": None, "min_component": 0}
    assert labels(flip=False, decoding=off).equal(plain)
    assert pw.Predictor(path).flip
    assert not pw.Predictor(path, flip=False).flip
    with_probabilities = pw.Predictor(path)(image, probabilities=True)
    assert with_probabilities.label_map.labels.equal(with_all)
    pw.save(model, path, TABLE, task="semantic", decoding={"crf": True})
    assert pw.Predictor(path).refine is not None
    assert pw.Predictor(path, decoding={"crf": False}).refine is None
    assert pw.Predictor(path, plain=True).refine is None


def test_the_threshold_is_that_of_the_second_class() -> None:
    image = torch.rand(3, 20, 24)
    predictor = pw.Predictor(Bright(), TABLE, decoding={"threshold": 0.7})
    found = predictor(image)
    expected = (image.mean(0).clamp(0.01, 0.99) > 0.7).long()
    assert found.label_map.labels.equal(expected)
    tiled = pw.Predictor(Bright(), TABLE, tile=(16, 16), overlap=4, decoding={"threshold": 0.7})
    assert tiled(image).label_map.labels.equal(expected)
    three = pw.build("pspnet", 3, encoder="tiny")
    with pytest.raises(ValueError, match=r"is for two classes, got 0\.7 for 3"):
        pw.Predictor(three, ClassTable.of("a", "b", "c"), decoding={"threshold": 0.7})(torch.rand(3, 32, 32))


def test_components_below_the_least_size_take_the_label_around_them() -> None:
    labels = torch.zeros(9, 9, dtype=torch.int64)
    labels[2:7, 2:7] = 1
    labels[4, 4] = 0  # a hole
    labels[0, 8] = 2  # a speck
    expected = torch.zeros(9, 9, dtype=torch.int64)
    expected[2:7, 2:7] = 1
    assert without_small_components(labels, 3).equal(expected)
    assert sorted(component_sizes(labels).tolist()) == [1, 1, 24, 55]
    assert without_small_components(labels, 1).equal(labels)
    volume = torch.zeros(4, 4, 4, dtype=torch.int64)
    volume[1, 1, 1] = 5
    assert without_small_components(volume, 2).equal(torch.zeros_like(volume))
    every = torch.arange(4).view(2, 2)
    assert without_small_components(every, 2).equal(every)  # nothing else is there


def test_small_components_are_removed_over_the_borders_of_tiles() -> None:
    image = torch.zeros(3, 32, 48)
    image[:, 14:18, 5:40] = 1  # 140 pixels, of which each tile sees fewer
    whole = pw.Predictor(Bright(), TABLE, decoding={"min_component": 100})
    tiles = pw.Predictor(Bright(), TABLE, tile=(16, 16), overlap=0, decoding={"min_component": 100})
    assert whole(image).label_map.labels.sum() == 140
    assert tiles(image).label_map.labels.equal(whole(image).label_map.labels)
    gone = pw.Predictor(Bright(), TABLE, decoding={"min_component": 141})
    assert gone(image).label_map.labels.sum() == 0
    with pytest.raises(ValueError, match="min_component must be a number of pixels, got -1"):
        pw.Predictor(Bright(), TABLE, decoding={"min_component": -1})(image)


class BrightVoxels(Bright):
    """The same of volumes."""

    tasks = ("volume",)

    def forward(self, image: Float[Tensor, "b c D H W"]) -> DenseLogits:
        scores = (image.mean(1, keepdim=True) - 0.6) * self.scale
        return DenseLogits(torch.cat([torch.zeros_like(scores), scores], 1), tuple(image.shape[2:]))


def test_several_settings_of_a_volume_start_from_the_same_labels() -> None:
    model, volume = BrightVoxels(), torch.rand(3, 18, 20, 22)
    predictor = pw.Predictor(model, TABLE, tile=(16, 16, 16))
    settings = [{"min_component": size} for size in (400, 0, 5)]
    found = predictor.in_ways(Sample(volume, None, "volume"), settings)
    for one, setting in zip(found, settings, strict=True):
        alone = pw.Predictor(model, TABLE, tile=(16, 16, 16), decoding=setting)(volume)
        assert one.labels.equal(alone.label_map.labels)
    assert len({int(one.labels.sum()) for one in found}) == 3


@pytest.mark.parametrize("most", [1, 3, 8])
def test_small_holes_are_those_that_scikit_image_counts(most: int) -> None:
    rng = torch.Generator().manual_seed(most)
    scores = torch.randn(3, 41, 57, generator=rng) + 0.6
    scores[2] = -1.0  # no mask at all is no hole
    expected = scores.clone()
    for wanted, outside in zip(expected, (scores <= 0).numpy(), strict=True):
        for region in regionprops(label(outside, connectivity=2)):
            if region.area <= most:
                rows, columns = region.coords.T
                wanted[rows, columns] = 0.1
    found = without_small_holes(scores, most)
    assert not found.equal(scores)
    assert found.equal(expected)
    assert without_small_holes(scores, 0) is scores
