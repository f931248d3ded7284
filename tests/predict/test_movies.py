"""Movies: a prediction for every frame, and the movie with the overlays."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.files import BEGUN
from pixelwise.predict import Predictor
from pixelwise.predict.movies import movies_among, write_movie
from pixelwise.rle import RleMasks
from pixelwise.types import ClassTable
from pixelwise.video import MovieWriter, read_frames

FRAMES = 12


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """A bright square that moves over dark noise, 40 x 56."""
    noise = np.random.default_rng(0).integers(0, 50, (FRAMES, 40, 56, 1), np.uint8)
    path = tmp_path / "street.mp4"
    with MovieWriter(path, rate=10) as writer:
        for number, frame in enumerate(np.repeat(noise, 3, axis=3)):
            frame[10:30, 2 * number : 2 * number + 20] = 240
            writer.write(frame)
    return path


@pytest.mark.parametrize("batch_size", [1, 5])
def test_every_frame_gets_a_mask_and_the_movie_its_overlays(
    movie: Path, model, classes: ClassTable, tmp_path: Path, batch_size: int
) -> None:
    out, predictor = tmp_path / "out", Predictor(model, classes)
    written = write_movie(predictor, movie, out, batch_size=batch_size, progress=False)
    assert [path.name for path in written.predictions] == [f"{number:06}.png" for number in range(FRAMES)]
    for frame, path in zip(read_frames(movie), written.predictions, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), predictor(frame).label_map.labels.numpy())
    assert written.overlays == [out / "street_overlay.mp4"]
    shown = read_frames(out / "street_overlay.mp4")
    assert shown.rate == 10
    for number, picture in enumerate(shown):
        red, _, blue = picture[15:25, 2 * number + 4 : 2 * number + 16].reshape(-1, 3).mean(0)
        assert red > blue + 60  # bright is yellow
    assert not written.problems
    assert not (out / BEGUN).exists()


def test_what_came_before_a_cut_is_predicted_and_the_cut_is_a_problem(
    movie: Path, model, classes: ClassTable, tmp_path: Path
) -> None:
    data = movie.read_bytes()
    movie.write_bytes(data[: int(0.7 * len(data))])
    written = write_movie(Predictor(model, classes), movie, tmp_path / "out", progress=False)
    assert 2 < len(written.predictions) < FRAMES
    assert len(list(read_frames(written.overlays[0]))) == len(written.predictions)
    (problem,) = written.problems
    assert f"street.mp4 is cut off or damaged after {len(written.predictions)} frames" in problem


def test_frames_as_run_lengths_in_one_file(movie: Path, model, classes: ClassTable, tmp_path: Path) -> None:
    predictor = Predictor(model, classes)
    written = write_movie(predictor, movie, tmp_path / "out", collector="coco", progress=False)
    assert [path.name for path in written.predictions] == ["coco_results.json", "coco_images.json"]
    entries = json.loads(written.predictions[0].read_text())
    for number, frame in enumerate(read_frames(movie)):
        labels = np.full(frame.shape[:2], -1)
        for entry in entries:
            if entry["file_name"] == f"{number:06}.png":
                mask = RleMasks.from_coco([entry["segmentation"]]).decode()[0]
                labels[mask] = entry["category_id"] - 1
        assert np.array_equal(labels, predictor(frame).label_map.labels.numpy())


def test_a_movie_that_is_whole_is_left_out_and_a_half_one_begun_anew(
    movie: Path, model, classes: ClassTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, predictor = tmp_path / "out", Predictor(model, classes)

    class Killed(BaseException):
        pass

    def killed(self: MovieWriter, frame: np.ndarray) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MovieWriter, "write", killed)
        with pytest.raises(Killed):
            write_movie(predictor, movie, out, progress=False)
    assert not (out / "street_overlay.mp4").exists()
    assert list(out.rglob("*.png"))
    with pytest.raises(ValueError, match="was written before"):
        write_movie(predictor, movie, out, progress=False)
    assert len(write_movie(predictor, movie, out, resume=True, progress=False).predictions) == FRAMES
    assert write_movie(predictor, movie, out, resume=True, progress=False).skipped == 1
    (out / "street" / "000003.png").write_bytes(b"corrected by hand")
    with pytest.raises(ValueError, match=r"000003\.png exists, and pixelwise did not write it as it is now"):
        write_movie(predictor, movie, out, overwrite=True, progress=False)


def test_movies_are_told_from_images_by_their_names(movie: Path, tmp_path: Path) -> None:
    assert movies_among([str(movie), "a.jpg", str(tmp_path)]) == ([movie], ["a.jpg", str(tmp_path)])
    assert movies_among([str(tmp_path / "*.mp4")]) == ([movie], [])
    with pytest.raises(ValueError, match="no movie matches"):
        movies_among([str(tmp_path / "*.mkv")])
    with pytest.raises(ValueError, match="would both be written to street_overlay"):
        movies_among([str(movie), "other/street.mov"])


def test_the_command_says_what_is_wrong_with_a_movie(
    movie: Path, model, classes: ClassTable, tmp_path: Path
) -> None:
    predictor: Callable[..., object] = Predictor(model, classes)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"cannot read .*empty\.mp4: it is empty"):
        write_movie(predictor, tmp_path / "empty.mp4", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
