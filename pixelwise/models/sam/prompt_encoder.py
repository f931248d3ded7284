"""The prompt encoder of SAM (Sec. 3, App. A): points, boxes and masks become what the decoder reads."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ...layers import LayerNorm2d

NOTHING, OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # what a point may be


class FourierPositions(nn.Module):
    """Positions as sines and cosines of random projections (Tancik et al. 2020).

    Args:
        width: channels c.
        side: of the image in units of length; places that are a sixth of a unit apart have little in common.
            In the paper it is 1.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int, side: float = 1.0) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, places: Float[Tensor, "*_ 2"]) -> Float[Tensor, "*_ c"]:
        """Encode x y in [0, 1]."""
        angles = 2 * math.pi * ((2 * self.side * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PointEncoder(nn.Module):
    """Points and corners of boxes -> tokens of `width` channels; `side` as in `FourierPositions`."""

    def __init__(self, width: int = 256, side: float = 1.0) -> None:
        super().__init__()
        self.pe_layer = FourierPositions(width, side)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)

    def points(self, places: Float[Tensor, "p n 2"], labels: Int64[Tensor, "p n"]) -> Float[Tensor, "p n c"]:
        """Tokens of points.

        Args:
            places: x y as shares of the side of the square that the encoder sees, in [0, 1].
            labels: what each point is: outside or inside of the object, corner of a box, or nothing.
        """
        learned = torch.cat(list(self.point_embeddings.parameters()))
        tokens = self.pe_layer(places) + learned[labels.clamp(min=OUTSIDE)]
        return torch.where((labels == NOTHING)[..., None], self.not_a_point_embed.weight, tokens)

    def positions(self, height: int, width: int) -> Float[Tensor, "1 c height width"]:
        """The position of each place of a map, encoded like that of a point."""
        at = self.pe_layer.positional_encoding_gaussian_matrix
        rows, columns = self.extent(height, width)
        y = (torch.arange(height, device=at.device, dtype=at.dtype) + 0.5) / rows
        x = (torch.arange(width, device=at.device, dtype=at.dtype) + 0.5) / columns
        places = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
        encoded: Tensor = self.pe_layer(places)
        return encoded.permute(2, 0, 1)[None]

    def extent(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the square of all positions in cells of a map: the map fills it."""
        return height, width


class PromptEncoder(PointEncoder):
    """Points and corners of boxes -> tokens; masks -> maps.

    Args:
        width: channels c of tokens and maps.
        mask_channels: of the last layer but one on a mask.
    """

    def __init__(self, width: int = 256, mask_channels: int = 16) -> None:
        super().__init__(width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def masks(self, masks: Float[Tensor, "p 1 _ _"] | None) -> Float[Tensor, "_ c _ _"]:
        """What is added to the map of the image: for each mask, or the same everywhere without masks.

        Args:
            masks: scores at four times the resolution of that map.
        """
        if masks is None:
            return self.no_mask_embed.weight[:, :, None, None]
        added: Tensor = self.mask_downscaling(masks)
        return added
