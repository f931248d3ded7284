"""A small SAM that learns from random weights, few images and without a GPU: `sam`.

What it keeps of the paper: an image is looked at once; points, boxes and earlier masks are answered by a
small decoder in which tokens and image look at each other; three candidates for a single point, one for more;
the IoU that is expected of each. Departures, and where they come from:

- The image encoder is a pyramid of convolutions and ConvNeXt blocks (Liu et al. 2022), with a way back up to
  the resolution of the masks (U-Net, Ronneberger et al. 2015), in place of a plain ViT.
- The decoder draws masks with these finer maps beside it, as that of SAM 2 does (Ravi et al. 2024, App. D).
- Points and boxes are tokens as in the paper, and are drawn as maps too, beside the earlier mask (RITM,
  Sofiiuk et al. 2022, draws discs). So an answer is local before anything is learned.
- Convolutions in the decoder carry what a click says to its neighbours.
- Images are shrunk where they are larger than `image_size`, but never enlarged nor padded to a square: what
  was learned on crops is met at the same scale in whole images.
- Positions are finer, and attention begins with what is alike (`_begin_with_likeness`).
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import LayerNorm2d, size_of
from ...types import Embedding
from ..lora import add_lora
from .mask_decoder import CANDIDATES, Attention, Perceptron, TwoWayTransformer
from .network import PAPER as PAPER, SAM
from .prompt_encoder import BOTTOM_RIGHT, INSIDE, OUTSIDE, TOP_LEFT, PointEncoder

PATCHES = 16  # in one unit of positions
NEAR, AROUND = 1.0, 4.0  # cells of a mask: how wide a click is drawn
DRAWN = 6  # maps: clicks inside and outside, each near and around; the box; the earlier mask


def _convolved(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """3x3, norm, GELU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, padding=1), LayerNorm2d(c_out, eps=1e-6), nn.GELU()
    )


class ConvBlock(nn.Module):
    """A ConvNeXt block: 7x7 for each channel, norm, MLP at each place, around which the input is added.

    Args:
        width: channels.
        hidden: channels inside the MLP.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Look around each place."""
        mixed = self.lin2(F.gelu(self.lin1(self.norm(self.around(x).permute(0, 2, 3, 1)))))
        return x + mixed.permute(0, 3, 1, 2)


