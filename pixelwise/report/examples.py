"""Predictions to look at: the best and the worst of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..data import SegmentationData
from ..draw import color_image, error_map, rgb_image
from ..predict import ImageScores, Predictor
from ..types import ClassTable, LabelMap


@dataclass(frozen=True)
class Example:
    """A prediction to show.

    Attributes:
        id: of the sample.
        mean_iou: of this image alone.
        image: what was segmented, in [0, 1].
        target: its annotation.
        prediction: what the model says.
    """

    id: str
    mean_iou: float
    image: Float[Tensor, "c H W"]
    target: LabelMap
    prediction: LabelMap

    def panels(self, classes: ClassTable) -> list[tuple[str, Image.Image]]:
        """Image, truth, prediction and errors, with captions."""
        return [
            ("image", rgb_image(self.image)),
            ("truth", color_image(self.target, classes)),
            ("prediction", color_image(self.prediction, classes)),
            ("errors", error_map(self.prediction, self.target, classes, image=self.image)),
        ]


def best_and_worst(
    predictor: Predictor, data: SegmentationData, ranked: Sequence[ImageScores], count: int = 3
) -> tuple[list[Example], list[Example]]:
    """The predictions of highest mean IoU, best first, and of lowest, worst first; none is in both.

    Args:
        predictor: what predicts.
        data: the images that were scored.
        ranked: their scores, worst first, as `Evaluation.ranked` gives them.
        count: how many of each, fewer where there are not so many images.
    """
    low = min(count, (len(ranked) + 1) // 2)
    worst = [example_of(predictor, data, image) for image in ranked[:low]]
    best = [example_of(predictor, data, image) for image in ranked[low:][::-1][:count]]
    return best, worst


def example_of(predictor: Predictor, data: SegmentationData, image: ImageScores) -> Example:
    """A scored image, read and predicted again."""
    sample = data[image.index]
    assert sample.target is not None
    labels = predictor.labels(sample.image[None]).labels[0].cpu()
    return Example(sample.id, image.mean_iou, sample.image, sample.target, LabelMap(labels))
