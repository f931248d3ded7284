"""The predictor takes images in any form, and says in a sentence what it cannot take."""

import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pixelwise.checkpoint import load, save
from pixelwise.files import MANIFEST
from pixelwise.predict import Predictor, find_images, predictor
from pixelwise.predict.memory import bytes_per_pixel
from pixelwise.registry import build
from pixelwise.types import ClassMasks, ClassTable, DenseLogits


@pytest.fixture
def predict(model, classes) -> Predictor:
    return Predictor(model.eval(), classes)


# --- what goes in ---------------------------------------------------------------------------------


def forms(path: Path, pixels: np.ndarray) -> dict[str, object]:
    return {
        "path": path,
        "text": str(path),
        "pil": Image.fromarray(pixels),
        "grey pil": Image.fromarray(pixels[..., 0]),
        "rgba pil": Image.fromarray(pixels).convert("RGBA"),
        "uint8": pixels,
        "grey": pixels[..., 0],
        "grey with one channel": pixels[..., :1],
        "rgba": np.dstack([pixels, np.full_like(pixels[..., 0], 9)]),
        "uint16": pixels.astype(np.uint16) * 257,
        "float32": pixels.astype(np.float32) / 255,
        "float64": pixels / 255,
        "backwards": pixels[::-1][::-1],
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        "uint8 tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "half tensor": (torch.from_numpy(pixels).permute(2, 0, 1) / 255).half(),
        "bfloat16 tensor": (torch.from_numpy(pixels).permute(2, 0, 1) / 255).bfloat16(),
        "tensor with history": (torch.from_numpy(pixels).permute(2, 0, 1) / 255).requires_grad_(),
    }


