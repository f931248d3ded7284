"""Swin Transformers as networks for dense prediction use them: UPerNet, MaskFormer, Mask2Former.

They differ from the classifiers in `swin.py`: a map is filled up with zeros to whole windows before it is
rolled, every second block shifts its windows whatever the size of the map, and each stage ends in a layer
norm of its own, which no classifier has. So published weights of such networks give the published results at
any image size.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..types import STAGES, Features, PerStage
from .base import Encoder
from .published import fetch
from .swin import BLOCKED
from .timm import StemPolicy, adapt_stem, per_channel

GIVEN = STAGES[1:]
PATCH = 4


class SwinSize(NamedTuple):
    """Numbers of a Swin Transformer (Liu et al. 2021, Sec. 3.3).

    Attributes:
        width: channels of the first stage; each further one has twice as many.
        depths: blocks of each stage.
        heads: of the attention in each stage.
        window: side of the windows in patches.
        weights: name of the pretrained classifier in timm.
    """

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    weights: str


SWIN_SIZES = {
    "tiny": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24), 7, "swin_tiny_patch4_window7_224"),
    "small": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24), 7, "swin_small_patch4_window7_224"),
    "base": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32), 12, "swin_base_patch4_window12_384"),
    "large": SwinSize(192, (2, 2, 18, 2), (6, 12, 24, 48), 12, "swin_large_patch4_window12_384"),
}


class DenseSwin(Encoder):
    """timm's Swin Transformer with padded windows and a norm behind each stage.

    Args:
        size: numbers of the network.
        in_channels: of the image; how pretrained filters are carried over is `stem`.
        pretrained: whether to load timm's weights.
        stages: the stages to give, of "c2" to "c5".
        stem: see `TimmEncoder`.
        drop_path: rate of the last block, growing linearly from 0 (0.3 in the papers).

    Raises:
        ValueError: if a stage is asked for that it has not, or the weights cannot be had.
    """

    def __init__(
        self,
        size: SwinSize,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        stages: Sequence[str] = GIVEN,
        stem: StemPolicy = "repeat",
        drop_path: float = 0.3,
    ) -> None:
        super().__init__()
        from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock

        if missing := [stage for stage in stages if stage not in GIVEN]:
            raise ValueError(f"a Swin Transformer gives {', '.join(GIVEN)}: it has no {missing[0]}")
        self.in_channels = in_channels
        self.stages = tuple(stage for stage in GIVEN if stage in stages)
        kept = GIVEN.index(self.stages[-1]) + 1
        self.body: Any = SwinTransformer(
            img_size=size.window * 32,  # at which no window is clipped to the map
            patch_size=PATCH,
            in_chans=in_channels,
            num_classes=0,
            embed_dim=size.width,
            depths=size.depths[:kept],
            num_heads=size.heads[:kept],
            window_size=size.window,
            drop_path_rate=drop_path,
            strict_img_size=False,
        )
        if pretrained:
            own = self.body.state_dict()
            published = fetch(size.weights)
            wanted = {key: published[key] for key in own if key in published}
            self.body.load_state_dict(adapt_stem(wanted, own, stem), strict=False)
        self.body.norm = nn.Identity()
        for block in self.body.modules():
            if isinstance(block, SwinTransformerBlock):
                block._attn = partial(padded_window_attention, block)  # type: ignore[method-assign]
        widths = {stage: size.width << GIVEN.index(stage) for stage in self.stages}
        self.norms = nn.ModuleDict({stage: nn.LayerNorm(width) for stage, width in widths.items()})
        self.channels = PerStage(*(widths.get(stage, 0) for stage in STAGES))
        self.strides = PerStage(*(2 << i if stage in widths else 0 for i, stage in enumerate(STAGES)))
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`; what a patch lacks at the border is the mean colour."""
        x = self.normalize(image)
        x = self.body.patch_embed(F.pad(x, (0, -x.shape[-1] % PATCH, 0, -x.shape[-2] % PATCH)))
        maps = {}
        for stage, layer in zip(GIVEN, self.body.layers, strict=False):
            x = layer(x)
            if stage in self.stages:
                maps[stage] = self.norms[stage](x).permute(0, 3, 1, 2)
        return Features(maps)


def padded_window_attention(block: Any, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Attention within windows of the map filled up with zeros, which every second block shifts by a half.

    Args:
        block: one of timm's Swin blocks; its attention and the size of its windows are used.
        x: the map.
    """
    height, width, c = x.shape[1:]
    rows, columns = block.window_size
    shifts = any(block.target_shift_size)
    down, right = (rows // 2, columns // 2) if shifts else (0, 0)
    x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
    num_down, num_right = x.shape[1] // rows, x.shape[2] // columns
    if shifts:
        x = torch.roll(x, (-down, -right), (1, 2))
    windows = x.reshape(-1, num_down, rows, num_right, columns, c).transpose(2, 3)
    mask = _mask(num_down, rows, down, num_right, columns, right, x) if shifts else None
    windows = block.attn(windows.reshape(-1, rows * columns, c), mask=mask)
    x = windows.reshape(-1, num_down, num_right, rows, columns, c).transpose(2, 3)
    x = x.reshape(-1, num_down * rows, num_right * columns, c)
    if shifts:
        x = torch.roll(x, (down, right), (1, 2))
    return x[:, :height, :width]


def _mask(
    num_down: int, rows: int, down: int, num_right: int, columns: int, right: int, like: Tensor
) -> Float[Tensor, "windows n n"]:
    """What is added to the attention between the n positions of each window."""
    vertical, horizontal = _regions(num_down, rows, down, like), _regions(num_right, columns, right, like)
    regions = 3 * vertical[:, None, :, None] + horizontal[None, :, None, :]
    regions = regions.reshape(-1, rows * columns)
    return BLOCKED * (regions[:, None, :] != regions[:, :, None]).to(like.dtype)


def _regions(count: int, length: int, shift: int, like: Tensor) -> Float[Tensor, "count length"]:
    """Along one axis: 0 before the last window, 1 in it, 2 in what the shift brought there from the start."""
    position = torch.arange(count * length, device=like.device)
    region = (position >= (count - 1) * length).float() + (position >= count * length - shift).float()
    return region.view(-1, length)
