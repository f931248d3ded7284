"""DAVIS."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from ...data.dataset import Pair
from ...metrics import davis_sequence
from ...metrics.davis.sequence import Statistics
from ...types import Annotation, ClassTable, LabelMap, Sample
from ...wording import counted
from .kind import Rows


class Sequences:
    """DAVIS: J and F of each sequence, without its first and last frame, and how they recall and decay."""

    def __init__(self, classes: ClassTable) -> None:
        self.frames: dict[str, list[tuple[str, Tensor, Tensor]]] = {}

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Keep a frame; see `Official`."""
        assert isinstance(prediction, LabelMap)
        assert isinstance(sample.target, LabelMap)
        sequence = PurePosixPath(pair.id).parent.name
        maps = (map.labels.to(torch.uint8) for map in (prediction, sample.target))
        self.frames.setdefault(sequence, []).append((pair.id, *maps))  # type: ignore[arg-type]

    def rows(self) -> Rows:
        """Sequences, then their mean."""
        found = {}
        for name, frames in sorted(self.frames.items()):
            if len(frames) < 3:
                continue
            frames = sorted(frames, key=lambda frame: frame[0])
            predicted = torch.stack([found for _, found, _ in frames])
            truth = torch.stack([target for _, _, target in frames])
            if not (truth[0] == 1).any():
                continue
            (scores,) = davis_sequence(predicted, truth, task="semi-supervised", where=name)
            j, f = Statistics.of(scores.j), Statistics.of(scores.f)
            found[name] = {
                "J&F": (j.mean + f.mean) / 2,
                "J": j.mean,
                "J recall": j.recall,
                "J decay": j.decay,
                "F": f.mean,
                "F recall": f.recall,
                "F decay": f.decay,
            }
        return {**found, "mean": _mean(list(found.values()))} if found else {}

    def remark(self) -> str:
        """Which sequences could not count."""
        short = sum(len(frames) < 3 for frames in self.frames.values())
        if not short:
            return ""
        return f"J and F count sequences of at least three frames: {counted(short, 'sequence')} had fewer."


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
