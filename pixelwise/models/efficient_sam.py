"""EfficientSAM: a small plain ViT that was pretrained to tell what SAM's encoder says (Sec. 3.2, Fig. 2).

The image is stretched to a square, seen by a ViT without windows, and kept as a map of 256 channels. Prompts
are points and boxes, at most six places; what lies on the object and what does not is told apart only by the
missing embedding of the latter. The decoder is SAM's with GELU, a group norm, and values of self-attention
that know their prompts.

Departures: masks are resized bilinearly, the authors' bicubically. As in the authors' code, every prompt has
three candidates, and places beyond the sixth are not looked at.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.timm import per_channel
from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, size_of
from ..types import BuiltBy, Embedding, Paper, PromptableModel, PromptMasks, Prompts
from .sam.image_encoder import PatchEmbedding, make_neck
from .sam.mask_decoder import CANDIDATES, Attention
from .sam.prompt_encoder import BOTTOM_RIGHT, NOTHING, TOP_LEFT, FourierPositions

PAPER = Paper(
    title="EfficientSAM: Leveraged Masked Image Pretraining for Efficient Segment Anything",
    authors="Xiong, Varadarajan, Wu, Xiang, Xiao, Zhu, Dai, Wang, Sun, Iandola, Krishnamoorthi, Chandra",
    venue="CVPR",
    year=2024,
    url="https://arxiv.org/abs/2312.00863",
)
WIDTH, HEADS, PLACES = 256, 8, 6  # of the decoder, and how many places a prompt has


class SelfAttention(nn.Module):
    """Attention among all places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Let every place look at every other."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*_ c"]) -> Float[Tensor, "*_ c"]:
        """Mix the channels of each place."""
        mixed: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return mixed


class Block(nn.Module):
    """Attention and MLP, each behind a norm and around which the input is added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = SelfAttention(width, heads), Mlp(width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """One layer of the transformer."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """Square image -> map of 256 channels, 16 times smaller.

    Positions are those of 14 x 14 patches and a class token, resized bicubically.

    Args:
        width: channels of the transformer.
        heads: of its attention.
        depth: its blocks.
        in_channels: of the image.
    """

    def __init__(self, width: int, heads: int, depth: int, in_channels: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(in_channels, width, 16)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + 14 * 14, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.neck = make_neck(width, WIDTH)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image: Float[Tensor, "b c S S"]) -> Float[Tensor, "b 256 h w"]:
        """Look at images that were brought to the encoder's size."""
        x = self.patch_embed(image)
        size = x.shape[1:3]
        places = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
        places = F.interpolate(places, size, mode="bicubic", align_corners=False)
        x = (x + places.permute(0, 2, 3, 1)).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        looked: Tensor = self.neck(x.transpose(1, 2).unflatten(2, size))
        return looked


