"""GeoTIFF: any bands and types in tiles, unknown pixels ignored, predictions in the place of their image."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

import pixelwise as pw
from pixelwise.data import open_data
from pixelwise.data.cache import cached
from pixelwise.data.datasets import geotiff
from pixelwise.data.formats import raster
from pixelwise.data.formats.geojson import geojson_shapes, read_geojson
from pixelwise.data.formats.image import read_image
from pixelwise.data.formats.raster import crs_name, describe, is_geotiff, read_raster, read_unit, tiles_of
from pixelwise.data.shapes import Picture
from pixelwise.predict import Predictor, evaluate
from pixelwise.predict.prediction import Prediction
from pixelwise.tasks import get_task
from pixelwise.types import DenseLogits, DenseModel, LabelMap

PLACE = rasterio.Affine(10.0, 0.0, 399960.0, 0.0, -20.0, 5700000.0)  # a corner of a Sentinel-2 tile
TABLE = pw.ClassTable.of("land", "water")


def write(path: Path, values: np.ndarray, crs: str | None = "EPSG:32633", **options: Any) -> Path:
    """Bands c H W, or H W."""
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    about |= {"dtype": values.dtype.name, "crs": crs, "transform": PLACE, "tiled": True}
    with rasterio.open(path, "w", **about | {"blockxsize": 256, "blockysize": 256} | options) as file:
        file.write(values)
    return path


def bands(count: int = 6, size: tuple[int, int] = (300, 280)) -> np.ndarray:
    return np.random.default_rng(0).integers(-300, 9000, (count, *size)).astype(np.int16)


# --- files ----------------------------------------------------------------------------------------


def test_a_window_is_a_part_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", bands(), nodata=-300)
    values, known = read_raster(path, (200, 30, 90, 70))
    np.testing.assert_array_equal(values, bands()[:, 200:290, 30:100])
    np.testing.assert_array_equal(known, (values != -300).any(0))
    unit, of_unit = read_unit(path, 6, (200, 30, 90, 70))
    np.testing.assert_array_equal(of_unit, known)
    np.testing.assert_array_equal(unit, read_unit(path, 6)[0][:, 200:290, 30:100])
    assert describe(path).size == (300, 280)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_every_type_becomes_zero_to_one(tmp_path: Path, dtype: str) -> None:
    values = np.abs(bands(2)).clip(0, 250).astype(dtype)
    values[:, :10] = 0
    unit, known = read_unit(write(tmp_path / "a.tif", values), 2)
    assert known.all()
    assert unit.dtype == np.float32
    if dtype in ("uint8", "uint16"):
        np.testing.assert_allclose(unit, values / np.float32(np.iinfo(dtype).max))
    else:
        assert (unit.min(), unit.max()) == (0, 1)


def test_what_is_not_a_number_is_not_known(tmp_path: Path) -> None:
    values = bands(3).astype(np.float32)
    values[1, 5:9, 7:11] = np.nan
    path = write(tmp_path / "a.tif", values)
    unit, known = read_unit(path, 3)
    assert (~known).sum() == 16
    assert not known[5:9, 7:11].any()
    assert not unit[:, ~known].any()
    assert torch.equal(read_image(path, 3), torch.from_numpy(unit))  # as predictions read it


def test_other_channels_name_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", bands())
    with pytest.raises(ValueError, match=r"a.tif has 6 bands, 3 expected: .*--in-channels 6"):
        read_image(path, 3)


def test_tiles_cover_a_raster_once() -> None:
    seen = np.zeros((2500, 1100), int)
    for top, left, height, width in tiles_of((2500, 1100), 1024):
        seen[top : top + height, left : left + width] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("kept", [0, 8, 300, 5000])
def test_a_file_that_was_cut_is_named(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "cut.tif", bands())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cut.tif"):
        read_unit(path, 6)


def test_a_raster_that_claims_more_than_its_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vast.tif"
    about = {"driver": "GTiff", "count": 1, "height": 400_000, "width": 400_000, "dtype": "uint8"}
    with rasterio.open(path, "w", **about, SPARSE_OK=True, tiled=True, transform=PLACE, crs="EPSG:4326"):
        pass
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"vast.tif"):
        read_unit(path, 1)


def test_the_reference_system_is_named_by_its_code(tmp_path: Path) -> None:
    for code in (32633, 4326, 3857):
        path = write(tmp_path / "a.tif", bands(1), f"EPSG:{code}")
        assert crs_name(path) == f"urn:ogc:def:crs:EPSG::{code}"
        assert is_geotiff(path)


# --- folders --------------------------------------------------------------------------------------


def scenes(root: Path, count: int = 3, side: int = 1300) -> Path:
    """Scenes of five bands, whose left columns are not known; masks say where the first band is bright."""
    for number in range(count):
        random = np.random.default_rng(number)
        values = random.integers(0, 4000, (5, side, 1100)).astype(np.int16)
        values[:, :, :100] = -9999
        write(root / "images" / f"s{number}.tif", values, nodata=-9999)
        write(root / "masks" / f"s{number}.tif", (values[0] > 2000).astype(np.uint8))
    return root


def test_a_folder_of_scenes_is_read_in_tiles(tmp_path: Path) -> None:
    before = sorted(scenes(tmp_path).rglob("*"))
    splits = open_data(tmp_path, val_fraction=0.34)
    assert splits.format == "geotiff"
    assert splits.classes.names == ("class 0", "class 1")
    assert (len(splits.train), len(splits.val)) == (2 * 4, 4)  # two by two tiles of each scene
    of_files = [{pair.image for pair in part.pairs} for part in splits.parts().values()]
    assert not of_files[0] & of_files[1]  # no scene is in both parts
    for part in splits.parts().values():
        for index, pair in enumerate(part.pairs):
            sample = part[index]
            top, left, height, width = pair.window
            assert sample.id == f"{pair.image.relative_to(tmp_path).as_posix()}#{top},{left}"
            assert sample.image.shape == (5, height, width)
            values = read_raster(pair.image)[0][0, top : top + height, left : left + width]
            wanted = np.where(values == -9999, 255, values > 2000)
            np.testing.assert_array_equal(sample.target.labels.numpy(), wanted)
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written


def test_scenes_are_scored_with_the_classes_of_a_model(tmp_path: Path) -> None:
    splits = open_data(scenes(tmp_path, 2, 300))
    model = Bright(5)
    report = evaluate(model, splits, progress=False)
    assert report.values["mean_iou"] > 0.9  # the percentiles of a scene are not quite those of its type
    named = evaluate(Predictor(model, TABLE), splits, progress=False)
    assert named.values["mean_iou"] == report.values["mean_iou"]
    assert set(named.per_class) == {"land", "water"}


def test_tiles_that_are_kept_in_memory_are_those_of_the_files(tmp_path: Path) -> None:
    data = open_data(scenes(tmp_path, 2, 1100), val_fraction=0.5).train
    kept = cached(data, "ram")
    assert len(data) == 4
    for index in range(len(data)):
        assert torch.equal(kept[index].image, data[index].image)
        assert torch.equal(kept[index].target.labels, data[index].target.labels)


def test_a_rule_for_masks_is_kept_in_tiles(tmp_path: Path) -> None:
    scenes(tmp_path, 2, 300)
    for path in (tmp_path / "masks").iterdir():
        write(path, np.where(read_raster(path)[0][0] > 0, 200, 30).astype(np.uint8))
    data = open_data(tmp_path, mask_rule="above-127").train
    assert data[0].target.labels.unique().tolist() == [0, 1, 255]


def test_one_scene_alone_is_cut_into_both_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = open_data(scenes(tmp_path, 1), val_fraction=0.25)
    assert (len(splits.train), len(splits.val)) == (3, 1)
    assert "neighbouring tiles of it are in different parts" in splits.remarks[0]


def test_pictures_that_lie_on_the_earth_are_read_as_pairs(tmp_path: Path) -> None:
    for number in range(2):
        pixels = np.abs(bands(3, (40, 50))).clip(0, 255).astype(np.uint8)
        write(tmp_path / "images" / f"{number}.tif", pixels)
        write(tmp_path / "masks" / f"{number}.tif", (pixels[0] > 99).astype(np.uint8))
    assert not geotiff.matches(tmp_path)
    assert open_data(tmp_path).format == "pairs"
    assert open_data(tmp_path, format="geotiff").train[0].image.shape == (3, 40, 50)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    scenes(tmp_path, 2, 300)
    write(tmp_path / "masks" / "s0.tif", np.zeros((200, 1100), np.uint8))
    write(tmp_path / "masks" / "s1.tif", np.zeros((200, 1100), np.uint8))
    with pytest.raises(ValueError, match=r"s\d.tif"):
        open_data(tmp_path, classes=TABLE).train[0]


# --- predictions ----------------------------------------------------------------------------------


class Bright(DenseModel):
    """Water where the first band is above its middle."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.minimum_size = 2, in_channels, 1

    def forward(self, image: torch.Tensor) -> DenseLogits:
        score = image[:, :1] - 0.5
        return DenseLogits(torch.cat([-score, score], 1), tuple(image.shape[-2:]))


