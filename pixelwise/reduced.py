"""A network that looks at images at a fraction of their size: faster, and each layer sees more of the scene.

Where objects are much larger than a network's finest cells, most of its work goes into pixels that tell
nothing new. `Reduced` halves the image or volume once or several times, and the scores are resized to its
size, so that it is a model like any other: prediction, evaluation, checkpoints and export need not know it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .layers import size_of, volume_size
from .registry import build
from .types import BuiltBy, DenseLogits, DenseModel, Model

NAME = "reduced"
FACTORS = (1, 2, 4, 8)


class Reduced(DenseModel):
    """A network of scores of pixels behind an image or volume of which sides are divided by `factor`.

    Volumes that are too small then are extended for the network by repeating their border.

    Args:
        network: gives DenseLogits of images or volumes of any size.
        factor: 2, 4 or 8.

    Raises:
        ValueError: if the network gives something else, or there is no such factor.

    >>> import torch
    >>> from pixelwise import build
    >>> model = Reduced(build("unet", 3, encoder="tiny"), 2).eval()
    >>> output = model(torch.rand(1, 3, 65, 98))
    >>> output.coarse.shape, output.logits.shape
    (torch.Size([1, 3, 33, 49]), torch.Size([1, 3, 65, 98]))
    """

    def __init__(self, network: Model, factor: int) -> None:
        super().__init__()
        if network.output is not DenseLogits:
            raise ValueError(
                f"only models that score every pixel can look at reduced images, not {type(network).__name__}"
            )
        if factor not in FACTORS[1:]:
            raise ValueError(f"reduce must be one of {', '.join(map(str, FACTORS))}, got {factor}")
        self.network, self.factor = network, factor
        assert network.num_classes is not None
        self.num_classes, self.in_channels = network.num_classes, network.in_channels
        volumes = any(weights.ndim == 5 for weights in network.parameters())
        self.minimum_size = network.minimum_size * (1 if volumes else factor)
        self.__dict__["tasks"] = network.tasks
        self.encoder_parts = tuple(f"network.{part}" for part in network.encoder_parts)
        if network.built_by is not None:
            told = {"builder": network.built_by.builder, "arguments": network.built_by.arguments}
            self.built_by = BuiltBy(NAME, {"network": told, "factor": factor})

    def forward(self, image: Float[Tensor, "b c *grid"]) -> DenseLogits:
        """Scores of the network for the smaller image."""
        volume = image.ndim == 5
        size: tuple[int, ...] = (volume_size if volume else size_of)(image, self.minimum_size)
        sides = size
        for _ in range(FACTORS.index(self.factor)):  # a pixel is the mean of four, so that nothing is skipped
            sides = tuple((side + 1) // 2 for side in sides)
            image = F.interpolate(image, size=sides, mode="trilinear" if volume else "bilinear")
        missing = [max(0, self.network.minimum_size - side) for side in sides] if volume else []
        if any(missing):
            image = F.pad(image, [n for side in reversed(missing) for n in (0, side)], mode="replicate")
        output: DenseLogits = self.network(image)
        if any(missing):
            depth, height, width = sides
            output = DenseLogits(output.logits[..., :depth, :height, :width], size)
        return replace(output, size=size)

    def progress(self, share: float) -> None:
        """Passed on to the network."""
        network: Model = self.network
        network.progress(share)


def unwrapped(model: Model) -> Model:
    """The network behind a reduced image; any other model is its own."""
    return model.network if isinstance(model, Reduced) else model


def build_network(builder: str, arguments: Mapping[str, Any]) -> Model:
    """A network of the registry, or one on reduced images, by what its `built_by` tells; nothing is fetched.

    Raises:
        ValueError: if it cannot be built.
    """
    if builder != NAME:
        offline = {"pretrained": False} if "pretrained" in arguments else {}
        model = build(builder, **{**arguments, **offline})
    else:
        network = arguments["network"]
        if network["builder"] == NAME:
            raise ValueError("a reduced image is reduced once: give the larger factor")
        model = Reduced(build_network(str(network["builder"]), network["arguments"]), arguments["factor"])
    model.built_by = BuiltBy(builder, dict(arguments))
    return model
