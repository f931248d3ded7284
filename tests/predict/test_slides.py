"""Whole-slide images: levels, microns per pixel, and what is written of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

import pixelwise as pw
from pixelwise.cli import app
from pixelwise.predict import Predictor
from pixelwise.rle import RleMasks
from pixelwise.tiling import SlideSource, open_source, sinks

TABLE = pw.ClassTable.of("glass", "tissue")


@pytest.fixture
def tissue() -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (19, 26, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((700, 520), Image.Resampling.BICUBIC))


@pytest.fixture
def slide(tissue: np.ndarray, tmp_path: Path) -> Path:
    """Three levels of 700 x 520 pixels, half a micron each."""
    path = tmp_path / "slide.tif"
    form = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            level = np.asarray(
                Image.fromarray(tissue).resize((700 // step, 520 // step), Image.Resampling.BOX)
            )
            file.write(level, subfiletype=int(step > 1), resolution=(20_000 / step,) * 2, **form)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    pw.save(pw.build("unet", 2, width=4), tmp_path / "model.safetensors", TABLE)
    return tmp_path / "model.safetensors"


def test_a_level_is_that_of_the_file(slide: Path, tissue: np.ndarray) -> None:
    with SlideSource(slide) as finest, SlideSource(slide, level=-1) as coarsest:
        assert (finest.size, finest.mpp) == ((520, 700), pytest.approx(0.5))
        assert (finest.read(100, 230) == tissue[100:230]).all()
        assert (coarsest.level, coarsest.size, coarsest.mpp) == (2, (130, 175), pytest.approx(2.0))


def test_microns_per_pixel_are_made_from_the_next_finer_level(slide: Path) -> None:
    with SlideSource(slide, mpp=1.0) as same, SlideSource(slide, level=1) as level:
        assert (same.level, same.size) == (1, (260, 350))
        assert (same.read(0, 260) == level.read(0, 260)).all()
        expected = Image.fromarray(level.read(0, 260)).resize((233, 173), Image.Resampling.BILINEAR)
    with SlideSource(slide, mpp=1.5) as between:
        assert (between.level, between.size, between.mpp) == (1, (173, 233), pytest.approx(1.5))
        whole = between.read(0, 173)
        assert np.abs(whole.astype(int) - np.asarray(expected)).max() <= 1
        parts = [between.read(start, min(start + 40, 173)) for start in range(0, 173, 40)]
        assert (np.concatenate(parts) == whole).all()


def test_wide_rows_are_decoded_in_parts_without_seams(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SlideSource(slide, mpp=0.8) as source:
        whole = source.read(10, 90)
        monkeypatch.setattr("pixelwise.tiling.slides._COLUMNS", 100)
        assert np.abs(source.read(10, 90).astype(int) - whole).max() <= 1


def test_levels_and_resolutions_that_a_slide_does_not_have_are_sentences(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 3 levels, 0 to 2, got 3"):
        SlideSource(slide, level=3)
    with pytest.raises(ValueError, match=r"has 0\.5 microns per pixel at its finest level, got mpp 0\.1"):
        SlideSource(slide, mpp=0.1)
    with pytest.raises(ValueError, match="not both"):
        SlideSource(slide, level=0, mpp=1.0)
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"cannot read .*photo\.png"):
        SlideSource(tmp_path / "photo.png")
    (tmp_path / "cut.svs").write_bytes(slide.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cannot read .*cut\.svs"):
        open_source(tmp_path / "cut.svs")


def test_without_the_extra_its_name_is_told(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ValueError, match=r"pip install pixelwise\[slides\]"):
        SlideSource(slide)


def test_a_slide_is_predicted_from_file_to_file(slide: Path, run: Path, tmp_path: Path) -> None:
    predict = Predictor(run, tile=(128, 128), overlap=32, blend="crop")
    with SlideSource(slide, level=1) as source:
        expected = np.zeros(source.size, np.uint8)
        predict.stream(source.read(0, 260), expected)
    out = tmp_path / "labels.tif"
    arguments = ["predict", str(run), str(slide), "--out", str(out), "--level", "1"]
    arguments += ["--tile", "128x128", "--tile-overlap", "32", "--tile-blend", "crop"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert (tifffile.imread(out) == expected).all()


def test_polygons_of_a_slide_lie_on_its_finest_level(slide: Path, run: Path, tmp_path: Path) -> None:
    predict = Predictor(run, tile=(64, 64), overlap=32)
    with SlideSource(slide, level=1) as source:
        labels = tifffile.imread(predict.stream(source, tmp_path / "labels.tif"))
        predict.stream(source, tmp_path / "labels.geojson")
    content = json.loads((tmp_path / "labels.geojson").read_text())
    assert (content["height"], content["width"]) == (520, 700)
    for one in content["features"]:
        several = one["geometry"]["type"] == "MultiPolygon"
        coordinates = one["geometry"]["coordinates"]
        rings = [ring for rings in (coordinates if several else [coordinates]) for ring in rings]
        flat = [np.divide(ring, 2).ravel().tolist() for ring in rings]  # two pixels for one of the level
        drawn = RleMasks.from_polygons([flat], 260, 350, even_odd=True).decode()[0]
        assert (drawn == (labels == one["properties"]["label"])).all()
        assert drawn.any()


def test_large_results_hold_smaller_copies(
    tissue: np.ndarray, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_PYRAMID", 1000)
    monkeypatch.setattr(sinks, "_SMALLEST", 200)
    out = tmp_path / "labels.tif"
    Predictor(run, tile=(256, 256), overlap=32).stream(tissue, out)
    with tifffile.TiffFile(out) as file:
        maps = [page.asarray() for page in file.pages]
        assert [page.is_reduced for page in file.pages] == [0, 1, 1]
    assert [one.shape for one in maps] == [(520, 700), (260, 350), (130, 175)]
    assert (maps[1] == maps[0][::2, ::2]).all()
    assert (maps[2] == maps[0][::4, ::4]).all()
    with open_source(out) as source:
        assert (source.read(0, 520)[..., 0] == maps[0]).all()


def test_a_level_of_several_files_or_of_a_photograph_is_a_sentence(
    slide: Path, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.tif").write_bytes(slide.read_bytes())
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    for sources in ([slide, tmp_path / "b.tif"], [tmp_path / "photo.png"]):
        command = ["predict", str(run), *map(str, sources), "--level", "1", "--out", str(tmp_path / "found")]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert "for one whole-slide image" in " ".join(done.output.split())


@pytest.mark.slow
def test_the_command_predicts_a_slide_at_microns_per_pixel(slide: Path, run: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pixelwise",
        "predict",
        run.name,
        slide.name,
        "--mpp",
        "1",
        "--out",
        "found",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert tifffile.imread(tmp_path / "found" / "slide.tif").shape == (260, 350)
