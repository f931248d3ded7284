"""Swin Transformer for dense prediction (Liu et al. 2021): attention within windows that are shifted.

    image --- stage 1 --- stage 2 --- stage 3 --- stage 4
              c2, 1/4     c3, 1/8     c4, 1/16    c5, 1/32

A block attends within windows of 7x7 tokens, with a learned bias for each relative position (Eq. 4). The next
block shifts the windows by half their side, by rolling the map; tokens that only the roll brought together do
not see each other (Fig. 4).

This is the network of the authors' segmentation code (github.com/SwinTransformer), which treats maps of any
size as the published segmentation weights expect it: the map is filled up with zeros to whole windows, then
rolled, and windows are shifted on maps of a single window too. timm's, which `swin.py` adapts, is the
classifier's: it rolls before it fills up, and shifts only where there are several windows. The parameters
fit both; between them only borders and small maps differ. Each stage ends in a layer norm of its own, which
no classifier has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, LayerNorm2d, Normalize, at_least
from ..types import Features
from .base import Encoder
from .published import fetch
from .pvt import LEVELS, chosen_stages, pyramid_of, run_stages
from .swin import BLOCKED
from .timm import StemPolicy, adapt_stem, per_channel
from .transformer import Block, Mlp, drop_path_rates, initialize, place

HEAD_WIDTH = 32
SWIN_SIZES = {  # heads of the first stage, blocks of each stage, window, timm's name of the ImageNet weights
    "swin_tiny": (3, (2, 2, 6, 2), 7, "swin_tiny_patch4_window7_224"),
    "swin_small": (3, (2, 2, 18, 2), 7, "swin_small_patch4_window7_224"),
    "swin_base": (4, (2, 2, 18, 2), 7, "swin_base_patch4_window7_224"),
    "swin_base_window12": (4, (2, 2, 18, 2), 12, "swin_base_patch4_window12_384"),
    "swin_large": (6, (2, 2, 18, 2), 12, "swin_large_patch4_window12_384"),
}


class WindowAttention(nn.Module):
    """Attention of the tokens of each window to each other, with relative position bias (Eq. 4).

    Args:
        channels: of the tokens.
        heads: of the attention.
        window: rows and columns of a window.
    """

    relative_position_index: Int64[Tensor, "n n"]

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "b t c"],
        tokens: Int64[Tensor, "windows n"],
        places: Int64[Tensor, " t"],
        mask: Float[Tensor, "windows n n"] | None = None,
    ) -> Float[Tensor, "b t c"]:
        """Attend within every window.

        Linear layers see each token once, in the order of the map; places that are filled up see none.

        Args:
            x: the tokens of the map.
            tokens: which of them stands at each place of each window; t where none does.
            places: the place of each token, counted through all windows.
            mask: added to the scores before the softmax.
        """
        b, n = x.shape[0], tokens.shape[1]
        qkv = self.qkv(F.pad(x, (0, 0, 0, 1)))  # the last token is zero
        windows = qkv.index_select(1, tokens.flatten()).unflatten(1, (-1, n)).flatten(0, 1)
        q, k, v = windows.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # b*windows heads n d
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).expand(b, -1, -1, -1, -1).flatten(0, 1)  # b*windows heads n n
        gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        y: Tensor = self.proj(gathered.unflatten(0, (b, -1)).flatten(1, 2).index_select(1, places))
        return y


def relative_positions(window: int) -> Int64[Tensor, "n n"]:
    """Which entry of the bias table belongs to each pair of tokens of a window."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    down = rows.flatten()[:, None] - rows.flatten() + window - 1
    right = columns.flatten()[:, None] - columns.flatten() + window - 1
    return down * (2 * window - 1) + right


class Layout(NamedTuple):
    """How the tokens of a map lie in windows.

    Attributes:
        tokens: for each place of each window the number of its token, row by row; h w where it has none.
        regions: tokens of one window that are no neighbours in the map are in different ones.
        places: for each token its place, counted through all windows.
    """

    tokens: Int64[Tensor, "windows n"]
    regions: Int64[Tensor, "windows n"]
    places: Int64[Tensor, "h w"]


