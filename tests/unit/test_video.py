"""Frames of movies, and movies of frames."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.video import MovieWriter, is_movie, read_frames


def frames(count: int, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """A bright square that moves to the right over noise, which does not compress well."""
    noise = np.random.default_rng(0).integers(0, 80, (count, height, width, 1), np.uint8)
    for number, frame in enumerate(np.repeat(noise, 3, axis=3)):
        frame[8:24, 2 * number : 2 * number + 16] = (250, 200, 40)
        yield frame


def movie(path: Path, count: int = 20, **size: int) -> Path:
    with MovieWriter(path, rate=30000 / 1001) as writer:
        for frame in frames(count, **size):
            writer.write(frame)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_movie_comes_back_frame_by_frame_with_its_rate(tmp_path: Path, suffix: str) -> None:
    found = read_frames(movie(tmp_path / f"a{suffix}"))
    assert found.rate == pytest.approx(30000 / 1001, rel=1e-3)
    assert found.count == (None if suffix == ".mkv" else 20)
    pixels = np.stack(list(found)).astype(int)
    assert pixels.shape == (20, 48, 64, 3)
    assert not found.problem
    assert np.abs(pixels - np.stack(list(frames(20)))).mean() < 6
    assert np.abs(pixels[16, 12:20, 36:44] - (250, 200, 40)).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("height, width", [(47, 64), (48, 63), (1, 1)])
def test_frames_of_odd_sizes_are_made_even_by_repeating_their_last_row_or_column(
    tmp_path: Path, height: int, width: int
) -> None:
    found = np.stack(list(read_frames(movie(tmp_path / "a.mp4", 3, height=height, width=width))))
    assert found.shape == (3, height + height % 2, width + width % 2, 3)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_came_before_the_cut_of_a_movie_is_kept_and_the_cut_is_told(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = movie(tmp_path / f"a{suffix}", 60)
    whole = list(read_frames(path))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    found = read_frames(path)
    kept = list(found)
    assert 60 * share - 30 < len(kept) < 60
    assert len(kept) > 3
    places = [[np.array_equal(one, other) for other in whole].index(True) for one in kept]
    assert places == sorted(places)
    assert places[-1] <= len(kept) + 2
    assert f"a{suffix} is cut off or damaged after {len(kept)} frames" in found.problem


def test_two_missing_pictures_of_a_short_movie_are_told(tmp_path: Path) -> None:
    path = movie(tmp_path / "short.mp4", 6)
    data = path.read_bytes()
    for share in (0.6, 0.65, 0.7, 0.75, 0.8, 0.85):
        path.write_bytes(data[: int(share * len(data))])
        try:
            found = read_frames(path)
        except ValueError:
            continue  # not one frame is left
        if len(list(found)) < 5:
            assert "is cut off or damaged" in found.problem, share


def test_a_whole_movie_is_never_called_cut(tmp_path: Path) -> None:
    for count in (1, 2, 5):
        found = read_frames(movie(tmp_path / "a.mp4", count))
        assert len(list(found)) == count
        assert not found.problem


def test_empty_and_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is a text, and FFmpeg could draw it as one.\n" * 50)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nother.ts\n")
    whole = movie(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[:200])
    for name, sentence in [
        ("empty", "it is empty"),
        ("text", "no movie"),
        ("list", "no movie"),
        ("head", "no movie"),
    ]:
        with pytest.raises(ValueError, match=rf"cannot read .*{name}.mp4: .*{sentence}"):
            read_frames(tmp_path / f"{name}.mp4")
    with pytest.raises(ValueError, match="there is no movie"):
        read_frames(tmp_path / "none.mp4")


def test_images_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").touch()
    found = read_frames(tmp_path)
    assert (found.count, found.rate) == (3, None)
    assert [frame[0, 0].tolist() for frame in found] == [[1] * 3, [2] * 3, [10] * 3]
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "frame11.png")
    with pytest.raises(ValueError, match=r"frame 3 of .* has 4 x 6 pixels, the first one 4 x 5"):
        list(read_frames(tmp_path))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="there is no image in the folder"):
        read_frames(tmp_path / "none")


def test_an_iterator_of_arrays_is_a_movie_too() -> None:
    assert len(list(read_frames(frames(3)))) == 3
    with pytest.raises(ValueError, match="frame 0 of the iterator must be uint8"):
        next(read_frames([np.zeros((4, 4, 3))]))


def test_a_movie_that_fails_in_the_middle_leaves_nothing_and_the_old_one_stays(tmp_path: Path) -> None:
    path = movie(tmp_path / "a.mp4")
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), MovieWriter(path, rate=10) as writer:
        writer.write(next(frames(1)) * (1 // 0))
    with pytest.raises(ValueError, match="must have the shape"), MovieWriter(path, rate=10) as writer:
        list(map(writer.write, [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]))
    with pytest.raises(ValueError, match="there is no frame"), MovieWriter(path, rate=10):
        pass
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_a_movie_cannot_be_written_where_nothing_can(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot"), MovieWriter(tmp_path / "file" / "a.mp4", rate=10):
        pass
    with pytest.raises(ValueError, match=r"is written as \.mp4"):
        MovieWriter(tmp_path / "a.gif", rate=10)
    with pytest.raises(ValueError, match="rate must be"):
        MovieWriter(tmp_path / "a.mp4", rate=0)


def test_a_movie_of_a_telephone_is_turned_as_it_says(tmp_path: Path) -> None:
    import av
    from av.bitstream import BitStreamFilterContext

    # The picture is stored lying; its metadata say that it is shown turned by 90 degrees anticlockwise.
    source = movie(tmp_path / "a.mp4", 3)
    with av.open(str(source)) as read, av.open(str(tmp_path / "b.mp4"), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        turn = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", read.streams[0])
        for packet in read.demux(read.streams[0]):
            for turned in turn.filter(packet):
                turned.stream = stream
                write.mux(turned)
    plain, found = next(read_frames(source)), next(read_frames(tmp_path / "b.mp4"))
    assert np.array_equal(found, np.rot90(plain))


def test_names_of_movies_are_known() -> None:
    assert is_movie("a/B.MP4")
    assert not is_movie("a/b.jpg")
