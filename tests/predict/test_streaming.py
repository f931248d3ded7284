"""Images from file to file: the same labels as in memory, whatever the formats, and nothing is lost."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch
import zarr
from PIL import Image
from torch import nn

import pixelwise as pw
from pixelwise.checkpoint import Checkpoint
from pixelwise.export.choice import Optimized
from pixelwise.export.fast_forms import FastModel
from pixelwise.predict import Predictor, predictor as predictor_file
from pixelwise.predict.memory import live_bytes
from pixelwise.tiling import ArraySource, open_source
from pixelwise.types import ClassTable, DenseLogits, DenseModel, MaskLogits, MaskModel

TABLE = ClassTable.of("dark", "middle", "bright")
SIZE = (150, 230)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return pw.build("unet", 3, width=4).eval()


@pytest.fixture
def photo() -> np.ndarray:
    grey = np.random.default_rng(0).integers(0, 256, (SIZE[0] // 10, SIZE[1] // 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grey).resize((SIZE[1], SIZE[0])))


@pytest.fixture
def predict(network: nn.Module) -> Predictor:
    return Predictor(network, TABLE, tile=(64, 64), overlap=32)


@pytest.fixture
def expected(predict: Predictor, photo: np.ndarray) -> np.ndarray:
    return predict(photo).label_map.labels.numpy()


def write_source(folder: Path, form: str, photo: np.ndarray) -> object:
    path = folder / f"photo.{form.split(' ')[0]}"
    if form == "array":
        return photo
    if form == "memmap":
        held = np.memmap(folder / "raw", np.uint8, "w+", shape=photo.shape)
        held[:] = photo
        return held
    if form == "planes":
        return np.ascontiguousarray(photo.transpose(2, 0, 1))
    if form == "npy":
        np.save(path, photo)
    elif form == "png":
        Image.fromarray(photo).save(path)
    elif form == "zarr":
        zarr.create_array(str(path), shape=photo.shape, chunks=(50, 50, 3), dtype="u1")[:] = photo
    elif form == "tif strips":
        tifffile.imwrite(path, photo, rowsperstrip=7, photometric="rgb")
    elif form == "tif tiles":
        tifffile.imwrite(path, photo, tile=(32, 64), photometric="rgb", compression="zlib")
    elif form == "tif planes":
        planes = photo.transpose(2, 0, 1)
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", tile=(48, 48))
    return path


SOURCES = ["array", "memmap", "planes", "npy", "png", "zarr", "tif strips", "tif tiles", "tif planes"]


@pytest.mark.parametrize("form", SOURCES)
def test_every_source_gives_the_labels_that_the_predictor_gives_in_memory(
    form: str, predict: Predictor, photo: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    out = np.zeros(SIZE, np.uint8)
    predict.stream(write_source(tmp_path, form, photo), out)
    assert (out == expected).mean() > 0.9999  # the order in memory may change the last bit of a score


@pytest.mark.parametrize("form", [form for form in SOURCES if form != "png"])  # which is held in memory
@pytest.mark.parametrize("rows", [(0, 1), (33, 97), (149, 150), (0, 150)])
def test_the_rows_of_a_source_are_those_of_the_image(
    form: str, rows: tuple[int, int], photo: np.ndarray, tmp_path: Path
) -> None:
    given = write_source(tmp_path, form, photo)
    source = open_source(given) if isinstance(given, Path) else ArraySource(given)
    with source:
        assert (source.size, source.channels) == (SIZE, 3)
        assert (source.read(*rows) == photo[slice(*rows)]).all()


def test_the_network_gets_tiles_whose_channels_are_last(
    predict: Predictor, network: nn.Module, photo: np.ndarray
) -> None:
    seen: list[bool] = []
    network.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    predict.stream(photo, np.zeros(SIZE, np.uint8))
    assert len(seen) > 1
    assert all(seen)


def test_a_call_after_a_disk_error_says_so_although_rows_are_written_meanwhile(
    predict: Predictor, photo: np.ndarray
) -> None:
    class Full:
        shape = SIZE

        def __setitem__(self, place: object, band: np.ndarray) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        predict.stream(photo, Full())


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.zarr", "a.png"])
def test_every_file_holds_the_labels_and_nothing_is_left_beside_it(
    name: str, predict: Predictor, photo: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "new" / name
    assert predict.stream(photo, path) == path
    found = {
        ".tif": tifffile.imread,
        ".npy": np.load,
        ".zarr": lambda p: zarr.open(str(p))[:],
        ".png": lambda p: np.asarray(Image.open(p)),
    }[path.suffix](path)
    assert (found == expected).mean() > 0.9999
    assert [p.name for p in path.parent.iterdir()] == [name]
    if path.suffix in (".png", ".tif"):  # in the colours of the classes
        with Image.open(path) as picture:
            assert picture.mode == "P"
            assert tuple(picture.getpalette()[3:6]) == TABLE.colors[1]
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            assert file.pages[0].is_tiled


@pytest.mark.parametrize("blend", ["gaussian", "constant", "crop"])
@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_killed_prediction_goes_on_and_gives_the_same_file(
    blend: str,
    killed_after: int,
    network: nn.Module,
    photo: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict = Predictor(network, TABLE, tile=(64, 64), overlap=24, blend=blend)
    source = tmp_path / "photo.npy"
    np.save(source, photo)
    whole = np.load(predict.stream(source, tmp_path / "whole.npy"))
    calls, path = [0], tmp_path / "again.npy"
    forward = type(network).forward

    def counted(self: nn.Module, image: torch.Tensor) -> DenseLogits:
        calls[0] += 1
        if calls[0] == 6 * killed_after + 3:  # somewhere in a row of six tiles
            raise KeyboardInterrupt
        return forward(self, image)

    monkeypatch.setattr(type(network), "forward", counted)
    with pytest.raises(KeyboardInterrupt):
        predict.stream(source, path)
    monkeypatch.setattr(type(network), "forward", forward)
    assert not path.exists()
    noted = json.loads((tmp_path / ".again.npy.partial.json").read_text())
    assert noted["finished"] > 0
    before = calls[0]
    monkeypatch.setattr(type(network), "forward", counted)
    assert (np.load(predict.stream(source, path)) == whole).all()
    # All have 18 tiles. Those that overlap finished rows are looked at again: all, of the first row.
    assert calls[0] - before <= (12 if blend == "crop" or killed_after == 2 else 18)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.npy", "photo.npy", "whole.npy"]


def test_rows_that_were_made_from_something_else_are_not_kept(
    network: nn.Module, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = tmp_path / "photo.npy", tmp_path / "out.npy"
    np.save(source, photo)
    predict = Predictor(network, TABLE, tile=(64, 64), overlap=24)
    with monkeypatch.context() as patch:
        patch.setattr(predictor_file.streaming.FileSink, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict.stream(source, path)
    other = Predictor(network, TABLE, tile=(64, 64), overlap=24, flip=True)
    assert (np.load(other.stream(source, path)) == other(photo).label_map.labels.numpy()).mean() > 0.9999


def test_rows_of_another_array_are_never_continued(
    predict: Predictor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.npy"
    with monkeypatch.context() as patch:
        patch.setattr(predictor_file.streaming.FileSink, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict.stream(np.zeros_like(photo), path)
    expected = predict(photo).label_map.labels.numpy()
    assert (np.load(predict.stream(photo, path)) == expected).mean() > 0.9999


@pytest.mark.parametrize("keep", ["confidence", "probabilities"])
def test_probabilities_are_kept_as_eight_bits(
    keep: str, predict: Predictor, photo: np.ndarray, tmp_path: Path
) -> None:
    expected = predict(photo, probabilities=True).probabilities
    found = tifffile.imread(predict.stream(photo, tmp_path / "p.tif", keep=keep))
    wanted = expected if keep == "probabilities" else expected.amax(0)
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape
    assert abs(found / 255 - wanted.numpy()).max() < 0.5 / 255 + 1e-4


def test_several_classes_per_pixel_are_streamed_as_masks(photo: np.ndarray, tmp_path: Path) -> None:
    classes = ClassTable(("a", "b"), ((1, 2, 3), (4, 5, 6)), exclusive=False)
    model = pw.build("unet", 2, width=4).eval()
    predict = Predictor(model, classes, tile=(64, 64), overlap=24)
    found = np.load(predict.stream(photo, tmp_path / "m.npy"))
    assert (found == predict(photo).annotation.masks.numpy()).mean() > 0.9999


def test_volumes_are_streamed_in_tiles_with_three_sides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = pw.build("unet3d", 2, width=4, in_channels=1).eval()
    predict = Predictor(model, ClassTable.of("air", "body"), task="volume", decoding={"tile": (32, 32, 32)})
    volume = np.random.default_rng(0).random((40, 48, 56), np.float32)
    np.save(tmp_path / "v.npy", volume)
    tifffile.imwrite(tmp_path / "v.tif", volume)
    found = [
        np.load(predict.stream(tmp_path / f"v.{kind}", tmp_path / f"{kind}.npy", tile=(64, 64, 64)))
        for kind in ("npy", "tif")
    ]
    whole = model(torch.from_numpy(volume)[None, None]).logits.argmax(1)[0].numpy()
    assert all((one == whole).mean() > 0.9999 for one in found)
    pieces = np.load(predict.stream(tmp_path / "v.npy", tmp_path / "p.npy"))
    assert pieces.shape == volume.shape
    # Measured values are scaled by their percentiles, as those of medical files are.
    measured = (volume * 3000 - 1000).astype(np.int16)
    found = np.zeros(volume.shape, np.uint8)
    predict.stream(measured, found, tile=(64, 64, 64))
    low, high = np.percentile(measured, (0.5, 99.5))
    scaled = torch.from_numpy(np.clip((measured - low) / (high - low), 0, 1).astype(np.float32))
    whole = model(scaled[None, None]).logits.argmax(1)[0].numpy()
    assert (found == whole).mean() > 0.99


class AboveMean(DenseModel):
    """Class 1 where a voxel is brighter than the mean of all that the network sees."""

    tasks = ("volume",)
    num_classes, in_channels, minimum_size = 2, 1, 1

    def forward(self, image: torch.Tensor) -> DenseLogits:
        mean = image.mean((1, 2, 3, 4), keepdim=True).expand_as(image)
        return DenseLogits(20 * torch.cat([mean, image], 1), tuple(image.shape[2:]))


@pytest.mark.parametrize("size", [(10, 31, 13), (48, 20, 64), (48, 32, 64)])
def test_small_volumes_lie_among_zeros_whole_in_tiles_and_streamed(
    size: tuple[int, ...], tmp_path: Path
) -> None:
    volume = np.random.default_rng(0).random(size, np.float32)
    np.save(tmp_path / "v.npy", volume)

    def predictor(tile: int, window: int) -> Predictor:
        decoding = {"window": (window,) * 3, "tile": (tile,) * 3}
        return Predictor(AboveMean().eval(), ClassTable.of("a", "b"), task="volume", decoding=decoding)

    for tile in (64, 32):
        predict = predictor(tile, 32)
        whole = predict(torch.from_numpy(volume)[None]).label_map.labels.numpy()
        streamed = np.load(predict.stream(tmp_path / "v.npy", tmp_path / f"{tile}.npy"))
        assert (streamed == whole).all()
        without = np.load(predictor(tile, 0).stream(tmp_path / "v.npy", tmp_path / f"alone {tile}.npy"))
        assert (without == whole).all() == (min(size) >= 32)
    share = np.prod([min(1, side / 32) for side in size])  # of what one tile of 64 voxels sees
    wanted = volume > volume.mean() * share
    predict = predictor(64, 32)
    assert (predict(torch.from_numpy(volume)[None]).label_map.labels.numpy() == wanted).all()


def write_map(path: Path, photo: np.ndarray) -> object:
    """A GeoTIFF; gives the place where it lies."""
    place = rasterio.transform.from_origin(500_000, 5_400_000, 0.5, 0.5)
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE[0], width=SIZE[1], count=3, dtype="uint8",
        crs="EPSG:32632", transform=place, compress="lzw", tiled=True, blockxsize=64, blockysize=64,
    ) as file:  # fmt: skip
        file.write(photo.transpose(2, 0, 1))
    return place


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_map_stays_where_it_is_on_the_earth(predict: Predictor, photo: np.ndarray, tmp_path: Path) -> None:
    place = write_map(tmp_path / "aerial.tif", photo)
    predict.stream(tmp_path / "aerial.tif", tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.crs.to_epsg() == 32632
        assert found.transform == place
        assert found.shape == SIZE


# --- polygons -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("on_map", [False, True])
def test_polygons_are_those_of_the_whole_image(
    on_map: bool, brightness: type, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixelwise.tiling.sinks._BAND", 10 * SIZE[1])  # objects lie in several bands
    path = tmp_path / "a.tif"
    if on_map:
        write_map(path, photo)
    else:
        tifffile.imwrite(path, photo, photometric="rgb")
    network = brightness().eval()
    Predictor(network, TABLE, tile=None)(path).save(tmp_path / "whole.geojson")
    predict = Predictor(network, TABLE, tile=(64, 64), overlap=32)
    predict.stream(path, tmp_path / "rows.geojson")
    assert (tmp_path / "rows.geojson").read_bytes() == (tmp_path / "whole.geojson").read_bytes()
    content = json.loads((tmp_path / "rows.geojson").read_text())
    assert ("crs" in content) == on_map
    assert sum(one["properties"]["area"] for one in content["features"]) == SIZE[0] * SIZE[1]
    shapes = [one["geometry"] for one in content["features"]]
    several = [one["coordinates"] for one in shapes if one["type"] == "MultiPolygon"]
    single = [one["coordinates"] for one in shapes if one["type"] == "Polygon"]
    parts = [rings for coordinates in [*several, single] for rings in coordinates]
    rows = [np.ptp([y for _, y in rings[0]]) for rings in parts]
    assert max(rows) > (10 if on_map else 20)  # of half a metre: more than two bands
    assert max(map(len, parts)) > 1  # there are holes
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match="keep must be labels, got confidence"):
        predict.stream(path, tmp_path / "sure.geojson", keep="confidence")


def test_polygons_of_several_classes_per_pixel_are_those_of_the_whole_image(
    brightness: type, photo: np.ndarray, tmp_path: Path
) -> None:
    network = brightness().eval()
    with torch.no_grad():
        network.levels += 0.2  # more classes than one are above their thresholds
    several = replace(TABLE, exclusive=False)
    thresholds = {"thresholds": [0.2, 0.1, 0.05]}
    given = {"task": "multilabel", "decoding": thresholds}
    np.save(tmp_path / "a.npy", photo)
    Predictor(network, several, tile=None, **given)(photo).save(tmp_path / "whole.geojson")
    Predictor(network, several, tile=(64, 64), overlap=32, **given).stream(
        tmp_path / "a.npy", tmp_path / "rows.geojson"
    )
    found, whole = (json.loads((tmp_path / f"{name}.geojson").read_text()) for name in ("rows", "whole"))
    assert found["features"] == whole["features"]
    assert len(found["features"]) == 3
    assert sum(one["properties"]["area"] for one in found["features"]) != SIZE[0] * SIZE[1]


def test_polygons_that_a_full_disk_interrupts_are_written_by_the_next_call(
    predict: Predictor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", photo)
    predict.stream(tmp_path / "a.npy", tmp_path / "wanted.geojson")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pixelwise.rle.banded.BandedOutlines._keep", full)
        with pytest.raises(ValueError, match=r"cannot write .*found.geojson: No space left on device"):
            predict.stream(tmp_path / "a.npy", tmp_path / "found.geojson")
    assert not (tmp_path / "found.geojson").exists()
    monkeypatch.setattr(Predictor, "decode_block", None)  # everything is finished but the file
    predict.stream(tmp_path / "a.npy", tmp_path / "found.geojson")
    assert (tmp_path / "found.geojson").read_bytes() == (tmp_path / "wanted.geojson").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "found.geojson", "wanted.geojson"}


def test_a_plan_tells_tiles_memory_and_time_and_writes_nothing(
    predict: Predictor, photo: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "photo.npy", photo)
    plan = predict.plan(tmp_path / "photo.npy")
    assert plan.tiles == 3 * 6
    assert plan.disk == SIZE[0] * SIZE[1]
    assert 0 < plan.seconds < 100
    assert 10**5 < plan.memory < 10**8
    assert str(plan).startswith("150 x 230 pixels in 18 tiles of 64 x 64: about ")
    assert [p.name for p in tmp_path.iterdir()] == ["photo.npy"]


# --- what cannot be done --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (300, 10)])
def test_an_image_below_the_minimum_is_as_in_memory(
    predict: Predictor, tmp_path: Path, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = np.load(predict.stream(image, tmp_path / "small.npy"))
    assert np.array_equal(found, predict(image).label_map.labels.numpy())


def test_a_very_long_image_is_predicted_in_tiles(
    brightness: type, classes: ClassTable, tmp_path: Path
) -> None:
    ramp = np.linspace(0, 255, 100_000).astype(np.uint8)[:, None, None].repeat(10, 1).repeat(3, 2)
    predict = Predictor(brightness(minimum_size=8).eval(), classes, tile=(4096, 64), overlap=32)
    found = np.load(predict.stream(ramp, tmp_path / "long.npy"))
    assert found.shape == (100_000, 10)
    assert (np.diff(found[:, 0].astype(int)) >= 0).all()
    assert set(found[[0, 50_000, -1], 5]) == {0, 1, 2}


def test_five_channels_and_damaged_files_are_sentences(predict: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes images of 3 channels, got 5"):
        predict.stream(np.zeros((64, 64, 5), np.uint8), tmp_path / "a.tif")
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, np.zeros((500, 500, 3), np.uint8), tile=(128, 128), photometric="rgb")
    os.truncate(path, 300_000)
    with pytest.raises(ValueError, match=r"cannot read .*cut\.tif"):
        predict.stream(path, tmp_path / "a.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(ValueError, match=r"cannot read .*empty\.tif"):
        predict.stream(tmp_path / "empty.tif", tmp_path / "a.tif")
    assert not (tmp_path / "a.tif").exists()


def test_no_file_is_lost(predict: Predictor, photo: np.ndarray, tmp_path: Path) -> None:
    source = tmp_path / "photo.npy"
    np.save(source, photo)
    with pytest.raises(ValueError, match="exists already"):
        predict.stream(source, source, overwrite=True)
    (tmp_path / "mine.npy").write_text("mine")
    with pytest.raises(ValueError, match="exists already: overwrite=True replaces it"):
        predict.stream(source, tmp_path / "mine.npy")
    assert (tmp_path / "mine.npy").read_text() == "mine"
    with pytest.raises(ValueError, match=r"a large result is one of \.tif"):
        predict.stream(source, tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="has the shape"):
        predict.stream(source, np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="cannot make the folder"):
        predict.stream(source, tmp_path / "mine.npy" / "a.tif")


@pytest.mark.parametrize("blend", ["gaussian", "crop"])
def test_memory_does_not_grow_with_the_number_of_rows(
    blend: str, brightness: type, classes: ClassTable
) -> None:
    predict = Predictor(
        brightness().eval(), classes, tile=(64, 64), overlap=32, blend=blend, max_pixels=10**9
    )
    peaks = []
    for height in (300, 1500):
        source, out = np.zeros((height, 150, 3), np.uint8), np.zeros((height, 150), np.uint8)
        peaks.append(live_bytes(lambda: predict.stream(source, out)))  # noqa: B023
    assert peaks[1] < 1.3 * peaks[0]


def test_too_little_room_is_told_before_anything_is_computed(
    predict: Predictor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ValueError, match=r"it needs 0\.0 GB and 0\.0 GB are free"):
        predict.stream(photo, tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path: Path) -> None:
    script = """
