"""Remote sensing at the command line: scenes of four bands are learnt, scored, and put on the map."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

PLACE = rasterio.Affine(0.5, 0.0, 399960.0, 0.0, -0.5, 5700000.0)


@pytest.fixture(scope="module")
def scenes(place: Path) -> Path:
    """Two scenes of 16-bit numbers with signs, whose upper rows are not known; fields are brighter."""
    for number in range(2):
        random = np.random.default_rng(number)
        labels = np.kron(random.integers(0, 2, (5, 6)), np.ones((60, 60))).astype(np.uint8)
        values = (labels.astype(float) * 3000 + random.normal(1000, 300, (4, 300, 360))).astype(np.int16)
        values[:, :30] = -9999
        for kind, pixels in (("images", values), ("masks", labels[None])):
            path = place / "scenes" / kind / f"s{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"count": len(pixels), "height": 300, "width": 360, "dtype": pixels.dtype.name}
            about |= {"crs": "EPSG:32633", "transform": PLACE, "nodata": -9999 if kind == "images" else None}
            with rasterio.open(path, "w", driver="GTiff", **about) as file:
                file.write(pixels)
    return place / "scenes"


@pytest.mark.slow
def test_scenes_are_checked_trained_scored_and_put_on_the_map(
    pixelwise: Callable, place: Path, scenes: Path
) -> None:
    checked = pixelwise("check", "scenes")
    assert checked.code == 0, checked.err
    assert "layout geotiff" in checked.out
    assert "10.0% of the pixels ignored" in checked.out
    options = ["--model", "unet", "--encoder", "tiny", "--set", "width=4", "--crop", "64x64"]
    options += ["--steps", "30", "--lr", "0.01", "--workers", "0", "--in-channels", "4"]
    trained = pixelwise("train", "scenes", *options, "--out", "runs/scenes")
    assert trained.code == 0, trained.err
    scored = pixelwise("evaluate", "runs/scenes", "scenes", "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["mean_iou"] > 0.5
    for name in ("tif", "geojson"):
        found = pixelwise(
            "predict", "runs/scenes", "scenes/images", "--out", f"on_map_{name}", "--format", name
        )
        assert found.code == 0, found.err
    with rasterio.open(scenes / "images" / "s0.tif") as image:
        with rasterio.open(place / "on_map_tif" / "s0.tif") as found:
            assert (found.crs, found.transform, found.nodata) == (image.crs, image.transform, 255)
            labels = found.read(1)
    assert (labels[:30] == 255).all()
    assert (labels[30:] < 2).all()
    polygons = json.loads((place / "on_map_geojson" / "s0.geojson").read_text())
    assert polygons["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert sum(feature["properties"]["area"] for feature in polygons["features"]) == 270 * 360


@pytest.mark.slow
def test_reflectances_of_16_bits_keep_their_intensities(pixelwise: Callable, place: Path) -> None:
    for number in range(2):
        random = np.random.default_rng(number)
        labels = np.kron(random.integers(0, 2, (5, 6)), np.ones((60, 60))).astype(np.uint8)
        values = (labels * 250.0 + random.normal(700, 60, (3, 300, 360))).astype(np.uint16)
        for kind, pixels in (("images", values), ("masks", labels[None])):
            path = place / "dark" / kind / f"s{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"count": len(pixels), "height": 300, "width": 360, "dtype": pixels.dtype.name}
            with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=PLACE, **about) as file:
                file.write(pixels)
    options = ["--model", "unet", "--encoder", "tiny", "--set", "width=4", "--crop", "64x64", "--color", "0"]
    options += ["--steps", "30", "--lr", "0.01", "--workers", "0", "--intensity", "range:400,1300"]
    trained = pixelwise("train", "dark", *options, "--out", "runs/dark")
    assert trained.code == 0, trained.err
    scored = pixelwise("evaluate", "runs/dark", "dark", "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["mean_iou"] > 0.8
    found = pixelwise("predict", "runs/dark", "dark/images", "--out", "dark_found", "--format", "tif")
    assert found.code == 0, found.err
    right = []
    for path in sorted((place / "dark_found").glob("*.tif")):
        with rasterio.open(path) as labels, rasterio.open(place / "dark" / "masks" / path.name) as truth:
            right.append((labels.read(1) == truth.read(1)).mean())
    assert len(right) == 2
    assert min(right) > 0.9
    refused = pixelwise("train", "dark", *options[:-1], "brightest", "--out", "runs/none")
    assert refused.code == 2
    assert "intensity is percentiles" in refused.err
