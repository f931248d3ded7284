"""From what a model returns to an annotation."""

import torch
from jaxtyping import Float
from torch import Tensor

from .layers import resize
from .types import DenseLogits, LabelMap

# On an accelerator many small kernels cost more than memory, up to this many numbers (1 GiB of float32).
_AT_ONCE = 2**28


def semantic(output: DenseLogits) -> LabelMap:
    """The class with the highest score at every pixel of the image: labels "b H W", int64.

    The result is that of `output.logits.argmax(1)`, but the scores at image size are never held all at once:
    one class of one image after the other is resized and compared with the best so far. That takes a
    k-th of the memory, and on a CPU it is also two to four times faster.

    >>> scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # b k h w = 1 2 1 2
    >>> semantic(DenseLogits(scores, size=(1, 4))).labels
    tensor([[[0, 0, 1, 1]]])
    """
    coarse, (height, width) = output.coarse.detach(), output.size
    b, k = coarse.shape[:2]
    if coarse.device.type != "cpu" and b * k * height * width <= _AT_ONCE:
        return LabelMap(output.logits.argmax(1))
    labels = torch.empty(b, height, width, dtype=torch.long, device=coarse.device)
    for image, found in zip(coarse.split(1), labels, strict=True):
        best: Tensor | None = None
        current = torch.zeros(height, width, dtype=torch.int32, device=coarse.device)
        for number, scores in enumerate(image.split(1, dim=1)):
            fine = resize(scores, (height, width), align_corners=output.align_corners)[0, 0]
            if best is None:
                best = fine.clone()
                continue
            current.masked_fill_(fine > best, number)
            torch.maximum(best, fine, out=best)
        found.copy_(current)
    return LabelMap(labels)


def probabilities(output: DenseLogits) -> Float[Tensor, "b k H W"]:
    """Softmax over the classes at every pixel of the image, in [0, 1], float32."""
    return output.logits.float().softmax(1)
