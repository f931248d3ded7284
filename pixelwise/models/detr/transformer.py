"""The transformer of DETR (supplement A.3): positions, attention, layers of encoder and decoder.

MaskFormer and Mask2Former take these blocks too.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, HIDDEN = 8, 2048  # of the attention, and channels within the perceptrons
DROPOUT = 0.1


def sine_positions(
    x: Float[Tensor, "b c h w"], seen: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "_ n c"]:
    """Sines and cosines of y, then of x, at wavelengths from 2 pi to 10000 · 2 pi; the image is 2 pi long.

    Args:
        x: tells the size of the map, whose pixels are put in a row, and c, a multiple of 4.
        seen: where the images of a batch are, at the upper left of the map; everywhere without it.
    """
    channels, height, width = x.shape[1:]
    of_pair = torch.arange(channels // 4, device=x.device, dtype=x.dtype)
    frequency = 10_000 ** (-4 * of_pair / channels)
    axes = []
    for axis, length in ((1, height), (2, width)):
        place = torch.arange(1, length + 1, device=x.device, dtype=x.dtype)
        if seen is None:
            angle = (place / (length + 1e-6) * 2 * math.pi)[None, :, None] * frequency
        else:
            own = seen.sum(axis).amax(1, keepdim=True)
            angle = (place / (own + 1e-6) * 2 * math.pi)[..., None] * frequency
        axes.append(torch.stack([angle.sin(), angle.cos()], 3).flatten(2))  # b length c/2
    down, along = axes
    both = [down[:, :, None].expand(-1, -1, width, -1), along[:, None].expand(-1, height, -1, -1)]
    return torch.cat(both, 3).flatten(1, 2)


def tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """The pixels of a map in a row."""
    return x.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Attention of several heads, each with its part of the channels."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = math.gcd(HEADS, width), dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        key: Float[Tensor, "b n c"],
        value: Float[Tensor, "b n c"],
        seen: Bool[Tensor, "b _ n"] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """What each query finds; `seen` is where it may look, everywhere without it."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        dropout = self.dropout if self.training else 0.0
        mask = None if seen is None else seen[:, None]
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        mixed: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU between."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, width)
        )


class EncoderLayer(nn.Module):
    """Attention among the pixels, perceptron; a norm behind each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width, DROPOUT)
        self.feed_forward = FeedForward(width, HIDDEN, DROPOUT)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(DROPOUT)
        xavier(self)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        places: Float[Tensor, "_ n c"],
        seen: Bool[Tensor, "b 1 n"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """The pixels `x`; see `DecoderLayer.forward`."""
        x = self.norms[0](x + self.dropout(self.attention(x + places, x + places, x, seen)))
        return self.norms[1](x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """Attention among the queries, attention to the image, perceptron; a norm behind each."""

    def __init__(self, width: int, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.self_attention = Attention(width, dropout)
        self.cross_attention = Attention(width, dropout)
        self.feed_forward = FeedForward(width, HIDDEN, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        xavier(self)

    def forward(
        self,
        x: Float[Tensor, "b q c"],
        places: Float[Tensor, "1 q c"],
        memory: Float[Tensor, "b n c"],
        memory_places: Float[Tensor, "_ n c"],
        seen: Bool[Tensor, "b 1 n"] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """The queries `x`; positions are added to what asks and is asked, not to what is found.

        `seen` is False on padding.
        """
        x = self.norms[0](x + self.dropout(self.self_attention(x + places, x + places, x)))
        found = self.cross_attention(x + places, memory + memory_places, memory, seen)
        x = self.norms[1](x + self.dropout(found))
        return self.norms[2](x + self.dropout(self.feed_forward(x)))


def xavier(module: nn.Module) -> None:
    """Initialise all matrices as DETR does."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)


def perceptron(width: int, c_out: int) -> nn.Sequential:
    """Three linear layers with ReLUs between."""
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, c_out))
