"""Ray: the same files as without it, whatever happens to a worker."""

import logging
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import pixelwise as pw
from pixelwise.files import BEGUN, MANIFEST
from pixelwise.predict import Predictor, bulk
from pixelwise.predict.bulk import find, is_uri, predict_on_ray
from pixelwise.predict.writing import Written, plan, write_predictions
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


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are predicted in this process, as a worker of Ray does it."""

    def rows(ray: object, work: bulk._Work, chunks: dict[int, list[tuple[str, str]]], cpus: int):
        worker = bulk._Chunks(work)
        for chunk in chunks.values():
            yield from worker.predict(chunk)

    monkeypatch.setattr(bulk, "_library", lambda: SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(bulk, "_rows", rows)


def test_the_files_are_those_of_a_plain_folder(here: None, folder: Path, checkpoint, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    write_predictions(Predictor(checkpoint), plan([folder], whole), whole, progress=False)
    (folder / "a" / "005.png").write_bytes(b"")
    result = predict_on_ray(checkpoint, [str(folder)], str(out), progress=False)
    expected = pictures(whole)
    del expected["a/005.png"]
    assert pictures(out) == expected
    assert len(result.predictions) == IMAGES - 1
    (problem,) = result.problems
    assert "005.png: it is empty" in problem
    names = [line.split("  ")[1] for line in (out / MANIFEST).read_text().splitlines()]
    assert sorted(names) == sorted(expected)
    assert not (out / BEGUN).exists()
    with pytest.raises(ValueError, match="was written before"):
        predict_on_ray(checkpoint, [str(folder)], str(out), progress=False)

    # A later call does the chunk with what is missing only.
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(folder / "a" / "005.png")
    again = predict_on_ray(checkpoint, [str(folder)], str(out), resume=True, progress=False)
    assert len(again.predictions) == 8
    assert len(pictures(out)) == IMAGES


def test_ray_that_is_started_here_says_errors_only_and_is_stopped(
    here: None, folder: Path, checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    started = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **options: told.append(options["logging_level"]),
        shutdown=lambda: told.append("stopped"),
    )
    monkeypatch.setattr(bulk, "_library", lambda: started)
    logger = logging.getLogger("ray.data")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    predict_on_ray(checkpoint, [str(folder / "a" / "001.png")], str(tmp_path / "out"), progress=False)
    assert told == ["error", "stopped"]
    assert logger.level == logging.ERROR


def test_workers_prepare_their_process_before_they_load_the_model(
    checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda told: told))
    monkeypatch.setattr(bulk, "_Chunks", lambda work: order.append("model"))
    bulk._Worker(bulk._Work(checkpoint, {}, str(tmp_path), ".png", 0, lambda: order.append("prepared")))
    assert order == ["prepared", "model"]


def test_uris_are_read_and_written(here: None, folder: Path, checkpoint, tmp_path: Path) -> None:
    whole, uri = tmp_path / "whole", f"file://{tmp_path}/remote"
    write_predictions(Predictor(checkpoint), plan([folder], whole), whole, progress=False)
    (folder / "b" / "002.png").write_bytes(b"")
    result = predict_on_ray(checkpoint, [f"file://{folder}"], uri, progress=False)
    expected = pictures(whole)
    del expected["b/002.png"]
    assert pictures(tmp_path / "remote") == expected
    (problem,) = result.problems
    assert problem == f"cannot read file://{folder}/b/002.png: it is empty"
    with pytest.raises(ValueError, match="--resume leaves it out"):
        predict_on_ray(checkpoint, [f"file://{folder}"], uri, progress=False)
    predict_on_ray(checkpoint, [f"file://{folder}"], uri, overwrite=True, progress=False)
    assert pictures(tmp_path / "remote") == expected


def test_rows_of_run_lengths_give_the_labels_back(
    here: None, folder: Path, checkpoint, tmp_path: Path
) -> None:
    from pyarrow import parquet

    whole, out = tmp_path / "whole", tmp_path / "out"
    write_predictions(Predictor(checkpoint), plan([folder], whole), whole, progress=False)
    result = predict_on_ray(checkpoint, [str(folder)], str(out), format="parquet", progress=False)
    assert sorted(result.predictions) == sorted(out.glob("*.parquet"))
    assert len(result.predictions) == (IMAGES + 7) // 8
    rows = parquet.read_table(out).to_pylist()
    for short in pictures(whole):
        labels = np.full((32, 40), -1)
        for row in rows:
            if row["image"] == str(folder / short):
                mask = {"size": [row["height"], row["width"]], "counts": row["counts"]}
                labels[RleMasks.from_coco([mask]).decode()[0]] = row["label"]
        assert np.array_equal(labels, np.asarray(Image.open(whole / short)))
    assert predict_on_ray(
        checkpoint, [str(folder)], str(out), format="parquet", resume=True, progress=False
    ) == Written([], [], [], IMAGES, IMAGES)


def test_an_image_that_does_not_come_back_or_comes_twice_is_told(
    here: None, folder: Path, checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = bulk._rows
    monkeypatch.setattr(bulk, "_rows", lambda *given: list(rows(*given))[:-1])
    with pytest.raises(ValueError, match=r"1 images were lost, such as .*: run again with --resume"):
        predict_on_ray(checkpoint, [str(folder)], str(tmp_path / "out"), progress=False)
    monkeypatch.setattr(bulk, "_rows", lambda *given: [*(found := list(rows(*given))), found[0]])
    with pytest.raises(ValueError, match="was predicted twice"):
        predict_on_ray(checkpoint, [str(folder)], str(tmp_path / "again"), progress=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray and its threads
def test_a_machine_that_is_lost_in_the_middle_loses_and_doubles_nothing(
    folder: Path, checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    whole = tmp_path / "whole"
    write_predictions(Predictor(checkpoint), plan([folder], whole), whole, progress=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(pw.__file__).parent.parent))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else workers starve where others compute
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        out = tmp_path / "out"
        written: list[Written] = []
        job = threading.Thread(
            daemon=True,
            target=lambda: written.append(
                predict_on_ray(checkpoint, [str(folder)], str(out), progress=False)
            ),
        )
        job.start()
        while job.is_alive() and len(list(out.rglob("*.png"))) < 9:
            time.sleep(0.05)
        assert job.is_alive(), "the job was over before a machine could be lost"
        cluster.remove_node(lost, allow_graceful=False)
        job.join(600)
        (result,) = written
        assert not result.problems
        assert len(result.predictions) == IMAGES
        assert pictures(out) == pictures(whole)
        names = [line.split("  ")[1] for line in (out / MANIFEST).read_text().splitlines()]
        assert sorted(names) == sorted(pictures(whole))
    finally:
        ray.shutdown()
        cluster.shutdown()
