"""Averages over views of an image are undone exactly."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.predict import Predictor, flipped, scaled
from pixelwise.types import ClassTable, DenseLogits

IMAGE = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(0))


def pointwise(image: Tensor) -> DenseLogits:
    return DenseLogits(5 * image, tuple(image.shape[-2:]))


def lopsided(image: Tensor) -> DenseLogits:
    """Scores that depend on where a pixel lies: as no mirror image does."""
    ramp = torch.linspace(0, 3, image.shape[-1])
    return DenseLogits(5 * image * ramp, tuple(image.shape[-2:]))


def test_a_network_without_a_side_gains_nothing_from_mirror_images() -> None:
    image = torch.rand(2, 4, 9, 11)
    expected = pointwise(image).logits.log_softmax(1)
    torch.testing.assert_close(flipped(pointwise)(image).logits, expected)


def test_the_mirror_image_gives_the_mirror_result() -> None:
    image = torch.rand(2, 4, 9, 11)
    straight, mirrored = flipped(lopsided)(image).logits, flipped(lopsided)(image.flip(-1)).logits
    torch.testing.assert_close(mirrored.flip(-1), straight)
    assert not torch.allclose(lopsided(image.flip(-1)).logits.flip(-1), lopsided(image).logits, atol=0.1)


def test_flipping_averages_probabilities() -> None:
    image = torch.rand(1, 3, 6, 8)
    one = lopsided(image).logits.softmax(1)
    other = lopsided(image.flip(-1)).logits.flip(-1).softmax(1)
    torch.testing.assert_close(flipped(lopsided)(image).logits.softmax(1), (one + other) / 2)


def test_scales_average_probabilities_at_the_size_of_the_image() -> None:
    image = torch.rand(1, 3, 20, 31)
    views = []
    for size in ((10, 16), (20, 31), (30, 46)):
        view = image if size == (20, 31) else F.interpolate(image, size, mode="bilinear", antialias=True)
        views.append(F.interpolate(5 * view, (20, 31), mode="bilinear").softmax(1))
    output = scaled(pointwise, (0.5, 1.0, 1.5))(image)
    assert output.size == (20, 31)
    torch.testing.assert_close(output.logits.softmax(1), sum(views) / 3)


def test_one_scale_of_one_changes_only_the_constant() -> None:
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(scaled(pointwise, (1.0,))(image).logits, (5 * image).log_softmax(1))


def test_improbable_classes_do_not_become_infinite() -> None:
    def sure(image: Tensor) -> DenseLogits:
        return DenseLogits(1000 * image, tuple(image.shape[-2:]))

    assert flipped(sure)(torch.rand(1, 3, 8, 8)).logits.isfinite().all()


@pytest.mark.parametrize(
    "scales", [(), (1.0, 0.0), (-1.0,), (1000.0,), (1.0, float("nan")), (float("nan"), 1.0), (float("inf"),)]
)
def test_wrong_scales_are_told(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scales must be positive, at most 16 and at least one"):
        scaled(pointwise, scales)


def test_classes_that_may_overlap_are_averaged_one_by_one() -> None:
    image = torch.rand(1, 3, 6, 8)
    one = lopsided(image).logits.sigmoid()
    other = lopsided(image.flip(-1)).logits.flip(-1).sigmoid()
    found = flipped(lopsided, exclusive=False)(image).logits.sigmoid()
    torch.testing.assert_close(found, (one + other) / 2)
    classes = ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3, exclusive=False)
    model = pw.build("pspnet", 3, encoder="tiny").eval()
    views = [Predictor(model, classes)(x, probabilities=True).probabilities for x in (IMAGE, IMAGE.flip(-1))]
    both = Predictor(model, classes, flip=True)(IMAGE, probabilities=True).probabilities
    torch.testing.assert_close(both, (views[0] + views[1].flip(-1)) / 2)
