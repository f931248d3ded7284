"""Swin Transformers of timm at any image size.

A Swin block of timm decides when it is built whether it shifts its windows: only where the map is larger
than a window. Built for 224 x 224 pixels, the last stage (7 x 7, one window) never shifts, whatever the size
of the image that comes later. Here each block decides by the map that it is given, so the result is that of
a backbone built for the size of the image, from the published size upwards. Windows keep their published
size, to which smaller maps are filled up with zeros, where one built for them would have smaller windows and
other bias tables.

An exported program decides likewise: what depends on the size of a map is computed by its operations.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import at_least
from .transformer import place

BLOCKED = -100.0  # added to the attention between values that only the cyclic shift brought together


def decide_shift_by_map(body: nn.Module) -> None:
    """Let every Swin block in `body` decide by the size of its map whether to shift, in place."""
    from timm.models import swin_transformer, swin_transformer_v2, swin_transformer_v2_cr

    for module in body.modules():
        if isinstance(
            module, swin_transformer.SwinTransformerBlock | swin_transformer_v2.SwinTransformerV2Block
        ):
            module._attn = partial(shifted_window_attention, module)  # type: ignore[method-assign]
        elif isinstance(module, swin_transformer_v2_cr.SwinTransformerV2CrBlock):
            attend = partial(shifted_window_attention, module)
            module._shifted_window_attn = attend  # type: ignore[method-assign]
        elif isinstance(
            module,
            swin_transformer.PatchMerging
            | swin_transformer_v2.PatchMerging
            | swin_transformer_v2_cr.PatchMerging,
        ):
            module.register_forward_pre_hook(_fill_up)


def _fill_up(merging: nn.Module, given: tuple[Float[Tensor, "b h w c"]]) -> Float[Tensor, "b _ _ c"]:
    """A map of even height and width, which an exported program can tell."""
    (x,) = given
    return place(x, (-(-x.shape[1] // 2) * 2, -(-x.shape[2] // 2) * 2))


def shifted_window_attention(block: Any, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Attention within windows, which every second block shifts by half a window where there are several.

    Along an axis on which the map fits into one window, nothing is shifted. Maps are rolled first and then
    filled up with zeros, as timm does it.

    Args:
        block: one of timm's Swin blocks; its attention and the size of its windows are used.
        x: the map.
    """
    b, height, width = x.shape[:3]
    rows, columns = block.window_size
    shifts = any(block.target_shift_size)
    down, right = _axis(height, rows, shifts=shifts), _axis(width, columns, shifts=shifts)

    y, z = (index.to(x.device) for index in (down.tokens, right.tokens))
    number = y[:, None, :, None] * width + z[:, None]  # windows down, right, rows, columns
    number = torch.where((y[:, None, :, None] >= 0) & (z[:, None] >= 0), number, height * width)
    padded = F.pad(x.flatten(1, 2), (0, 0, 0, 1))  # the token of number h w is zero
    windows = padded.index_select(1, number.flatten()).unflatten(1, (-1, rows * columns))

    mask = None
    if down.regions is not None and right.regions is not None:
        regions = 3 * down.regions[:, None, :, None] + right.regions[:, None]
        regions = regions.flatten(2).flatten(0, 1).to(x.device)
        mask = BLOCKED * (regions[:, None, :] != regions[:, :, None]).to(x.dtype)
        mask = mask.repeat(b, 1, 1)  # one for each window: timm then has nothing to divide
    windows = block.attn(windows.flatten(0, 1), mask=mask).unflatten(0, (b, -1)).flatten(1, 2)

    y, z = (index.to(x.device)[..., None] for index in (down.places, right.places))
    window = (y // rows) * right.tokens.shape[0] + (z // columns).T
    number = window * (rows * columns) + (y % rows) * columns + (z % columns).T
    return windows.index_select(1, number.flatten()).unflatten(1, (height, width))


class _Axis(NamedTuple):
    """How the tokens of a map lie in windows, along one axis.

    Attributes:
        tokens: for each place of each window the number of its token, -1 where it has none.
        regions: tokens of one window that only the roll brought together are in different ones; None where
            nothing was rolled.
        places: for each token its place, counted through all windows.
    """

    tokens: Int64[Tensor, "windows n"]
    regions: Int64[Tensor, "windows n"] | None
    places: Int64[Tensor, " length"]


def _axis(length: int, window: int, *, shifts: bool) -> _Axis:
    count = -(-length // window)
    whole = count * window
    shift = _shift(length, window) if shifts else 0
    if torch.compiler.is_exporting():  # a program for any number of windows cannot tell one from several
        count = at_least(count, 2)
    position = torch.arange(count * window)
    rolled = position + shift
    rolled = torch.where(rolled >= length, rolled - length, rolled)
    tokens = torch.where(position < length, rolled, -1)
    places = torch.arange(length) - shift
    places = torch.where(places < 0, places + length, places)
    regions = None
    if shifts:
        # The last window, and what the shift brought into it from the start.
        regions = (position >= whole - window).long() + (position >= whole - shift)
        regions = (regions * (shift > 0)).unflatten(0, (-1, window))
    return _Axis(tokens.unflatten(0, (-1, window)), regions, places)


def _shift(length: int, window: int) -> int | Tensor:
    """Half a window where there are several; in an exported program a number that it computes."""
    if torch.compiler.is_exporting():
        return (torch.arange(length) >= window).any().long() * (window // 2)
    return window // 2 if length > window else 0