import resource, numpy as np, torch, pixelwise as pw
from pixelwise.predict import Predictor
torch.manual_seed(0)
predict = Predictor(pw.build("unet", 2, width=4), pw.ClassTable.of("a", "b"), tile=(64, 64), overlap=32)
predict.stream(np.zeros((200, 100, 3), np.uint8), np.zeros((200, 100), np.uint8))  # compiles the kernels
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    predict.stream(np.zeros((200, 100, 3), np.uint8), "a.npy")
except ValueError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "cannot write a.npy: File too large" in run.stdout
    assert "goes on from there" in run.stdout
    assert not (tmp_path / "a.npy").exists()


# --- objects --------------------------------------------------------------------------------------


class Blobs(MaskModel):
    """Two queries: the whole bright part of an image, and nothing."""

    num_classes, minimum_size = 1, 8

    def forward(self, image: torch.Tensor) -> MaskLogits:
        bright = 20 * (image.mean(1) - 0.5)
        classes = torch.tensor([[5.0, -5.0], [-5.0, 5.0]]).expand(len(image), 2, 2)
        size = (image.shape[-2], image.shape[-1])
        return MaskLogits(classes, torch.stack([bright, -bright * 0 - 9], 1), size)


def test_an_object_that_all_tiles_cut_is_one_in_the_map_of_ids(tmp_path: Path) -> None:
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[40:160, 30:280] = 255
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    predict = Predictor(
        Blobs().eval(), ClassTable.of("thing"), task="instance", tile=(96, 96), overlap=32,
        decoding={"min_score": 0.5},
    )  # fmt: skip
    ids = tifffile.imread(predict.stream(tmp_path / "a.tif", tmp_path / "ids.tif"))
    assert ids.dtype == np.uint32
    assert (ids == (pixels[..., 0] > 0)).all()
    (only,) = json.loads((tmp_path / "ids.json").read_text())["objects"]
    assert (only["id"], only["class"], only["bbox"], only["area"]) == (1, "thing", [30, 40, 280, 160], 30_000)
    found = predict(pixels).annotation
    assert len(found) == 1
    assert (found.dense[0].numpy() == (pixels[..., 0] > 0)).all()
    with pytest.raises(ValueError, match=r"ids.json exists already|ids.tif exists already"):
        predict.stream(tmp_path / "a.tif", tmp_path / "ids.tif")
    predict.stream(tmp_path / "a.tif", tmp_path / "ids.geojson")
    (polygon,) = json.loads((tmp_path / "ids.geojson").read_text())["features"]
    assert polygon["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[30, 40], [280, 40], [280, 160], [30, 160], [30, 40]]],
    }
    assert polygon["properties"]["score"] == pytest.approx(only["score"], abs=1e-4)
    assert "instance" not in str(predict.plan(tmp_path / "a.tif"))
    with pytest.raises(ValueError, match="keep is for models that score every pixel"):
        predict.stream(tmp_path / "a.tif", tmp_path / "b.tif", keep="confidence")


