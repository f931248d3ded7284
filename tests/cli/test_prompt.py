"""`pixelwise prompt`: a picture of masks from points and boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.checkpoint import save
from pixelwise.types import ClassTable


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = pw.build("sam", image_size=64, patch=8, width=16, depth=2, decoder_width=32)
    return save(model, tmp_path / "sam.safetensors", ClassTable.of("object")) or tmp_path / "sam.safetensors"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)).save(path)
    return path


def test_points_and_boxes_give_a_mask_and_the_embedding_is_kept(
    pixelwise, weights, picture, tmp_path
) -> None:
    kept, out = tmp_path / "seen.safetensors", tmp_path / "mask.png"
    common = ("prompt", picture, "--model", weights, "--embedding", kept)
    shown = pixelwise(*common, "--point", "20,10", "--outside", "40,30", "--box", "5,5,50,35", "--out", out)
    assert shown.code == 0, shown.err
    assert "1 mask, expected IoU" in shown.out
    assert kept.is_file()
    first = np.asarray(Image.open(out))
    assert first.shape == (40, 52)
    assert set(np.unique(first)) <= {0, 255}
    again = pixelwise(
        *common, "--point", "20,10", "--outside", "40,30", "--box", "5,5,50,35", "--out", out, "--overwrite"
    )
    assert again.code == 0, again.err
    assert np.array_equal(np.asarray(Image.open(out)), first)
    boxes = pixelwise(*common, "--box", "5,5,50,35", "--box", "1,1,9,9", "--out", tmp_path / "two.npy")
    assert boxes.code == 0, boxes.err
    assert np.load(tmp_path / "two.npy").shape == (2, 40, 52)


def test_everything_is_found_without_prompts(pixelwise, weights, picture, tmp_path) -> None:
    out = tmp_path / "all.json"
    loose = ("--points-per-side", 2, "--min-iou", -9, "--min-stability", 0)
    shown = pixelwise("prompt", picture, "--model", weights, "--everything", *loose, "--out", out)
    assert shown.code == 0, shown.err
    assert out.is_file()


@pytest.mark.parametrize(
    "arguments, told",
    [
        ((), "give points (--point) or boxes (--box) of what you mean, or --everything"),
        (("--point", "20"), "--point takes 2 numbers in pixels, such as 120,80, got '20'"),
        (("--point", "99,10"), "the point 99,10 lies outside of the image"),
        (("--box", "9,9,9,20"), "the box 9,9,9,20 has no area"),
        (("--point", "1,1", "--box", "1,1,5,5", "--box", "2,2,6,6"), "give points with one box only"),
    ],
)
def test_bad_prompts_are_one_sentence(pixelwise, weights, picture, tmp_path, arguments, told) -> None:
    shown = pixelwise("prompt", picture, "--model", weights, "--out", tmp_path / "x.png", *arguments)
    assert shown.code == 2
    assert told in " ".join(shown.err.split())
    assert not (tmp_path / "x.png").exists()