class PyramidEncoder(nn.Module):
    """Image -> one map, in which each place also carries the finer maps of its patch.

    Args:
        patch: by how much smaller the map is, a power of two from 4 on.
        width: channels of the blocks.
        depth: number of blocks.
        in_channels: of the image.
        channels: of the map, and of the maps of twice and four times its resolution.
    """

    def __init__(
        self, patch: int, width: int, depth: int, *, in_channels: int, channels: tuple[int, int, int]
    ) -> None:
        super().__init__()
        fine, middle = max(width // 4, 8), max(width // 2, 8)
        halvings = (patch // 4).bit_length() - 1
        sizes = [in_channels, *[fine] * max(halvings, 1)]
        self.fine = nn.Sequential(
            *(_convolved(*two, stride=2 if halvings else 1) for two in pairwise(sizes)),
            _convolved(fine, fine),
        )
        self.middle = nn.Sequential(_convolved(fine, middle, 2), _convolved(middle, middle))
        self.coarse = nn.Sequential(
            _convolved(middle, width, 2), *(ConvBlock(width, 4 * width) for _ in range(depth))
        )
        self.to_middle = nn.ConvTranspose2d(width, middle, 2, stride=2)
        self.to_fine = nn.ConvTranspose2d(middle, fine, 2, stride=2)
        self.join_middle, self.join_fine = _convolved(middle, middle), _convolved(fine, fine)
        self.neck = nn.Sequential(
            nn.Conv2d(width, channels[0], 1, bias=False),
            LayerNorm2d(channels[0], eps=1e-6),
            nn.Conv2d(channels[0], channels[0], 3, padding=1, bias=False),
            LayerNorm2d(channels[0], eps=1e-6),
        )
        self.neck_middle, self.neck_fine = nn.Conv2d(middle, channels[1], 1), nn.Conv2d(fine, channels[2], 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c_out h w"]:
        """Look at images whose sides are multiples of the patch."""
        fine = self.fine(image)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.join_middle(middle + self.to_middle(coarse))
        fine = self.join_fine(fine + self.to_fine(middle))
        finer = F.pixel_unshuffle(self.neck_middle(middle), 2), F.pixel_unshuffle(self.neck_fine(fine), 4)
        return torch.cat([self.neck(coarse), *finer], 1)


class DrawnPrompts(PointEncoder):
    """Prompts as tokens, and as maps at the resolution of the masks.

    Args:
        width: channels of tokens and of the map.
        side: of the image in units of positions.
        cells: side of the image in cells of a mask.
        middle: channels of the map at twice the resolution.
    """

    def __init__(self, width: int, side: float, cells: int, middle: int) -> None:
        super().__init__(width, side)
        self.cells = cells
        self.to_middle = _convolved(DRAWN, middle, 2)
        self.to_coarse = nn.Conv2d(middle, width, 3, 2, padding=1)

    def extent(self, height: int, width: int) -> tuple[int, int]:
        """Places have the same length whatever the image's size: a map covers a part of the square."""
        return self.cells // 4, self.cells // 4

    def draw(
        self,
        places: Float[Tensor, "p n 2"],
        labels: Int64[Tensor, "p n"],
        masks: Float[Tensor, "p 1 h w"],
    ) -> Float[Tensor, "p k h w"]:
        """Bells at points, boxes with soft sides, and the earlier mask between -1 and 1.

        Each is a product of what depends on the row and what depends on the column: a matrix product over
        the points draws all.
        """
        height, width = masks.shape[-2:]
        y, x = (
            torch.arange(n, device=places.device, dtype=places.dtype)
            + 0.5
            - (self.cells * places[..., axis, None])
            for n, axis in ((height, 1), (width, 0))
        )
        maps = []
        for kind in (INSIDE, OUTSIDE):
            chosen = (labels == kind).to(places.dtype)[..., None]
            for reach in (NEAR, AROUND):
                rows, columns = (torch.exp(-0.5 * (one / reach) ** 2) for one in (y, x))
                maps.append((chosen * rows).transpose(1, 2) @ columns)
        first, last = ((labels == kind).to(places.dtype)[..., None] for kind in (TOP_LEFT, BOTTOM_RIGHT))
        rows, columns = ((first * one.sigmoid()).sum(1) * (last * (-one).sigmoid()).sum(1) for one in (y, x))
        maps.append(rows[:, :, None] * columns[:, None])
        maps.append((0.5 * masks[:, 0]).tanh())
        return torch.stack(maps, 1)

    def forward(
        self,
        places: Float[Tensor, "p n 2"],
        labels: Int64[Tensor, "p n"],
        masks: Float[Tensor, "p 1 h w"],
    ) -> tuple[Float[Tensor, "p c _ _"], Float[Tensor, "p b _ _"]]:
        """What is added to the map of the image, and to the one of twice its resolution."""
        drawn = self.draw(places, labels, masks).contiguous(memory_format=torch.channels_last)
        middle = self.to_middle(drawn)
        return self.to_coarse(middle), middle


class SmallMaskDecoder(nn.Module):
    """Image, where its places are, and prompts -> masks and how good they are.

    Args:
        channels: of the image's map and the tokens, and of the maps of twice and four times its resolution.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        width, middle, fine = channels
        count = 1 + CANDIDATES
        self.transformer = TwoWayTransformer(width, width // 32, 8 * width)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(count, width)
        self.blocks = nn.Sequential(*(ConvBlock(width, 2 * width) for _ in range(2)))
        self.to_middle = nn.ConvTranspose2d(width, middle, 2, stride=2)
        self.join_middle = nn.Sequential(LayerNorm2d(middle, eps=1e-6), nn.GELU(), _convolved(middle, middle))
        self.to_fine = nn.ConvTranspose2d(middle, fine, 2, stride=2)
        self.join_fine = nn.GELU()
        self.filters = nn.ModuleList(Perceptron(width, width, fine + 1) for _ in range(count))
        self.iou_prediction_head = Perceptron(width, width, count)

    def forward(
        self,
        maps: tuple[Float[Tensor, "p c h w"], Float[Tensor, "p c2 _ _"], Float[Tensor, "1 c4 _ _"]],
        positions: Float[Tensor, "1 c h w"],
        prompts: Float[Tensor, "p n c"],
    ) -> tuple[Float[Tensor, "p 4 _ _"], Float[Tensor, "p 4"]]:
        """Scores of each mask at four times the resolution of the map, and the IoU expected of it."""
        coarse, middle, fine = maps
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts], dim=1)
        tokens, coarse = self.transformer(coarse, positions, tokens)
        middle = self.join_middle(middle + self.to_middle(self.blocks(coarse)))
        fine = self.join_fine(fine + self.to_fine(middle))
        filters = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.filters)], dim=1)
        masks = filters[..., :-1] @ fine.flatten(2) + filters[..., -1:]
        return masks.unflatten(2, fine.shape[2:]), self.iou_prediction_head(tokens[:, 0])


class SmallSAM(SAM):
    """See `sam`, and the departures at the head of this file.

    Args:
        patch: by how much smaller the map is, a power of two from 4 on.
        image_size: larger images are shrunk until their longer side is as long; multiple of `patch`.
        width: channels of the encoder.
        depth: its blocks.
        decoder_width: channels of the decoder, a multiple of 32.
        in_channels: of the image.
    """

    def __init__(
        self, patch: int, image_size: int, width: int, depth: int, decoder_width: int, in_channels: int
    ) -> None:
        channels = decoder_width, decoder_width // 4, decoder_width // 8
        encoder = PyramidEncoder(patch, width, depth, in_channels=in_channels, channels=channels)
        prompts = DrawnPrompts(
            decoder_width, image_size / (PATCHES * patch), 4 * image_size // patch, channels[1]
        )
        decoder = SmallMaskDecoder(channels)
        _begin_with_likeness(decoder, 1.2)
        with torch.no_grad():
            norm = encoder.neck[-1]
            assert isinstance(norm, LayerNorm2d)
            nn.init.constant_(norm.weight, 0.3)
            for kind in (*prompts.point_embeddings, prompts.not_a_point_embed):
                kind.weight.mul_(0.5)
        super().__init__(
            encoder, image_size, patch, in_channels=in_channels, prompt_encoder=prompts, mask_decoder=decoder
        )
        self.channels = channels
        self.map_channels = channels[0] + 4 * channels[1] + 16 * channels[2]

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image as the encoder sees it: never larger than it is."""
        scale = min(1.0, self.image_size / max(size))
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def covered(self, size: tuple[int, int]) -> tuple[int, int]:
        """The same up to whole patches."""
        height, width = (-(-side // self.patch) * self.patch for side in self.seen(size))
        return height, width

    def embed_all(self, images: Sequence[Float[Tensor, "c _ _"]]) -> tuple[Embedding, ...]:
        """Look at several images; those of one size in one pass of the encoder.

        Raises:
            ValueError: if one is smaller than `minimum_size`.
        """
        sizes = [size_of(image[None], self.minimum_size) for image in images]
        alike = defaultdict(list)
        for number, size in enumerate(sizes):
            alike[self.covered(size)].append(number)
        found: dict[int, Embedding] = {}
        for numbers in alike.values():
            padded = torch.stack([self._square(images[i], sizes[i]) for i in numbers])
            maps = self.image_encoder(padded.contiguous(memory_format=torch.channels_last)).split(1)
            found |= {
                i: Embedding((map.contiguous(),), sizes[i]) for i, map in zip(numbers, maps, strict=True)
            }
        return tuple(found[i] for i in range(len(images)))

    def decode(
        self,
        map: Float[Tensor, "1 c h w"],
        places: Float[Tensor, "p n 2"],
        labels: Int64[Tensor, "p n"],
        masks: Float[Tensor, "p 1 _ _"] | None = None,
        given: Float[Tensor, " p"] | None = None,
    ) -> tuple[Float[Tensor, "p 4 _ _"], Float[Tensor, "p 4"]]:
        """All four masks of each prompt, and the IoU expected of them; see `SAM.decode`."""
        width, middle, fine = self.channels
        height, columns = map.shape[-2:]
        coarse, *finer = map.split([width, 4 * middle, 16 * fine], dim=1)
        if masks is None:
            masks = map.new_zeros(len(places), 1, 4 * height, 4 * columns)
        if given is not None:
            masks = masks * given[:, None, None, None]
        added, added_finer = self.prompt_encoder(places, labels, masks)
        maps = (
            coarse + added,
            F.pixel_shuffle(finer[0], 2) + added_finer,
            F.pixel_shuffle(finer[1], 4),
        )
        found: tuple[Tensor, Tensor] = self.mask_decoder(
            maps, self.prompt_encoder.positions(height, columns), self.prompt_encoder.points(places, labels)
        )
        return found


def sam(
    image_size: int = 256,
    patch: int = 8,
    width: int = 64,
    depth: int = 4,
    decoder_width: int = 64,
    in_channels: int = 3,
    lora: int | None = None,
) -> SmallSAM:
    """A small relative of SAM, to be trained from random weights on few images and without a GPU.

    It differs from the published sizes, see the head of `pixelwise/models/sam/small.py`: a convolutional
    encoder, finer maps beside the decoder, clicks that are drawn, and images at their own scale. No weight
    depends on `image_size`.

    Args:
        image_size: larger images are shrunk until their longer side has so many pixels; a multiple of
            `patch`.
        patch: by how much smaller the map of the encoder is, a power of two from 4 on; masks have four times
            the resolution of the map.
        width: channels of the encoder.
        depth: its blocks.
        decoder_width: channels of the decoder, a multiple of 32.
        in_channels: of the image.
        lora: rank of the changes that a frozen encoder learns, see `add_lora`; None for all of its weights.

    Raises:
        ValueError: if a size is no multiple of what it is divided by.
    """
    if patch < 4 or patch & (patch - 1):
        raise ValueError(f"patch must be a power of two from 4 on, got {patch}")
    if image_size % patch:
        raise ValueError(f"image_size must be a multiple of the patch of {patch} pixels, got {image_size}")
    if decoder_width % 32:
        raise ValueError(f"decoder_width must be a multiple of 32, got {decoder_width}")
    model = SmallSAM(patch, image_size, width, depth, decoder_width, in_channels)
    if lora is not None:
        add_lora(model.image_encoder, lora, "lin1")
    return model


@torch.no_grad()
def _begin_with_likeness(module: nn.Module, gain: float) -> None:
    """Before anything is learned, let attention look for what is alike and pass it on as it is.

    Queries and keys begin with the same orthogonal projection, and what follows the values undoes theirs
    (Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers"). So each token begins as
    itself, where the first block would else make all of them alike, and a click is seen where it is.

    Args:
        module: whose attention.
        gain: singular values of the projections of queries and keys.
    """
    for attention in module.modules():
        if isinstance(attention, Attention):
            nn.init.orthogonal_(attention.q_proj.weight, gain)
            nn.init.orthogonal_(attention.v_proj.weight)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.out_proj.weight.copy_(attention.v_proj.weight.T)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
                nn.init.zeros_(layer.bias)
