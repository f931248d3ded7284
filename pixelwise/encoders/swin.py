"""Swin Transformers of timm at any image size.

A Swin block of timm decides when it is built whether it shifts its windows: only where the map is larger
than a window. Built for 224 x 224 pixels, the last stage (7 x 7, one window) never shifts, whatever the size
of the image that comes later. Here each block decides by the map that it is given, so the result is that of
a backbone built for the size of the image, from the published size upwards. Windows keep their published
size, to which smaller maps are filled up with zeros, where one built for them would have smaller windows and
other bias tables.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKED = -100.0  # added to the attention between values that only the cyclic shift brought together


def decide_shift_by_map(body: nn.Module) -> None:
    """Let every Swin block in `body` decide by the size of its map whether to shift, in place."""
    from timm.models.swin_transformer import SwinTransformerBlock
    from timm.models.swin_transformer_v2 import SwinTransformerV2Block
    from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock

    for block in body.modules():
        if isinstance(block, SwinTransformerBlock | SwinTransformerV2Block):
            block._attn = partial(shifted_window_attention, block)  # type: ignore[method-assign]
        elif isinstance(block, SwinTransformerV2CrBlock):
            attend = partial(shifted_window_attention, block)
            block._shifted_window_attn = attend  # type: ignore[method-assign]


def shifted_window_attention(block: Any, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Attention within windows, which every second block shifts by half a window where there are several.

    Along an axis on which the map fits into one window, nothing is shifted. Maps are rolled first and then
    filled up with zeros, as timm does it.

    Args:
        block: one of timm's Swin blocks; its attention and the size of its windows are used.
        x: the map.
    """
    b, height, width, c = x.shape
    rows, columns = block.window_size
    shifts = any(block.target_shift_size)
    down = rows // 2 if shifts and height > rows else 0
    right = columns // 2 if shifts and width > columns else 0
    num_down, num_right = -(-height // rows), -(-width // columns)

    x = torch.roll(x, (-down, -right), (1, 2))
    x = F.pad(x, (0, 0, 0, num_right * columns - width, 0, num_down * rows - height))
    windows = x.reshape(b, num_down, rows, num_right, columns, c).transpose(2, 3)
    mask = _mask(num_down, rows, down, num_right, columns, right).to(x) if down or right else None
    windows = block.attn(windows.reshape(-1, rows * columns, c), mask=mask)
    x = windows.reshape(b, num_down, num_right, rows, columns, c).transpose(2, 3)
    x = x.reshape(b, num_down * rows, num_right * columns, c)[:, :height, :width]
    return torch.roll(x, (down, right), (1, 2))


def _mask(
    num_down: int, rows: int, down: int, num_right: int, columns: int, right: int
) -> Float[Tensor, "windows n n"]:
    """What is added to the attention between the n positions of each window."""
    vertical, horizontal = _regions(num_down, rows, down), _regions(num_right, columns, right)
    regions = (
        3 * vertical[:, None, :, None] + horizontal[None, :, None, :]
    )  # windows down, right, rows, columns
    regions = regions.reshape(num_down * num_right, rows * columns)
    return BLOCKED * (regions[:, None, :] != regions[:, :, None])


def _regions(count: int, length: int, shift: int) -> Float[Tensor, "count length"]:
    """Along one axis: 0 before the last window, 1 in it, 2 in what the shift brought there from the start."""
    position = torch.arange(count * length)
    region = torch.zeros(count * length)
    if shift:
        region += position >= (count - 1) * length
        region += position >= count * length - shift
    return region.view(count, length)