@pytest.mark.parametrize("form", forms(Path(), np.zeros((1, 1, 3), np.uint8)))
def test_every_form_of_an_image_gives_the_same_labels(
    form: str, predict: Predictor, photograph: Path, pixels: np.ndarray, expected: np.ndarray
) -> None:
    prediction = predict(forms(photograph, pixels)[form])
    assert prediction.label_map.labels.dtype == torch.int64
    assert np.array_equal(prediction.label_map.labels.numpy(), expected)
    assert prediction.image.shape == (3, 30, 41)
    assert prediction.image.dtype == torch.float32
    tolerance = {"half tensor": 3e-4, "bfloat16 tensor": 2e-3}.get(form, 1e-6)
    torch.testing.assert_close(
        prediction.image, torch.from_numpy(pixels).permute(2, 0, 1) / 255, atol=tolerance, rtol=0
    )
    assert prediction.id == (str(photograph) if form in ("path", "text") else "image")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_open_image_is_read_as_its_file(
    mode: str, predict: Predictor, tmp_path: Path, pixels: np.ndarray
) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        noise = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(path)
    with Image.open(path) as image:
        opened = predict(image)
        assert image.mode == mode
    assert torch.equal(opened.image, predict(path).image)
    assert opened.id == str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_and_open_images_are_turned_as_their_exif_says(
    orientation: int, predict: Predictor, tmp_path: Path, pixels: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = predict(tmp_path / "a.png")
    assert expected.label_map.labels.shape == ((41, 30) if orientation > 4 else (30, 41))
    with Image.open(tmp_path / "a.png") as image:
        assert torch.equal(predict(image).image, expected.image)


def test_a_list_gives_a_list(
    predict: Predictor, photograph: Path, pixels: np.ndarray, expected: np.ndarray
) -> None:
    predictions = predict([photograph, pixels, torch.zeros(3, 9, 8)])
    assert [p.id for p in predictions] == [str(photograph), "image 1", "image 2"]
    assert [tuple(p.label_map.labels.shape) for p in predictions] == [(30, 41), (30, 41), (9, 8)]
    assert np.array_equal(predictions[0].label_map.labels, expected)
    assert predict([]) == []


def test_other_numbers_of_channels_are_taken_if_the_model_does(brightness, classes: ClassTable) -> None:
    predict = Predictor(brightness(in_channels=6), classes)
    assert (predict(np.full((10, 12, 6), 255, np.uint8)).label_map.labels == 2).all()
    with pytest.raises(ValueError, match="image: the model takes images of 6 channels, got 3"):
        predict(np.zeros((10, 12, 3)))


@pytest.mark.parametrize(
    "source, said",
    [
        (np.zeros((9, 9), np.int64), "pixels must be uint8, uint16, bool or floats .*, got int64"),
        (np.full((9, 9), 17.0), "image: holds values from 17 to 17, expected 0 to 1"),
        (np.full((9, 9), -0.1), "values from -0.1 to -0.1, expected 0 to 1"),
        (np.full((9, 9), np.nan), "values from nan to nan, expected 0 to 1"),
        (np.zeros(9), r"axes H W or H W c, got shape \(9,\)"),
        (np.zeros((1, 3, 9, 9)), "axes H W or H W c"),
        (np.zeros((3, 9, 9)), "the model takes images of 3 channels, got 9"),
        (torch.zeros(1, 3, 9, 9), r"axes c H W, got shape \(1, 3, 9, 9\)"),
        (torch.zeros(9, 9, 3), "the model takes images of 3 channels, got 9"),
        (np.zeros((0, 9, 3)), "at least 8 x 8 pixels, got 0 x 9"),
    ],
)
def test_what_is_no_image_is_refused(source: object, said: str, predict: Predictor) -> None:
    with pytest.raises(ValueError, match=said):
        predict(source)


@pytest.mark.compile  # the shape checker would refuse these first
@pytest.mark.parametrize("source", [b"bytes", None, 3, {}])
def test_other_types_are_refused(source: object, predict: Predictor) -> None:
    said = f"an image is a path, a PIL image, an array or a tensor, got {type(source).__name__}"
    with pytest.raises(ValueError, match=f"^image: {said}$"):
        predict(source)
    with pytest.raises(ValueError, match=f"^image 1: {said}$"):
        predict([np.zeros((9, 9)), source])


def test_a_truncated_jpeg_is_named(predict: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.jpg.*truncated"):
        predict(path)


def test_files_that_are_no_image_are_named(predict: Predictor, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png"):
        predict(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"nothing\.png"):
        predict(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"is a folder: use predictor.folder"):
        predict(tmp_path)


@pytest.mark.parametrize("size", [(7, 30), (30, 7), (1, 1), (5, 6)])
def test_of_an_image_below_the_minimum_the_border_is_repeated(
    brightness, classes: ClassTable, size: tuple[int, int]
) -> None:
    image = torch.rand(3, *size)
    larger, smaller = (Predictor(brightness(minimum_size=n), classes) for n in (8, 1))
    found, expected = (one(image, probabilities=True) for one in (larger, smaller))
    torch.testing.assert_close(found.probabilities, expected.probabilities)
    assert torch.equal(found.label_map.labels, expected.label_map.labels)


def test_a_coarse_map_of_an_extended_image_is_cut_to_the_image() -> None:
    predict = Predictor(build("pspnet", 3, encoder="tiny"), ClassTable.of(*"abc"))
    small = torch.rand(3, 20, 31)
    extended = F.pad(small[None], (0, 1, 0, 12), mode="replicate")[0]
    assert predict.model.minimum_size == 32
    found, whole = (predict(one, probabilities=True).probabilities for one in (small, extended))
    torch.testing.assert_close(found, whole[:, :20, :31])


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 51)])
def test_any_size_works(size: tuple[int, int]) -> None:
    predict = Predictor(build("pspnet", 3, encoder="tiny"), ClassTable.of(*"abc"))
    prediction = predict(torch.rand(3, *size))
    assert prediction.label_map.labels.shape == size
    assert prediction.label_map.labels.unique().numel() <= 3


# --- what it does to the model --------------------------------------------------------------------


