"""Faster and Mask R-CNN behind ONNX Runtime: images are resized outside, as the network does it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import decode
from ..layers import fit_images, size_of
from ..models import FasterRCNN, MaskRCNN
from ..ops.objects import rescaled
from ..rle import paste_masks
from ..types import Boxes, MaskSet, Model, Value, value

TYPE = "regions"
_LEAST = 65  # pixels of a side that the program takes, see `RegionProgram`
_INSIDE = 0.5  # a pixel whose probability is above it belongs to the instance


@value
class Found(Value):
    """Detections of a batch, in pixels of the images.

    Attributes:
        boxes: of each image, best first.
        instances: the same with masks; empty where the network draws none.
    """

    boxes: tuple[Boxes, ...]
    instances: tuple[MaskSet, ...]


@decode.boxes.register
def _(output: Found) -> tuple[Boxes, ...]:
    return output.boxes


@decode.instances.register
def _(output: Found) -> tuple[MaskSet, ...]:
    return output.instances


class OnnxRegions(Model):
    """What `RegionProgram` finds, computed by ONNX Runtime on the CPU.

    Args:
        session: of ONNX Runtime.
        about: what the file says of itself.
    """

    encoder_parts = ()
    output = Found

    def __init__(self, session: Any, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.session, self.in_channels = session, int(about["in_channels"])
        self.minimum_size, self.tasks = int(about["minimum_size"]), tuple(about["tasks"])  # type: ignore[misc]
        self.min_size, self.max_size = about["output"]["min_size"], about["output"]["max_size"]
        self.masks = bool(about["output"]["masks"])

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Found:
        """Look for objects; `sizes` are those of images that were padded."""
        sizes = sizes or [size_of(image, self.minimum_size)] * len(image)
        boxes, instances = [], []
        for one, (height, width) in zip(image, sizes, strict=True):
            found, drawn = self._look(one[None, :, :height, :width])
            boxes.append(found)
            if drawn is not None:
                masks = paste_masks(drawn, found.boxes, height, width, _INSIDE)
                instances.append(MaskSet(masks, found.classes, found.scores, found.is_crowd))
        return Found(tuple(boxes), tuple(instances))

    def _look(self, image: Float[Tensor, "1 c H W"]) -> tuple[Boxes, Float[Tensor, "n s s"] | None]:
        size = (image.shape[-2], image.shape[-1])
        black = image.new_zeros(1, image.shape[1], 1, 1)
        fitted = fit_images(image, [size], black, min_size=self.min_size, max_size=self.max_size, multiple=1)
        if min(fitted.images.shape[2:]) < _LEAST:
            raise ValueError(
                f"an exported network of regions must see images of {_LEAST} pixels on each side, "
                f"got {fitted.images.shape[2]} x {fitted.images.shape[3]}"
            )
        given = fitted.images.detach().float().cpu().contiguous().numpy()
        boxes, classes, scores, _, *masks = (
            torch.from_numpy(one) for one in self.session.run(None, {"image": given})
        )
        found = rescaled(Boxes.of(boxes, classes, scores), fitted.seen_sizes[0], size)
        return found, masks[0] if self.masks else None


def described(model: FasterRCNN | MaskRCNN) -> dict[str, Any]:
    """What `OnnxRegions` must know."""
    detector = model.detector if isinstance(model, MaskRCNN) else model
    sizes = {"min_size": detector.min_size, "max_size": detector.max_size}
    return {"type": TYPE, "masks": isinstance(model, MaskRCNN), **sizes}


def largest_difference(expected: Sequence[Boxes], found: Sequence[Boxes]) -> float:
    """Of the scores of the surest ten detections of each image, and of their boxes in units of 100 pixels.

    Detections whose scores are nearly equal may change places, and those near a threshold may come or go: so
    the surest are compared, whose number must agree, each with the nearest of its class.
    """
    largest = 0.0
    for ours, theirs in zip(expected, found, strict=True):
        if len(ours) > 0 and len(theirs) == 0:
            return float("inf")
        for box, label, score in zip(ours.boxes[:10], ours.classes[:10], ours.scores[:10], strict=True):
            alike = theirs.take((theirs.classes == label).nonzero()[:, 0])
            if not len(alike):
                return float("inf")
            away = (alike.boxes - box).abs().amax(1) / 100 + (alike.scores - score).abs()
            largest = max(largest, away.min().item())
    return largest