def lay_out(height: int, width: int, window: int, *, shift: int = 0, centred: bool = False) -> Layout:
    """Fill a map up to whole windows and roll it: where does each token come to lie?

    Args:
        height: of the map.
        width: of the map.
        window: rows and columns of a window.
        shift: by how many rows and columns the filled map is rolled, up and to the left.
        centred: whether the map lies in the middle of what it is filled up to, not at its start.

    >>> lay_out(2, 3, 2, shift=1).tokens  # 0 1 2 over 3 4 5; 6 stands for none
    tensor([[4, 5, 1, 2],
            [6, 3, 6, 0]])
    """
    rows, top, row_places = _axis(height, window, shift, centred)
    columns, left, column_places = _axis(width, window, shift, centred)
    rows, columns = rows[:, None, :, None], columns[:, None]  # down right rows columns
    tokens = torch.where((rows >= 0) & (columns >= 0), rows * width + columns, height * width)
    regions = 2 * top[:, None, :, None] + left[:, None]
    number = (row_places // window)[:, None] * left.shape[0] + column_places // window
    within = (row_places % window)[:, None] * window + column_places % window
    return Layout(
        tokens.flatten(2).flatten(0, 1), regions.flatten(2).flatten(0, 1), number * window**2 + within
    )


def _axis(length: int, window: int, shift: int, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: tokens and regions of each window (-1 for none), and the place of each token."""
    count = -(-length // window)
    whole = count * window
    before = (whole - length) // 2 if centred else 0
    if torch.compiler.is_exporting():  # a program for any number of windows cannot tell one from several
        count = at_least(count, 2)
    place = torch.arange(count * window)
    token = place + shift
    token = torch.where(token >= whole, token - whole, token) - before
    token = torch.where((place < whole) & (token >= 0) & (token < length), token, -1)
    places = torch.arange(length) + before - shift
    places = torch.where(places < 0, places + whole, places)
    regions = (place >= whole - shift).long()
    return token.unflatten(0, (-1, window)), regions.unflatten(0, (-1, window)), places


class ShiftedWindowAttention(nn.Module):
    """Window attention on a map of any size.

    Args:
        channels: of the map.
        heads: of the attention.
        window: rows and columns of a window.
        shift: by how many rows and columns windows are shifted.
        centred: whether maps are filled up on all four sides, not only at the end.
    """

    def __init__(
        self, channels: int, heads: int, window: int, *, shift: int = 0, centred: bool = False
    ) -> None:
        super().__init__()
        self.window, self.shift, self.centred = window, shift, centred
        self.attention = WindowAttention(channels, heads, window)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attend within windows; those that the roll made of strangers are masked."""
        height, width = x.shape[1], x.shape[2]
        layout = lay_out(height, width, self.window, shift=self.shift, centred=self.centred)
        tokens, regions, places = (index.to(x.device) for index in layout)
        mask = None
        if self.shift:
            mask = BLOCKED * (regions[:, None, :] != regions[:, :, None]).to(x.dtype)
        y: Tensor = self.attention(x.flatten(1, 2), tokens, places.flatten(), mask)
        return y.unflatten(1, (height, width))


class PatchMerging(nn.Module):
    """Each 2x2 square of tokens becomes one of twice the channels; odd maps are filled up with zeros."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * c_in)
        self.reduction = nn.Linear(4 * c_in, 2 * c_in, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """Halve the map, channels last."""
        x = x.permute(0, 2, 3, 1)
        x = place(x, (-(-x.shape[1] // 2) * 2, -(-x.shape[2] // 2) * 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # b h rows w columns c
        merged: Tensor = self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))
        return merged


class PatchEmbedding(nn.Module):
    """Each square of 4x4 pixels becomes a token; images are filled up with zeros to whole squares."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, c_out, 4, 4)
        self.norm = nn.LayerNorm(c_out)

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b h w _"]:
        """Tokens, channels last."""
        x = place(x.permute(0, 2, 3, 1), (-(-x.shape[2] // 4) * 4, -(-x.shape[3] // 4) * 4))
        tokens: Tensor = self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return tokens


class SwinStage(nn.Module):
    """Fewer, wider tokens, and blocks of which every second one shifts its windows.

    Args:
        downsample: from the map before, channels first, to tokens, channels last.
        heads: of the attention.
        window: rows and columns of a window.
        drop_paths: probability to drop a branch, for each block.
    """

    def __init__(
        self, downsample: nn.Module, heads: int, *, window: int, drop_paths: Sequence[float]
    ) -> None:
        super().__init__()
        c = heads * HEAD_WIDTH
        self.downsample = downsample
        self.blocks = nn.Sequential(
            *(
                Block(
                    c,
                    ShiftedWindowAttention(c, heads, window, shift=window // 2 if i % 2 else 0),
                    Mlp(c),
                    drop_path=rate,
                    eps=1e-5,
                )
                for i, rate in enumerate(drop_paths)
            )
        )

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b c h w"]:
        """The map of the stage, before any norm."""
        return self.blocks(self.downsample(x)).permute(0, 3, 1, 2)


class SwinTransformer(Encoder):
    """Swin Transformer: four stages, each of twice the channels and heads of the one before.

    Args:
        heads: of the first stage; each has 32 channels.
        depths: blocks of each stage.
        window: rows and columns of a window.
        in_channels: of the image.
        stages: the stages to give, "c2" to "c5"; those behind the last are cut off.
        drop_path: probability to drop a branch of the last block; it grows from 0 in the first.

    Raises:
        ValueError: on another stage.
    """

    def __init__(
        self,
        heads: int,
        depths: Sequence[int],
        *,
        window: int = 7,
        in_channels: int = 3,
        stages: Sequence[str] = LEVELS,
        drop_path: float = 0.3,
    ) -> None:
        super().__init__()
        self.stages = chosen_stages("a Swin Transformer", stages)
        self.in_channels = in_channels
        self.channels, self.strides = pyramid_of([HEAD_WIDTH * heads * 2**i for i in range(4)], self.stages)
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        rates = drop_path_rates(drop_path, depths)
        self.body, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for i, stage in enumerate(LEVELS[: LEVELS.index(self.stages[-1]) + 1]):
            c = HEAD_WIDTH * heads * 2**i
            if stage in self.stages:
                self.norms[stage] = LayerNorm2d(c, eps=1e-5)
            downsample = PatchMerging(c // 2) if i else PatchEmbedding(in_channels, c)
            self.body[stage] = SwinStage(downsample, heads * 2**i, window=window, drop_paths=rates[i])
        self.apply(initialize)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        maps = run_stages(self.body, self.normalize(image), self.stages)
        return Features({stage: norm(maps[stage]) for stage, norm in self.norms.items()})


def pretrained_swin(size: str, encoder: SwinTransformer, stem: StemPolicy) -> None:
    """Load timm's ImageNet weights of one of `SWIN_SIZES` into `encoder`."""
    *_, name = SWIN_SIZES[size]
    own = encoder.state_dict()
    kept = {key: tensor for key, tensor in own.items() if key.startswith(("normalize.", "norms."))}
    weights = kept | rename_timm_swin(fetch(name))
    encoder.load_state_dict(adapt_stem({key: weights[key] for key in own}, own, stem))


def rename_timm_swin(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's Swin Transformer under the names of `SwinTransformer`; others keep theirs."""
    renamed = {}
    for key, tensor in state_dict.items():
        if key.startswith("patch_embed."):
            key = key.replace("patch_embed.", "body.c2.downsample.")
        elif key.startswith("layers"):
            _, number, tail = key.replace("layers_", "layers.").split(".", 2)
            tail = tail.replace("attn.", "attention.attention.").replace("mlp.", "ffn.")
            key = f"body.{LEVELS[int(number)]}.{tail}"
        renamed[key] = tensor
    return renamed