def image_of(folder: Path) -> tuple[Path, np.ndarray]:
    values = bands(3, (120, 90)).astype(np.int16)
    values[0, 40:80, 20:60] = 8999
    values[:, :7] = -9999
    return write(folder / "scene.tif", values, nodata=-9999), values


def prediction(path: Path) -> Prediction:
    image = read_image(path, 3)
    labels = (image[0] > 0.5).long()
    return Prediction(LabelMap(labels), get_task("semantic"), TABLE, image, str(path))


def test_a_prediction_lies_where_its_image_does(tmp_path: Path) -> None:
    path, values = image_of(tmp_path)
    prediction(path).save(tmp_path / "found.tif")
    with rasterio.open(path) as image, rasterio.open(tmp_path / "found.tif") as found:
        assert found.crs == image.crs
        assert found.transform == image.transform
        assert found.nodata == 255
        labels = found.read(1)
        assert found.colormap(1)[1][:3] == TABLE.colors[1]
    assert (labels[:7] == 255).all()
    assert (labels[7:] != 255).all()
    assert (labels[40:80, 20:60] == 1).all()
    assert values.shape[1:] == labels.shape


def test_polygons_of_a_prediction_lie_on_the_map(tmp_path: Path) -> None:
    path, _ = image_of(tmp_path)
    made = prediction(path)
    made.save(tmp_path / "scene.geojson")
    content = json.loads((tmp_path / "scene.geojson").read_text())
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert [feature["properties"]["class"] for feature in content["features"]] == ["land", "water"]
    corners = np.concatenate(
        [
            np.array(ring)
            for feature in content["features"]
            for polygon in (
                feature["geometry"]["coordinates"]
                if feature["geometry"]["type"] == "MultiPolygon"
                else [feature["geometry"]["coordinates"]]
            )
            for ring in polygon
        ]
    )
    # 90 columns of 10 m, 120 rows of 20 m of which the first seven are not known.
    np.testing.assert_array_equal(corners.min(0), [399960, 5700000 - 120 * 20])
    np.testing.assert_array_equal(corners.max(0), [399960 + 900, 5700000 - 7 * 20])
    area = sum(feature["properties"]["area"] for feature in content["features"])
    assert area == (120 - 7) * 90
    # And the reader of annotations puts them back onto the pixels.
    (described,) = read_geojson([tmp_path / "scene.geojson"], tmp_path).images
    shapes = geojson_shapes(described, Picture(path, 120, 90))
    rows = np.concatenate([ring[:, 1] for shape in shapes for ring in shape.rings])
    assert (rows.min(), rows.max()) == (7, 120)


