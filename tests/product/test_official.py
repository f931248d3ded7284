"""Official scores at the command line, on real frames."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.mark.slow
def test_davis_is_scored_as_its_owners_ship_it(pixelwise, shared_data, tmp_path: Path) -> None:
    sample = shared_data("data", "davis_sample", "car-shadow")
    root = tmp_path / "DAVIS"
    shutil.copytree(sample / "frames", root / "JPEGImages/480p/car-shadow")
    shutil.copytree(sample / "annotations", root / "Annotations/480p/car-shadow")
    shutil.copytree(sample / "results_osvos", tmp_path / "osvos/car-shadow")
    frames = sorted(path.name for path in (sample / "frames").iterdir())
    lists = root / "ImageSets/480p/val.txt"
    lists.parent.mkdir(parents=True)
    lists.write_text(
        "".join(
            f"/JPEGImages/480p/car-shadow/{name} /Annotations/480p/car-shadow/{name[:-4]}.png\n"
            for name in frames
        )
    )
    done = pixelwise("evaluate", tmp_path / "osvos", root, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    table = told["davis 2016: official scores"]
    assert table["car-shadow"]["J"] == pytest.approx(0.9284, abs=5e-5)  # SOURCE.md beside the frames
    assert table["mean"] == table["car-shadow"]
    assert 0.9 < table["mean"]["F"] <= 1
