"""Objects by clicks without weights: graph cut and GrabCut of `pixelwise.algorithms`, served as a model."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from skimage.color import rgb2lab

from ..algorithms import grabcut, minimum_cut
from ..algorithms.energy import GridEnergy
from ..algorithms.kmeans import kmeans_of_points
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

# Of the cut by clicks, tried on photographs: weights of L, a and b; spread of a colour; cost of being unlike
# what was clicked, and the most that a distance costs; strength of the pairs; colours of the clicks.
_LAB, _SPREAD, _UNLIKE, _MOST, _STRENGTH, _COLORS = (0.75, 1.0, 1.0), 6.0, 2.0, 10.0, 6.0, 3
_CERTAIN = 1e6
Click = tuple[tuple[float, float], int]


class CutServed(Served):
    """Answers prompts as a promptable network does, but has neither network nor predictor.

    A box is cut by GrabCut. Clicks alone are cut by a graph cut whose colours come from discs around the
    clicks; what hangs together with a click on the object is kept.

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
    clicks = _clicks(prompts, (left, top), stretch)
    discs = {side: _discs(clicks, side, rows, columns) for side in (0, 1)}
    if prompts.boxes is None:
        mask = _like_clicks(small, discs[0], discs[1])
        mask = _clicked(mask, [at for at, label in clicks if label == 1])
    else:
        strokes = np.full((rows, columns), _UNKNOWN)
        for side, disc in discs.items():
            strokes[disc] = side
        corners = (prompts.boxes[0].numpy() - [left, top, left, top]) * [*stretch, *stretch]
        x0, y0 = np.floor(corners[:2]).clip(0).astype(int).tolist()
        x1, y1 = np.ceil(corners[2:]).clip(1, (columns, rows)).astype(int).tolist()
        try:
            found = grabcut(small, box=(x0, y0, x1, y1), strokes=strokes, max_steps=_STEPS)
        except ValueError as error:
            raise Problem("bad-parameter", f"this cannot be cut out: {error}") from error
        mask = found.label_map.labels.numpy() == 1
    grown = Image.fromarray(mask.astype(np.uint8) * 255).resize(part.size, Image.Resampling.BILINEAR)
    whole = np.zeros((height, width), bool)
    whole[top:bottom, left:right] = np.asarray(grown) >= 128
    return whole


def _discs(clicks: list[Click], side: int, rows: int, columns: int) -> Bool[np.ndarray, "h w"]:
    """The pixels around the clicks of one side."""
    y, x = np.mgrid[:rows, :columns] + 0.5
    radius = max(2.0, _RADIUS * max(rows, columns))
    near = np.zeros((rows, columns), bool)
    for (at_x, at_y), label in clicks:
        near |= (label == side) & ((x - at_x) ** 2 + (y - at_y) ** 2 <= radius**2)
    return near


def _like_clicks(
    pixels: UInt8[np.ndarray, "h w 3"], outside: Bool[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """The cut between pixels that look like what was clicked and the others.

    A click shows too few pixels for a mixture of Gaussians, which would learn their noise by heart. So a
    pixel costs its squared distance to the nearest clicked colour, with a fixed spread; the other side costs
    the same to its clicks, and a fixed amount without any.

    Raises:
        Problem: if nothing was clicked as the object.
    """
    outside = outside & ~inside
    if not inside.any():
        raise Problem("bad-parameter", "click the object first")
    lab = rgb2lab(pixels) * _LAB
    unary = np.full((*inside.shape, 2), _UNLIKE)
    for side, disc in enumerate((outside, inside)):
        if not disc.any():
            continue
        colors = kmeans_of_points(lab[disc], min(_COLORS, int(disc.sum())), max_steps=10, seed=0).centers
        distance = ((lab[:, :, None] - colors) ** 2).sum(-1).min(-1)
        unary[..., side] = np.minimum(distance / (2 * _SPREAD**2), _MOST)
        unary[disc, 1 - side] = _CERTAIN
    grid = GridEnergy.contrast_potts(unary, pixels, _STRENGTH)
    return minimum_cut(grid).label_map.labels.numpy() == 1


def _window(prompts: Prompts, height: int, width: int) -> tuple[int, int, int, int]:
    """The part of the image that is looked at: around the box, or all of it."""
    if prompts.boxes is None:
        return 0, 0, width, height
    x0, y0, x1, y1 = prompts.boxes[0].tolist()
    across, down = 1 + _AROUND * (x1 - x0), 1 + _AROUND * (y1 - y0)
    left, top = max(0, int(x0 - across)), max(0, int(y0 - down))
    return left, top, min(width, int(x1 + across) + 1), min(height, int(y1 + down) + 1)


def _clicks(prompts: Prompts, corner: tuple[int, int], stretch: tuple[float, float]) -> list[Click]:
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
