"""`pixelwise predict --optimize`: the form that was chosen is used and told; what has no forms is refused."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.export import fast_forms
from pixelwise.export.fast_forms import FastModel
from pixelwise.types import DenseLogits


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXELWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes that forms were measured at; one form is told to be faster than the network."""
    sizes = list[tuple[int, ...]]()

    def quick(found, images, file):
        network = copy.deepcopy(found.model)

        def run(image: torch.Tensor) -> DenseLogits:
            return network(image)

        return FastModel(found.model, run)

    def timed(models, image, rounds):
        sizes.append(tuple(image.shape[2:]))
        return {name: 1.0 if name == "eager" else 0.5 for name in models}

    forms = {"quick": quick}
    monkeypatch.setattr(fast_forms, "FORMS", forms)
    monkeypatch.setattr("pixelwise.export.choice.FORMS", forms)
    monkeypatch.setattr("pixelwise.export.choice._timed", timed)
    return sizes


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize(
    "more",
    [(), ("--flip",), ("--scales", "0.5,1"), ("--tile", "32x32", "--tile-overlap", "16"), ("--crf",)],
    ids=lambda more: more[0] if more else "as it is",
)
def test_the_form_is_chosen_once_told_and_gives_the_same_labels(
    more: tuple[str, ...], pixelwise, street, weights, tmp_path, measured
) -> None:
    images = street / "images" / "train"
    assert pixelwise("predict", weights, images, "--out", tmp_path / "plain", *more).code == 0
    shown = pixelwise("predict", weights, images, *more, "--optimize", "--out", tmp_path / "first")
    assert shown.code == 0, shown.err
    size = "32 x 32" if "--tile" in more else "48 x 64"
    assert f"no form of the network was chosen before for images of {size}" in shown.sentence
    assert shown.out.splitlines()[0] == "form of the network: quick"
    again = pixelwise("predict", weights, images, *more, "--optimize", "--out", tmp_path / "second")
    assert again.err == ""
    assert again.out.splitlines()[0] == "form of the network: quick"
    assert len(measured) == 1
    expected = labels_in(tmp_path / "plain")
    assert len(expected) == 3
    for out in ("first", "second"):
        for name, labels in labels_in(tmp_path / out).items():
            np.testing.assert_array_equal(labels, expected[name])


def test_a_form_that_gains_nothing_leaves_the_network_as_it_is(
    pixelwise, street, weights, tmp_path, measured, monkeypatch
) -> None:
    monkeypatch.setattr("pixelwise.export.choice._timed", lambda models, *_: dict.fromkeys(models, 1.0))
    shown = pixelwise("predict", weights, street / "images" / "val", "--optimize", "--out", tmp_path / "out")
    assert shown.out.splitlines()[0] == "form of the network: eager (as it is)"


