"""The losses of Gatys, Ecker and Bethge, CVPR 2016 (Sec. 2), on feature maps."""

from jaxtyping import Float
from torch import Tensor


def gram_matrix(
    features: Float[Tensor, "c h w"], weights: Float[Tensor, "h w"] | None = None
) -> Float[Tensor, "c c"]:
    """How often each two channels respond at one place: their products, averaged over the places (Eq. 3).

    The paper's Gram matrix is the sum; the mean of h w places lets maps of different size be compared.

    Args:
        features: one map.
        weights: of the places, at least 0 and not all 0, for the style of a region; None for 1 everywhere.

    >>> import torch
    >>> gram_matrix(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])).tolist()
    [[2.5, 5.5], [5.5, 12.5]]
    """
    flat = features.flatten(1)
    if weights is None:
        return flat @ flat.T / flat.shape[1]
    flat_weights = weights.flatten()
    return (flat * flat_weights) @ flat.T / flat_weights.sum()


def content_loss(features: Float[Tensor, "*map"], target: Float[Tensor, "*map"]) -> Float[Tensor, ""]:
    """Half the sum of squared differences of two feature maps (Eq. 1)."""
    return (features - target).square().sum() / 2


def style_loss(gram: Float[Tensor, "c c"], target: Float[Tensor, "c c"]) -> Float[Tensor, ""]:
    """Squared differences of two Gram matrices of means, summed, over 4 c^2: E_l of Eq. 4.

    The paper divides sums over M places by M^2 here; in `gram_matrix` that is done already.
    """
    return (gram - target).square().sum() / (4 * gram.shape[0] ** 2)


def total_variation(image: Float[Tensor, "c H W"]) -> Float[Tensor, ""]:
    """Mean length of the gradient of the image (Rudin, Osher and Fatemi 1992): small for smooth images.

    The gradient is that to the next pixel, in the channels together; lengths below one grey level of 8 bits
    are rounded off, so that the value can be differentiated everywhere.
    """
    down = image[:, 1:, :-1] - image[:, :-1, :-1]
    right = image[:, :-1, 1:] - image[:, :-1, :-1]
    floor = 1 / 255
    return ((down.square() + right.square()).sum(0) + floor**2).sqrt().mean() - floor
