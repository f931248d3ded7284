"""Whatever is wrong with an image file ends as one ValueError that names it; size alone is no error."""

import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from pixelwise.data.formats.image import read_image, to_tensor

KINDS = [".png", ".jpg", ".tif", ".bmp", ".webp", ".gif", ".ppm", ".jp2", ".tga", ".npy"]
KINDS += [".avif"] if features.check("avif") else []


def whole(path: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path.read_bytes()


def spoiled(data: bytes, random: np.random.Generator) -> bytes:
    """A cut, some wrong bytes (often in the header), or a piece that is missing."""
    changed = bytearray(data)
    kind = random.integers(4)
    if kind == 0:
        return bytes(changed[: random.integers(len(changed))])
    if kind == 1:
        start = int(random.integers(len(changed)))
        del changed[start : start + int(random.integers(1, 40))]
        return bytes(changed)
    reach = len(changed) if kind == 2 else min(150, len(changed))
    for place in random.integers(0, reach, random.integers(1, 9)):
        changed[place] = random.integers(256)
    return bytes(changed)


def misread(suffix: str, channels: int, count: int, folder: Path) -> list[str]:
    """What reading damaged files raised, other than a ValueError that names the file."""
    path, random = folder / f"a{suffix}", np.random.default_rng(len(suffix) + channels)
    data, found = whole(path), []
    for _ in range(count):
        path.write_bytes(spoiled(data, random))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, on metadata
                read_image(path, channels, max_pixels=10**6)
        except ValueError as error:
            if str(path) not in str(error) or "\n" in str(error) or len(str(error)) > 500:
                found.append(str(error))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", KINDS)
def test_a_damaged_file_is_read_or_named(suffix: str, channels: int, tmp_path: Path) -> None:
    assert misread(suffix, channels, 60, tmp_path) == []


def test_a_damaged_tiff_of_several_channels_is_read_or_named(tmp_path: Path) -> None:
    assert misread(".tif", 5, 60, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", KINDS)
def test_many_damaged_files_are_read_or_named(suffix: str, tmp_path: Path) -> None:
    assert misread(suffix, 3, 1500, tmp_path) == []


def test_a_numpy_header_that_is_no_python_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(whole(path).replace(b"'descr'", b"((((((("))
    with pytest.raises(ValueError, match=r"cannot read .*a\.npy: it is not a NumPy array of numbers"):
        read_image(path)
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    with pytest.raises(ValueError, match=r"b\.npy"):
        read_image(tmp_path / "b.npy")


def test_a_numpy_file_that_claims_more_than_it_holds_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(whole(path).replace(b"(24, 20, 3), ", b"(99999999,3),"))
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_image(path)


def test_pillows_limit_of_pixels_is_lifted_and_given_back(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses above 200 and warns above 100
    paths = [tmp_path / f"{i}.png" for i in range(16)]
    for path in paths:
        Image.new("RGB", (30, 30), (0, 255, 0)).save(path)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(read_image, paths))
    assert all(torch.equal(image, images[0]) for image in images)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(paths[0])
    with pytest.raises(ValueError, match=r"0\.png: it has 30 x 30 pixels, more than the limit of 899 "):
        read_image(paths[0], max_pixels=899)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_header_that_claims_more_than_the_file_can_hold_is_refused(tmp_path: Path) -> None:
    # A TIFF of one strip: a damaged width would be filled up with 1.5 GB of zeros.
    path = tmp_path / "claim.tif"
    Image.new("L", (7, 5)).save(path)
    content = path.read_bytes()
    at = content.index(struct.pack("<HHI", 256, 4, 1))
    path.write_bytes(content[: at + 8] + struct.pack("<I", 100_000_000) + content[at + 12 :])
    with pytest.raises(ValueError, match=r"claim\.tif: it claims 500,000,000 pixels in \d+ bytes"):
        read_image(path)
    constant = tmp_path / "constant.png"
    Image.new("1", (9000, 6000)).save(constant)
    assert constant.stat().st_size < 20_000
    assert read_image(constant, 1).shape == (1, 6000, 9000)


def test_an_image_in_memory_is_read_as_its_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    forms = (pixels, torch.from_numpy(pixels).permute(2, 0, 1), Image.fromarray(pixels), tmp_path / "a.png")
    for form in forms:
        tensor = to_tensor(form)
        assert torch.equal(tensor, read)
        assert tensor.is_contiguous()
    assert not np.shares_memory(to_tensor(read).numpy(), read.numpy())
