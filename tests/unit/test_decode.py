"""Decoding in little memory gives what the plain way gives."""

import tracemalloc

import pytest
import torch
from torch import Tensor

from pixelwise.decode import confidence, probabilities, semantic
from pixelwise.types import DenseLogits


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "coarse, size",
    [
        ((2, 5, 8, 12), (64, 96)),
        ((1, 11, 9, 13), (65, 97)),
        ((1, 3, 40, 40), (17, 90)),
        ((3, 1, 4, 4), (9, 9)),
        ((1, 300, 3, 5), (20, 33)),
        ((2, 4, 1, 1), (10, 10)),
        ((1, 6, 21, 30), (21, 30)),
        ((2, 3, 30, 40), (120, 160)),
        ((2, 19, 30, 40), (120, 160)),
        ((1, 2, 30, 40), (120, 170)),
        ((1, 7, 300, 400), (200, 100)),
    ],
)
def test_labels_are_those_of_resizing_everything(
    coarse: tuple[int, ...], size: tuple[int, int], align_corners: bool
) -> None:
    output = DenseLogits(torch.randn(coarse), size, align_corners=align_corners)
    labels = semantic(output).labels
    assert labels.dtype == torch.int64
    assert torch.equal(labels, output.logits.argmax(1))


def test_the_first_of_equal_scores_wins() -> None:
    coarse = torch.tensor([1.0, 3.0, 3.0, 2.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert torch.equal(semantic(DenseLogits(coarse, (5, 5))).labels, torch.ones(1, 5, 5, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_decoding_changes_nothing_and_takes_any_precision(dtype: torch.dtype) -> None:
    coarse = torch.randn(2, 4, 6, 6).to(dtype)
    before = coarse.clone()
    for size in ((6, 6), (12, 12), (90, 70)):
        output = DenseLogits(coarse, size)
        assert torch.equal(semantic(output).labels, output.logits.argmax(1))
        found = confidence(output)
        assert torch.equal(found.labels, output.logits.argmax(1))
        assert found.probability.dtype == torch.float32
        torch.testing.assert_close(found.probability, probabilities(output).amax(1), rtol=2e-6, atol=0)
    assert torch.equal(coarse, before)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_decoded_as_torch_does(wrong: float) -> None:
    for size in ((9, 11), (20, 20), (90, 99)):
        coarse = torch.randn(2, 5, 9, 11)
        coarse[torch.rand(coarse.shape) < 0.05] = wrong
        for align_corners in (False, True):
            output = DenseLogits(coarse, size, align_corners=align_corners)
            assert torch.equal(semantic(output).labels, output.logits.argmax(1))
            assert torch.equal(confidence(output).labels, output.logits.argmax(1))


def test_maps_in_channels_last_are_decoded_up_to_ties() -> None:
    coarse = torch.randn(1, 8, 12, 12).contiguous(memory_format=torch.channels_last)
    output = DenseLogits(coarse, (96, 96))
    # PyTorch resizes the two memory layouts in another order of additions.
    assert (semantic(output).labels == output.logits.argmax(1)).float().mean() > 0.999
    same = DenseLogits(coarse, (12, 12))
    assert torch.equal(semantic(same).labels, coarse.argmax(1))


def test_gradients_and_inference_mode_are_no_obstacle() -> None:
    coarse = torch.randn(1, 4, 30, 30, requires_grad=True)
    expected = DenseLogits(coarse, (100, 90)).logits.argmax(1)
    assert torch.equal(semantic(DenseLogits(coarse, (100, 90))).labels, expected)
    assert not confidence(DenseLogits(coarse, (100, 90))).probability.requires_grad
    with torch.inference_mode():
        assert torch.equal(semantic(DenseLogits(coarse * 1, (100, 90))).labels, expected)


class Decoded(torch.nn.Module):
    """A network's last step that decodes."""

    def forward(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        output = DenseLogits(coarse, (80, 90))
        return semantic(output).labels, confidence(output).probability


@pytest.mark.compile
def test_decoding_can_be_exported_and_compiled() -> None:
    coarse = torch.randn(2, 4, 20, 30)
    expected = Decoded()(coarse)
    exported = torch.export.export(Decoded(), (coarse,)).module()(coarse)
    compiled = torch.compile(Decoded(), fullgraph=True, backend="eager")(coarse)
    for found in (exported, compiled):
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


def test_no_map_of_all_classes_at_image_size_is_made() -> None:
    # 40 classes at 512 x 512 are 42 MB as scores, 2 MB as labels.
    output = DenseLogits(torch.randn(1, 40, 16, 16), (512, 512))
    for decode in (semantic, confidence):
        decode(output)
        tracemalloc.start()
        with torch.profiler.profile(profile_memory=True) as profile:
            decode(output)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        largest = max(event.cpu_memory_usage for event in profile.events())
        assert 0 < largest < 2 * 512 * 512 * 8
        assert peak < 512 * 512 * 8


def test_probabilities_sum_to_one_and_agree_with_the_labels() -> None:
    output = DenseLogits(3 * torch.randn(2, 5, 8, 8), (33, 20))
    found = probabilities(output)
    assert found.shape == (2, 5, 33, 20)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 33, 20))
    assert (found.argmax(1) == semantic(output).labels).float().mean() > 0.999


@pytest.mark.parametrize("coarse", [(1, 4, 3, 5, 6), (2, 4, 6, 10, 12)])
def test_a_volume_is_decoded_as_its_resized_scores(coarse: tuple[int, ...]) -> None:
    output = DenseLogits(torch.randn(coarse, generator=torch.Generator().manual_seed(0)), (6, 10, 12))
    expected = output.logits.argmax(1)
    assert expected.shape == (coarse[0], 6, 10, 12)
    assert torch.equal(semantic(output).labels, expected)
    found = confidence(output)
    assert torch.equal(found.labels, expected)
    torch.testing.assert_close(found.probability, probabilities(output).amax(1))
