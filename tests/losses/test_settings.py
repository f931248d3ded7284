"""Settings of losses that cannot be, and what labels may hold."""

import subprocess
import sys

import pytest
import torch

from pixelwise.losses import CrossEntropy, Dice, Focal, FocalTversky, Lovasz, Ohem, Tversky, cross_entropy


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        CrossEntropy(label_smoothing=1.5)
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        Focal(gamma=-1.0)
    with pytest.raises(ValueError, match=r"alpha of classes that are not exclusive must be in \[0, 1\]"):
        Focal(alpha=[0.5, 2.0], exclusive=False)
    with pytest.raises(ValueError, match="class weights must be finite and at least 0"):
        Dice(weight=[1.0, float("nan")])
    with pytest.raises(ValueError, match=r"alpha and beta must be at least 0, got -0\.1 and 0\.7"):
        Tversky(alpha=-0.1)
    with pytest.raises(ValueError, match="gamma must be positive, got 0"):
        FocalTversky(gamma=0.0)
    with pytest.raises(ValueError, match=r"threshold must be a probability in \[0, 1\], got 70"):
        Ohem(threshold=70.0)
    with pytest.raises(ValueError, match="min_kept must be at least 0, got -5"):
        Ohem(min_kept=-5)
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], got 0"):
        Ohem(fraction=0.0)


@pytest.mark.compile
def test_unknown_words_are_named() -> None:
    with pytest.raises(ValueError, match="classes must be present or all, got 'some'"):
        Lovasz(classes="some")
    with pytest.raises(ValueError, match="reduction must be mean, sum or none, got 'image_sum'"):
        Dice(reduction="image_sum")


def test_what_labels_may_hold_is_said_in_one_sentence() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [2, 3]]])
    with pytest.raises(ValueError, match=r"^labels must be in 0\.\.2 or 255 to be ignored, got 3$"):
        cross_entropy(logits, labels)
    with pytest.raises(ValueError, match=r"must be 0, 1 or 255 to be ignored, got 2$"):
        cross_entropy(logits, labels[:, None].expand(1, 3, 2, 2), exclusive=False)


def test_a_map_of_weights_of_another_size_is_named() -> None:
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises((ValueError, TypeError), match="pixel_weight"):
        cross_entropy(logits, labels, pixel_weight=torch.ones(1, 2, 1))


def test_a_sum_beyond_the_range_of_float16_is_finite() -> None:
    logits, labels = torch.full((1, 2, 40, 40), 100.0), torch.zeros(1, 40, 40, dtype=torch.long)
    logits[:, 0] = -100.0
    loss = cross_entropy(logits.half(), labels, reduction="sum")
    assert loss.item() == pytest.approx(200 * 1600)  # float16 ends at 65504


def test_losses_are_imported_without_the_slow_packages() -> None:
    code = (
        "import sys, pixelwise.losses;"
        "slow = {'torchmetrics', 'lightning', 'torchvision', 'timm', 'numba', 'scipy'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