class PromptEncoder(nn.Module):
    """Points and corners of boxes -> tokens; a point outside of the object is its position alone."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = FourierPositions(WIDTH)
        self.invalid_points, self.point_embeddings = nn.Embedding(1, WIDTH), nn.Embedding(1, WIDTH)
        self.bbox_top_left_embeddings = nn.Embedding(1, WIDTH)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, WIDTH)

    def forward(self, places: Float[Tensor, "p n 2"], labels: Int64[Tensor, "p n"]) -> Float[Tensor, "p n c"]:
        """Tokens of points; see `SAM.places`."""
        point, invalid = self.point_embeddings.weight, self.invalid_points.weight
        corners = self.bbox_top_left_embeddings.weight, self.bbox_bottom_right_embeddings.weight
        learned = torch.cat([invalid, torch.zeros_like(point), point, *corners])
        tokens: Tensor = self.pe_layer(places) + learned[labels - NOTHING]
        return tokens

    def positions(self, side: int) -> Float[Tensor, "1 c side side"]:
        """The position of each place of a map."""
        at = (torch.arange(side, device=self.invalid_points.weight.device) + 0.5) / side
        places = torch.stack([at.expand(side, -1), at[:, None].expand(-1, side)], dim=-1)
        encoded: Tensor = self.pe_layer(places)
        return encoded.permute(2, 0, 1)[None]


class Perceptron(nn.Module):
    """Linear layers with GELU between them."""

    def __init__(self, hidden: int, c_out: int, depth: int) -> None:
        super().__init__()
        sizes = [WIDTH, *[hidden] * depth]
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in pairwise(sizes))
        self.fc = nn.Linear(hidden, c_out)

    def forward(self, x: Float[Tensor, "*_ a"]) -> Float[Tensor, "*_ b"]:
        """Apply the layers in turn."""
        for layer in self.layers:
            x = layer(x)
        last: Tensor = self.fc(x)
        return last


class TwoWayBlock(nn.Module):
    """As in SAM, but self-attention always adds its input, and its values know the prompts too."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(WIDTH, WIDTH, HEADS)
        self.cross_attn_token_to_image = Attention(WIDTH, WIDTH // 2, HEADS)
        self.cross_attn_image_to_token = Attention(WIDTH, WIDTH // 2, HEADS)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(WIDTH) for _ in range(4))
        self.mlp = Perceptron(8 * WIDTH, WIDTH, 1)

    def forward(
        self,
        tokens: Float[Tensor, "p n c"],
        image: Float[Tensor, "#p m c"],
        prompts: Float[Tensor, "p n c"],
        positions: Float[Tensor, "1 m c"],
    ) -> tuple[Float[Tensor, "p n c"], Float[Tensor, "p m c"]]:
        """Both after one exchange; see SAM's."""
        if not self.first:
            tokens = tokens + prompts
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens, tokens))
        placed = image + positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(placed, tokens + prompts, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two exchanges, and a last look of the tokens at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first=i == 0) for i in range(2))
        self.final_attn_token_to_image = Attention(WIDTH, WIDTH // 2, HEADS)
        self.norm_final_attn = nn.LayerNorm(WIDTH)

    def forward(
        self,
        image: Float[Tensor, "1 m c"],
        positions: Float[Tensor, "1 m c"],
        prompts: Float[Tensor, "p n c"],
    ) -> tuple[Float[Tensor, "p n c"], Float[Tensor, "p m c"]]:
        """Tokens and places that know of each other."""
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, positions)
        looked = self.final_attn_token_to_image(tokens + prompts, image + positions, image)
        return self.norm_final_attn(tokens + looked), image


