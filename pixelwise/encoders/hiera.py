"""Hiera (Ryali et al. 2023, https://arxiv.org/abs/2306.00989) as SAM 2 uses it: a transformer in stages.

Blocks are those of a ViT; attention stays within windows except in a few blocks. The first block of a stage
doubles the channels and pools its queries 2 x 2, so what it finds has half the height and width. There are
no relative positions: a coarse embedding of the place in the image is added to one of the place in a window
(Bolya et al. 2023, https://arxiv.org/abs/2311.05613).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

POOL = 2  # of the queries of the first block of a stage


class HieraBlock(nn.Module):
    """Attention within windows and a perceptron; both see what a norm makes of their input.

    Args:
        width: channels of the input.
        out_width: channels of the output; where it is another number, queries are pooled.
        heads: of the attention.
        window: height and width of a window before pooling; 0 for the whole map.
    """

    def __init__(self, width: int, out_width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.pools = heads, window, width != out_width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * out_width)
        self.attention_out = nn.Linear(out_width, out_width)
        self.shortcut = nn.Linear(width, out_width) if self.pools else nn.Identity()
        self.norm2 = nn.LayerNorm(out_width, eps=1e-6)
        self.perceptron = nn.Sequential(
            nn.Linear(out_width, 4 * out_width), nn.GELU(), nn.Linear(4 * out_width, out_width)
        )

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b _ _ _"]:
        """Height and width are halved where queries are pooled."""
        normed = self.norm1(x)
        x = pooled(self.shortcut(normed)) if self.pools else x
        height, width = x.shape[1:3]
        if not self.window:
            x = x + self.attend(normed)
        else:
            windows, rows = into_windows(normed, self.window)
            side = self.window // POOL if self.pools else self.window
            found = self.attend(windows).unflatten(0, (len(x), rows, -1))
            whole = found.transpose(2, 3).flatten(3, 4).flatten(1, 2)
            assert whole.shape[1] == rows * side
            x = x + whole[:, :height, :width]
        changed: Tensor = self.perceptron(self.norm2(x))
        return x + changed

    def attend(self, x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n _ _ _"]:
        """Attention among the places of each of n maps or windows."""
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.pools:
            q = pooled(q)
        of_heads = [part.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)]
        found = F.scaled_dot_product_attention(*of_heads).transpose(1, 2).flatten(2)
        mixed: Tensor = self.attention_out(found.unflatten(1, q.shape[1:3]))
        return mixed


def pooled(x: Float[Tensor, "n h w c"]) -> Float[Tensor, "n _ _ c"]:
    """The largest of each 2 x 2 places; a last odd row or column is dropped."""
    largest: Tensor = F.max_pool2d(x.permute(0, 3, 1, 2), POOL)
    return largest.permute(0, 2, 3, 1)


def into_windows(x: Float[Tensor, "b h w c"], side: int) -> tuple[Float[Tensor, "n side side c"], int]:
    """Windows row by row, zeros beyond the map, and how many of them lie above one another."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    rows = x.shape[1] // side
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(0, 2), rows


class Hiera(nn.Module):
    """Normalised image -> maps of strides 4, 8, 16 and 32.

    Args:
        width: channels of the first stage; each next one has twice as many.
        heads: of the attention in the first stage; each next one has twice as many.
        depths: blocks of each stage.
        windows: height and width of the windows of each stage, in places.
        whole: numbers of the blocks whose attention sees the whole map.
        background: height and width of the table of places in the image.
        in_channels: of the image.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        depths: Sequence[int],
        windows: Sequence[int],
        whole: Sequence[int],
        background: int,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.patches = nn.Conv2d(in_channels, width, 7, stride=4, padding=3)
        self.pos_embed = nn.Parameter(torch.zeros(1, width, background, background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, width, windows[0], windows[0]))
        self.ends = [sum(depths[: stage + 1]) - 1 for stage in range(len(depths))]
        self.widths = tuple(width * 2**stage for stage in range(len(depths)))
        blocks: list[HieraBlock] = []
        for stage, depth in enumerate(depths):
            for number in range(depth):
                before = max(stage - 1, 0) if number == 0 else stage  # also the windows are those of before
                window = 0 if len(blocks) in whole else windows[before]
                blocks.append(HieraBlock(self.widths[before], self.widths[stage], heads * 2**stage, window))
        self.blocks = nn.ModuleList(blocks)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, image: Float[Tensor, "b c H W"]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """A map per stage, finest first."""
        x = self.patches(image)
        x = (x + self.places(x.shape[2], x.shape[3])).permute(0, 2, 3, 1)
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                maps.append(x.permute(0, 3, 1, 2))
        return tuple(maps)

    def places(self, height: int, width: int) -> Float[Tensor, "1 c height width"]:
        """What is added to the patches: the place in the image, and that in the window."""
        image = F.interpolate(self.pos_embed, (height, width), mode="bicubic")
        side = self.pos_embed_window.shape[2]
        window = self.pos_embed_window.tile(1, 1, -(-height // side), -(-width // side))
        return image + window[:, :, :height, :width]