def test_networks_that_classify_masks_label_pixels_tile_by_tile(tmp_path: Path) -> None:
    class Halves(Blobs):
        """Class 0 where it is bright, class 1 elsewhere."""

        num_classes = 2

        def forward(self, image: torch.Tensor) -> MaskLogits:
            bright = 20 * (image.mean(1) - 0.5)
            classes = torch.tensor([[5.0, -5.0, -5.0], [-5.0, 5.0, -5.0]]).expand(len(image), 2, 3)
            size = (image.shape[-2], image.shape[-1])
            return MaskLogits(classes, torch.stack([bright, -bright], 1), size)

    pixels = np.random.default_rng(0).integers(0, 2, (150, 170, 1), np.uint8).repeat(3, 2) * 255
    predict = Predictor(
        Halves().eval(), ClassTable.of("bright", "dark"), task="semantic", tile=(64, 64), overlap=32
    )
    wanted = (pixels[..., 0] == 0).astype(np.uint8)
    assert (predict(pixels).label_map.labels.numpy() == wanted).all()
    assert (np.load(predict.stream(pixels, tmp_path / "m.npy")) == wanted).all()
    turned = Predictor(Halves().eval(), ClassTable.of("bright", "dark"), task="semantic", views="all")
    assert (turned(pixels).label_map.labels.numpy() == wanted).all()


