"""Programs that give the class of every pixel instead of scores: the maximum is taken inside."""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..types import ClassTable, DenseLogits, LabelMap, Model, Value, value

# What happens to scores after the network; a file of labels holds none.
OF_SCORES = ("threshold", "flip", "crf", "location_prior")


@value
class PixelLabels(Value):
    """The class of every pixel, as a program gives it.

    Attributes:
        labels: of b images, uint8 for up to 256 classes, else int32.
        size: height and width of the images.
    """

    labels: Integer[Tensor, "b H W"]
    size: tuple[int, int]


@decode.labels.register
def _(output: PixelLabels) -> LabelMap:
    return LabelMap(output.labels.long())


class LabelProgram(nn.Module):
    """A network, resizing of its scores to the image, and the class with the highest one.

    Args:
        model: of scores of pixels, in eval mode.
        threshold: of two classes, the probability from which a pixel is of the second one; None for the
            higher of both.
    """

    def __init__(self, model: Model, threshold: float | None = None) -> None:
        super().__init__()
        self.model = model
        self.dtype = torch.uint8 if (model.num_classes or 0) <= 256 else torch.int32
        self.shift = 0.0 if threshold is None else math.log(threshold / (1 - threshold))

    def forward(self, image: Float[Tensor, "b c H W"]) -> Integer[Tensor, "b H W"]:
        """Labels of the pixels."""
        output = self.model(image)
        # Resizing to the same size changes nothing; asking whether it is the same would fix the size.
        size = (image.shape[2], image.shape[3])
        scores = F.interpolate(output.coarse, size, mode="bilinear", align_corners=output.align_corners)
        if self.shift:
            return (scores[:, 1] - self.shift > scores[:, 0]).to(self.dtype)
        return scores.argmax(1).to(self.dtype)


def label_program(model: Model, classes: ClassTable, threshold: float | None) -> LabelProgram:
    """The program of a model.

    Raises:
        ValueError: if it does not score pixels with one class each, or the threshold does not fit.
    """
    if not issubclass(model.output, DenseLogits) or not classes.exclusive:
        raise ValueError(
            f"labels inside the file are for models of one class per pixel that score pixels, which "
            f"{type(model).__name__} does not"
        )
    if threshold is not None and (len(classes) != 2 or not 0 < threshold < 1):
        raise ValueError(f"threshold must lie between 0 and 1 and is for two classes, got {threshold!r:.40}")
    return LabelProgram(model, threshold)
