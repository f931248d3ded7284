"""`pixelwise background`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.checkpoint import save
from pixelwise.registry import build
from pixelwise.types import ClassTable


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A trained network, so to speak, and pictures."""
    save(build("sinet", 2).eval(), tmp_path / "model.safetensors", ClassTable.of("background", "person"))
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(random.integers(0, 256, (40, 56, 3), np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path


def test_a_photograph_and_a_folder_get_another_background(pixelwise, place: Path) -> None:
    model = ("--model", place / "model.safetensors")
    done = pixelwise(
        "background", place / "photos" / "a.png", "--replace", "blur", "--out", place / "a.png", *model
    )
    assert done.code == 0, done.err
    with Image.open(place / "a.png") as picture:
        assert (picture.size, picture.mode) == ((56, 40), "RGB")
    done = pixelwise(
        "background", place / "photos", "--replace", "transparent", "--out", place / "cut", *model
    )
    assert done.code == 0, done.err
    assert "2 pictures" in done.out
    for name in ("a.png", "b.png"):
        with Image.open(place / "cut" / name) as picture:
            assert picture.mode == "RGBA"
    assert (
        "--overwrite"
        in pixelwise(
            "background", place / "photos", "--replace", "red", "--out", place / "cut", *model
        ).sentence
    )


def test_a_movie_gets_another_background(pixelwise, place: Path) -> None:
    from pixelwise.video import MovieWriter, read_frames

    with MovieWriter(place / "call.mp4", rate=10) as movie:
        for level in range(0, 200, 40):
            movie.write(np.full((40, 64, 3), level, np.uint8))
    done = pixelwise(
        "background", place / "call.mp4", "--replace", place / "photos" / "a.png", "--out", place / "out.mp4",
        "--model", place / "model.safetensors", "--seconds", "0.4",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "4 frames" in done.out
    frames = read_frames(place / "out.mp4")
    assert frames.rate == 10
    assert [frame.shape for frame in frames] == [(40, 64, 3)] * 4


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nowhere.png", "--replace", "blur", "--out", "x.png"), "there is no picture"),
        (("photos/a.png", "--replace", "nowhere.jpg", "--out", "x.png"), "a picture file or a colour"),
        (("photos/a.png", "--replace", "blur", "--out", "x.mp4"), "written as"),
        (("photos/a.png", "--replace", "transparent", "--out", "x.jpg"), "written as"),
        (("photos/a.png", "--replace", "blur", "--out", "photos/a.png"), "one of the sources"),
        (("photos/a.png", "--replace", "blur", "--out", "x.png", "--keep", "cow"), "keep names 'cow'"),
        (("97", "--replace", "blur", "--out", "x.mp4"), "camera 97 cannot be opened"),
        (("97", "--replace", "transparent", "--out", "x.mp4"), "no transparent background"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(
    pixelwise, place: Path, arguments, words, monkeypatch
) -> None:
    monkeypatch.chdir(place)
    done = pixelwise("background", *arguments, "--model", "model.safetensors")
    assert done.code == 2
    assert words in done.sentence
    assert not list(place.glob("x.*"))


def test_movies_without_pyav_are_told_which_extra_is_missing(pixelwise, place: Path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    (place / "call.mp4").write_bytes(b"something")
    for source in (place / "call.mp4", 0):
        done = pixelwise(
            "background", source, "--replace", "blur", "--out", place / "x.mp4", "--model",
            place / "model.safetensors",
        )  # fmt: skip
        assert done.code == 2
        assert "pixelwise[video]" in done.sentence


def test_published_weights_with_terms_are_taken_when_these_are_accepted(pixelwise, place: Path) -> None:
    done = pixelwise("background", place / "photos" / "a.png", "--replace", "blur", "--out", place / "x.png")
    assert done.code == 2
    assert "not for commercial use" in done.sentence
    assert "--allow-noncommercial" in done.sentence
