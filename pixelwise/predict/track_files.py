"""What is found in a video as files: a palette PNG per frame, a movie, and run lengths as JSON."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image
from torch import Tensor

from ..data.formats.image import IMAGE_SUFFIXES
from ..data.formats.mask import read_mask_pixels, write_mask
from ..draw import overlay as tinted
from ..files import atomic_write, check_targets, make_folder, record, was_written
from ..metrics.davis.sequence import DavisMetrics, DavisScores
from ..rle import RleMasks
from ..types import ClassTable, LabelMap, Tracked
from ..video import MovieWriter, read_frames

MASKS, MOVIE, RUNS = "masks", "overlay.mp4", "tracks.json"
MOST_OBJECTS = 254  # that a palette PNG can tell apart beside 0, nothing, and 255, which is void
FOLDER_RATE = 24.0  # frames per second of the movie of a folder, which has no rate of its own


class TrackWriter:
    """Writes what is found, frame after frame, in any order of the frames.

    Where several objects claim a pixel, the palette PNG gives it to the surest; the JSON has each object's
    own mask. The JSON is an annotation file as YouTube-VIS has it, with one entry per object and a mask or
    null per frame; an object that is hidden has null.

    Args:
        out: folder for `masks/00000.png` and so on, and `tracks.json`; `finish` adds `overlay.mp4`.
        video: the source, which is never overwritten.
        overwrite: whether files that were written there before may be replaced.

    Raises:
        ValueError: if a file would be lost, or the folder cannot be made.
    """

    def __init__(self, out: Path, video: Path, *, overwrite: bool = False) -> None:
        self.out, self.video = make_folder(out), video
        self._old = sorted((out / MASKS).glob("*.png")) if (out / MASKS).is_dir() else []
        sources = [video] if video.is_file() else [one for one in video.iterdir() if one.is_file()]
        check_targets([out / RUNS, out / MOVIE, *self._old], out, sources=sources, overwrite=overwrite)
        self._runs: dict[int, dict[int, dict[str, Any]]] = {}
        self._size = (0, 0)
        self._frames: set[int] = set()

    def write(self, found: Tracked) -> None:
        """Write the masks of one frame.

        Raises:
            ValueError: if an object has a number above 254, or the file cannot be written.
        """
        if max(found.objects) > MOST_OBJECTS:
            raise ValueError(
                f"a palette image tells {MOST_OBJECTS} objects apart, got object {max(found.objects)}"
            )
        path = self.mask_path(found.frame)
        write_mask(path, LabelMap(found.labels.cpu()), _classes_of(found.objects))
        record(path, self.out)
        self._size = found.size
        self._frames.add(found.frame)
        masks = (found.logits > 0).cpu()
        runs = RleMasks.encode(masks.numpy()).to_coco()
        for number, score, mask, run in zip(found.objects, found.scores.tolist(), masks, runs, strict=True):
            seen = score > 0 and bool(mask.any())
            self._runs.setdefault(number, {})[found.frame] = run if seen else {}

    def mask_path(self, frame: int) -> Path:
        """Where the masks of a frame are."""
        return self.out / MASKS / f"{frame:05d}.png"

    def finish(self, *, movie: bool, rate: float | None = None) -> list[Path]:
        """Write the JSON, and the movie of the video tinted with the masks; gives their paths.

        Masks of frames that an earlier run wrote and this one did not are removed.

        Args:
            movie: whether to write `overlay.mp4` (extra `video`).
            rate: frames per second; None for those of the video, 24 for a folder.

        Raises:
            ValueError: if a file cannot be written.
        """
        for stale in {*self._old} - {self.mask_path(frame) for frame in self._frames}:
            if was_written(stale, self.out):
                stale.unlink()
        written = [self.out / RUNS]
        with atomic_write(written[0]) as temporary:
            temporary.write_text(json.dumps(self._content()) + "\n", encoding="utf-8")
        if movie:
            written.append(self.out / MOVIE)
            self._write_movie(written[1], rate)
        for path in written:
            record(path, self.out)
        return written

    def _content(self) -> dict[str, Any]:
        length = max(self._frames, default=-1) + 1
        height, width = self._size
        annotations = []
        for number, runs in sorted(self._runs.items()):
            masks = [runs.get(frame) or None for frame in range(length)]
            sets = [None if mask is None else RleMasks.from_coco([mask]) for mask in masks]
            annotations.append(
                {
                    "id": number,
                    "video_id": 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "width": width,
                    "height": height,
                    "segmentations": masks,
                    "areas": [None if one is None else int(one.area[0]) for one in sets],
                    "bboxes": [None if one is None else one.boxes[0].tolist() for one in sets],
                }
            )
        names = [f"{frame:05d}" for frame in range(length)]
        video = {"id": 1, "width": width, "height": height, "length": length, "file_names": names}
        return {
            "videos": [video],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": annotations,
        }

    def _write_movie(self, path: Path, rate: float | None) -> None:
        frames = read_frames(self.video)
        classes = _classes_of(range(1, max(self._runs) + 1))
        with MovieWriter(path, rate or frames.rate or FOLDER_RATE) as movie:
            for number, frame in enumerate(frames):
                if number in self._frames:
                    labels = torch.from_numpy(read_mask_pixels(self.mask_path(number)))
                    shown = tinted(Image.fromarray(frame), LabelMap(labels.long()), classes, contours=True)
                    frame = np.asarray(shown)
                movie.write(frame)


def _classes_of(objects: Iterable[int]) -> ClassTable:
    return ClassTable.of("background", *(f"object {number}" for number in range(1, max(objects) + 1)))


def score_masks(masks: Path, truth: Path) -> DavisScores:
    """J and F of palette PNGs, by the rules of DAVIS' semi-supervised task.

    The first frame, which is given, and the last do not count. Images of 0 and 255 are one object.

    Args:
        masks: folder of the masks that were found.
        truth: folder of as many masks, in the same order.

    Raises:
        ValueError: if there is no such folder, it holds other images or another number of them.
    """
    found, wanted = (_label_maps(folder) for folder in (masks, truth))
    if len(found) != len(wanted):
        raise ValueError(
            f"{truth} holds {len(wanted)} masks, {masks} {len(found)}: there must be one per frame"
        )
    if (target := torch.stack(wanted)).unique().tolist() == [0, 255]:
        target = target.clamp(max=1)
    metrics = DavisMetrics("semi-supervised")
    metrics.update(torch.stack(found), target, masks.parent.name)
    scores = metrics.compute()
    assert isinstance(scores, DavisScores)
    return scores


def _label_maps(folder: Path) -> list[Integer[Tensor, "H W"]]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    paths: Sequence[Path] = sorted(one for one in folder.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"there is no mask in the folder {folder}")
    maps = [torch.from_numpy(read_mask_pixels(path).astype(np.int64)) for path in paths]
    for path, one in zip(paths, maps, strict=True):
        if one.ndim != 2 or one.shape != maps[0].shape:
            raise ValueError(f"{path} must be a label map of {tuple(maps[0].shape)}, got {tuple(one.shape)}")
    return maps
