"""`pixelwise predict`: it loses no file, goes on after a bad one, and takes images of any size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.files import MANIFEST
from pixelwise.machine import keep_freed_memory
from pixelwise.predict.writing import Written


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- files of the user ----------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
@pytest.mark.parametrize("out", ["images/train", ".", "masks/train"])
def test_photographs_and_masks_are_never_overwritten(
    out: str, more: tuple[str, ...], pixelwise, street, weights, monkeypatch
) -> None:
    if out == ".":
        monkeypatch.chdir(street / "images" / "train")
        arguments = (Path("."), "--out", Path("."))
    else:
        arguments = (street / "images" / "train", "--out", street / out)
    before = contents(street)
    shown = pixelwise("predict", weights, *arguments, *more)
    assert shown.code == 2
    assert shown.sentence.startswith("Error: ")
    assert ("0.png" if out == "masks/train" else "would be taken for images") in shown.sentence
    assert "choose another folder" in shown.sentence
    assert contents(street) == before


def test_predictions_never_lie_among_the_images_of_a_folder(pixelwise, weights, tmp_path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.jpg")
    shown = pixelwise("predict", weights, tmp_path, "--out", tmp_path)
    assert shown.code == 2
    assert "would be taken for images; choose another folder" in shown.sentence
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".jpg", ".png")] == ["a.jpg"]


def test_one_photograph_is_not_overwritten_either(pixelwise, street, weights, tmp_path) -> None:
    image = street / "images" / "val" / "3.png"
    before = contents(street)
    assert pixelwise("predict", weights, image, "--out", image.parent, "--overwrite").code == 2
    assert pixelwise("predict", weights, image, "--out", street / "masks" / "val").code == 2
    assert contents(street) == before
    assert pixelwise("predict", weights, image, "--out", tmp_path / "out").code == 0
    before = contents(tmp_path / "out")
    shown = pixelwise("predict", weights, image, "--out", tmp_path / "out")
    assert shown.code == 2
    assert "3.png was written before" in shown.sentence
    assert "--overwrite" in shown.sentence
    assert contents(tmp_path / "out") == before
    shown = pixelwise("predict", weights, image, "--out", tmp_path / "out", "--overwrite")
    assert shown.code == 0, shown.err
    assert f"1 prediction written to {tmp_path / 'out'}" in shown.out


def test_one_of_several_sources_is_refused_before_anything_is_written(
    pixelwise, street, weights, tmp_path
) -> None:
    out = tmp_path / "out"
    (out / "val").mkdir(parents=True)
    shutil.copy(street / "masks" / "val" / "3.png", out / "val" / "3.png")
    before = contents(tmp_path)
    shown = pixelwise(
        "predict", weights, street / "images" / "train", street / "images" / "val", "--out", out
    )
    assert shown.code == 2
    assert "did not write it" in shown.sentence
    assert contents(tmp_path) == before


def test_what_was_written_is_listed_as_sha256sum_reads_it(pixelwise, street, weights, tmp_path) -> None:
    import hashlib

    pixelwise(
        "predict", weights, street / "images", "--out", tmp_path / "out", "--format", "npy", "--overlay"
    )
    lines = (tmp_path / "out" / MANIFEST).read_text().splitlines()
    assert len(lines) == 8
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


def test_segment_and_report_overwrite_no_file_of_the_user(pixelwise, street, weights, tmp_path) -> None:
    image = street / "images" / "val" / "3.png"
    (tmp_path / "3_otsu.png").write_bytes(image.read_bytes())
    (tmp_path / "index.html").write_text("my page")
    before = contents(tmp_path)
    for more in ((), ("--overwrite",)):
        for command in (
            ("segment", image, "--method", "otsu", "--out", tmp_path),
            ("evaluate", weights, street, "--report", tmp_path / "index.html"),
        ):
            shown = pixelwise(*command, *more)
            assert shown.code == 2
            assert "pixelwise did not write it" in shown.sentence
            assert contents(tmp_path) == before
    command = ("segment", image, "--method", "otsu", "--out", tmp_path / "new")
    assert [pixelwise(*command, *more).code for more in ((), (), ("--overwrite",))] == [0, 2, 0]
    command = ("evaluate", weights, street, "--report", tmp_path / "new.html")
    assert [pixelwise(*command, *more).code for more in ((), (), ("--overwrite",))] == [0, 2, 0]


def test_the_demo_takes_no_folder_with_files_of_the_user(pixelwise, tmp_path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "classes.csv").write_text("mine")
    shown = pixelwise("demo", "--out", tmp_path)
    assert shown.code == 2
    assert "is not empty" in shown.sentence
    assert contents(tmp_path) == {"data/classes.csv": b"mine"}


# --- bad files among good ones --------------------------------------------------------------------


def test_images_after_a_bad_one_are_predicted(pixelwise, street, weights, tmp_path) -> None:
    folder = street / "images" / "train"
    (folder / "bad.png").write_bytes((folder / "1.png").read_bytes()[:60])
    np.save(folder / "x.npy", np.zeros((48, 64), np.uint8))
    damaged = folder / "x.npy"
    damaged.write_bytes(damaged.read_bytes().replace(b"descr", b"de\x00cr"))
    for out, sources in (("a", [folder / f"{name}.png" for name in ("0", "bad", "1")]), ("b", [folder])):
        shown = pixelwise("predict", weights, *sources, "--out", tmp_path / out)
        assert shown.code == 1
        assert (tmp_path / out / "0.png").is_file()
        assert (tmp_path / out / "1.png").is_file()
        assert "bad.png" in shown.sentence
        assert "Traceback" not in shown.err
        assert f"written to {tmp_path / out}" in shown.out
    assert "2 of 5 images could not be used" in shown.sentence
    assert "x.npy" in shown.sentence


# --- sources --------------------------------------------------------------------------------------


def test_a_quoted_pattern_keeps_the_folders_below_its_first_wildcard(
    pixelwise, street, weights, tmp_path
) -> None:
    out = tmp_path / "out"
    shown = pixelwise("predict", weights, f"{street}/images/*/[0-2].png", "--out", out)
    assert shown.code == 0, shown.err
    assert sorted(contents(out)) == [MANIFEST, "train/0.png", "train/1.png", "train/2.png"]
    shown = pixelwise("predict", weights, f"{street}/**/3.png", "--out", tmp_path / "all")
    assert sorted(contents(tmp_path / "all")) == [MANIFEST, "images/val/3.png", "masks/val/3.png"]
    shown = pixelwise("predict", weights, f"{street}/*.bmp", "--out", tmp_path / "none")
    assert (shown.code, "no image matches the pattern" in shown.sentence) == (2, True)


def test_a_name_with_brackets_is_a_file_where_there_is_one(pixelwise, street, weights, tmp_path) -> None:
    image = street / "photo [1].png"
    shutil.copy(street / "images" / "val" / "3.png", image)
    assert pixelwise("predict", weights, image, "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "photo [1].png").is_file()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("WEIGHTS", "https://example.org/a.png"), ("https://example.org/a.png is a URL", "download")),
        (("WEIGHTS", "s3://bucket/a.png"), ("is a URL",)),
        (("WEIGHTS", "nowhere.png"), ("there is no image or folder nowhere.png",)),
        (("IMAGE", "WEIGHTS"), ("is an image", "come first")),
        (("WEIGHTS", "WEIGHTS"), ("holds weights", "they come first")),
        (("WEIGHTS", "IMAGE", "--scales", "1000"), ("scales must be positive, at most 16", "1000")),
        (("WEIGHTS", "IMAGE", "--scales", "nan"), ("scales must be positive", "nan")),
        (("WEIGHTS", "IMAGE", "--scales", "1,inf"), ("scales must be positive", "inf")),
        (("WEIGHTS", "IMAGE", "--tile", "1000000x1000000"), ("--tile takes at most 16384 pixels",)),
        (("WEIGHTS", "IMAGE", "--tile", "9" * 5000), ("--tile takes at most 16384 pixels",)),
        (("WEIGHTS", "IMAGE", "--tile", "0x64"), ("--tile takes HEIGHTxWIDTH",)),
        (("WEIGHTS", "IMAGE", "--tile", "64", "--tile-overlap", "-1"), ("overlap must be at least 0",)),
        (("WEIGHTS", "IMAGE", "--max-pixels", "100"), ("48 x 64 pixels", "limit of 100", "--max-pixels")),
    ],
)
def test_what_cannot_be_predicted_is_one_sentence(
    arguments: tuple[str, ...], words: tuple[str, ...], pixelwise, street, weights, tmp_path
) -> None:
    named = {"WEIGHTS": weights, "IMAGE": street / "images" / "val" / "3.png"}
    shown = pixelwise("predict", *(named.get(a, a) for a in arguments), "--out", tmp_path / "out")
    assert shown.code == 2
    assert shown.sentence.startswith("Error: ")
    assert len(shown.sentence) < 500
    for word in words:
        assert word in shown.sentence
    assert not (tmp_path / "out").exists()


def test_an_absurd_crop_is_one_sentence(pixelwise, street) -> None:
    shown = pixelwise("train", street, "--crop", "1000000x1000000")
    assert (shown.code, "--crop takes at most 16384 pixels" in shown.sentence) == (2, True)


def test_running_out_of_memory_is_not_called_a_bug(pixelwise, monkeypatch) -> None:
    from pixelwise import registry

    def full() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(registry, "list_models", full)
    shown = pixelwise("models")
    assert shown.code == 2
    assert "--tile" in shown.sentence
    assert "bug" not in shown.sentence


def test_the_background_is_tinted_only_when_asked(pixelwise, street, tmp_path) -> None:
    import pixelwise as pw

    table = pw.ClassTable(("background", "square"), ((0, 200, 0), (0, 200, 0)))
    model = pw.build("unet", 2, encoder="tiny", width=4)
    model.head.bias.data = model.head.bias.data + model.head.bias.data.new_tensor([1e6, 0.0])
    pw.save(model, tmp_path / "sure.safetensors", table)
    image = street / "images" / "val" / "3.png"
    for out, more in (("plain", ()), ("tinted", ("--tint-background",))):
        pixelwise(
            "predict", tmp_path / "sure.safetensors", image, "--out", tmp_path / out, "--overlay", *more
        )
    with Image.open(image) as photograph, Image.open(tmp_path / "plain" / "3_overlay.png") as plain:
        assert np.array_equal(np.asarray(photograph.convert("RGB")), np.asarray(plain))
    with Image.open(tmp_path / "tinted" / "3_overlay.png") as tinted:
        assert (np.asarray(tinted)[..., 1] > np.asarray(tinted)[..., 0] + 50).all()


# --- large images ---------------------------------------------------------------------------------


def smooth(height: int, width: int) -> Image.Image:
    rows = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return Image.fromarray(np.broadcast_to(rows, (height, width)).copy())


@pytest.mark.slow
def test_a_photograph_of_12_megapixels_is_predicted(pixelwise, weights, tmp_path) -> None:
    smooth(3000, 4000).save(tmp_path / "photo.jpg")
    for out, more in (("whole", ()), ("tiles", ("--tile", "1024", "--flip"))):
        shown = pixelwise(
            "predict", weights, tmp_path / "photo.jpg", "--out", tmp_path / out, "--overlay", *more
        )
        assert shown.code == 0, shown.err
        with Image.open(tmp_path / out / "photo.png") as mask:
            assert mask.size == (4000, 3000)


@pytest.mark.slow
def test_an_image_above_pillows_limit_is_predicted_in_tiles(pixelwise, weights, tmp_path) -> None:
    smooth(9200, 10000).save(tmp_path / "huge.png")
    limit = Image.MAX_IMAGE_PIXELS
    shown = pixelwise("predict", weights, tmp_path / "huge.png", "--out", tmp_path / "out", "--tile", "1024")
    assert shown.code == 0, shown.err
    assert limit == Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(tmp_path / "out" / "huge.png") as mask:
            assert mask.size == (10000, 9200)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# --- from file to file ----------------------------------------------------------------------------


def test_one_image_into_one_file_is_predicted_row_by_row(pixelwise, street, weights, tmp_path) -> None:
    image, out = street / "images" / "val" / "3.png", tmp_path / "maps" / "map.tif"
    shown = pixelwise("predict", weights, image, "--out", out, "--plan")
    assert shown.code == 0
    assert "pixels in 1 tile of" in shown.out
    assert not out.parent.exists()
    shown = pixelwise("predict", weights, image, "--out", out)
    assert shown.code == 0, shown.err
    assert f"1 prediction written to {out}" in shown.out
    assert pixelwise("predict", weights, image, "--out", tmp_path / "png").code == 0
    assert (np.asarray(Image.open(out)) == np.asarray(Image.open(tmp_path / "png" / "3.png"))).all()
    shown = pixelwise("predict", weights, image, "--out", out)
    assert shown.code == 2
    assert "map.tif was written before: allow to overwrite it" in shown.sentence
    assert pixelwise("predict", weights, image, "--out", out, "--overwrite").code == 0


def test_a_large_file_is_streamed_without_being_asked(
    pixelwise, street, weights, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("pixelwise.cli.streaming.LARGE", 1000)
    pixels = np.asarray(Image.open(street / "images" / "val" / "3.png").convert("RGB"))
    np.save(tmp_path / "large.npy", pixels)
    shown = pixelwise("predict", weights, tmp_path / "large.npy", "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    assert "of memory" in shown.err
    with Image.open(tmp_path / "out" / "large.png") as found:
        assert found.size == pixels.shape[1::-1]
        drawn = {label: int((np.asarray(found) == label).sum()) for label in np.unique(np.asarray(found))}
    for format in ("tif", "npy", "geojson", "confidence", "probabilities"):
        shown = pixelwise("predict", weights, tmp_path / "large.npy", "--out", tmp_path / format,
                          "--format", format)  # fmt: skip
        assert shown.code == 0, shown.err
    assert (
        np.load(tmp_path / "npy" / "large.npy") == np.asarray(Image.open(tmp_path / "out" / "large.png"))
    ).all()
    features = json.loads((tmp_path / "geojson" / "large.geojson").read_text())["features"]
    assert {one["properties"]["label"]: one["properties"]["area"] for one in features} == drawn
    assert (tmp_path / "probabilities" / "large.tif").exists()
    for format in ("coco", "overlay"):
        shown = pixelwise("predict", weights, tmp_path / "large.npy", "--out", tmp_path / "x",
                          "--format", format)  # fmt: skip
        assert shown.code == 2
        assert (
            f"row by row and saved as tif, npy, png, geojson, confidence, probabilities, not as '{format}'"
            in shown.sentence
        )
    shown = pixelwise("predict", weights, tmp_path / "large.npy", "--out", tmp_path / "a.tif",
                      "--format", "geojson")  # fmt: skip
    assert shown.code == 2
    assert "a.tif is not of the format 'geojson': leave out --format" in shown.sentence
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_streamed_is_a_sentence(pixelwise, street, weights, tmp_path) -> None:
    image = street / "images" / "val" / "3.png"
    shown = pixelwise("predict", weights, image, "--out", tmp_path / "a.tif", "--overlay")
    assert shown.code == 2
    assert "--overlay is for images that are held in memory" in shown.sentence
    shown = pixelwise("predict", weights, image, "--out", tmp_path / "folder", "--plan")
    assert shown.code == 2
    assert "--plan is for one image" in shown.sentence
    shown = pixelwise("predict", weights, image, "--out", tmp_path / "a.tif", "--tile-blend", "soft")
    assert shown.code == 2
    assert "blend must be one of gaussian, constant, crop" in shown.sentence
    assert not (tmp_path / "a.tif").exists()


def test_an_image_of_one_pixel_has_a_class(pixelwise, weights, tmp_path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    shown = pixelwise("predict", weights, tmp_path / "dot.png", "--out", tmp_path / "a.tif")
    assert shown.code == 0, shown.err
    with Image.open(tmp_path / "a.tif") as found:
        assert found.size == (1, 1)


def test_workers_of_ray_keep_freed_memory_as_this_process_does(
    pixelwise, street, weights, tmp_path, monkeypatch
) -> None:
    given = dict[str, object]()

    def asked(checkpoint, sources, out, **options):
        given.update(options)
        return Written([], [], [])

    monkeypatch.setattr("pixelwise.predict.bulk.predict_on_ray", asked)
    shown = pixelwise("predict", weights, street / "images", "--engine", "ray", "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    assert given["prepare"] is keep_freed_memory