def test_a_scene_that_is_predicted_row_by_row_lies_in_its_place_too(tmp_path: Path) -> None:
    path, _ = image_of(tmp_path)
    predictor = Predictor(Bright(), TABLE, tile=(32, 32), overlap=0)
    whole = predictor(path).label_map.labels.numpy()
    predictor.stream(path, tmp_path / "found.tif")
    with rasterio.open(path) as image, rasterio.open(tmp_path / "found.tif") as found:
        labels = found.read(1)
        assert (found.crs, found.transform, found.nodata) == (image.crs, image.transform, 255)
    assert (labels[:7] == 255).all()
    np.testing.assert_array_equal(labels[7:], whole[7:])


def test_what_cannot_be_logged_of_a_damaged_file_is_not_printed(monkeypatch) -> None:
    """GDAL quotes bytes that are no text, of which rasterio's log makes an error that nobody can catch."""
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: said.append(error.exc_value))
    undecodable = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    with raster._quiet(), raster._quiet():
        sys.unraisablehook(SimpleNamespace(exc_value=undecodable))
        assert said == []
        other = ValueError("another")
        sys.unraisablehook(SimpleNamespace(exc_value=other))
    sys.unraisablehook(SimpleNamespace(exc_value=undecodable))
    assert said == [other, undecodable]
