"""Following objects through a whole video, and keeping what is known for another day."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import atomic_write
from ..types import Memory, Prompts, Track, Tracked, TrackState
from ..video import Frames, read_frames
from .predictor import Predictor

Frame = UInt8[np.ndarray, "H W 3"]
Video = str | os.PathLike[str] | Iterable[Frame]
Direction = Literal["both", "forward", "backward"]

_BLOCK = 1 << 28  # bytes of frames that are held at once while a video is read backwards
_FIELDS = ("pointer", "features", "answer", "score")  # tensors of a memory
_ENOUGH = 16  # frames: of longer videos nobody asks how long they are


class IncompleteVideo(UserWarning):
    """A movie ends before it should: what could be read of it was followed."""


def track_video(
    predictor: Predictor,
    video: Video,
    prompts: Mapping[int, Mapping[int, Prompts]],
    *,
    state: TrackState | None = None,
    direction: Direction = "both",
    fill_holes: int = 8,
) -> Iterator[tuple[TrackState, Tracked]]:
    """Follow objects through a video; each frame is given as soon as it is done.

    First the frames with prompts are looked at. Then the video is followed from the earliest of them to its
    end, and then from there back to its start. Frames are read when they are needed, so any length of video
    takes the same memory. Of an iterator, which can be gone through once, objects are followed forward from
    the frame of their first prompt on.

    Args:
        predictor: of a network that follows objects, such as SAM 2.
        video: a folder of images, a movie file (extra `video`), a list of frames, or an iterator of them.
        prompts: by the number of the frame, and in it by the number of the object: one prompt each.
        state: to go on from, on any device; without prompts, the first frame is the one behind the last that
            was followed.
        direction: whether to follow both ways, or one.
        fill_holes: holes of at most that many cells in the network's coarse masks are filled, as by SAM 2's
            authors; 0 for none.

    Yields:
        The state after each frame, and the objects there.

    Warns:
        IncompleteVideo: if a movie is cut off or damaged; the frames before that are followed.

    Raises:
        ValueError: if the video cannot be read, is empty, or its frames differ in size; if a prompt is for a
            frame that does not exist, or does not fit into it; if there is no object to follow.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction must be one of {', '.join(get_args(Direction))}, got {direction!r}")
    if fill_holes < 0:
        raise ValueError(f"fill_holes must be at least 0, got {fill_holes}")
    if not any(prompts.values()) and (state is None or not state.tracks):
        raise ValueError("there is nothing to follow: give a point, a box or a mask on some frame")
    state = None if state is None else state.to(predictor.device)
    if isinstance(video, Iterator):
        if direction == "backward":
            raise ValueError(
                "an iterator of frames cannot be followed backward: pass a list, a folder or a file"
            )
        return _streamed(predictor, video, prompts, state, fill_holes)
    return _both_ways(predictor, lambda: read_frames(video), prompts, state, direction, fill_holes)


def _streamed(
    predictor: Predictor,
    video: Iterator[Frame],
    prompts: Mapping[int, Mapping[int, Prompts]],
    state: TrackState | None,
    fill_holes: int,
) -> Iterator[tuple[TrackState, Tracked]]:
    follow = partial(predictor.track, fill_holes=fill_holes)
    first = 0 if state is None else max(_seen(state), default=-1) + 1
    number = first - 1
    for number, image in enumerate(read_frames(video), first):
        state = TrackState((image.shape[0], image.shape[1])) if state is None else state
        given = prompts.get(number, {})
        if state.tracks or given:
            state, found = follow(state, number, predictor.embed(image), given)
            yield state, found
    _check_count(prompts, number + 1, "the iterator")


def _both_ways(
    predictor: Predictor,
    frames: Callable[[], Frames],
    prompts: Mapping[int, Mapping[int, Prompts]],
    state: TrackState | None,
    direction: Direction,
    fill_holes: int,
) -> Iterator[tuple[TrackState, Tracked]]:
    follow = partial(predictor.track, fill_holes=fill_holes)
    wanted = [number for number, given in prompts.items() if given]
    count = 0
    for number, image in enumerate(islice(frames(), max([*wanted, _ENOUGH]) + 1)):
        count = number + 1
        state = TrackState((image.shape[0], image.shape[1])) if state is None else state
        if number in wanted:
            state, _ = follow(state, number, predictor.embed(image), prompts[number])
    _check_count(prompts, count, "the video")
    assert state is not None  # there is a frame, and a prompt on one
    if count <= _ENOUGH:
        state = replace(state, num_frames=count)
    first, last = (min(wanted), min(wanted)) if wanted else (max(_seen(state)) + 1, min(_seen(state)) - 1)
    if direction != "backward":
        whole = frames()
        for number, image in enumerate(whole):
            if number >= first:
                state, found = follow(state, number, predictor.embed(image))
                yield state, found
        if whole.problem:
            warnings.warn(whole.problem, IncompleteVideo, stacklevel=2)
    if direction != "forward":
        for number, image in _backwards(frames, last - 1 if wanted and direction == "both" else last):
            state, found = follow(state, number, predictor.embed(image), reverse=True)
            yield state, found


