"""Rasters of any type keep their intensities: which values become 0 and 1 is chosen, once for all."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.data.formats.image import read_image, read_pixels, to_tensor
from pixelwise.data.intensity import bounds_of
from pixelwise.predict import Predictor

CHANCE = np.random.default_rng(5)
KINDS = {
    "uint16": CHANCE.integers(200, 4000, (20, 30)).astype(np.uint16),
    "int16": CHANCE.integers(-500, 900, (20, 30)).astype(np.int16),
    "float32": CHANCE.normal(273, 9, (20, 30)).astype(np.float32),
    "uint8": CHANCE.integers(3, 90, (20, 30)).astype(np.uint8),
    "int32": CHANCE.integers(0, 200_000, (20, 30)).astype(np.int32),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_values_between_two_bounds_become_0_to_1_whatever_their_type(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    values, path = KINDS[kind], tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    else:
        tifffile.imwrite(path, values)
    for name in ("min-max", "percentiles:2,98", "z-score", "range:100,1000", "window:300,50"):
        low, high = bounds_of(name)(values)
        expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
        found = read_pixels(path, 3, intensity=name)
        assert found.shape == (3, 20, 30)
        for channel in found:
            np.testing.assert_allclose(channel, expected, atol=2e-5)
        np.testing.assert_allclose(to_tensor(values, 1, intensity=name)[0], expected, atol=2e-5)


def test_each_channel_is_scaled_by_itself(tmp_path: Path) -> None:
    bands = np.stack([KINDS["uint16"], KINDS["uint16"] * 3, KINDS["uint16"] + 9, KINDS["uint16"] // 2])
    tifffile.imwrite(tmp_path / "a.tif", bands, planarconfig="separate", photometric="minisblack")
    found = read_pixels(tmp_path / "a.tif", 4, intensity="min-max")
    assert found.min(axis=(1, 2)).tolist() == [0] * 4
    assert found.max(axis=(1, 2)).tolist() == [1] * 4


def test_pictures_of_8_bits_are_what_they_were_unless_it_is_asked_for(tmp_path: Path) -> None:
    Image.fromarray(KINDS["uint8"]).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1).max() == KINDS["uint8"].max() / np.float32(255)
    assert read_image(tmp_path / "a.png", 1, intensity="min-max").max() == 1


def test_what_is_refused_names_the_setting(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", KINDS["float32"])
    with pytest.raises(ValueError, match=r"a\.tif holds values from .* expected 0 to 1 \(--intensity"):
        read_pixels(tmp_path / "a.tif", 1)
    tifffile.imwrite(tmp_path / "b.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"b\.tif: the volume holds values that are not finite"):
        read_pixels(tmp_path / "b.tif", 1, intensity="min-max")


@pytest.mark.parametrize("name", ["range:3,3", "percentiles:5", "percentiles:90,10", "min", "range:nan,1"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"or range:LOW,HIGH such as range:0,10000, got"):
        bounds_of(name)


def test_the_intensity_of_the_training_is_that_of_the_prediction(tmp_path: Path) -> None:
    for number in range(3):
        labels = np.kron(np.random.default_rng(number).integers(0, 2, (4, 4)), np.ones((12, 12)))
        values = (labels * 900 + np.random.default_rng(9 + number).normal(600, 100, labels.shape)).clip(0)
        (tmp_path / "data" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "masks").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "data" / "images" / f"{number}.tif", values.astype(np.uint16))
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "data" / "masks" / f"{number}.png")
    learnt = pw.train(
        tmp_path / "data",
        out=tmp_path / "run",
        model="unet",
        model_arguments={"encoder": "tiny", "width": 4, "in_channels": 1},
        crop=(32, 32),
        steps=1,
        workers=0,
        intensity="range:0,2000",
        cache="ram",
        progress=False,
    )
    predict = Predictor(learnt.best)
    path = tmp_path / "data" / "images" / "0.tif"
    expected = torch.from_numpy(tifffile.imread(path).astype(np.float32) / 2000).clamp(0, 1)
    assert predict.intensity == "range:0,2000"
    torch.testing.assert_close(predict.read_image(path)[0][0], expected)
    torch.testing.assert_close(predict(path).image[0], expected)
    torch.testing.assert_close(predict(tifffile.imread(path)).image[0], expected)
    whole = predict(path).label_map.labels.numpy()
    predict.stream(path, tmp_path / "streamed.npy", tile=(512, 512), progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "streamed.npy").squeeze(), whole)
    other = Predictor(learnt.best, decoding={"intensity": "min-max"})
    assert other.read_image(path)[0].max() == 1


@pytest.mark.parametrize("intensity", ["percentiles", "range:0,65535"])
@pytest.mark.parametrize("name", ["a.tif", "planes.tif", "a.npy"])
def test_a_fourth_channel_is_dropped_in_the_same_way_whatever_the_intensity(
    tmp_path: Path, name: str, intensity: str
) -> None:
    values = CHANCE.integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, values)
    elif name == "planes.tif":
        tifffile.imwrite(path, values.transpose(2, 0, 1), planarconfig="separate", photometric="minisblack")
    else:
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"])
    expected = values[..., :3].transpose(2, 0, 1) / 65535
    np.testing.assert_allclose(read_pixels(path, 3, intensity=intensity), expected, atol=1e-6)


@pytest.mark.parametrize("intensity", ["percentiles:2,98", "min-max", "z-score"])
def test_black_and_white_files_are_scaled_too(tmp_path: Path, intensity: str) -> None:
    np.save(tmp_path / "a.npy", KINDS["uint8"] > 40)
    found = read_pixels(tmp_path / "a.npy", 1, intensity=intensity)[0]
    assert np.array_equal(found > 0.5, KINDS["uint8"] > 40)


def test_a_picture_as_wide_as_it_has_channels_is_not_turned(tmp_path: Path) -> None:
    pixels = CHANCE.integers(0, 256, (5, 3, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = pixels.transpose(2, 0, 1) / 255
    for intensity in ("percentiles", "range:0,255"):
        found = read_pixels(tmp_path / "a.png", 3, intensity=intensity)
        np.testing.assert_allclose(found, expected, atol=1e-6)
