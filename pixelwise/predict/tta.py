"""Test-time augmentation: the mean over several views of an image.

What is averaged are probabilities; the result holds scores that give that mean again (`decode.mean_scores`).
"""

from collections.abc import Iterable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..decode import mean_scores
from ..tiling import Network
from ..types import DenseLogits

_LARGEST = 16


def flipped(f: Network, exclusive: bool = True, flip_pairs: Sequence[tuple[int, int]] = ()) -> Network:
    """`f`, averaged over the image and its mirror image (left and right exchanged).

    Args:
        f: image -> DenseLogits.
        exclusive: whether probabilities are the softmax over the classes, or the sigmoid of each.
        flip_pairs: labels that change places in the mirror, such as left and right arm.
    """

    def views(image: Float[Tensor, "b c H W"]) -> Iterator[Float[Tensor, "b k H W"]]:
        yield f(image).logits
        mirrored = f(image.flip(-1)).logits.flip(-1)
        if flip_pairs:
            order = list(range(mirrored.shape[1]))
            for first, second in flip_pairs:
                order[first], order[second] = second, first
            mirrored = mirrored[:, order]
        yield mirrored

    return lambda image: _mean(views(image), exclusive)


def scaled(f: Network, scales: Sequence[float], exclusive: bool = True) -> Network:
    """`f`, averaged over the image at several sizes.

    Args:
        f: image -> DenseLogits.
        scales: factors of height and width, such as (0.75, 1.0, 1.25).
        exclusive: as of `flipped`.

    Raises:
        ValueError: if there is no scale or one is not above 0 and at most 16.
    """
    if not scales or not all(0 < scale <= _LARGEST for scale in scales):  # also catches nan
        raise ValueError(f"scales must be positive, at most {_LARGEST} and at least one, got {tuple(scales)}")

    def at_size(image: Float[Tensor, "b c H W"], scale: float) -> Float[Tensor, "b k H W"]:
        height, width = image.shape[-2:]
        wanted = (max(1, round(height * scale)), max(1, round(width * scale)))
        if wanted != (height, width):
            image = F.interpolate(image, wanted, mode="bilinear", antialias=True)
        output = f(image)
        # Straight from the coarse map to the size of the image: one interpolation, not two.
        return DenseLogits(output.coarse, (height, width), align_corners=output.align_corners).logits

    return lambda image: _mean((at_size(image, scale) for scale in scales), exclusive)


def _mean(views: Iterable[Float[Tensor, "b k H W"]], exclusive: bool) -> DenseLogits:
    scores = mean_scores(views, exclusive)
    return DenseLogits(scores, (scores.shape[-2], scores.shape[-1]))
