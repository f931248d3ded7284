"""What timm lacks: the one backbone of torchvision's segmentation models, and its frozen norms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..types import STAGES, Features, PerStage
from .base import Encoder
from .published import check_reachable, unavailable
from .timm import StemPolicy, adapt_stem, per_channel

# Position of each stage in torchvision's `features`: the first block of its stride, and the very last.
_POSITIONS = {"c1": 0, "c2": 2, "c3": 4, "c4": 7, "c5": 16}
_CHANNELS = {"c1": 16, "c2": 24, "c3": 40, "c4": 80, "c5": 960}
_STRIDES = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}


class MobileNetV3Large(Encoder):
    """MobileNetV3-Large of torchvision, with maps taken where its DeepLabV3 and LR-ASPP take them.

    A stage is taken at its first block, not its last (c5 at the last). At output stride 16 every block
    of c5 is dilated. timm's `mobilenetv3_large_100` differs in these, and in the epsilon of its batch norms.

    Args:
        in_channels: of the image.
        pretrained: whether to load torchvision's ImageNet weights.
        output_stride: 32 or 16.
        stages: the stages to give, in any order.
        stem: how pretrained filters are carried over to other image channels, see `adapt_stem`.

    Raises:
        ValueError: on another output stride, or if the weights cannot be had.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        output_stride: int = 32,
        stages: Sequence[str] = STAGES,
        stem: StemPolicy = "repeat",
    ) -> None:
        super().__init__()
        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large

        if output_stride not in (16, 32):
            raise ValueError(f"backbone 'mobilenet_v3_large' cannot be dilated to stride {output_stride}")
        url = MobileNet_V3_Large_Weights.IMAGENET1K_V1.url
        if pretrained and not (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
            check_reachable("mobilenet_v3_large", url)
        try:
            features = mobilenet_v3_large(
                weights="IMAGENET1K_V1" if pretrained else None, dilated=output_stride == 16
            ).features
        except (RuntimeError, OSError) as error:
            raise unavailable("mobilenet_v3_large", error) from error
        if in_channels != 3:
            colour = features.state_dict()
            features[0][0] = nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(features[0][0].weight, mode="fan_out")
            if pretrained:
                features.load_state_dict(adapt_stem(colour, features.state_dict(), stem))

        self.in_channels = in_channels
        self.stages = tuple(stage for stage in STAGES if stage in stages)
        self.body = features[: _POSITIONS[self.stages[-1]] + 1]
        self.channels = PerStage(*(_CHANNELS[s] if s in self.stages else 0 for s in STAGES))
        self.strides = PerStage(*(min(_STRIDES[s], output_stride) if s in self.stages else 0 for s in STAGES))
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x, maps = self.normalize(image), {}
        stage_at = {_POSITIONS[stage]: stage for stage in self.stages}
        for i, block in enumerate(self.body):
            x = block(x)
            if i in stage_at:
                maps[stage_at[i]] = x
        return Features(maps)


def fold_frozen_norms(weights: Mapping[str, Tensor], epsilon: float) -> dict[str, Tensor]:
    """Weights of torchvision's frozen batch norms made to fit batch norms with an epsilon of 1e-5.

    Frozen ones have no `num_batches_tracked`, by which they are known; others stay.

    Args:
        weights: a state dict.
        epsilon: of the frozen norms.
    """
    folded = dict(weights)
    for key, variance in weights.items():
        name = key.removesuffix("running_var")
        if name != key and f"{name}num_batches_tracked" not in weights:
            factor = ((variance + 1e-5) / (variance + epsilon)).sqrt()
            folded[f"{name}weight"] = weights[f"{name}weight"] * factor
            folded[f"{name}num_batches_tracked"] = torch.tensor(0)
    return folded
