"""Ray: the same files as without it, whatever happens to a worker."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pixelwise as pw
from pixelwise.files import BEGUN, MANIFEST
from pixelwise.predict import Predictor
from pixelwise.predict.bulk import find, is_uri, predict_on_ray
from pixelwise.predict.writing import plan, write_predictions
from pixelwise.rle import RleMasks

IMAGES = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        place = tmp_path / "photos" / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 40, 3), np.uint8)).save(place / f"{number:03}.png")
    return tmp_path / "photos"


@pytest.fixture
def checkpoint(tmp_path: Path) -> pw.Checkpoint:
    path = tmp_path / "weights.safetensors"
    pw.save(pw.build("unet", 3, encoder="tiny", width=4), path, pw.ClassTable.of("sky", "road", "car"))
    return pw.load(path)


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_images_are_found_in_folders_patterns_and_uris(folder: Path) -> None:
    suffixes = frozenset({".png"})
    every = find([str(folder)], suffixes)
    assert len(every) == IMAGES
    assert every[0] == (str(folder / "a" / "001.png"), "a/001.png")
    assert find([str(folder / "a" / "*.png")], suffixes)[0][1] == "001.png"
    (name, short), *_ = find([f"file://{folder}"], suffixes)
    assert (name, short) == (f"file://{folder}/a/001.png", "a/001.png")
    with pytest.raises(ValueError, match="there is no image in"):
        find([str(folder / "none")], suffixes)
    with pytest.raises(ValueError, match="cannot look into nowhere://"):
        find(["nowhere://bucket"], suffixes)
    assert is_uri("s3://bucket/photos")
    assert not is_uri("/photos")


def test_what_holds_all_images_together_is_refused(folder: Path, checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose a file for each"):
        predict_on_ray(checkpoint, [str(folder)], str(tmp_path / "out"), format="coco")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray and its threads
def test_a_machine_that_is_lost_in_the_middle_loses_and_doubles_nothing(
    folder: Path, checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from pyarrow import parquet
    from ray.cluster_utils import Cluster

    whole = tmp_path / "whole"
    write_predictions(Predictor(checkpoint), plan([folder], whole), whole, progress=False)
    (folder / "a" / "005.png").write_bytes(b"")
    monkeypatch.setenv("PYTHONPATH", str(Path(pw.__file__).parent.parent))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        out = tmp_path / "out"
        written: list[object] = []
        job = threading.Thread(
            target=lambda: written.append(
                predict_on_ray(checkpoint, [str(folder)], str(out), cpus=1, progress=False)
            )
        )
        job.start()
        while job.is_alive() and len(list(out.rglob("*.png"))) < 9:
            time.sleep(0.05)
        assert job.is_alive(), "the job was over before a machine could be lost"
        cluster.remove_node(lost, allow_graceful=False)
        job.join(300)
        (result,) = written
        expected = pictures(whole)
        del expected["a/005.png"]
        assert pictures(out) == expected
        assert len(result.predictions) == IMAGES - 1
        (problem,) = result.problems
        assert "005.png: it is empty" in problem
        names = [line.split("  ")[1] for line in (out / MANIFEST).read_text().splitlines()]
        assert sorted(names) == sorted(expected)
        assert not (out / BEGUN).exists()

        # A later call does what is missing only; the results of URIs are the same.
        Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(folder / "a" / "005.png")
        again = predict_on_ray(checkpoint, [str(folder)], str(out), resume=True, progress=False)
        assert 1 <= len(again.predictions) <= 8
        assert len(pictures(out)) == IMAGES
        uri = f"file://{tmp_path}/remote"
        predict_on_ray(checkpoint, [f"file://{folder}"], uri, progress=False)
        assert pictures(tmp_path / "remote") == pictures(out)
        with pytest.raises(ValueError, match="--resume leaves it out"):
            predict_on_ray(checkpoint, [f"file://{folder}"], uri, progress=False)

        # Rows of run lengths.
        rows_out = tmp_path / "rows"
        predict_on_ray(checkpoint, [str(folder)], str(rows_out), format="parquet", progress=False)
        rows = parquet.read_table(rows_out).to_pylist()
        for short, png in pictures(out).items():
            labels = np.full((32, 40), -1)
            for row in rows:
                if row["image"] == str(folder / short):
                    mask = {"size": [row["height"], row["width"]], "counts": row["counts"]}
                    labels[RleMasks.from_coco([mask]).decode()[0]] = row["label"]
            assert png == (out / short).read_bytes()
            assert np.array_equal(labels, np.asarray(Image.open(out / short)))
        assert json.dumps(rows[0])
    finally:
        ray.shutdown()
        cluster.shutdown()
