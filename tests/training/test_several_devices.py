"""Two processes learn what one learns on the same batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import pixelwise as pw
from pixelwise.data import open_data
from pixelwise.training import Recipe, run

MakeRecipe = Callable[..., Recipe]

# Frozen batch norm (its statistics are per process otherwise), and enlarged images whose crops hold no
# ignored pixel, so that the mean over processes is the mean over pixels. 7 images in batches of 2: the last
# one waits.
NORMS = [
    name for name, part in pw.build("unet", 2, width=4).named_modules() if isinstance(part, nn.BatchNorm2d)
]
PLAIN = {
    "model": "unet",
    "model_arguments": {"width": 4},
    "freeze": NORMS,
    "scale": (1.5, 2.0),
    "optimizer": "sgd",
    "lr": 0.05,
    "epochs": 2,
}


@pytest.mark.slow
def test_two_processes_give_the_loss_scores_and_weights_of_one_on_the_same_batches(
    tiny: MakeRecipe, tmp_path: Path
) -> None:
    one = run(tiny(**PLAIN, out=tmp_path / "one"), progress=False, report=False)
    two = run(tiny(**PLAIN, out=tmp_path / "two", devices=2), progress=False)
    assert [row["step"] for row in two.history] == [3, 6]
    for ours, theirs in zip(one.history, two.history, strict=True):
        for key in ("train_loss", "val_loss", "val_mean_iou", "val_pixel_accuracy", "lr"):
            assert theirs[key] == pytest.approx(ours[key], abs=1e-5), key
    # 3 validation images on two processes: none is counted twice.
    assert int(two.scores.confusion.sum()) == 3 * 40 * 48
    assert two.scores.confusion.equal(one.scores.confusion)
    ours, theirs = load_file(one.last), load_file(two.last)
    for key in ours:
        assert torch.allclose(ours[key], theirs[key], atol=1e-5), key
    start = pw.build("unet", 2, width=4).state_dict()
    assert not torch.allclose(start["head.weight"], ours["head.weight"], atol=1e-3)
    assert two.report.exists()


@pytest.mark.slow
def test_what_stops_one_process_stops_all_with_one_sentence(tiny: MakeRecipe) -> None:
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) in epoch \d+, step \d+"):
        run(tiny(devices=2, optimizer="sgd", lr=1e30), progress=False)


def test_several_devices_need_data_that_can_be_opened_again(
    tiny: MakeRecipe, boxes: Path, tmp_path: Path
) -> None:
    splits = open_data(boxes)
    recipe = tiny(devices=2, data="")
    with pytest.raises(ValueError, match="give the folder"):
        run(recipe, data=(splits.train, splits.val), progress=False)
    with pytest.raises(ValueError, match="give the folder"):
        run(recipe.changed(data=boxes), data=(splits.train.take([0, 1]), splits.val), progress=False)
    assert not (tmp_path / "run").exists()


def test_batches_must_divide_among_the_devices(tiny: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="3 images cannot be divided by 2 devices"):
        tiny(devices=2, batch_size=3)


def test_there_must_be_an_image_for_each_device(tiny: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="4 devices need as many images in each part"):
        run(tiny(devices=4, batch_size=4), progress=False)
