"""Scores of video object segmentation, as davis2017-evaluation gives them (arXiv:1704.00675).

Region similarity J is the IoU of a mask, 1 where neither side has a pixel. Boundary accuracy F is the
harmonic mean of precision and recall of boundary pixels, which may be off by 0.008 of the image's diagonal,
rounded up to whole pixels (Perazzi et al., CVPR 2016). Each object gives a mean over frames, the share of
frames above 0.5 (recall), and how much worse the last quarter of the frames is than the first (decay).

Two things differ on purpose. The official tool keeps the ends of the quarters in 8 bits, so that the decay of
more than 256 frames is that of other frames, or nan; here it is that of the first and the last quarter. It
numbers the objects of the unsupervised task by their proposals; here an object keeps the number that it has
in the target. All means are the same.
"""

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Integer
from torch import Tensor

from ..checked import checked_labels
from ..rows import RowMetric
from .frame import VOID, check_shapes, frame_scores

Task = Literal["semi-supervised", "unsupervised"]
MAX_PROPOSALS = 20


class Statistics(NamedTuple):
    """What a score does over the frames of one object, or its mean over objects.

    Attributes:
        mean: in [0, 1], the higher the better.
        recall: share of the frames with a score above 0.5, in [0, 1], the higher the better.
        decay: mean of the first quarter less that of the last, in [-1, 1], the lower the better.
    """

    mean: float
    recall: float
    decay: float

    @classmethod
    def of(cls, per_frame: Float64[np.ndarray, " t"]) -> "Statistics":
        """Those of one object. Neighbouring quarters share the frame between them.

        Raises:
            ValueError: if there is no frame.

        >>> Statistics.of(np.array([1.0, 0.75, 0.75, 0.5, 0.25]))
        Statistics(mean=0.65, recall=0.6, decay=0.5)
        """
        if not len(per_frame):
            raise ValueError("the statistics of an object need at least one frame, got none")
        ends = np.round(np.linspace(1, len(per_frame), 5) + 1e-10).astype(np.int64)
        first, last = per_frame[: ends[1]], per_frame[ends[3] - 1 :]
        decay = float(first.mean() - last.mean())
        return cls(float(per_frame.mean()), float((per_frame > 0.5).mean()), decay)


class ObjectScores(NamedTuple):
    """One object of a sequence.

    Attributes:
        id: its number in the target.
        proposal: the number of the prediction that was compared with it; None if there was none left.
        j: region similarity of each frame that counts.
        f: boundary accuracy of each frame that counts.
    """

    id: int
    proposal: int | None
    j: Float64[np.ndarray, " t"]
    f: Float64[np.ndarray, " t"]


def davis_sequence(
    prediction: Integer[Tensor, "t H W"],
    target: Integer[Tensor, "t H W"],
    *,
    task: Task,
    where: str = "",
) -> list[ObjectScores]:
    """Scores of each object of a sequence.

    The objects are 1..n, n being the highest number in the target's first frame; later numbers are
    background, as in the official tool. Semi-supervised: object i is compared with prediction i, and the
    first frame (which is given) and the last do not count. Unsupervised: each object gets a proposal of its
    own so that the sum of the means of J and F is highest, whatever numbers they have, and void pixels (255
    in the target) do not count.

    Args:
        prediction: the number of each pixel's object, 0 for background.
        target: likewise; 255 is void, which is background for the semi-supervised task.
        task: which of the two.
        where: name of the sequence, for the message of an error.

    Raises:
        ValueError: if the shapes differ, frames or objects are missing, or the prediction has more objects
            than the task allows (n; 20 proposals).

    >>> video = torch.zeros(4, 8, 8, dtype=torch.uint8)
    >>> video[:, 2:5, 2:5] = 1
    >>> [scores] = davis_sequence(video, video, task="semi-supervised")
    >>> scores.id, scores.j.tolist(), scores.f.tolist()
    (1, [1.0, 1.0], [1.0, 1.0])
    """
    place = f" in {where}" if where else ""
    prediction = checked_labels(prediction, "prediction", place)
    target = checked_labels(target, "target", place)
    check_shapes(prediction, target, place)
    if target.ndim != 3 or (len(target) and not target[0].numel()):
        raise ValueError(
            f"prediction and target must be frames of one size (t, H, W), got {tuple(target.shape)}{place}"
        )
    _check_task(task)
    truth, claim = target.cpu().numpy(), prediction.cpu().numpy()
    if task == "semi-supervised":
        if len(truth) < 3:
            raise ValueError(
                f"the semi-supervised task needs at least three frames, got {len(truth)} in target{place}"
            )
        first, truth, claim = truth[0], truth[1:-1], claim[1:-1]
    elif not len(truth):
        raise ValueError(f"the unsupervised task needs at least one frame in target, got none{place}")
    else:
        first = truth[0]
    objects = int(np.max(first, initial=0, where=first != VOID))
    if not objects:
        raise ValueError(f"the first frame of the target has no object{place}")
    if objects >= VOID:
        raise ValueError(f"the target{place} has the object {objects}, but a map has at most {VOID - 1}")
    proposals, allowed = int(claim.max(initial=0)), objects if task == "semi-supervised" else MAX_PROPOSALS
    if proposals > allowed or claim.min(initial=0) < 0:
        wrong = proposals if proposals > allowed else int(claim.min())
        raise ValueError(f"the prediction{place} has the object {wrong}, but the task allows 0..{allowed}")
    if task == "semi-supervised":
        return _paired(claim, truth, objects)
    return _assigned(claim, truth, objects, proposals)


