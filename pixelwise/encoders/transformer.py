"""What the transformers of this folder share: attention, feed-forward network, residual block.

Maps have their channels last here, `b h w c`: layer norms and linear layers then need no other order, and a
row of tokens is `x.flatten(1, 2)`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd


class DropPath(_DropoutNd):
    """Stochastic depth (Huang et al. 2016): drop a branch for some images of a batch, in training only.

    What is kept is divided by the probability to keep it.
    """

    def forward(self, x: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
        """Zero the images that lose the branch."""
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(len(x), *(1 for _ in x.shape[1:]), device=x.device) >= self.p
        return x * keep.to(x.dtype) / (1 - self.p)


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Probabilities that grow evenly from 0 in the first block to `last` in the last, for each stage.

    >>> drop_path_rates(0.5, (2, 1))
    [[0.0, 0.25], [0.5]]
    """
    step = last / max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [[step * (start + i) for i in range(depth)] for start, depth in zip(starts, depths, strict=True)]


def attend(
    query: Float[Tensor, "b n c"],
    key: Float[Tensor, "b m c"],
    value: Float[Tensor, "b m c"],
    heads: int,
) -> Float[Tensor, "b n c"]:
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, Eq. 1)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def place(x: Float[Tensor, "b h w c"], size: tuple[int, int]) -> Float[Tensor, "b _ _ c"]:
    """A map of `size` that begins with `x` and has zeros behind it."""
    height, width = x.shape[1], x.shape[2]
    if torch.compiler.is_exporting():  # pads would hold for the traced size only
        rows = torch.arange(size[0], device=x.device).clamp(max=height)
        columns = torch.arange(size[1], device=x.device).clamp(max=width)
        return F.pad(x, (0, 0, 0, 1, 0, 1))[:, rows][:, :, columns]
    return F.pad(x, (0, 0, 0, size[1] - width, 0, size[0] - height))


class Mlp(nn.Module):
    """Two linear layers and a GELU between them.

    Args:
        channels: of input and output.
        ratio: how many times wider the layer between is.
    """

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x: Float[Tensor, "*grid c"]) -> Float[Tensor, "*grid c"]:
        """Transform every token."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Pre-norm residual block: attention, then a feed-forward network.

    Args:
        channels: of the map.
        attention: from a map to one of the same shape.
        ffn: likewise.
        drop_path: probability to drop each of both for an image.
        eps: of the layer norms.
    """

    def __init__(
        self, channels: int, attention: nn.Module, ffn: nn.Module, *, drop_path: float, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(channels, eps), attention
        self.norm2, self.ffn = nn.LayerNorm(channels, eps), ffn
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """The map and both branches, added."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        y: Tensor = x + self.drop_path(self.ffn(self.norm2(x)))
        return y


def initialize(module: nn.Module) -> None:
    """Weights as timm and the authors start them; call it by `Module.apply`.

    Linear layers: normal of deviation 0.02, cut at 2. Convolutions: normal, by fan-out. Biases: 0.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
