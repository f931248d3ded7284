"""Predictions to look at: the best and the worst of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..data import SegmentationData
from ..draw import rgb_image
from ..predict import ImageScores, Predictor
from ..tasks import Task
from ..types import Annotation, ClassTable


@dataclass(frozen=True)
class Example:
    """A prediction to show.

    Attributes:
        id: of the sample.
        score: of this image alone.
        image: what was segmented, in [0, 1].
        target: its annotation.
        prediction: what the model says.
        task: what was asked.
        spacing: size of a pixel or voxel along each axis, in mm; None where nobody knows.
    """

    id: str
    score: float
    image: Float[Tensor, "c *grid"]
    target: Annotation
    prediction: Annotation
    task: Task
    spacing: tuple[float, ...] | None = None

    def panels(self, classes: ClassTable) -> list[tuple[str, Image.Image]]:
        """Image, truth, prediction and errors, with captions."""
        draw, errors = self.task.draw, self.task.errors
        shown = [
            ("image", rgb_image(self.image, self.spacing)),
            ("truth", draw(self.image, self.target, classes)),
            ("prediction", draw(self.image, self.prediction, classes)),
        ]
        if errors is not None:
            shown.append(("errors", errors(self.image, self.prediction, self.target, classes)))
        return shown


def best_and_worst(
    predictor: Predictor, data: SegmentationData, ranked: Sequence[ImageScores], count: int = 3
) -> tuple[list[Example], list[Example]]:
    """The predictions of highest score, best first, and of lowest, worst first; none is in both.

    Args:
        predictor: what predicts.
        data: the images that were scored.
        ranked: their scores, worst first, as `Evaluation.ranked` gives them.
        count: how many of each, fewer where there are not so many images.
    """
    data = data.with_channels(predictor.model.in_channels)
    low = min(count, (len(ranked) + 1) // 2)
    worst = [example_of(predictor, data, image) for image in ranked[:low]]
    best = [example_of(predictor, data, image) for image in ranked[low:][::-1][:count]]
    return best, worst


def example_of(predictor: Predictor, data: SegmentationData, image: ImageScores) -> Example:
    """A scored image, read and predicted again."""
    sample = data[image.index]
    assert sample.target is not None
    found = predictor.annotations([sample])[0].to("cpu")
    return Example(sample.id, image.score, sample.image, sample.target, found, predictor.task, sample.spacing)
