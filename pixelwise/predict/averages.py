"""Which average of several models is worth its cost: that of their answers, or that of their weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..checkpoint import Average, Checkpoint, ensemble
from ..data import SegmentationData
from .evaluation import Evaluation, evaluate_images

_NOTHING = 0.002  # of the score: less is no difference


@dataclass(frozen=True)
class BestAverage:
    """The average that was chosen.

    Attributes:
        average: what is averaged.
        checkpoint: the model.
        scores: the primary score of each member and of each average, by what it is.
    """

    average: Average
    checkpoint: Checkpoint
    scores: dict[str, float]


def best_average(members: Sequence[Checkpoint], data: SegmentationData) -> BestAverage:
    """Average the weights where that is no worse, by more than noise, than to run every model.

    One model with averaged weights costs a share of the time. It is taken unless the averaged answers gain
    more than 0.2 points and more than one standard error of that gain.

    Args:
        members: trained models for the same classes.
        data: images that none of them has learnt from.

    Raises:
        ValueError: if the models have no average of either kind, or an image cannot be scored.
    """
    scores = {
        f"model {i}": evaluate_images(member, data, progress=False).score
        for i, member in enumerate(members, 1)
    }
    found: dict[Average, tuple[Checkpoint, Evaluation]] = {}
    problems = []
    averages: tuple[Average, ...] = ("outputs", "weights")
    for average in averages:
        try:
            made = ensemble(members, average=average)
        except ValueError as error:
            problems.append(str(error))
            continue
        found[average] = made, evaluate_images(made, data, progress=False)
        scores[f"averaged {average}"] = found[average][1].score
    if not found:
        raise ValueError("; ".join(problems))
    chosen: Average = next(iter(found))
    if len(found) == 2 and not _gains(found["outputs"][1], found["weights"][1]):
        chosen = "weights"
    return BestAverage(chosen, found[chosen][0], scores)


def _gains(outputs: Evaluation, weights: Evaluation) -> bool:
    """Whether averaged answers are better by more than noise; without an error, by anything at all."""
    gain = outputs.score - weights.score
    if not gain > _NOTHING:
        return False
    if outputs.states is None or weights.states is None or len(outputs.states) < 2:
        return True
    monitor = outputs.task.monitor
    return gain > outputs.states.gain_over(weights.states, lambda report: float(report[monitor])).error