@pytest.mark.parametrize(
    ("bytes_per_pixel", "size", "tile"),
    [
        (100, (2300, 1300), (832, 704)),
        (150, (2300, 1300), (640, 704)),
        (5000, (2300, 1300), (512, 480)),
        (100, (300, 3000), (300, 800)),
        (100, (500, 700), (500, 700)),
    ],
)
def test_tiles_that_nobody_asked_for_go_by_the_memory_of_the_network_and_the_image(
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    bytes_per_pixel: int,
    size: tuple[int, int],
    tile: tuple[int, int],
) -> None:
    predict = Predictor(network, TABLE, blend="crop")
    monkeypatch.setattr(Predictor, "at_once", 1)
    monkeypatch.setattr(Predictor, "bytes_per_pixel", bytes_per_pixel)
    monkeypatch.setattr("pixelwise.predict.streaming.planned", lambda stream: stream.axes)
    axes = predict.plan(np.zeros((*size, 3), np.uint8))
    assert tuple(axis[0].stop for axis in axes) == tile
    assert all(this.stop - after.start >= 64 for axis in axes for this, after in pairwise(axis))


def test_the_fastest_form_is_chosen_on_the_first_tile(
    network: nn.Module, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, used = [], []

    def run(image: torch.Tensor) -> DenseLogits:
        used.append(tuple(image.shape))
        return network(image)

    def optimize(found: Checkpoint, images: list[torch.Tensor]) -> Optimized:
        asked.extend(images)
        return Optimized("fast", (64, 64), FastModel(network, run), ())

    monkeypatch.setattr(predictor_file.export, "recalled", lambda found, size: None)
    monkeypatch.setattr(predictor_file.export, "optimize", optimize)
    predict = Predictor(network, TABLE, tile=(64, 64), overlap=32, optimize=True)
    found = predict.stream(photo, np.zeros(photo.shape[:2], np.uint8))
    assert [tuple(image.shape) for image in asked] == [(3, 64, 64)]
    assert len(used) > 1
    expected = Predictor(network, TABLE, tile=(64, 64), overlap=32).stream(photo, np.zeros_like(found))
    np.testing.assert_array_equal(found, expected)
