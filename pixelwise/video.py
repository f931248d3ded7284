"""Movies: frames from a file, a folder or an iterator, and a writer of frames as a movie (extra `video`)."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .data.formats.image import IMAGE_SUFFIXES, opened
from .files import atomic_write

Frame = UInt8[np.ndarray, "H W 3"]

MOVIE_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .ogv .3gp .mxf .y4m".split()
)
WRITTEN = (".mp4", ".mov", ".mkv")  # suffixes of movies that can be written
# What a file may be by its content. FFmpeg knows more, such as play lists that name other files and URLs.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,mxf,dv,ivf,gif,h264,hevc,"
    "yuv4mpegpipe"
)


class Frames:
    """The frames of a movie, one after the other, each as RGB "H W 3" of uint8; all of one size.

    They are read while they are asked for, so a movie of any length takes the memory of some frames. They can
    be gone through once.

    Attributes:
        name: of the source, for messages.
        rate: frames per second; None where the source does not say.
        count: number of frames; None where the source does not say. A file may be wrong about it.
        problem: known at the end: "", or a sentence that says why there are fewer frames than there should
            be, such as a file that was cut off. The frames before the cut were given; where the cut took a
            frame that is shown earlier than it is stored, one or two before the last are missing too.
    """

    def __init__(self, frames: Iterator[Frame], name: str, rate: float | None, count: int | None) -> None:
        self._frames = frames
        self.name, self.rate, self.count, self.problem = name, rate, count, ""
        self._size: tuple[int, ...] = ()
        self._given = 0

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """The next frame.

        Raises:
            ValueError: if a frame has another size than the first, or is no such array.
        """
        try:
            frame = next(self._frames)
        except _CutOff as cut:
            self.problem = f"{self.name} is cut off or damaged after {self._given} frames: {cut}"
            raise StopIteration from None
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(
                f"frame {self._given} of {self.name} must be uint8 of shape H W 3, got {frame.dtype} of "
                f"shape {frame.shape}"
            )
        self._size = self._size or frame.shape
        if frame.shape != self._size:
            raise ValueError(
                f"frame {self._given} of {self.name} has {frame.shape[0]} x {frame.shape[1]} pixels, the "
                f"first one {self._size[0]} x {self._size[1]}"
            )
        self._given += 1
        return frame


class _CutOff(Exception):
    """There should have been more frames."""


def is_movie(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file is that of a movie."""
    return Path(path).suffix.lower() in MOVIE_SUFFIXES


def read_frames(source: str | os.PathLike[str] | Iterable[Frame]) -> Frames:
    """The frames of a movie file, of a folder of images, or of an iterator.

    The images of a folder come in the order of their names, numbers in them by value: frame2 before frame10.
    A movie is turned as its file says. The first frame is decoded at once, so a file without any is refused
    here.

    Raises:
        ValueError: if there is no such file, it is empty or no movie, or the folder holds no image.
    """
    if not isinstance(source, str | os.PathLike):
        return Frames(iter(source), "the iterator", None, None)
    path = Path(source)
    if path.is_dir():
        images = [each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES - {".npy"}]
        images = sorted((each for each in images if not each.name.startswith(".")), key=_by_number)
        if not images:
            raise ValueError(f"there is no image in the folder {path}")
        return Frames(map(_read_picture, images), str(path), None, len(images))
    if not path.is_file():
        raise ValueError(f"there is no movie {path}")
    if not path.stat().st_size:
        raise ValueError(f"cannot read {path}: it is empty")
    return _of_file(path)


# FFmpeg's name for cameras, and how it names the one with a number, on each system.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}:none")}


def read_camera(number: int = 0) -> Frames:
    """What a camera sees, until the caller stops asking: 0 is the first camera.

    Cameras are found by their number on Linux and macOS; other systems know them by names only.

    Raises:
        ValueError: if there is no such camera, or it cannot be opened.
    """
    av = _library()
    if sys.platform not in _CAMERAS:
        raise ValueError("cameras are read on Linux and macOS only: record a movie, and give its file")
    system, place = _CAMERAS[sys.platform]
    name = f"camera {number}"
    try:
        container = av.open(place.format(number), format=system)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be opened: there is none, or another program holds it") from error
    stream = container.streams.video[0]
    rate = float(stream.average_rate) if stream.average_rate else None
    return Frames(_decoded(av, container, stream), name, rate, None)


