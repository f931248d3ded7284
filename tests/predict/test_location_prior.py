"""What is known of a class by its place: counted from training images, added wherever scores are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pixelwise.checkpoint import Checkpoint, ensemble, load, save
from pixelwise.data import Pair, SegmentationData
from pixelwise.export import export
from pixelwise.predict import Predictor
from pixelwise.predict.choices import Part, choose
from pixelwise.predict.location_prior import CELLS, location_prior, read_prior
from pixelwise.registry import build
from pixelwise.types import ClassTable, LabelMap, Sample

CLASSES = ClassTable.of("ground", "sky", "bird")


class Scenes(SegmentationData):
    """Sky above ground, at the same height in every image; some pixels are not labelled, birds are rare."""

    def __init__(self, count: int, *, anywhere: bool = False) -> None:
        super().__init__(
            tuple(Pair(Path(f"{i}.png"), Path(f"{i}.mask.png"), str(i)) for i in range(count)), CLASSES
        )
        self.anywhere = anywhere

    def target(self, index: int) -> LabelMap:
        random = np.random.default_rng(index)
        labels = torch.zeros(48, 64, dtype=torch.int64)
        labels[: 24 if not self.anywhere else int(random.integers(48))] = 1
        labels[:, :3] = CLASSES.ignore
        return LabelMap(labels)


@pytest.fixture(scope="module")
def prior() -> list[list[list[float]]]:
    found = location_prior(Scenes(9))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("unet", 3, encoder="tiny").eval()


def test_it_is_the_logarithm_of_the_share_at_a_place_over_that_everywhere(prior: list) -> None:
    table = torch.tensor(prior)
    assert table.shape == (3, CELLS, CELLS)
    # nine images and one of average contents, of which half is sky
    assert table[1, 0, 8].item() == pytest.approx(np.log((9 + 0.5) / 10 / 0.5), abs=0.006)
    assert table[0, 0, 8].item() == pytest.approx(np.log(0.5 / 10 / 0.5), abs=0.006)
    assert torch.equal(table[2], torch.zeros(CELLS, CELLS))  # nobody has seen a bird
    assert (table[:2, :, 0].exp().sum() / CELLS - 2).abs() < 0.1 * 2  # hardly labelled: nearly nothing known


def test_classes_that_lie_anywhere_have_nearly_none() -> None:
    near, far = (
        torch.tensor(location_prior(Scenes(200, anywhere=anywhere)))[:2, 4:12] for anywhere in (True, False)
    )
    assert near.abs().mean() < 0.5 * far.abs().mean()


def test_nothing_labelled_tells_nothing() -> None:
    class Empty(Scenes):
        def target(self, index: int) -> LabelMap:
            return LabelMap(torch.full((8, 8), CLASSES.ignore))

    assert location_prior(Empty(2)) is None


def expected(network: torch.nn.Module, image: torch.Tensor, prior: list) -> torch.Tensor:
    with torch.no_grad():
        scores = network(image[None]).logits
    there = F.interpolate(torch.tensor(prior)[None], size=image.shape[1:], mode="bilinear")
    return (scores + there).softmax(1)[0]


@pytest.mark.parametrize("size", [(64, 96), (67, 51), (20, 33)])
def test_it_is_added_to_the_scores_of_the_whole_image(network, prior: list, size: tuple[int, int]) -> None:
    image = torch.rand(3, *size)
    predict = Predictor(network, CLASSES, decoding={"location_prior": prior})
    found = predict(image, probabilities=True)
    assert found.probabilities is not None
    if min(size) >= network.minimum_size:
        torch.testing.assert_close(found.probabilities, expected(network, image, prior), atol=0.02, rtol=0)
    assert torch.equal(found.label_map.labels, predict(image).label_map.labels)
    plain = Predictor(network, CLASSES)(image, probabilities=True).probabilities
    assert (found.probabilities - plain).abs().max() > 0.1


@pytest.mark.parametrize("blend", ["gaussian", "crop"])
def test_tiles_and_streams_know_their_place(network, prior: list, blend: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8)
    settings = {"tile": (64, 64), "overlap": 32, "blend": blend}
    plain, placed = (
        Predictor(network, CLASSES, decoding={"location_prior": one}, **settings) for one in (None, prior)
    )
    there = F.interpolate(torch.tensor(prior)[None], size=image.shape[:2], mode="bilinear")[0]
    wanted = (plain(image, probabilities=True).probabilities.log() + there).softmax(0)
    found = placed(image, probabilities=True)
    torch.testing.assert_close(found.probabilities, wanted, atol=0.02, rtol=0)
    assert (placed(image).label_map.labels == wanted.argmax(0)).float().mean() > 0.99
    streamed = np.load(placed.stream(image, tmp_path / "labels.npy"))
    assert (streamed == placed(image).label_map.labels.numpy()).mean() > 0.999


def test_mirror_images_keep_the_place(network, prior: list) -> None:
    image = torch.rand(3, 64, 64)
    plain, placed = (
        Predictor(network, CLASSES, flip=True, decoding={"location_prior": one})(
            image, probabilities=True
        ).probabilities
        for one in (None, prior)
    )
    there = F.interpolate(torch.tensor(prior)[None], size=(64, 64), mode="bilinear")[0]
    torch.testing.assert_close(placed, (plain.log() + there).softmax(0), atol=1e-4, rtol=0)


def test_it_stays_with_the_weights_and_plain_leaves_it_out(network, prior: list, tmp_path: Path) -> None:
    path, image = tmp_path / "a.safetensors", torch.rand(3, 64, 64)
    save(network, path, CLASSES, decoding={"location_prior": prior})
    found, plain = (Predictor(path, plain=plain)(image, probabilities=True) for plain in (False, True))
    torch.testing.assert_close(found.probabilities, expected(network, image, prior), atol=0.02, rtol=0)
    assert torch.equal(
        plain.probabilities, Predictor(network, CLASSES)(image, probabilities=True).probabilities
    )


def test_ensembles_have_the_mean(network, prior: list, tmp_path: Path) -> None:
    other = (2 * torch.tensor(prior)).tolist()
    for name, one in (("a", prior), ("b", other)):
        save(network, tmp_path / f"{name}.safetensors", CLASSES, decoding={"location_prior": one})
    both = ensemble([load(tmp_path / f"{name}.safetensors") for name in "ab"])
    torch.testing.assert_close(torch.tensor(both.decoding["location_prior"]), 1.5 * torch.tensor(prior))


@pytest.mark.slow
@pytest.mark.compile
def test_an_exported_file_has_it(network, prior: list, tmp_path: Path) -> None:
    image = torch.rand(3, 64, 64)
    found = Checkpoint(network, CLASSES, network.built_by, {}, "semantic", {"location_prior": prior})
    export(found, tmp_path / "m.onnx")
    torch.testing.assert_close(
        Predictor(tmp_path / "m.onnx")(image, probabilities=True).probabilities,
        Predictor(found)(image, probabilities=True).probabilities,
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("wrong", ["high", [[1.0]], [[[1.0]]] * 2, [[[float("nan")]]] * 3, [[[]]] * 3, {}])
def test_what_is_no_prior_is_refused(wrong: object) -> None:
    with pytest.raises(
        ValueError, match="location_prior must hold rows and columns of numbers for each of 3"
    ):
        read_prior(wrong, 3)


def test_models_without_scores_of_pixels_have_none(prior: list) -> None:
    with pytest.raises(
        ValueError, match="location_prior is for scores of pixels, this model gives MaskFormerLogits"
    ):
        Predictor(
            build("maskformer", 3, encoder="tiny"),
            CLASSES,
            task="semantic",
            decoding={"location_prior": prior},
        )


@pytest.mark.parametrize("count, tried", [(3, False), (6, True)])
def test_validation_images_decide_where_there_are_enough(
    brightness, classes: ClassTable, count: int, tried: bool
) -> None:
    class Grey(SegmentationData):
        """The upper half is bright; its images are grey all over, so that a network cannot tell."""

        def __getitem__(self, index: int) -> Sample:
            return Sample(torch.full((3, 32, 32), 0.5), self.target(index), str(index))

        def target(self, index: int) -> LabelMap:
            labels = torch.ones(32, 32, dtype=torch.int64)
            labels[:16] = 2
            labels[0, index] = 0
            return LabelMap(labels)

        def with_channels(self, channels: int) -> "Grey":
            return self

        def take(self, indices: Sequence[int]) -> "Grey":
            return Grey(tuple(self.pairs[i] for i in indices), self.classes)

    pairs = tuple(Pair(Path(f"{i}.png"), Path(f"{i}.mask.png"), str(i)) for i in range(count))
    data = Grey(pairs, classes)
    prior = location_prior(data)
    model = brightness()
    found = choose([(Predictor(model, classes), data)], location_prior=(10 * torch.tensor(prior)).tolist())
    assert "location_prior" in found.decoding
    assert (found.trials[0].gain > 0.1) == tried
    assert str(found.trials[0]).startswith("location_prior=3x16x16: ")
    worse = choose([(Predictor(model, classes), data)], location_prior=(-10 * torch.tensor(prior)).tolist())
    assert ("location_prior" in worse.decoding) == (not tried)
    if tried:  # each fold tries that of the images that it learnt from; what is kept is that of all images
        parts = [
            Part(
                Predictor(model, classes), data.take(range(i, count, 2)), (10 * torch.tensor(prior)).tolist()
            )
            for i in (0, 1)
        ]
        folds = choose(parts, location_prior=prior)
        assert folds.decoding["location_prior"] == prior
        assert folds.trials[0].gain == pytest.approx(found.trials[0].gain)
