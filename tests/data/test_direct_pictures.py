"""Pictures that are decoded without Pillow have the same pixels as with it, and odd ones are left to it."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pixelwise.data.formats import direct, image as images, mask as masks
from pixelwise.data.formats.direct import as_jpeg, direct_jpeg, direct_png
from pixelwise.data.formats.image import MAX_PIXELS, read_stored
from pixelwise.data.formats.mask import read_mask_pixels
from tests.data.test_damaged_images import spoiled

SIZES = [(1, 1), (7, 13), (32, 48)]


def picture(size: tuple[int, int], mode: str) -> Image.Image:
    """Smooth, with an edge, so that filters and both kinds of blocks of JPEG come up."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    planes = [(x * k + y * (4 - k)) % 256 * (x > y) + 40 * k for k in (1, 2, 3, 4)]
    pixels = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
    count = {"L": 1, "P": 1, "RGB": 3, "CMYK": 4, "RGBA": 4, "LA": 2}[mode]
    if mode == "P":
        made = Image.fromarray(pixels[..., 0] % 21)
        made.putpalette([value * 10 % 256 for value in range(63)])
        return made
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels[..., :count]).tobytes())


def encoded(made: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    made.save(file, kind, **options)
    return file.getvalue()


def turned(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_has_the_pixels_of_pillow(mode: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    content = encoded(picture(size, mode), "JPEG", quality=80, exif=turned(1), **options)
    own = direct_jpeg(content, 3, MAX_PIXELS)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert own is not None
    np.testing.assert_array_equal(own.transpose(1, 2, 0), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_header_that_claims_more_than_its_file_holds_takes_no_memory(suffix: str, tmp_path: Path) -> None:
    path, whole = tmp_path / f"a{suffix}", encoded(picture((7, 13), "L"), Image.EXTENSION[suffix])
    if suffix == ".jpg":
        path.write_bytes(whole.replace(struct.pack(">HH", 7, 13), struct.pack(">HH", 30000, 32000), 1))
    else:
        head = struct.pack(">II", 32000, 30000) + whole[24:29]
        path.write_bytes(whole[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + whole[33:])
    assert direct_jpeg(path.read_bytes(), 3, MAX_PIXELS) is None
    assert direct_png(path.read_bytes(), MAX_PIXELS) is None
    for read in (read_stored, read_mask_pixels):
        with pytest.raises(
            ValueError, match=r"it claims 960,000,000 pixels in \d+ bytes: the file is damaged"
        ):
            read(path)


def test_grey_jpeg_stays_grey_where_that_is_asked_for() -> None:
    content = encoded(picture((9, 8), "L"), "JPEG")
    own = direct_jpeg(content, 1, MAX_PIXELS)
    assert own is not None
    np.testing.assert_array_equal(own[0], np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture((8, 9), "RGB"), "JPEG", exif=turned(6)),
        encoded(picture((8, 9), "RGB"), "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
        encoded(picture((8, 9), "CMYK"), "JPEG"),
        encoded(picture((8, 9), "RGB"), "JPEG")[:-2],
        encoded(picture((8, 9), "RGB"), "JPEG")[:300] + b"\xff\xd9",
        encoded(picture((8, 9), "RGB"), "PNG"),
        b"",
    ],
    ids=["turned", "turned by XMP", "four inks", "no end", "cut", "no JPEG", "empty"],
)
def test_an_odd_jpeg_is_left_to_pillow(content: bytes) -> None:
    assert direct_jpeg(content, 3, MAX_PIXELS) is None


def test_colours_become_grey_by_pillow_alone() -> None:
    assert direct_jpeg(encoded(picture((8, 9), "RGB"), "JPEG"), 1, MAX_PIXELS) is None
    assert direct_jpeg(encoded(picture((8, 9), "RGB"), "JPEG"), 3, 71) is None  # too large


def test_without_the_decoder_pillow_reads_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture((8, 24), "RGB"), "JPEG"))
    own = read_stored(tmp_path / "a.jpg")
    monkeypatch.setattr(direct, "_of_torchvision", lambda _name: None)
    assert direct_jpeg((tmp_path / "a.jpg").read_bytes(), 3, MAX_PIXELS) is None
    np.testing.assert_array_equal(read_stored(tmp_path / "a.jpg"), own)


def test_a_turned_jpeg_is_read_upright(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture((8, 24), "RGB"), "JPEG", exif=turned(6)))
    assert read_stored(tmp_path / "a.jpg").shape == (3, 24, 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"compress_level": 0}])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_png_has_the_values_of_pillow(mode: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "any")
    content = encoded(picture(size, mode), "PNG", pnginfo=text, bits=8, **options)
    own = direct_png(content, MAX_PIXELS)
    assert own is not None
    np.testing.assert_array_equal(own, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_png_is_undone(kind: int) -> None:
    """By the definition of the filters: what is stored is the difference from what was guessed."""

    pixels = np.asarray(picture((16, 23), "L")).astype(int)
    left = np.pad(pixels, ((0, 0), (1, 0)))[:, :-1]
    above = np.pad(pixels, ((1, 0), (0, 0)))[:-1]
    corner = np.pad(pixels, ((1, 0), (1, 0)))[:-1, :-1]
    near = np.stack([left, above, corner])
    paeth = np.take_along_axis(near, np.abs(near - (left + above - corner)).argmin(0)[None], 0)[0]
    guess = (0, left, above, (left + above) // 2, paeth)[kind]
    rows = np.column_stack([np.full(16, kind), (pixels - guess) % 256]).astype(np.uint8)

    def chunk(name: bytes, part: bytes) -> bytes:
        return struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 23, 16, 8, 0, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")
    own = direct_png(content, MAX_PIXELS)
    assert own is not None
    np.testing.assert_array_equal(own, pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture((8, 9), "RGB"), "PNG"),
        encoded(picture((8, 9), "LA"), "PNG"),
        encoded(picture((8, 9), "L"), "PNG", transparency=3),
        encoded(picture((8, 9), "L"), "PNG", exif=turned(6)),
        encoded(picture((8, 9), "L").point(lambda value: value > 99, "1"), "PNG"),
        encoded(picture((8, 9), "L").convert("I;16"), "PNG"),
        encoded(picture((8, 9), "L"), "PNG", save_all=True, append_images=[picture((8, 9), "L").rotate(180)]),
        encoded(picture((8, 9), "L"), "PNG")[:-12],
        encoded(picture((8, 9), "L"), "PNG")[:60],
        b"",
    ],
    ids=["colours", "alpha", "key", "turned", "bits", "deep", "animated", "no end", "cut", "empty"],
)
def test_an_odd_png_is_left_to_pillow(content: bytes) -> None:
    assert direct_png(content, MAX_PIXELS) is None