def _backwards(frames: Callable[[], Frames], last: int) -> Iterator[tuple[int, Frame]]:
    """Frame `last` and those before it, with their numbers: in blocks, each of which reads the video anew."""
    while last >= 0:
        block: list[Frame] = []
        size = 1
        for number, image in enumerate(islice(frames(), last + 1)):
            size = max(1, min(last + 1, _BLOCK // image.nbytes))
            if number > last - size:
                block.append(image)
        for image in reversed(block):
            yield last, image
            last -= 1
        if not block:
            return


def _seen(state: TrackState) -> list[int]:
    """The first and the last frame in which an object was followed or prompted, and some between."""
    prompted = [memory.frame for track in state.tracks for memory in track.prompted]
    return prompted + [end for track in state.tracks for end in (track.first, track.last) if end >= 0]


def _check_count(prompts: Mapping[int, Mapping[int, Prompts]], count: int, name: str) -> None:
    if not count:
        raise ValueError(f"{name} is empty: it has no frame")
    for number in sorted(prompts):
        if not 0 <= number < count:
            raise ValueError(f"there is no frame {number}: {name} has frames 0 to {count - 1}")


# --- files ----------------------------------------------------------------------------------------


def save_tracks(state: TrackState, path: str | os.PathLike[str]) -> Path:
    """Write all that is known of the objects to a `.safetensors` file, to go on later.

    Raises:
        ValueError: if the name ends otherwise, or the file cannot be written.
    """
    path = Path(path)
    _check_name(path)
    tensors: dict[str, Tensor] = {}
    tracks: list[dict[str, Any]] = []
    for track in state.tracks:
        about: dict[str, Any] = {"object": track.object, "first": track.first, "last": track.last}
        for kind in ("prompted", "recent"):
            memories: tuple[Memory, ...] = getattr(track, kind)
            about[kind] = [{"frame": one.frame, "fresh": one.fresh} for one in memories]
            for number, memory in enumerate(memories):
                for name in _FIELDS:
                    if (tensor := getattr(memory, name)) is not None:
                        tensors[f"{len(tracks)}.{kind}.{number}.{name}"] = (
                            tensor.detach().cpu().contiguous().clone()
                        )
        tracks.append(about)
    header = {"format": _FORMAT, "size": state.size, "num_frames": state.num_frames, "tracks": tracks}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"pixelwise": json.dumps(header)})
    return path


_FORMAT = "pixelwise-tracks-1"


def load_tracks(path: str | os.PathLike[str]) -> TrackState:
    """What `save_tracks` wrote, on the CPU; `state.to(device)` takes it elsewhere.

    Raises:
        ValueError: if there is no such file, or it is another one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    _check_name(path)
    header: Any = {}
    try:
        with safe_open(path, "pt") as file:
            with suppress(ValueError, TypeError, AttributeError):
                header = json.loads((file.metadata() or {}).get("pixelwise", "{}"))
            if not isinstance(header, dict) or header.get("format") != _FORMAT:
                raise ValueError(f"{path} holds no tracks of objects")
            names = set(file.keys())

            def memory(place: str, about: Mapping[str, Any]) -> Memory:
                pointer, features, answer, score = (
                    file.get_tensor(f"{place}.{name}") if f"{place}.{name}" in names else None
                    for name in _FIELDS
                )
                if pointer is None or score is None:
                    raise KeyError(place)
                return Memory(int(about["frame"]), pointer, features, answer, score, bool(about["fresh"]))

            tracks = [
                Track(
                    int(about["object"]),
                    tuple(memory(f"{i}.prompted.{j}", one) for j, one in enumerate(about["prompted"])),
                    tuple(memory(f"{i}.recent.{j}", one) for j, one in enumerate(about["recent"])),
                    int(about["first"]),
                    int(about["last"]),
                )
                for i, about in enumerate(header["tracks"])
            ]
            height, width = header["size"]
            return TrackState((int(height), int(width)), header["num_frames"], tuple(tracks))
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is not a whole file of tracks: {error}") from error


def _check_name(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ValueError(f"tracks are kept in a .safetensors file, got {path.name!r}")
