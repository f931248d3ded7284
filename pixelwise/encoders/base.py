"""What every encoder promises."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from ..layers import Normalize
from ..types import Features, PerStage


class Encoder(nn.Module, ABC):
    """Image in [0, 1] -> feature maps.

    An encoder holds only what its stages need: unused stages, and all behind the last one, are removed, so
    every parameter gets a gradient.

    Attributes:
        channels: of each stage, 0 where the encoder does not give it.
        strides: of each stage, 0 where the encoder does not give it.
        stages: the names of the stages it gives, finest first.
        in_channels: of the image.
        normalize: takes mean and standard deviation of the pretraining data out of the image.
    """

    channels: PerStage
    strides: PerStage
    stages: tuple[str, ...]
    in_channels: int
    normalize: Normalize

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`; stage s has size ceil(H / stride) x ceil(W / stride) or one less."""


def check_output_stride(output_stride: int) -> None:
    """Raise `ValueError` unless an encoder can be dilated, or left alone, to have this stride at its end."""
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
