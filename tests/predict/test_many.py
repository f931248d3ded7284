"""Predictions of many images: threads beside the model, batches of one size, stopped runs."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.files import BEGUN, MANIFEST
from pixelwise.predict import Prediction, Predictor, predict_many
from pixelwise.predict.writing import plan, write_predictions
from pixelwise.types import ClassTable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images of two sizes in turn."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(10):
        size = (20, 30) if number % 2 else (16, 24)
        pixels = random.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def labels_of(index: int, prediction: Prediction) -> Callable[[], np.ndarray]:
    labels = prediction.label_map.labels.numpy()
    return lambda: labels


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_many_predictions_are_those_of_one_image_after_the_other(
    folder: Path, model, classes: ClassTable, workers: int, batch_size: int
) -> None:
    predictor, paths = Predictor(model, classes), sorted(folder.iterdir())
    found = dict(predict_many(predictor, paths, labels_of, workers=workers, batch_size=batch_size))
    assert sorted(found) == list(range(10))
    for number, path in enumerate(paths):
        assert np.array_equal(found[number], predictor(path).label_map.labels.numpy())


def test_images_of_one_size_share_a_batch_though_others_lie_between(
    folder: Path, model, classes: ClassTable
) -> None:
    predictor, sizes = Predictor(model, classes), list[tuple[int, ...]]()
    model.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    list(predict_many(predictor, sorted(folder.iterdir()), labels_of, batch_size=5))
    assert sorted(sizes) == [(5, 3, 16, 24), (5, 3, 20, 30)]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_model_runs_in_threads_with_a_core_each_unless_nothing_is_to_run_beside_it(
    folder: Path, model, classes: ClassTable, workers: int, two_threads: None
) -> None:
    seen, called = set[tuple[str, int]](), set[str]()
    model.register_forward_pre_hook(
        lambda *_: seen.add((threading.current_thread().name.rstrip("_0123456789"), torch.get_num_threads()))
    )

    def then(index: int, prediction: Prediction) -> Callable[[], str]:
        called.add(threading.current_thread().name)
        return lambda: threading.current_thread().name

    paths, predictor = sorted(folder.iterdir()), Predictor(model, classes)
    names = {str(name) for _, name in predict_many(predictor, paths, then, workers=workers)}
    here = threading.current_thread().name
    assert seen == ({("pixelwise-compute", 1)} if workers else {(here, 2)})
    assert called == {here}
    assert all(name.startswith("pixelwise_") if workers else name == here for name in names)
    assert torch.get_num_threads() == 2


def test_a_large_image_has_all_threads_for_itself(
    folder: Path, model, classes: ClassTable, two_threads: None
) -> None:
    Image.new("RGB", (2100, 2100), (9, 9, 9)).save(folder / "4.png")
    seen = dict[tuple[int, int], int]()
    model.register_forward_pre_hook(
        lambda _, given: seen.__setitem__(tuple(given[0].shape[2:]), torch.get_num_threads())
    )
    found = dict(predict_many(Predictor(model, classes), sorted(folder.iterdir()), labels_of))
    del seen[256, 256]  # memory is measured on an image of this size
    assert seen == {(16, 24): 1, (20, 30): 1, (2100, 2100): 2}
    assert list(found) == list(range(10))
    assert found[4].shape == (2100, 2100)


def test_one_bad_image_does_not_stop_its_batch(folder: Path, model, classes: ClassTable) -> None:
    (folder / "2.png").write_bytes(b"")
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    found = dict(predict_many(Predictor(model, classes), sorted(folder.iterdir()), labels_of, batch_size=4))
    assert {index for index, result in found.items() if isinstance(result, ValueError)} == {2, 5}
    assert "2.png: it is empty" in str(found[2])
    assert "5.png: " in str(found[5])
    assert len(found) == 10


def test_an_image_of_five_channels_is_told_from_a_damaged_one(
    folder: Path, model, classes: ClassTable
) -> None:
    import tifffile

    tifffile.imwrite(
        folder / "many.tif", np.zeros((16, 24, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    np.save(folder / "many.npy", np.zeros((16, 24, 5), np.uint8))
    (folder / "damaged.tif").write_bytes((folder / "many.tif").read_bytes()[:60])
    paths = [folder / name for name in ("many.tif", "many.npy", "damaged.tif")]
    told = [str(result) for _, result in predict_many(Predictor(model, classes), paths, labels_of)]
    assert "many.tif has 5 channels, expected 3" in told[0]
    assert "many.npy has the shape (16, 24, 5), expected 3 channels" in told[1]
    assert "cannot read" in told[2]


def test_arrays_are_images_too(folder: Path, model, classes: ClassTable) -> None:
    predictor, paths = Predictor(model, classes), sorted(folder.iterdir())
    arrays = (np.asarray(Image.open(path)) for path in paths)
    for index, labels in predict_many(predictor, arrays, labels_of):
        assert np.array_equal(labels, predictor(paths[index]).label_map.labels.numpy())


def test_a_disk_that_is_full_stops_everything(folder: Path, model, classes: ClassTable) -> None:
    def then(index: int, prediction: Prediction) -> Callable[[], None]:
        def write() -> None:
            raise ValueError("No space left on device")

        return write

    with pytest.raises(ValueError, match="No space left"):
        list(predict_many(Predictor(model, classes), sorted(folder.iterdir()), then))


def test_impossible_settings_are_refused(folder: Path, model, classes: ClassTable) -> None:
    for given in ({"workers": -1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(given))} must be at least"):
            list(predict_many(Predictor(model, classes), [], labels_of, **given))


# --- results that are there already ---------------------------------------------------------------


def test_a_stopped_run_goes_on_where_it_was(
    folder: Path, model, classes: ClassTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, out = Predictor(model, classes), tmp_path / "out"
    jobs = plan([folder], out)
    written = write_predictions(predictor, jobs[:4], out, overlay=True, progress=False)
    times = {path: path.stat().st_mtime_ns for path in written.predictions}
    # Killed between the appearance of a file and the note of its digest.
    (out / "4.png").write_bytes(b"whole or not, it is written again")
    (out / BEGUN).write_text("4.png\n4_overlay.png\n")
    again = write_predictions(predictor, jobs, out, overlay=True, resume=True, progress=False)
    assert again.skipped == 4
    assert [path.name for path in again.predictions] == [f"{number}.png" for number in range(4, 10)]
    assert {path: path.stat().st_mtime_ns for path in written.predictions} == times
    whole = tmp_path / "whole"
    write_predictions(predictor, plan([folder], whole), whole, overlay=True, workers=0, progress=False)
    for path in whole.rglob("*.png"):
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert not (out / BEGUN).exists()
    assert write_predictions(predictor, jobs, out, resume=True, progress=False).skipped == 10


def test_one_image_given_twice_is_refused(folder: Path, model, classes: ClassTable, tmp_path: Path) -> None:
    jobs = plan([folder / "1.png", folder / "1.png"], tmp_path / "out")
    with pytest.raises(ValueError, match="would both be written to"):
        write_predictions(Predictor(model, classes), jobs, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_run_that_goes_on_never_touches_a_file_that_somebody_changed(
    folder: Path, model, classes: ClassTable, tmp_path: Path
) -> None:
    predictor, out = Predictor(model, classes), tmp_path / "out"
    jobs = plan([folder], out)
    write_predictions(predictor, jobs[:4], out, progress=False)
    (out / "2.png").write_bytes(b"corrected by hand")
    with pytest.raises(ValueError, match=r"2\.png exists, and pixelwise did not write it as it is now"):
        write_predictions(predictor, jobs, out, resume=True, progress=False)
    assert (out / "2.png").read_bytes() == b"corrected by hand"
    assert not (out / "5.png").exists()


def test_the_files_do_not_depend_on_threads_and_batches(
    folder: Path, model, classes: ClassTable, tmp_path: Path
) -> None:
    found = []
    for name, given in {"a": {"workers": 0}, "b": {"workers": 3, "batch_size": 4}}.items():
        out = tmp_path / name
        written = write_predictions(
            Predictor(model, classes), plan([folder], out), out, overlay=True, progress=False, **given
        )
        assert [path.name for path in written.predictions] == [f"{number}.png" for number in range(10)]
        found.append({path.name: path.read_bytes() for path in out.iterdir() if path.name != MANIFEST})
    assert found[0] == found[1]


def test_no_thread_is_left_behind(folder: Path, model, classes: ClassTable) -> None:
    results = predict_many(Predictor(model, classes), sorted(folder.iterdir()), labels_of, workers=3)
    next(results)
    results.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("pixelwise")]
    assert torch.get_num_threads() >= 1
