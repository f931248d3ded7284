"""What SAM 2 remembers of a video: memory encoder, and attention to memories (Sec. 4 and App. D.1).

A memory is a small map of 64 channels, which joins a frame and the mask found there. The next frame attends
to the memories of some frames, and to one vector per frame that stands for the object (object pointer).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import LayerNorm2d
from ..detr.transformer import sine_positions, tokens

LAYERS, HIDDEN = 4, 2048  # of the attention to memories, and channels within its perceptrons
DROPOUT = 0.1
THETA = 10_000.0  # the longest wavelength of the rotations is 2 pi times this


def rotations(x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "n c2"], Float[Tensor, "n c2"]]:
    """Cosines and sines of the angles of each place: the first half by x, the second by y."""
    channels, height, width = x.shape[1:]
    frequency = THETA ** -(torch.arange(0, channels, 4, device=x.device, dtype=torch.float32) / channels)
    along = torch.arange(width, device=x.device, dtype=torch.float32)[:, None] * frequency
    down = torch.arange(height, device=x.device, dtype=torch.float32)[:, None] * frequency
    both = [along[None].expand(height, -1, -1), down[:, None].expand(-1, width, -1)]
    angle = torch.cat(both, 2).flatten(0, 1)
    return angle.cos(), angle.sin()


def rotated(x: Float[Tensor, "b n c"], cos: Tensor, sin: Tensor) -> Float[Tensor, "b n c"]:
    """Neighbouring channels, as points of a plane, turned by the angle of their place."""
    even, odd = x.float().unflatten(2, (-1, 2)).unbind(3)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], 3).flatten(2).to(x.dtype)


class RotaryAttention(nn.Module):
    """Attention of one head, whose queries and keys are turned by their place in the map."""

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj, self.v_proj = nn.Linear(memory_width, width), nn.Linear(memory_width, width)

    def forward(
        self,
        query: Float[Tensor, "b n c"],
        key: Float[Tensor, "b m k"],
        value: Float[Tensor, "b m k"],
        turns: tuple[Tensor, Tensor],
        placeless: int = 0,
    ) -> Float[Tensor, "b n c"]:
        """What each place finds.

        Args:
            query: of the places of one map.
            key: of the places of whole maps of that size, one map after the other; then of what has no place.
            value: what is found.
            turns: `rotations` of the map.
            placeless: number of the keys without a place.
        """
        cos, sin = turns
        q, k, v = rotated(self.q_proj(query), cos, sin), self.k_proj(key), self.v_proj(value)
        placed = k.shape[1] - placeless
        maps = placed // len(cos)
        turned = rotated(k[:, :placed], cos.repeat(maps, 1), sin.repeat(maps, 1))
        dropout = DROPOUT if self.training else 0.0
        found = F.scaled_dot_product_attention(q, torch.cat([turned, k[:, placed:]], 1), v, dropout_p=dropout)
        mixed: Tensor = self.out_proj(found)
        return mixed


class MemoryLayer(nn.Module):
    """Attention within the frame, attention to memories, perceptron; a norm before each."""

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(width, width)
        self.cross_attn_image = RotaryAttention(width, memory_width)
        self.linear1, self.linear2 = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        memory: Float[Tensor, "b m k"],
        places: Float[Tensor, "b m k"],
        turns: tuple[Tensor, Tensor],
        placeless: int,
    ) -> Float[Tensor, "b n c"]:
        """The places `x` of a frame; see `MemoryAttention`."""
        own = self.norm1(x)
        x = x + self.dropout(self.self_attn(own, own, own, turns))
        found = self.cross_attn_image(self.norm2(x), memory + places, memory, turns, placeless)
        x = x + self.dropout(found)
        changed: Tensor = self.linear2(self.dropout(F.relu(self.linear1(self.norm3(x)))))
        return x + self.dropout(changed)


class MemoryAttention(nn.Module):
    """A frame that has seen the memories of others (Sec. 4, memory attention)."""

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryLayer(width, memory_width) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        frame: Float[Tensor, "b c h w"],
        memory: Float[Tensor, "b m k"],
        places: Float[Tensor, "b m k"],
        placeless: int,
    ) -> Float[Tensor, "b c h w"]:
        """The frame again.

        Args:
            frame: its coarsest map.
            memory: the places of remembered maps, one map after the other; then what has no place.
            places: what tells where and when each of them was.
            placeless: how many of them have no place: the parts of object pointers.
        """
        x = tokens(frame) + 0.1 * sine_positions(frame)
        turns = rotations(frame)
        for layer in self.layers:
            x = layer(x, memory, places, turns, placeless)
        out: Tensor = self.norm(x)
        return out.transpose(1, 2).unflatten(2, (frame.shape[2], frame.shape[3]))


class FuserBlock(nn.Module):
    """Block of a ConvNeXt (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm2d(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The map with its surroundings."""
        mixed = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        mixed = self.gamma * self.pwconv2(F.gelu(self.pwconv1(mixed)))
        return x + mixed.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """The coarsest map of a frame and the mask found there -> a memory (Sec. 4, memory encoder)."""

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in range(4):  # each halves the mask
            layers += [nn.Conv2d(4**step, 4 ** (step + 1), 3, stride=2, padding=1)]
            layers += [LayerNorm2d(4 ** (step + 1), eps=1e-6), nn.GELU()]
        self.mask_downsampler = nn.Sequential(*layers, nn.Conv2d(4**4, width, 1))
        self.pix_feat_proj = nn.Conv2d(width, width, 1)
        self.fuser = nn.Sequential(FuserBlock(width), FuserBlock(width))
        self.out_proj = nn.Conv2d(width, memory_width, 1)

    def forward(
        self, frame: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 H W"]
    ) -> Float[Tensor, "b k h w"]:
        """The memory; the mask has 16 times the height and width of the map."""
        memory: Tensor = self.out_proj(self.fuser(self.pix_feat_proj(frame) + self.mask_downsampler(mask)))
        return memory


def sine_of_times(times: Float[Tensor, " n"], channels: int) -> Float[Tensor, "n channels"]:
    """Sines, then cosines, of times; two neighbouring channels have one wavelength."""
    half = channels // 2
    pair = torch.arange(half, device=times.device, dtype=torch.float32) // 2
    angle = times[:, None] / 10_000 ** (2 * pair / half)
    return torch.cat([angle.sin(), angle.cos()], 1)
