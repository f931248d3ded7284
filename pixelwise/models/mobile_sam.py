"""MobileSAM: SAM with a small image encoder that was distilled from the large one (Sec. 4, Fig. 2).

Prompt encoder and decoder are SAM's. The encoder is TinyViT-5M (Wu et al., ECCV 2022, Sec. 3 and Table 8): a
convolutional stage and three stages of windowed attention, each block followed by a depthwise convolution.
The last stage keeps its resolution, so that the map is 16 times smaller than the image, as in SAM; and the
neck of SAM's encoder makes 256 channels of it.

Departures: the head that classifies images, which the published file holds but nothing uses, is left out.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import BuiltBy, Paper
from .lora import add_lora
from .sam import SAM
from .sam.image_encoder import in_windows, make_neck

PAPER = Paper(
    title="Faster Segment Anything: Towards Lightweight SAM for Mobile Applications",
    authors="Zhang, Han, Qiao, Kim, Bae, Lee, Hong",
    venue="arXiv",
    year=2023,
    url="https://arxiv.org/abs/2306.14289",
)


class ConvNorm(nn.Sequential):
    """Convolution without bias, and batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out)


class Bottleneck(nn.Module):
    """Four times as many channels, depthwise 3x3, and back (MobileNetV2), with GELU; `stride` as given.

    Args:
        c_in: channels before.
        c_hidden: channels of the depthwise convolution.
        c_out: channels behind.
        stride: of the depthwise convolution.
    """

    def __init__(self, c_in: int, c_hidden: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(c_in, c_hidden)
        self.conv2 = ConvNorm(c_hidden, c_hidden, 3, stride, groups=c_hidden)
        self.conv3 = ConvNorm(c_hidden, c_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out _ _"]:
        """The three convolutions."""
        narrowed: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return narrowed


class MBConv(Bottleneck):
    """A bottleneck around which the input is added, before a last GELU."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what the bottleneck makes of it."""
        return F.gelu(x + super().forward(x))


class Attention(nn.Module):
    """Attention in a window, with a bias for each distance along both axes.

    Args:
        width: channels.
        heads: of the attention.
        window: height and width of the window.
    """

    places: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        self.register_buffer("places", _distances(window), persistent=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Let every place of a window look at every other."""
        b, h, w, c = x.shape
        parts = self.qkv(self.norm(x)).view(b, h * w, self.heads, 3 * c // self.heads).transpose(1, 2)
        q, k, v = parts.chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=self.attention_biases[:, self.places])
        projected: Tensor = self.proj(seen.transpose(1, 2).reshape(b, h, w, c))
        return projected


def _distances(window: int) -> Int64[Tensor, "n n"]:
    """The number of the distance, down and to the right, between each two places of a window."""
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = (place[:, None] - place).abs()
    return apart[..., 0] * window + apart[..., 1]


class Mlp(nn.Module):
    """Norm, and two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*_ c"]) -> Float[Tensor, "*_ c"]:
        """Mix the channels of each place."""
        mixed: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return mixed


class TinyViTBlock(nn.Module):
    """Windowed attention, a depthwise convolution across the windows, and an MLP (TinyViT, Fig. 3).

    Args:
        width: channels.
        heads: of the attention.
        window: side of the windows.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """One layer of the transformer."""
        # The norm comes behind the padding: places beyond the map are not zero to the others.
        seen = in_windows(self.attn, x.permute(0, 2, 3, 1), self.window)
        x = self.local_conv(x + seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (x + self.mlp(x)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks, and what makes the next stage's channels of theirs."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """The blocks in turn."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbedding(nn.Module):
    """Two strided convolutions."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(in_channels, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2)
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b _ h w"]:
        """A map four times smaller."""
        embedded: Tensor = self.seq(image)
        return embedded


class TinyViT(nn.Module):
    """Square image -> map of 256 channels, 16 times smaller.

    Args:
        in_channels: of the image.
        widths: channels of the four stages.
        depths: blocks of each.
    """

    HEADS, WINDOWS = (2, 4, 5, 10), (7, 7, 14, 7)

    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 160, 320),
        depths: tuple[int, ...] = (2, 2, 6, 2),
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(in_channels, widths[0])
        stages = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks: list[nn.Module] = [
                TinyViTBlock(width, self.HEADS[i], self.WINDOWS[i]) if i else MBConv(width, 4 * width, width)
                for _ in range(depth)
            ]
            stride = 1 if i == 2 else 2  # the last stage is as fine as the one before it
            merging = Bottleneck(width, widths[i + 1], widths[i + 1], stride) if i < 3 else None
            stages.append(Stage(blocks, merging))
        self.layers = nn.ModuleList(stages)
        self.neck = make_neck(widths[-1], 256)

    def forward(self, image: Float[Tensor, "b c S S"]) -> Float[Tensor, "b 256 h w"]:
        """Look at images that were brought to the encoder's size."""
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        looked: Tensor = self.neck(x)
        return looked


def mobile_sam(image_size: int = 1024, in_channels: int = 3, lora: int | None = None) -> SAM:
    """SAM on TinyViT-5M: 9.8 M parameters.

    Args:
        image_size: side in pixels of the square that the encoder sees; a multiple of 16. Published weights
            are for 1024, and serve others too.
        in_channels: of the image.
        lora: as in `sam`.

    Raises:
        ValueError: if `image_size` is no multiple of 16.
    """
    if image_size % 16:
        raise ValueError(f"image_size must be a multiple of 16, got {image_size}")
    model = SAM(TinyViT(in_channels), image_size, in_channels=in_channels)
    if lora is not None:
        add_lora(model.image_encoder, lora)
    return model


def from_mobile_sam(state_dict: Mapping[str, Tensor]) -> SAM:
    """The network with the weights of the authors' `mobile_sam.pt`, in eval mode.

    Raises:
        ValueError: if they are of another network.
    """
    unused = ("image_encoder.head.", "image_encoder.norm_head.")
    weights = {key: x for key, x in state_dict.items() if not key.startswith(unused)}
    model = mobile_sam()
    own = {key: x for key, x in model.state_dict().items() if key.startswith("normalize.")}
    try:
        model.load_state_dict(weights | own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"these are not the weights of MobileSAM: {reason}") from error
    model.built_by = BuiltBy("mobile_sam", {})
    return model.eval()