class MovieWriter:
    """Writes frames as a movie in H.264, which every player and browser plays.

    The movie appears whole or not at all: it is written under another name, and takes its own at the end of
    the `with` block. H.264 has even sizes only: a last row or column is repeated where a frame is odd.

    Args:
        path: ends in .mp4, .mov or .mkv; parent folders are made, an existing file is replaced.
        rate: frames per second.

    Raises:
        ValueError: if the name ends otherwise, the rate is not positive, or the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with MovieWriter(Path(folder) / "grey.mp4", rate=10) as movie:
    ...         for level in (0, 100, 200):
    ...             movie.write(np.full((33, 48, 3), level, np.uint8))
    ...     [frame.shape for frame in read_frames(Path(folder) / "grey.mp4")]
    [(34, 48, 3), (34, 48, 3), (34, 48, 3)]
    """

    def __init__(self, path: str | os.PathLike[str], rate: float) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in WRITTEN:
            raise ValueError(f"a movie is written as {', '.join(WRITTEN)}, got {self.path.name!r}")
        if not 0 < rate < 100_000:
            raise ValueError(f"rate must be a positive number of frames per second, got {rate}")
        self.rate = rate
        self._av = _library()
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, ...] = ()

    def __enter__(self) -> "MovieWriter":
        temporary = self._stack.enter_context(atomic_write(self.path))
        options = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "faststart"}
        self._container = self._av.open(f"file:{temporary}", "w", options=options)
        return self

    def write(self, frame: Frame) -> None:
        """Add a frame.

        Raises:
            ValueError: if it has another size than the first one, or the file cannot be written.
        """
        if self._size and frame.shape != self._size:
            raise ValueError(f"all frames of {self.path} must have the shape {self._size}, got {frame.shape}")
        height, width, _ = self._size = frame.shape
        if self._stream is None:
            self._stream = self._container.add_stream(
                "libx264", rate=Fraction(self.rate).limit_denominator(1001), options={"crf": "18"}
            )
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._encode(self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._stream is None:
                raise ValueError(f"cannot write {self.path}: there is no frame")
            if error is None:
                self._encode(None)
            self._container.close()
        except BaseException as problem:
            self._stack.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def _library() -> Any:
    """PyAV, which is optional.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ValueError("movies need PyAV: pip install pixelwise[video]") from error
    return av


def _of_file(path: Path) -> Frames:
    av = _library()
    try:
        container = av.open(
            f"file:{path}", options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: it is no movie, or damaged") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"cannot read {path}: it is no movie, it holds no pictures")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate) if stream.average_rate else None
    decoded = _decoded(av, container, stream)
    try:
        first = next(decoded)
    except (StopIteration, _CutOff) as error:
        raise ValueError(f"cannot read {path}: not one frame can be decoded") from error
    return Frames(_chained(first, decoded), str(path), rate, stream.frames or None)


def _chained(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _decoded(av: Any, container: Any, stream: Any) -> Iterator[Frame]:
    """The frames of a stream, turned upright.

    Raises:
        _CutOff: after the last good frame, if more should have come.
    """
    end, count = None, 0  # of the last packet, in seconds; of packets
    damage = ""
    with container:
        packets = container.demux(stream)
        try:
            while (packet := next(packets, None)) is not None:
                # A recording may begin in the middle of a picture; only a broken last one is a cut.
                damage = "its last picture is incomplete" if packet.is_corrupt else ""
                count += packet.size > 0
                if packet.pts is not None:
                    packet_end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    end = packet_end if end is None else max(end, packet_end)
                if not damage:
                    yield from map(_upright, packet.decode())
        except av.FFmpegError as error:
            damage = error.strerror or str(error)
        if damage:
            yield from map(_upright, _rest(av, stream))
            raise _CutOff(damage)
        due = _duration(container, stream)
        if due is not None and end is not None:
            begin = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
            per_frame = 1 / float(stream.average_rate) if stream.average_rate else 0.04
            # Not every file says how long its last picture lasts; some say how many pictures there are.
            spare = 0.5 if count < stream.frames else 1.5
            if end - begin < due - spare * per_frame:
                raise _CutOff(f"it should last {due:.1f} s and ends after {end - begin:.1f} s")


def _rest(av: Any, stream: Any) -> list[Any]:
    """The frames that the decoder still holds."""
    try:
        return list(stream.decode(None))
    except av.FFmpegError:
        return []


def _duration(container: Any, stream: Any) -> float | None:
    """Seconds that the pictures should last, where the file says so."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska says how long the longest stream lasts; other formats without a duration are only estimated.
    if container.duration and len(container.streams) == 1 and "matroska" in container.format.name:
        return container.duration / 1_000_000
    return None


def _upright(frame: Any) -> Frame:
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _read_picture(path: Path) -> Frame:
    with opened(path) as image:
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.array(image.convert("RGB"))


def _by_number(path: Path) -> list[tuple[int, str]]:
    """The text and the numbers of a name, to sort by."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]
