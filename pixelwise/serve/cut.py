"""Objects by clicks without weights: graph cut and GrabCut of `pixelwise.algorithms`, served as a model."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image

from ..algorithms import grabcut, graph_cut
from ..kernels.masks.components import label_components
from ..rle import RleMasks
from ..tasks.promptable import PROMPTABLE
from ..types import Prompts
from .limits import Limits
from .model_thread import Job, ModelThread
from .problems import Problem
from .served import Embedded, Embeddings, Served

NAME = "grabcut"
_SIDE = 384  # longest side in pixels of what is cut; larger images are made smaller
_AROUND = 0.3  # of a box's width and height that is looked at around it
_RADIUS = 0.012  # of the longest side, of the disc around a click that counts as clicked
_UNKNOWN, _STEPS = 2, 5


class CutServed(Served):
    """Answers prompts as a promptable network does, but has neither network nor predictor.

    A box is cut by GrabCut. Clicks alone are cut by the graph cut whose colours come from discs around the
    clicks and, for the background, from the frame of the image; what hangs together with a click is kept.

    Args:
        thread: runs it.
        limits: of the server.
    """

    def __init__(self, thread: ModelThread, limits: Limits) -> None:
        self.name, self.thread, self.limits = NAME, thread, limits
        self.ready, self.batch, self.run, self.sha256 = False, 1, None, ""
        self.embeddings = Embeddings(limits.embeddings)
        self._embedding = {}
        self._lock = threading.Lock()

    @property
    def promptable(self) -> bool:
        """Always."""
        return True

    @property
    def outputs(self) -> list[str]:
        """None: it answers prompts only."""
        return []

    def described(self) -> dict[str, Any]:
        """What clients are told of it."""
        return {
            "name": self.name,
            "task": PROMPTABLE.name,
            "classes": [{"id": 1, "label": 0, "name": "object", "color": [41, 128, 185]}],
            "channels": 3,
            "minimum_size": 1,
            "takes_prompts": True,
            "outputs": [],
            "usual_output": None,
            "sha256": None,
            "device": "cpu",
            "batch": 1,
            "ready": self.ready,
        }

    def warm_up(self, size: int) -> None:
        """Let the kernels be compiled."""
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        for prompts in (Prompts.of(boxes=torch.tensor([[4.0, 4.0, 12.0, 12.0]])), Prompts.at([(8, 8)])):
            cut_out(pixels, prompts)
        self.ready = True

    def _embed(self, id: str, image: Image.Image) -> Embedded:
        pixels = np.asarray(image.convert("RGB"))
        embedded = Embedded(id, pixels, image.height, image.width, pixels.nbytes)
        self.embeddings.put(embedded)
        return embedded

    def segment(self, embedded: Embedded, prompts: Prompts, *, every: bool) -> Job:
        """A job whose result is a list of run lengths with scores; there is one candidate only."""

        def run(works: Sequence[Prompts]) -> list[Any]:
            masks = [cut_out(embedded.image, work) for work in works]
            return [[(RleMasks.encode(mask[None]).to_coco()[0], 1.0)] for mask in masks]

        deadline = time.monotonic() + self.limits.seconds
        return Job(key=None, work=prompts, run=run, pixels=0, deadline=deadline)


def cut_out(pixels: UInt8[np.ndarray, "H W 3"], prompts: Prompts) -> Bool[np.ndarray, "H W"]:
    """The object that one prompt points at.

    Raises:
        Problem: if the prompt leaves no pixel for the object or for what is around it.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = _window(prompts, height, width)
    scale = min(1.0, _SIDE / max(right - left, bottom - top))
    rows, columns = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    part = Image.fromarray(pixels[top:bottom, left:right])
    small = np.asarray(part.resize((columns, rows), Image.Resampling.BOX))
    stretch = columns / (right - left), rows / (bottom - top)
    strokes = np.full((rows, columns), _UNKNOWN)
    clicks = _clicks(prompts, (left, top), stretch)
    y, x = np.mgrid[:rows, :columns]
    radius = max(2.0, _RADIUS * max(rows, columns))
    if prompts.boxes is None:
        strokes[[0, -1]] = strokes[:, [0, -1]] = 0
    for side in (0, 1):  # what is clicked as the object counts over the rest
        for click_x, click_y in (at for at, label in clicks if label == side):
            strokes[(x + 0.5 - click_x) ** 2 + (y + 0.5 - click_y) ** 2 <= radius**2] = side
    try:
        if prompts.boxes is not None:
            corners = (prompts.boxes[0].numpy() - [left, top, left, top]) * [*stretch, *stretch]
            a, b = np.floor(corners[:2]).clip(0).astype(int), np.ceil(corners[2:]).astype(int)
            box = (int(a[0]), int(a[1]), min(int(b[0]), columns), min(int(b[1]), rows))
            mask = grabcut(small, box=box, strokes=strokes, max_steps=_STEPS).label_map.labels.numpy() == 1
        else:
            mask = graph_cut(small, strokes).label_map.labels.numpy() == 1
    except ValueError as error:
        raise Problem("bad-parameter", f"this cannot be cut out: {error}") from error
    inside = [at for at, label in clicks if label == 1]
    if inside and prompts.boxes is None:
        mask = _clicked(mask, inside)
    grown = Image.fromarray(mask.astype(np.uint8) * 255).resize(part.size, Image.Resampling.BILINEAR)
    found = np.zeros((height, width), bool)
    found[top:bottom, left:right] = np.asarray(grown) >= 128
    return found


def _window(prompts: Prompts, height: int, width: int) -> tuple[int, int, int, int]:
    """The part of the image that is looked at: around the box, or all of it."""
    if prompts.boxes is None:
        return 0, 0, width, height
    x0, y0, x1, y1 = prompts.boxes[0].tolist()
    across, down = 1 + _AROUND * (x1 - x0), 1 + _AROUND * (y1 - y0)
    left, top = max(0, int(x0 - across)), max(0, int(y0 - down))
    return left, top, min(width, int(x1 + across) + 1), min(height, int(y1 + down) + 1)


def _clicks(
    prompts: Prompts, corner: tuple[int, int], stretch: tuple[float, float]
) -> list[tuple[tuple[float, float], int]]:
    """Where the clicks lie in the part that is looked at, and their labels."""
    if prompts.points is None or prompts.point_labels is None:
        return []
    places = [
        ((x - corner[0]) * stretch[0], (y - corner[1]) * stretch[1]) for x, y in prompts.points[0].tolist()
    ]
    return list(zip(places, prompts.point_labels[0].tolist(), strict=True))


def _clicked(mask: Bool[np.ndarray, "h w"], places: Sequence[tuple[float, float]]) -> Bool[np.ndarray, "h w"]:
    """The regions of a mask that one of the places lies in."""
    numbers, _ = label_components(mask.view(np.uint8))
    rows = [min(max(int(y), 0), mask.shape[0] - 1) for _, y in places]
    columns = [min(max(int(x), 0), mask.shape[1] - 1) for x, _ in places]
    return np.isin(numbers, np.setdiff1d(numbers[rows, columns], 0))