def test_images_smaller_than_the_network_takes_and_damaged_ones_before_them(
    pixelwise, weights, tmp_path, measured
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(b"")
    for number in (1, 2, 3):
        Image.new("RGB", (7, 5), (90, 60, 30 * number)).save(tmp_path / "images" / f"{number}.png")
    shown = pixelwise("predict", weights, tmp_path / "images", "--optimize", "--out", tmp_path / "out")
    assert shown.code == 1
    assert "1 of 4 images could not be used" in shown.sentence
    assert shown.out.splitlines()[0] == "form of the network: quick"
    assert [labels.shape for labels in labels_in(tmp_path / "out").values()] == [(5, 7)] * 3


def test_a_large_image_and_a_movie(pixelwise, weights, tmp_path, measured) -> None:
    from pixelwise.video import MovieWriter

    pixels = np.random.default_rng(0).integers(0, 255, (80, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    options = ("--optimize", "--tile", "64x64", "--tile-overlap", "32")
    shown = pixelwise("predict", weights, tmp_path / "large.png", *options, "--out", tmp_path / "large.npy")
    assert shown.code == 0, shown.err
    assert "form of the network: quick" in shown.out
    assert np.load(tmp_path / "large.npy").shape == (80, 96)
    with MovieWriter(tmp_path / "drive.mp4", rate=5) as movie:
        for _ in range(3):
            movie.write(pixels)
    shown = pixelwise("predict", weights, tmp_path / "drive.mp4", "--optimize", "--out", tmp_path / "frames")
    assert shown.code == 0, shown.err
    assert "form of the network: quick" in shown.out
    assert measured == [(80, 64), (80, 96)]  # rows of tiles as the plan of the large image has them


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--precision", "bf16"), "optimize chooses the precision itself: leave out precision bf16"),
        (("--engine", "ray"), "--optimize is for this machine, not for the machines of --engine ray"),
        (("--server", "http://localhost:9"), "--optimize is for models in this process, not for --server"),
    ],
)
def test_what_it_cannot_be_combined_with(
    options: tuple[str, ...], sentence: str, pixelwise, street, weights, tmp_path
) -> None:
    out = tmp_path / "out"
    shown = pixelwise("predict", weights, street / "images" / "val", "--optimize", *options, "--out", out)
    assert shown.code == 2
    assert sentence in shown.sentence
    assert not out.exists()


def test_other_tasks_and_exported_files_are_refused(pixelwise, street, weights, tmp_path) -> None:
    images, objects = street / "images" / "val", tmp_path / "objects.safetensors"
    network = pw.build("maskformer", 2, encoder="tiny", width=16, num_queries=4, blocks=1)
    pw.save(network, objects, pw.ClassTable.of("ground", "square"))
    exported = tmp_path / "weights.pt2"
    assert pixelwise("export", weights, "--out", exported).code == 0
    for model, sentence in (
        (objects, "optimize is for networks that score every pixel of an image, not for the task"),
        (exported, "optimize is for weights and runs: an exported file has its form already"),
    ):
        shown = pixelwise("predict", model, images, "--optimize", "--out", tmp_path / "out")
        assert shown.code == 2
        assert sentence in shown.sentence
        assert not (tmp_path / "out").exists()


def test_volumes_are_refused(pixelwise, tmp_path) -> None:
    from pixelwise.data.formats import write_image

    write_image(tmp_path / "image.png", torch.zeros(3, 8, 8))
    pw.save(
        pw.build("unet3d", 2, width=4), tmp_path / "volumes.safetensors", pw.ClassTable.of("ground", "organ")
    )
    shown = pixelwise(
        "predict",
        tmp_path / "volumes.safetensors",
        tmp_path / "image.png",
        "--optimize",
        "--out",
        tmp_path / "out",
    )
    assert shown.code == 2
    assert (
        "optimize is for networks that score every pixel of an image, not for the task volume"
        in shown.sentence
    )
    assert not (tmp_path / "out").exists()


def test_a_network_on_a_gpu_is_refused(
    pixelwise, street, weights, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixelwise.predict.predictor._place", lambda model, device: torch.device("cuda", 0))
    images = street / "images" / "val"
    shown = pixelwise("predict", weights, images, "--optimize", "--out", tmp_path / "out")
    assert shown.code == 2
    assert "optimize is for the CPU, and the network is on cuda:0: choose device cpu" in shown.sentence
    assert not (tmp_path / "out").exists()


def test_several_weights_have_a_form_together(pixelwise, street, weights, tmp_path, measured) -> None:
    other = tmp_path / "other.safetensors"
    pw.save(pw.build("unet", 2, encoder="tiny", width=4), other, pw.load(weights).classes)
    both, images = f"{weights},{other}", street / "images" / "train"
    assert pixelwise("predict", both, images, "--out", tmp_path / "plain").code == 0
    shown = pixelwise("predict", both, images, "--optimize", "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    assert "form of the network: quick" in shown.out
    expected = labels_in(tmp_path / "plain")
    assert len(expected) == 3
    for name, labels in labels_in(tmp_path / "out").items():
        np.testing.assert_array_equal(labels, expected[name])
    alone = pixelwise("predict", weights, images, "--optimize", "--out", tmp_path / "alone")
    assert "no form of the network was chosen before" in alone.sentence, "the choice is that of both"