def test_a_palette_is_left_to_pillow_where_its_colours_count() -> None:
    assert direct_png(encoded(picture((8, 9), "P"), "PNG", bits=8), MAX_PIXELS, indices=False) is None
    assert direct_png(encoded(picture((8, 9), "L"), "PNG"), MAX_PIXELS, indices=False) is not None


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_files_are_read_as_pillow_reads_them(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded directly, Pillow decodes as well, to the same pixels."""
    path, random = tmp_path / f"a{suffix}", np.random.default_rng(3)
    whole = encoded(picture((32, 48), "RGB" if suffix == ".jpg" else "L"), Image.EXTENSION[suffix])

    def outcome() -> np.ndarray | str:
        try:
            return read_stored(path) if suffix == ".jpg" else read_mask_pixels(path)
        except ValueError as error:
            return str(error)

    for _ in range(300):
        path.write_bytes(spoiled(whole, random))
        own = outcome()
        with monkeypatch.context() as without:
            without.setattr(images, "direct_jpeg", lambda *_: None)
            without.setattr(masks, "direct_png", lambda *_, **__: None)
            expected = outcome()
        if isinstance(expected, str):
            assert own == expected
        else:
            np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_no_wrong_bit_of_a_png_gives_other_labels(mode: str, tmp_path: Path) -> None:
    """Pillow compares no checksum of packed pixels, and takes others; libpng does."""
    path, whole = tmp_path / "a.png", encoded(picture((9, 8), mode), "PNG", bits=8)
    expected, misled = np.asarray(Image.open(io.BytesIO(whole))), 0
    for bit in range(8 * whole.index(b"IDAT"), 8 * (whole.index(b"IEND") - 4)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot read .*a\.png: it is (damaged|cut|not an image)"):
            read_mask_pixels(path)
        try:
            misled += not np.array_equal(np.asarray(Image.open(io.BytesIO(damaged))), expected)
        except Exception:
            continue  # Pillow refuses it as well
    assert misled


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("cut", [1, 12, 13, 20])
def test_a_png_without_its_end_is_refused(mode: str, cut: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "a.png", encoded(picture((9, 8), mode), "PNG")
    path.write_bytes(whole[:-cut])
    for read in (read_mask_pixels, read_stored):
        if cut == 1:  # the checksum of an end that is there
            assert read(path).size
            continue
        with pytest.raises(ValueError, match=r"cannot read .*a\.png: it is cut"):
            read(path)
    path.write_bytes(whole + b"more")
    assert read_mask_pixels(path).shape[:2] == (9, 8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 95])
def test_compression_has_the_pixels_of_pillow(
    quality: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.array(picture((33, 48), mode)).reshape(33, 48, -1)
    own = as_jpeg(pixels, quality)
    content = encoded(picture((33, 48), mode), "JPEG", quality=quality)
    expected = np.asarray(Image.open(io.BytesIO(content))).reshape(pixels.shape)
    np.testing.assert_array_equal(own, expected)
    monkeypatch.setattr(direct, "_of_torchvision", lambda _name: None)
    np.testing.assert_array_equal(as_jpeg(pixels, quality), expected)
