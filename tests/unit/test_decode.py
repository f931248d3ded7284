"""Decoding in little memory gives what the plain way gives."""

import pytest
import torch

from pixelwise.decode import probabilities, semantic
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
    ],
)
def test_class_by_class_equals_resizing_everything(
    coarse: tuple[int, ...], size: tuple[int, int], align_corners: bool
) -> None:
    output = DenseLogits(torch.randn(coarse), size, align_corners=align_corners)
    labels = semantic(output).labels
    assert labels.dtype == torch.int64
    assert torch.equal(labels, output.logits.argmax(1))


def test_the_first_of_equal_scores_wins() -> None:
    coarse = torch.tensor([1.0, 3.0, 3.0, 2.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert torch.equal(semantic(DenseLogits(coarse, (5, 5))).labels, torch.ones(1, 5, 5, dtype=torch.long))


def test_decoding_changes_nothing_and_takes_half_precision() -> None:
    coarse = torch.randn(1, 4, 6, 6).bfloat16()
    before = coarse.clone()
    for size in ((6, 6), (12, 12)):
        output = DenseLogits(coarse, size)
        assert torch.equal(semantic(output).labels, output.logits.argmax(1))
    assert torch.equal(coarse, before)


def test_maps_in_channels_last_are_decoded_up_to_ties() -> None:
    coarse = torch.randn(1, 8, 12, 12).contiguous(memory_format=torch.channels_last)
    output = DenseLogits(coarse, (96, 96))
    # PyTorch resizes the two memory layouts in another order of additions.
    assert (semantic(output).labels == output.logits.argmax(1)).float().mean() > 0.999


def test_no_map_of_all_classes_at_image_size_is_made() -> None:
    # 40 classes at 512 x 512 are 42 MB as scores, 2 MB as labels.
    output = DenseLogits(torch.randn(1, 40, 16, 16), (512, 512))
    with torch.profiler.profile(profile_memory=True) as profile:
        semantic(output)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest < 4 * 512 * 512 * 8


def test_probabilities_sum_to_one_and_agree_with_the_labels() -> None:
    output = DenseLogits(3 * torch.randn(2, 5, 8, 8), (33, 20))
    found = probabilities(output)
    assert found.shape == (2, 5, 33, 20)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 33, 20))
    assert (found.argmax(1) == semantic(output).labels).float().mean() > 0.999
