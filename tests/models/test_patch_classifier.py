"""The sliding window and its dense form; a stack of convolutions at full resolution."""

import pytest
import torch

from pixelwise.models.full_resolution_cnn import full_resolution_cnn
from pixelwise.models.patch_classifier import WINDOW, PatchClassifier, patch_classifier
from pixelwise.ops import measured_receptive_field


@pytest.fixture(scope="module")
def small() -> PatchClassifier:
    torch.manual_seed(0)
    return patch_classifier(3, width=8).eval()


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (20, 7)])
def test_the_sliding_window_and_the_dense_form_give_the_same_map(
    small: PatchClassifier, size: tuple[int, int]
) -> None:
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        dense, slid = small(image).logits, small.slide(image)
    assert dense.std() > 1e-3
    assert dense.shape == slid.shape == (2, 3, *size)
    torch.testing.assert_close(dense, slid, atol=1e-5, rtol=1e-4)


def test_at_a_stride_every_nth_score_remains(small: PatchClassifier) -> None:
    image = torch.rand(1, 3, 13, 18)
    with torch.no_grad():
        torch.testing.assert_close(
            small.slide(image, 4), small(image).logits[..., ::4, ::4], atol=1e-5, rtol=1e-4
        )


def test_a_pixel_is_labelled_by_the_window_around_it(small: PatchClassifier) -> None:
    image = torch.rand(1, 3, 80, 70)
    with torch.no_grad():
        window = small.normalize(image)[..., 40 - 23 : 40 + 23, 33 - 23 : 33 + 23]
        alone = small.classify(window)
        torch.testing.assert_close(small(image).logits[..., 40, 33], alone, atol=1e-5, rtol=1e-4)


def test_the_field_is_the_window(small: PatchClassifier) -> None:
    assert measured_receptive_field(patch_classifier(2, width=4), (96, 96)) == (WINDOW, WINDOW)


def test_layers_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = patch_classifier(8)
    widths = [layer.out_channels for layer in (model.conv1, model.conv2, model.conv3)]
    assert widths == [16, 64, 256]


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_n_layers_at_full_resolution_see_2n_plus_1_pixels(depth: int) -> None:
    field = measured_receptive_field(full_resolution_cnn(2, width=4, depth=depth), (32, 32))
    assert field == (2 * depth + 1, 2 * depth + 1)


def test_no_map_of_the_stack_is_smaller_than_the_image() -> None:
    model, sizes = full_resolution_cnn(2, width=4, depth=3).eval(), []
    for layer in model.layers:
        layer.register_forward_hook(lambda _m, _x, y: sizes.append(tuple(y.shape[-2:])))
    model(torch.rand(1, 3, 5, 9))
    assert sizes == [(5, 9)] * 3
