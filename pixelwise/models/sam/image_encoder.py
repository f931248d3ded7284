"""The image encoder of SAM (Sec. 3, App. A): a plain ViT with windows, as in ViTDet (Li et al. 2022)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import LayerNorm2d


class Attention(nn.Module):
    """Attention among the places of a map, with what two places are apart added (MViTv2, Eq. 4).

    Args:
        width: channels.
        heads: number of heads.
        size: height and width of the maps, for the tables of relative positions.
    """

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, width // heads))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Let every place look at every other."""
        b, h, w, c = x.shape
        q, k, v = self.qkv(x).view(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        places = q.unflatten(2, (h, w))
        down = torch.einsum("bnhwc,hkc->bnhwk", places, _apart(self.rel_pos_h, h))
        right = torch.einsum("bnhwc,wkc->bnhwk", places, _apart(self.rel_pos_w, w))
        bias = (down[..., :, None] + right[..., None, :]).reshape(b, self.heads, h * w, h * w)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.proj(seen.transpose(1, 2).reshape(b, h, w, c))
        return projected


def _apart(table: Float[Tensor, "m c"], size: int) -> Float[Tensor, "size size c"]:
    """The row of the table for each query and each key along one axis."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*_ c"]) -> Float[Tensor, "*_ c"]:
        """Mix the channels of each place."""
        mixed: Tensor = self.lin2(F.gelu(self.lin1(x)))
        return mixed


class Block(nn.Module):
    """Attention and MLP, each behind a norm and around which the input is added.

    Args:
        width: channels.
        heads: of the attention.
        grid: height and width of the map.
        window: side of the windows that attend to themselves only; 0 for the whole map.
    """

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, window or grid)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """One layer of the transformer."""
        seen = self.norm1(x)
        seen = in_windows(self.attn, seen, self.window) if self.window else self.attn(seen)
        x = x + seen
        return x + self.mlp(self.norm2(x))


def in_windows(attention: nn.Module, x: Float[Tensor, "b h w c"], window: int) -> Float[Tensor, "b h w c"]:
    """Apply `attention` to each window; the last ones reach beyond the map, where zeros are seen."""
    b, h, w, c = x.shape
    rows, columns = -(-h // window), -(-w // window)
    x = F.pad(x, (0, 0, 0, columns * window - w, 0, rows * window - h))
    x = x.view(b, rows, window, columns, window, c).transpose(2, 3)
    x = attention(x.reshape(-1, window, window, c)).view(b, rows, columns, window, window, c)
    return x.transpose(2, 3).reshape(b, rows * window, columns * window, c)[:, :h, :w]


def make_neck(c_in: int, c_out: int) -> nn.Sequential:
    """What brings the features of an encoder to the width of the prompts (ViTDet; also MobileSAM)."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 1, bias=False),
        LayerNorm2d(c_out, eps=1e-6),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        LayerNorm2d(c_out, eps=1e-6),
    )


class PatchEmbedding(nn.Module):
    """One token for each patch of the image."""

    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, stride=patch)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b h w _"]:
        """The tokens with their channels last."""
        tokens: Tensor = self.proj(image).permute(0, 2, 3, 1)
        return tokens


class ImageEncoder(nn.Module):
    """Square image -> map of `c_out` channels, `patch` times smaller.

    Args:
        image_size: side of the image in pixels.
        patch: side of the patches in pixels.
        width: channels of the transformer.
        heads: of its attention.
        windows: side of the windows of each block; 0 where it looks at the whole map.
        in_channels: of the image.
        c_out: channels of the result.
    """

    def __init__(
        self,
        image_size: int,
        patch: int,
        width: int,
        heads: int,
        windows: Sequence[int],
        *,
        in_channels: int = 3,
        c_out: int = 256,
    ) -> None:
        super().__init__()
        grid = image_size // patch
        self.patch_embed = PatchEmbedding(in_channels, width, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, width))
        self.blocks = nn.ModuleList(Block(width, heads, grid, window) for window in windows)
        self.neck = make_neck(width, c_out)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image: Float[Tensor, "b c S S"]) -> Float[Tensor, "b c_out h w"]:
        """Look at images that were brought to the encoder's size."""
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        looked: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return looked