class MaskDecoder(nn.Module):
    """Image, where its places are, and prompts -> masks and how good they are."""

    def __init__(self) -> None:
        super().__init__()
        count = 1 + CANDIDATES
        self.transformer = TwoWayTransformer()
        self.iou_token, self.mask_tokens = nn.Embedding(1, WIDTH), nn.Embedding(count, WIDTH)
        first, second = nn.ConvTranspose2d(WIDTH, 64, 2, stride=2), nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.final_output_upscaling_layers = nn.ModuleList(
            [nn.Sequential(first, nn.GroupNorm(1, 64), nn.GELU()), nn.Sequential(second, nn.GELU())]
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Perceptron(WIDTH, 32, 2) for _ in range(count))
        self.iou_prediction_head = Perceptron(WIDTH, count, 2)

    def forward(
        self,
        image: Float[Tensor, "1 c h w"],
        positions: Float[Tensor, "1 c h w"],
        prompts: Float[Tensor, "p n c"],
    ) -> tuple[Float[Tensor, "p 4 _ _"], Float[Tensor, "p 4"]]:
        """Scores of each mask at four times the resolution of the map, and the IoU expected of it."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(prompts), -1, -1), prompts], dim=1)
        flat = [x.flatten(2).transpose(1, 2) for x in (image, positions)]
        tokens, places = self.transformer(*flat, tokens)
        fine = places.transpose(1, 2).unflatten(2, image.shape[2:])
        for layer in self.final_output_upscaling_layers:
            fine = layer(fine)
        mlps = enumerate(self.output_hypernetworks_mlps)
        filters = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in mlps], dim=1)
        masks = (filters @ fine.flatten(2)).unflatten(2, fine.shape[2:])
        return masks, self.iou_prediction_head(tokens[:, 0])


class EfficientSAM(PromptableModel):
    """A plain ViT and SAM's idea of a decoder.

    Args:
        image_encoder: square image -> map of 256 channels.
        image_size: side in pixels of the square that the encoder sees.
        in_channels: of the image.
    """

    encoder_parts = ("image_encoder",)
    minimum_size = 16
    takes_masks: ClassVar[bool] = False

    def __init__(self, image_encoder: nn.Module, image_size: int, *, in_channels: int = 3) -> None:
        super().__init__()
        self.image_size, self.in_channels = image_size, in_channels
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        self.image_encoder = image_encoder
        self.prompt_encoder, self.mask_decoder = PromptEncoder(), MaskDecoder()

    def embed(self, image: Float[Tensor, "1 c H W"]) -> Embedding:
        """Look at an image, stretched to a square.

        Raises:
            ValueError: if it is smaller than `minimum_size`.
        """
        size = size_of(image, self.minimum_size)
        square = F.interpolate(image, (self.image_size, self.image_size), mode="bilinear")
        return Embedding((self.image_encoder(self.normalize(square)),), size)

    def masks(self, embedding: Embedding, prompts: Prompts) -> PromptMasks:
        """Three candidates for each prompt.

        Raises:
            ValueError: if masks are among the prompts.
        """
        if prompts.masks is not None:
            raise ValueError("EfficientSAM takes points and boxes, no masks")
        device = self.normalize.mean.device
        places = torch.empty(len(prompts), 0, 2, device=device)
        labels = torch.empty(len(prompts), 0, dtype=torch.int64, device=device)
        scale = places.new_tensor([self.image_size / embedding.size[1], self.image_size / embedding.size[0]])
        if prompts.points is not None and prompts.point_labels is not None:
            labels = prompts.point_labels
            nowhere = (labels == NOTHING)[..., None]
            places = torch.where(nowhere, -1.0, prompts.points * scale)
        if prompts.boxes is not None:
            corners = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=device).expand(len(prompts), -1)
            places = torch.cat([places, prompts.boxes.unflatten(1, (2, 2)) * scale], dim=1)
            labels = torch.cat([labels, corners], dim=1)
        missing = PLACES - labels.shape[1]
        places = F.pad(places, (0, 0, 0, missing), value=-1.0)
        tokens = self.prompt_encoder(
            (places + 0.5) / self.image_size, F.pad(labels, (0, missing), value=NOTHING)
        )
        (map,) = embedding.maps
        coarse, iou = self.mask_decoder(map, self.prompt_encoder.positions(map.shape[-1]), tokens)
        return PromptMasks(coarse[:, 1:], iou[:, 1:], embedding.size)


def efficient_sam_ti(image_size: int = 1024, in_channels: int = 3) -> EfficientSAM:
    """EfficientSAM on ViT-Ti: 10 M parameters; `image_size` is a multiple of 16."""
    return _made(192, 3, image_size, in_channels)


def efficient_sam_s(image_size: int = 1024, in_channels: int = 3) -> EfficientSAM:
    """EfficientSAM on ViT-S: 26 M parameters; `image_size` is a multiple of 16."""
    return _made(384, 6, image_size, in_channels)


def _made(width: int, heads: int, image_size: int, in_channels: int) -> EfficientSAM:
    if image_size % 16:
        raise ValueError(f"image_size must be a multiple of 16, got {image_size}")
    return EfficientSAM(ImageEncoder(width, heads, 12, in_channels), image_size, in_channels=in_channels)


def from_efficient_sam(state_dict: Mapping[str, Tensor]) -> EfficientSAM:
    """The network with the weights of the authors' files, in eval mode.

    Raises:
        ValueError: if they are of another network.
    """
    try:
        small = state_dict["image_encoder.pos_embed"].shape[2] == 384
        model = efficient_sam_s() if small else efficient_sam_ti()
        own = {key: x for key, x in model.state_dict().items() if key.startswith("normalize.")}
        model.load_state_dict(dict(state_dict) | own)
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"these are not the weights of EfficientSAM: {reason}") from error
    model.built_by = BuiltBy("efficient_sam_s" if small else "efficient_sam_ti", {})
    return model.eval()
