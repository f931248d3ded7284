"""`pixelwise style`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, size in (("photo", (40, 56)), ("painting", (48, 48)), ("other", (48, 40))):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    labels = np.zeros((40, 56), np.uint8)
    labels[:, 28:] = 15
    Image.fromarray(labels).save(tmp_path / "mask.png")
    return tmp_path


QUICK = ("--encoder", "tiny", "--weights", "random", "--size", "56", "--scales", "1", "--steps", "4")


def test_a_photograph_is_painted_with_previews(pixelwise, pictures: Path) -> None:
    out, previews = pictures / "out.png", pictures / "previews"
    given = ("style", pictures / "photo.png", pictures / "painting.png", "--out", out, *QUICK)
    done = pixelwise(*given, "--previews", previews, "--preview-every", 2)
    assert done.code == 0, done.err
    assert "56 x 40 pixels with random filters" in " ".join(done.out.split())
    with Image.open(out) as painted:
        assert painted.size == (56, 40)
    assert sorted(path.name for path in previews.glob("*.png")) == ["out_00002.png", "out_00004.png"]
    assert "--overwrite" in pixelwise(*given).sentence
    assert pixelwise(*given, "--overwrite").code == 0


def test_only_what_the_mask_marks_is_painted(pixelwise, pictures: Path) -> None:
    out = pictures / "out.png"
    done = pixelwise(
        "style", pictures / "photo.png", pictures / "painting.png", "--out", out, *QUICK,
        "--mask", pictures / "mask.png", "--labels", 15,
    )  # fmt: skip
    assert done.code == 0, done.err
    photo, painted = (np.array(Image.open(path)).astype(int) for path in (pictures / "photo.png", out))
    assert (photo[:, :28] == painted[:, :28]).all()
    assert (photo[:, 28:] != painted[:, 28:]).any()


def test_that_random_filters_are_taken_is_said(pixelwise, pictures: Path, monkeypatch) -> None:
    from pixelwise.encoders import WeightsUnavailable
    from pixelwise.style import Vgg19, networks

    def fail(name: str) -> None:
        raise WeightsUnavailable("no connection")

    monkeypatch.setattr(networks, "fetch", fail)
    monkeypatch.setattr(networks, "Vgg19", lambda seed: Vgg19(("conv1_1",), "conv1_1"))
    done = pixelwise(
        "style", pictures / "photo.png", pictures / "painting.png", "--out", pictures / "a.png",
        "--size", 56, "--scales", 1, "--steps", 1,
    )  # fmt: skip
    assert done.code == 0
    assert "filters are random" in done.sentence


@pytest.mark.parametrize(
    "options, words",
    [
        (("--labels", "15"), "give --mask"),
        (("other.png",), "give --mask"),
        (("--mask", "mask.png"), "has 0, 15"),
        (("--mask", "mask.png", "--labels", "3"), "names 3"),
        (("other.png", "photo.png", "--mask", "mask.png", "--labels", "0,15"), "one each"),
        (("--mask", "painting.png", "--labels", "0"), "mask in colours"),
        (("--mask", "mask.png", "--style-mask", "mask.png"), "size"),
        (("--weights", "nowhere.pth"), "from a file are for vgg19"),
        (("--optimizer", "sgd"), "lbfgs or adam"),
        (("--size", "8"), "too small"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(
    pixelwise, pictures: Path, options, words, monkeypatch
) -> None:
    monkeypatch.chdir(pictures)
    done = pixelwise("style", "photo.png", "painting.png", "--out", "out.png", *QUICK, *options)
    assert done.code == 2
    assert words in done.sentence
    assert not (pictures / "out.png").exists()