def _paired(
    claim: Integer[np.ndarray, "t H W"], truth: Integer[np.ndarray, "t H W"], objects: int
) -> list[ObjectScores]:
    every = range(1, objects + 1)
    frames = [
        frame_scores(one, other, None, [(i, i) for i in every])
        for one, other in zip(claim, truth, strict=True)
    ]
    j, f = np.array(frames).transpose(1, 2, 0).copy()
    return [ObjectScores(i, i, j[i - 1], f[i - 1]) for i in every]


def _assigned(
    claim: Integer[np.ndarray, "t H W"], truth: Integer[np.ndarray, "t H W"], objects: int, proposals: int
) -> list[ObjectScores]:
    from scipy.optimize import linear_sum_assignment

    rows = max(proposals, objects)  # proposals that are missing have no pixel
    pairs = [(p, i) for p in range(1, rows + 1) for i in range(1, objects + 1)]
    frames = [frame_scores(one, other, other == VOID, pairs) for one, other in zip(claim, truth, strict=True)]
    j, f = np.array(frames).transpose(1, 2, 0).copy().reshape(2, rows, objects, len(truth))
    chosen = zip(*linear_sum_assignment(-(j.mean(-1) + f.mean(-1)) / 2), strict=True)
    return [
        ObjectScores(int(i) + 1, int(p) + 1 if p < proposals else None, j[p, i], f[p, i])
        for p, i in sorted(chosen, key=lambda pair: pair[1])
    ]


def _check_task(task: str) -> None:
    if task not in ("semi-supervised", "unsupervised"):
        raise ValueError(f"task must be semi-supervised or unsupervised, got {task!r}")


# --- over sequences -------------------------------------------------------------------------------


class DavisScores:
    """Means over the objects of all sequences, each object counting alike. Frozen.

    Args:
        objects: mean, recall and decay of J, then of F, one row per object.
    """

    objects: Float64[Tensor, "n 6"]

    def __init__(self, objects: Float64[Tensor, "n 6"]) -> None:
        self.__dict__.update(objects=objects.cpu())

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"scores are frozen: {name} cannot be set")

    @property
    def j(self) -> Statistics:
        """Region similarity; nan with a warning without any object."""
        return self._means(slice(0, 3))

    @property
    def f(self) -> Statistics:
        """Boundary accuracy; nan with a warning without any object."""
        return self._means(slice(3, 6))

    @property
    def j_and_f(self) -> float:
        """Mean of the means of J and F, by which methods are ranked."""
        return (self.j.mean + self.f.mean) / 2

    def __repr__(self) -> str:
        means = f"J&F {self.j_and_f:.4f}" if len(self.objects) else "no object"
        return f"DavisScores({means}, {len(self.objects)} objects)"

    def _means(self, columns: slice) -> Statistics:
        if not len(self.objects):
            warnings.warn("no object was counted: the score is nan", stacklevel=3)
            return Statistics(float("nan"), float("nan"), float("nan"))
        return Statistics(*(float(np.mean(column)) for column in self.objects[:, columns].T.numpy().copy()))


class DavisMetrics(RowMetric):
    """J and F over the sequences seen by all processes.

    Args:
        task: which of DAVIS' two; see `davis_sequence`.

    Raises:
        ValueError: if the task is unknown.

    >>> video = torch.zeros(4, 8, 8, dtype=torch.uint8)
    >>> video[:, 2:5, 2:5] = 1
    >>> metrics = DavisMetrics("unsupervised")
    >>> metrics.update(3 * video, video)
    >>> metrics.compute()
    DavisScores(J&F 1.0000, 1 objects)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    objects: list[Tensor]

    def __init__(self, task: Task) -> None:
        super().__init__()
        _check_task(task)
        self.task: Task = task
        self.add_rows("objects", 6, dtype=torch.float64)

    def update(
        self, prediction: Integer[Tensor, "t H W"], target: Integer[Tensor, "t H W"], where: str = ""
    ) -> None:
        """Score one whole sequence.

        Args:
            prediction: the number of each pixel's object.
            target: likewise.
            where: name of the sequence, for the message of an error.

        Raises:
            ValueError: as `davis_sequence` says.
        """
        scores = davis_sequence(prediction, target, task=self.task, where=where)
        rows = [[*Statistics.of(one.j), *Statistics.of(one.f)] for one in scores]
        self.objects.append(torch.tensor(rows, dtype=torch.float64, device=self.device))

    def compute(self) -> DavisScores:
        """Scores of everything seen by all processes."""
        return DavisScores(self.rows("objects"))
