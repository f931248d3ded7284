"""Mix Transformer, MiT (Xie et al. 2021): the encoder of SegFormer.

A pyramid of transformer blocks with the attention of PVT (`pvt.py`). Patches overlap: they are 7x7 pixels at
stride 4, then 3x3 at stride 2 (Sec. 3.1). There are no positions: a 3x3 depth-wise convolution in each
feed-forward network tells them from the zeros around the map (Mix-FFN, Eq. 3), so any image size works alike.
A layer norm ends each stage.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..types import Features
from .base import Encoder
from .pvt import (
    HEADS,
    LEVELS,
    REDUCTIONS,
    SpatialReductionAttention,
    chosen_stages,
    pyramid_of,
    run_stages,
)
from .timm import per_channel
from .transformer import Block, drop_path_rates, initialize

MIT_SIZES = {  # width of a head, and blocks of each stage
    "mit_b0": (32, (2, 2, 2, 2)),
    "mit_b1": (64, (2, 2, 2, 2)),
    "mit_b2": (64, (3, 4, 6, 3)),
    "mit_b3": (64, (3, 4, 18, 3)),
    "mit_b4": (64, (3, 8, 27, 3)),
    "mit_b5": (64, (3, 6, 40, 3)),
}


class MixFFN(nn.Module):
    """Linear layer to four times the channels, 3x3 depth-wise convolution, GELU, linear layer (Eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = 4 * channels
        self.fc1 = nn.Linear(channels, c)
        self.dwconv = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.fc2 = nn.Linear(c, channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Transform every token with what its neighbours know."""
        x = self.dwconv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y: Tensor = self.fc2(F.gelu(x))
        return y


class MiTStage(nn.Module):
    """Overlapping patches, transformer blocks, layer norm.

    Args:
        c_in: channels of the input.
        number: of the stage, from 0.
        width: channels of a head.
        drop_paths: probability to drop a branch, for each block.
    """

    def __init__(self, c_in: int, number: int, *, width: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        heads = HEADS[number]
        c = heads * width
        self.embed = nn.Conv2d(c_in, c, 3, 2, 1) if number else nn.Conv2d(c_in, c, 7, 4, 3)
        self.embed_norm = nn.LayerNorm(c)
        self.blocks = nn.Sequential(
            *(
                Block(c, SpatialReductionAttention(c, heads, REDUCTIONS[number]), MixFFN(c), drop_path=rate)
                for rate in drop_paths
            )
        )
        self.norm = nn.LayerNorm(c, eps=1e-6)

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b c h w"]:
        """The map of the stage."""
        x = self.embed_norm(self.embed(x).permute(0, 2, 3, 1))
        return self.norm(self.blocks(x)).permute(0, 3, 1, 2)


class MiT(Encoder):
    """Mix Transformer: four stages of widths w, 2w, 5w and 8w.

    Args:
        width: w, the channels of a head; 32 (B0) and 64 were published.
        depths: blocks of each stage.
        in_channels: of the image.
        stages: the stages to give, "c2" to "c5"; those behind the last are cut off.
        drop_path: probability to drop a branch of the last block; it grows from 0 in the first.

    Raises:
        ValueError: on another stage.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        *,
        in_channels: int = 3,
        stages: Sequence[str] = LEVELS,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.stages = chosen_stages("MiT", stages)
        self.in_channels = in_channels
        widths = [width * heads for heads in HEADS]
        self.channels, self.strides = pyramid_of(widths, self.stages)
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        rates = drop_path_rates(drop_path, depths)
        self.body = nn.ModuleDict()
        for i, stage in enumerate(LEVELS[: LEVELS.index(self.stages[-1]) + 1]):
            self.body[stage] = MiTStage(
                widths[i - 1] if i else in_channels, i, width=width, drop_paths=rates[i]
            )
        self.apply(initialize)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        return run_stages(self.body, self.normalize(image), self.stages)