def test_threads_share_a_predictor_of_a_model_that_came_in_train_mode() -> None:
    model = build("unet", 3, encoder="tiny", width=4)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.register_forward_pre_hook(lambda *_: time.sleep(0.0005))  # lets another thread in
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict = Predictor(model, ClassTable.of(*"abc"))
    assert not any(part.training for part in model.modules())
    images = torch.rand(12, 3, 40, 40)
    expected = [predict(image).label_map.labels for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: predict(images[i % 12]).label_map.labels, range(48)))
    assert all(torch.equal(labels, expected[i % 12]) for i, labels in enumerate(found))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(part.training for part in model.modules())


def test_weights_and_gradients_stay_as_they_are(model, classes: ClassTable) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prediction = Predictor(model, classes)(torch.rand(3, 9, 9).requires_grad_(), probabilities=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not prediction.probabilities.requires_grad
    prediction.label_map.labels[0, 0] = 2  # plain tensors: they may be changed, and used in autograd
    (prediction.probabilities * torch.ones(1, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("name", ["unet", "pspnet"])
@pytest.mark.parametrize("count", [1, 3])
def test_images_lie_pixel_by_pixel_for_the_network_and_scores_are_the_same(name: str, count: int) -> None:
    torch.manual_seed(0)
    network = build(name, 3, encoder="tiny").eval()
    predict = Predictor(network, ClassTable.of(*"abc"))
    images, seen = torch.rand(count, 3, 50, 70), []
    with torch.no_grad():
        expected = network(images)
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    found = predict.labels(images)
    (given,) = seen
    assert given.is_contiguous(memory_format=torch.channels_last)
    assert given.stride(1) == 1
    assert given.equal(images)
    torch.testing.assert_close(predict.probabilities(images), expected.logits.softmax(1), rtol=0, atol=1e-5)
    assert (found.labels == expected.logits.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_low_precision_gives_nearly_the_same(precision: str) -> None:
    model, table, image = build("pspnet", 3, encoder="tiny"), ClassTable.of(*"abc"), torch.rand(3, 64, 64)
    full = Predictor(model, table)(image, probabilities=True)
    low = Predictor(model, table, precision=precision)(image, probabilities=True)
    assert low.probabilities.dtype == torch.float32
    torch.testing.assert_close(low.probabilities, full.probabilities, atol=0.02, rtol=0)
    assert not torch.equal(low.probabilities, full.probabilities)


def test_probabilities_come_when_asked_for(
    predict: Predictor, pixels: np.ndarray, expected: np.ndarray
) -> None:
    prediction = predict(pixels, probabilities=True)
    assert prediction.probabilities.shape == (3, 30, 41)
    torch.testing.assert_close(prediction.probabilities.sum(0), torch.ones(30, 41))
    assert np.array_equal(prediction.label_map.labels, expected)
    assert torch.equal(prediction.confidence, prediction.probabilities.amax(0))
    plain = predict(pixels)
    assert plain.probabilities is None
    with pytest.raises(ValueError, match="predict with probabilities=True"):
        _ = plain.confidence


def test_a_batch_is_labelled_on_the_device_of_the_model(
    predict: Predictor, pixels: np.ndarray, expected: np.ndarray
) -> None:
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    labels = predict.labels(torch.stack([image, 1 - image])).labels
    assert np.array_equal(labels[0], expected)
    assert labels.shape == (2, 30, 41)
    assert predict.probabilities(image[None]).argmax(1).equal(labels[:1])


@pytest.mark.parametrize(
    "options", [{"tile": (16, 12), "overlap": 4}, {"flip": True}, {"scales": (1.0, 1.0)}]
)
def test_views_of_the_image_agree_where_each_pixel_is_judged_alone(
    options: dict[str, object], model, classes: ClassTable, pixels: np.ndarray, expected: np.ndarray
) -> None:
    predict = Predictor(model, classes, **options)
    assert np.array_equal(predict(pixels).label_map.labels, expected)
    assert np.array_equal(predict(pixels, probabilities=True).label_map.labels, expected)


def test_tiles_flips_and_scales_go_together(model, classes: ClassTable) -> None:
    image = torch.zeros(3, 40, 60)
    image[:, 10:30, 20:50] = 1
    predict = Predictor(model, classes, tile=(24, 24), overlap=8, flip=True, scales=(0.5, 1.0, 2.0))
    labels = predict(image).label_map.labels
    assert (labels[14:26, 24:46] == 2).all()
    assert (labels[:6] == 0).all()


# --- how it is made -------------------------------------------------------------------------------


def test_a_path_a_run_and_a_loaded_checkpoint_are_the_same(tmp_path: Path) -> None:
    model, table = build("pspnet", 3, encoder="tiny"), ClassTable.of(*"abc")
    save(model, tmp_path / "best.safetensors", table)
    image = torch.rand(3, 50, 40)
    labels = Predictor(model, table)(image).label_map.labels
    for source in (tmp_path, str(tmp_path / "best.safetensors"), load(tmp_path)):
        predict = Predictor(source, device="cpu")
        assert predict.classes == table
        assert torch.equal(predict(image).label_map.labels, labels)


def test_a_model_stays_where_it_is(model, classes: ClassTable) -> None:
    assert Predictor(model, classes).device == torch.device("cpu")
    assert Predictor(model, classes, device=torch.device("cpu")).device.type == "cpu"


def test_wrong_arguments_are_told(model, classes: ClassTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bare model needs a class table"):
        Predictor(model)
    with pytest.raises(ValueError, match="the model has 3 classes, the class table 2"):
        Predictor(model, ClassTable.of("a", "b"))
    several = ClassTable(classes.names, classes.colors, exclusive=False)
    assert Predictor(model, several).task.annotation is ClassMasks
    with pytest.raises(ValueError, match="the task semantic needs exclusive classes"):
        Predictor(model, several, task="semantic")
    with pytest.raises(ValueError, match="the task multilabel needs a class table with exclusive=False"):
        Predictor(model, classes, task="multilabel")
    with pytest.raises(ValueError, match="there is no task 'semantics': did you mean 'semantic'"):
        Predictor(model, classes, task="semantics")
    with pytest.raises(
        ValueError, match="there is no setting 'thresholds' of decoding for the task semantic"
    ):
        Predictor(model, classes, decoding={"thresholds": 0.4})
    for device in ("cuda:99", "tpux"):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
            Predictor(model, classes, device=device)
    with pytest.raises(ValueError, match="overlap must be at least 0 and smaller than the tile"):
        Predictor(model, classes, tile=(64, 64))
    with pytest.raises(ValueError, match="scales must be positive"):
        Predictor(model, classes, scales=(0.0, 1.0))
    with pytest.raises(ValueError, match="there is no checkpoint"):
        Predictor(tmp_path / "nothing.safetensors")
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="is a pickle"):
        Predictor(tmp_path / "model.pth")


@pytest.mark.compile  # the shape checker would refuse it first
def test_a_wrong_precision_is_told(model, classes: ClassTable) -> None:
    with pytest.raises(ValueError, match="precision must be one of 32, bf16, 16, got '64'"):
        Predictor(model, classes, precision="64")


# --- what comes out -------------------------------------------------------------------------------


def test_a_prediction_is_saved_by_its_suffix(
    predict: Predictor, pixels: np.ndarray, expected: np.ndarray, tmp_path: Path, classes: ClassTable
) -> None:
    prediction = predict(pixels)
    assert prediction.save(tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    with Image.open(tmp_path / "new" / "a.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), expected)
        assert mask.getpalette()[:9] == [part for color in classes.colors for part in color]
    prediction.save(str(tmp_path / "a.npy"))
    array = np.load(tmp_path / "a.npy")
    assert array.dtype == np.int32
    assert np.array_equal(array, expected)
    for path, options in ((tmp_path / "a_overlay.png", {}), (tmp_path / "b.jpg", {"overlay": True})):
        prediction.save(path, **options)
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert picture.size == (41, 30)
    with Image.open(tmp_path / "a_overlay.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(prediction.overlay()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a_overlay.png", "b.jpg", "new"]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.tiff", "a_overlay.npy"])
def test_other_suffixes_are_refused_with_those_that_work(
    name: str, predict: Predictor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"\.png"):
        predict(torch.rand(3, 9, 9)).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a_overlay.png"])
def test_a_full_disk_leaves_nothing(name: str, predict: Predictor, tmp_path: Path) -> None:
    prediction = predict(torch.rand(3, 200, 200))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (1000, hard)
        )  # the kernel stops the write, as a full disk does
        with pytest.raises(ValueError, match=f"cannot write .*{name}"):
            prediction.save(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(predict: Predictor, photograph: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot make the folder .*photograph.png"):
        predict(photograph).save(photograph / "a.png")


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path, pixels: np.ndarray) -> Path:
    root = tmp_path / "album"
    for name in ("b.png", "a.JPG", "deep/er/c.bmp", ".hidden.png", ".cache/d.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name, quality=95)
    (root / "notes.txt").write_text("no image")
    return root


def files_below(folder: Path) -> list[str]:
    """All but the list of what was written."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    return sorted(str(path.relative_to(folder)) for path in files)


def test_images_of_a_folder_are_found(album: Path) -> None:
    assert [str(path.relative_to(album)) for path in find_images(album)] == [
        "a.JPG",
        "b.png",
        "deep/er/c.bmp",
    ]


def test_a_folder_keeps_its_sub_folders(
    predict: Predictor, album: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    written = predict.folder(album, tmp_path / "out", progress=False)
    assert files_below(tmp_path / "out") == ["a.png", "b.png", "deep/er/c.png"]
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in written) == files_below(
        tmp_path / "out"
    )
    with Image.open(tmp_path / "out" / "deep" / "er" / "c.png") as mask:
        assert np.array_equal(np.asarray(mask), expected)


def test_a_folder_gives_overlays_and_arrays_when_asked(
    predict: Predictor, album: Path, tmp_path: Path
) -> None:
    written = predict.folder(album, tmp_path / "out", suffix=".npy", overlay=True, progress=False)
    assert files_below(tmp_path / "out") == [
        "a.npy", "a_overlay.png", "b.npy", "b_overlay.png", "deep/er/c.npy", "deep/er/c_overlay.png"
    ]  # fmt: skip
    assert len(written) == 6


def test_results_inside_the_source_are_no_new_images(predict: Predictor, album: Path) -> None:
    first = predict.folder(album, album / "out", progress=False)
    assert predict.folder(album, album / "out", overwrite=True, progress=False) == first


def test_progress_is_shown_on_the_error_stream(
    predict: Predictor, album: Path, tmp_path: Path, capsys
) -> None:
    predict.folder(album, tmp_path / "out")
    assert "predicting" in capsys.readouterr().err


def test_one_bad_image_does_not_stop_the_others(predict: Predictor, album: Path, tmp_path: Path) -> None:
    (album / "a.JPG").write_bytes((album / "a.JPG").read_bytes()[:900])
    (album / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 4 images could not be used, .*a\.JPG.*empty\.png") as caught:
        predict.folder(album, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path / "out") == ["b.png", "deep/er/c.png"]


def test_many_bad_images_are_counted(predict: Predictor, tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.png").write_text("no image")
    with pytest.raises(ValueError, match=r"8 of 8 images .*4\.png.*; and 3 more$"):
        predict.folder(tmp_path, tmp_path / "out", progress=False)


def test_folders_that_cannot_be_used_are_told_at_once(
    predict: Predictor, album: Path, tmp_path: Path, photograph: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there is no image in the folder .*empty"):
        predict.folder(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        predict.folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match=r"there is no folder .*photograph.png"):
        predict.folder(photograph, tmp_path / "out")
    with pytest.raises(ValueError, match="cannot make the folder"):
        predict.folder(album, photograph / "out")
    with pytest.raises(ValueError, match=r"cannot write 'a\.jpg': .* saved as \.png, \.npy"):
        predict.folder(album, tmp_path / "out", suffix=".jpg")
    Image.new("RGB", (9, 9)).save(album / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg and .*b\.png would both be written to .*b\.png"):
        predict.folder(album, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_stops_at_once(predict: Predictor, tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (200, 200), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(ValueError, match=r"cannot write .*0\.png: File too large"):
            predict.folder(tmp_path, tmp_path / "out", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_below(tmp_path / "out") == []


# --- files that must not be lost ------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_prediction_is_never_written_over_a_source(
    overwrite: bool, predict: Predictor, album: Path, tmp_path: Path
) -> None:
    before = contents(album)
    with pytest.raises(ValueError, match=r"cannot write predictions to .*album, the folder of the images"):
        predict.folder(album, album, overwrite=overwrite, progress=False)
    (tmp_path / "links").mkdir()
    os.link(album / "b.png", tmp_path / "links" / "a.png")
    (tmp_path / "other").symlink_to(tmp_path / "links")
    with pytest.raises(ValueError, match=r"a\.png is one of the sources"):
        predict.folder(album, tmp_path / "other", overwrite=overwrite, progress=False)
    assert contents(album) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["b.png", "deep/er/c.png", "b_overlay.png"])
def test_a_file_of_the_user_is_never_overwritten(
    overwrite: bool, name: str, predict: Predictor, album: Path, tmp_path: Path
) -> None:
    mask = tmp_path / "masks" / name
    mask.parent.mkdir(parents=True)
    Image.new("L", (41, 30), 1).save(mask)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"{name} exists, and pixelwise did not write it"):
        predict.folder(album, tmp_path / "masks", overlay=True, overwrite=overwrite, progress=False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_earlier_predictions_are_overwritten_only_when_allowed_and_unchanged(
    suffix: str, predict: Predictor, album: Path, tmp_path: Path
) -> None:
    options = {"suffix": suffix, "overlay": True, "progress": False}
    written = predict.folder(album, tmp_path / "out", **options)
    with pytest.raises(ValueError, match=r"a\.\w+ was written before: .*--overwrite, overwrite=True"):
        predict.folder(album, tmp_path / "out", **options)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert len(predict.folder(album, tmp_path / "moved", overwrite=True, **options)) == len(written)
    corrected = tmp_path / "moved" / f"b{suffix}"
    corrected.write_bytes(corrected.read_bytes() + b"corrected by hand")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"b\.\w+ exists, and pixelwise did not write it as it is now"):
        predict.folder(album, tmp_path / "moved", overwrite=True, **options)
    assert contents(tmp_path) == before


def test_an_overlay_and_a_mask_of_one_name_are_refused(
    predict: Predictor, album: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    Image.fromarray(pixels).save(album / "b_overlay.bmp")
    with pytest.raises(ValueError, match=r"b\.png and .*b_overlay\.bmp would both be written to"):
        predict.folder(album, tmp_path / "out", overlay=True, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_prediction_is_not_saved_over_its_image_nor_over_another_file(
    predict: Predictor, photograph: Path, tmp_path: Path
) -> None:
    prediction, before = predict(photograph), photograph.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is the image that was predicted and is not overwritten"):
            prediction.save(photograph, overwrite=overwrite)
    assert photograph.read_bytes() == before
    prediction.save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png exists already"):
        prediction.save(tmp_path / "mask.png")
    prediction.save(tmp_path / "mask.png", overwrite=True)


# --- large maps, threads and memory ---------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Scores(nn.Module):
    """Scores in a given layout and type: the image itself, or every fourth pixel of it."""

    tasks, output = ("semantic",), DenseLogits
    num_classes, in_channels, minimum_size, built_by = 3, 3, 8, None

    def __init__(self, dtype: torch.dtype, memory_format: torch.memory_format, step: int) -> None:
        super().__init__()
        self.dtype, self.memory_format, self.step = dtype, memory_format, step

    def forward(self, image: torch.Tensor) -> DenseLogits:
        scores = image[..., :: self.step, :: self.step].to(self.dtype)
        return DenseLogits(scores.contiguous(memory_format=self.memory_format), tuple(image.shape[-2:]))


@pytest.mark.compile  # the shape checker wants a DenseModel
@pytest.mark.parametrize("tile", [None, "auto", (200, 300)])
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_maps_that_several_threads_decode_are_those_of_one(
    dtype: torch.dtype, memory_format: torch.memory_format, step: int, tile: object, two_threads
) -> None:
    image = torch.rand(3, 260, 300)  # above the 65,536 pixels below which one thread decodes
    predict = Predictor(Scores(dtype, memory_format, step), ClassTable.of(*"abc"), tile=tile)
    labels = predict(image).label_map.labels
    likely = predict(image, probabilities=True)
    torch.set_num_threads(1)
    assert torch.equal(labels, predict(image).label_map.labels)
    assert (labels == likely.label_map.labels).float().mean() > 0.999
    labels[0, 0] = 2  # a plain tensor
    assert likely.confidence.shape == (260, 300)


def test_an_image_that_does_not_fit_into_memory_is_predicted_in_tiles(
    model, classes: ClassTable, monkeypatch
) -> None:
    image = torch.rand(3, 1100, 1000)
    whole = Predictor(model, classes, tile=None)(image).label_map.labels
    predict, seen = Predictor(model, classes), []
    handle = model.part.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape[-2:])))
    assert torch.equal(predict(image).label_map.labels, whole)
    assert seen[-1] == (1100, 1000)
    monkeypatch.setattr(predictor, "available_memory", lambda device: 48 * 2**20)
    assert torch.equal(predict(image).label_map.labels, whole)
    assert max(seen[-1]) <= 768
    monkeypatch.setattr(predictor, "available_memory", lambda device: 2**20)
    with pytest.raises(ValueError, match=r"1100 x 1000 pixels do not fit into memory .*--tile HxW"):
        predict(image)
    handle.remove()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 90 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you ..."
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_running_out_of_memory_is_a_sentence_that_names_tiles(
    error: Exception, model, classes: ClassTable, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    model.part.register_forward_hook(fail)
    for tile, said in (
        (None, "at once: predict in tiles"),
        ((16, 16), "even in tiles of 16 x 16: .*smaller"),
    ):
        predict = Predictor(model, classes, tile=tile, overlap=4)
        for probabilities in (False, True):
            with pytest.raises(ValueError, match=rf"image: 30 x 40 pixels do not fit .*{said} .*--tile"):
                predict(torch.rand(3, 30, 40), probabilities=probabilities)


def test_other_errors_of_torch_are_not_called_a_lack_of_memory(model, classes: ClassTable) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    model.part.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Predictor(model, classes)(torch.rand(3, 30, 40))


def test_the_memory_of_a_pass_is_that_of_the_tensors_that_live_at_once() -> None:
    def network(image: torch.Tensor) -> DenseLogits:
        x = image.repeat(1, 4, 1, 1)  # 12 channels of 4 bytes
        for _ in range(5):
            x = x + 1  # two of them at a time
        return DenseLogits(x[:, :2], tuple(image.shape[-2:]))

    found = bytes_per_pixel(network, 3, 8, torch.device("cpu"))
    assert 96 <= found <= 96 + 12 + 8 + 8


def test_a_predictor_shows_itself_in_few_lines(model, classes: ClassTable) -> None:
    text = repr(Predictor(model, classes, tile=(64, 32), overlap=8, flip=True, scales=(0.5, 1.0)))
    assert len(text.splitlines()) <= 3
    for words in ("Brightness", "dark, middle, bright", "tile=(64, 32)", "flip=True", "scales=(0.5, 1.0)"):
        assert words in text


@pytest.mark.parametrize("tile", [(0, 5), (-1, 40), (1_000_000, 1_000_000), (64,)])
def test_absurd_tiles_are_told(tile: tuple[int, ...], model, classes: ClassTable) -> None:
    with pytest.raises(ValueError, match="a tile has a height and a width of 1 to 65536 pixels"):
        Predictor(model, classes, tile=tile, overlap=0)
