"""U-Net: an encoder halves the image four times, a decoder doubles it back, and joins the two at each size.

Three networks share the figure (Fig. 1 of the paper):

- `UNetOriginal` is the paper's: unpadded convolutions, so that a 572 x 572 tile gives 388 x 388 scores of
  which none has seen an invented pixel. Whole images are extended by mirroring (Fig. 2) and give as many
  scores as they have pixels. The released network differs from the figure in that a ReLU follows each
  up-convolution and dropout follows the two lowest levels; so does this one.
- `UNet` is the form in which most people train it: padded, with batch norm; its layout is that of
  github.com/milesial/Pytorch-UNet, whose weights `from_milesial` reads. `unet_wide` begins with 35 channels,
  not 64: wide beside the 32 of the U-Net that UNet++ was first compared with.
- `EncoderUNet` puts the decoder on any encoder; its layout is that of the U-Net in Segmentation Models
  PyTorch.

Departures: the first two take pixel values in [0, 1] as they are; no normalisation was published.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, fit, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    "Ronneberger, Fischer, Brox",
    "MICCAI",
    2015,
    "https://arxiv.org/abs/1505.04597",
)


# --- the paper's ----------------------------------------------------------------------------------


class ValidConvs(nn.Sequential):
    """Two unpadded 3x3 convolutions, each with ReLU: the map loses two pixels on every side.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        dropout: probability to drop a value of the output.
    """

    def __init__(self, c_in: int, c_out: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 3),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )


class UNetOriginal(DenseModel):
    """U-Net as published: 23 convolutions, none of them padded.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels at the finest of five levels; each level doubles them.
    """

    encoder_parts = ("down",)
    margin = 92  # pixels that a tile loses on every side

    def __init__(self, num_classes: int, *, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        c = [width * 2**level for level in range(5)]
        dropout = [0.0, 0.0, 0.0, 0.5, 0.5]
        self.down = nn.ModuleList(
            ValidConvs(a, b, dropout=p) for a, b, p in zip([in_channels, *c], c, dropout, strict=False)
        )
        lower, upper = c[:0:-1], c[-2::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in zip(lower, upper, strict=True)
        )
        self.merge = nn.ModuleList(ValidConvs(a, b) for a, b in zip(lower, upper, strict=True))
        self.head = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # Each output of an up-convolution sums over one pixel, not over the whole kernel (Sec. 3).
                area = math.prod(module.kernel_size) if isinstance(module, nn.Conv2d) else 1
                nn.init.normal_(module.weight, std=math.sqrt(2 / (area * module.in_channels)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def valid(self, tile: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b k _ _"]:
        """Scores of the inner part of a tile, 92 pixels away from its border; 572 x 572 gives 388 x 388.

        Raises:
            ValueError: if a side is not 16 n + 124 pixels with n > 3: a pooling would meet an odd size, or
                nothing would be left.
        """
        height, width = tile.shape[-2:]
        if min(height, width) < 188 or (height - 124) % 16 or (width - 124) % 16:
            raise ValueError(f"the sides of a tile are 188, 204, 220, ... pixels, got {height} x {width}")
        skips: list[Tensor] = []
        x = tile
        for level in self.down:
            x = level(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = F.relu(up(x))
            y, z = (skip.shape[-2] - x.shape[-2]) // 2, (skip.shape[-1] - x.shape[-1]) // 2
            x = merge(torch.cat([x, skip[:, :, y : y + x.shape[-2], z : z + x.shape[-1]]], dim=1))
        scores: Tensor = self.head(x)
        return scores

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = height, width = size_of(image, self.minimum_size)
        rows = _mirrored(height, self.margin, _tile(height), image.device)
        columns = _mirrored(width, self.margin, _tile(width), image.device)
        scores = self.valid(image[:, :, rows][..., columns])
        return DenseLogits(fit(scores, size), size)


def _tile(length: int) -> int:
    """The smallest valid side of a tile whose scores cover `length` pixels."""
    return (length + 60 + 15) // 16 * 16 + 124


def _mirrored(length: int, before: int, total: int, device: torch.device) -> Tensor:
    """`total` positions, from `before` pixels ahead of the image on, reflected into it as often as needed."""
    period = 2 * (length - 1)
    # A tensor, because ONNX knows no remainder by a number that depends on the size.
    position = (torch.arange(total, device=device) - before) % torch.full((1,), period, device=device)
    return torch.minimum(position, period - position)


# --- padded, with batch norm ----------------------------------------------------------------------


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        c_inner: channels between the two; None for `c_out`.
    """

    def __init__(self, c_in: int, c_out: int, c_inner: int | None = None) -> None:
        c = c_inner or c_out
        super().__init__(ConvNormAct(c_in, c), ConvNormAct(c, c_out))


class Up(nn.Module):
    """Double the map, pad it to the size of the skip with zeros, concatenate, convolve twice.

    Args:
        c_in: channels of the lower map and the skip together.
        c_out: channels of the output.
        bilinear: whether to double by interpolation, corners aligned, instead of a transposed convolution.
    """

    def __init__(self, c_in: int, c_out: int, *, bilinear: bool) -> None:
        super().__init__()
        self.up: nn.Module
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.merge = DoubleConv(c_in, c_out, c_in // 2)
        else:
            self.up = nn.ConvTranspose2d(c_in, c_in // 2, 2, stride=2)
            self.merge = DoubleConv(c_in, c_out)

    def forward(
        self, x: Float[Tensor, "b _ _ _"], skip: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """Bring `x` to the size of `skip` and merge the two."""
        x = self.up(x)
        y, z = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(x, (z // 2, z - z // 2, y // 2, y - y // 2))
        merged: Tensor = self.merge(torch.cat([skip, x], dim=1))
        return merged


class UNet(DenseModel):
    """U-Net with padded convolutions and batch norm.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels at the finest of five levels; each level doubles them.
        bilinear: whether to double maps by interpolation; the lowest level then keeps the channels of the
            one above.
    """

    encoder_parts = ("down",)

    def __init__(
        self, num_classes: int, *, in_channels: int = 3, width: int = 64, bilinear: bool = False
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        c = [width * 2**level for level in range(5)]
        half = 2 if bilinear else 1
        inputs, outputs = [in_channels, *c[:-1]], [*c[:-1], c[4] // half]
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip(inputs, outputs, strict=True))
        self.up = nn.ModuleList(
            Up(2 * b, b // half if level else b, bilinear=bilinear)
            for level, b in reversed(list(enumerate(c[:-1])))
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        skips: list[Tensor] = []
        x = image
        for level in self.down:
            x = level(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, skip in zip(self.up, skips[-2::-1], strict=True):
            x = up(x, skip)
        return DenseLogits(self.head(x), size)


# --- on any encoder -------------------------------------------------------------------------------


class EncoderUNet(DenseModel):
    """The decoder of a U-Net on an encoder; maps are upsampled 2x by repetition.

    Args:
        encoder: gives c2 to c5, and c1 where it can. Without c1, stride 2 is reached without a skip.
        num_classes: number of channels k of the logits.
        width: channels of the decoder at full resolution; each level below doubles them.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c1, c2, c3, c4, c5 = encoder.channels
        c = [16 * width, 8 * width, 4 * width, 2 * width, width]
        self.decoder = nn.ModuleList(
            DoubleConv(below + skip, c_out)
            for below, skip, c_out in zip([c5, *c], [c4, c3, c2, c1, 0], c, strict=False)
        )
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = height, width = size_of(image, self.minimum_size)
        features = self.encoder(image)
        half = (height // 2, width // 2)  # rounded down, as in SMP
        skips = [
            features.c4,
            features.c3,
            features.c2,
            features.c1 if self.encoder.channels.c1 else None,
            None,
        ]
        x = features.c5
        for skip, block in zip(skips, self.decoder, strict=True):
            if skip is None:
                x = F.interpolate(x, size if block is self.decoder[-1] else half, mode="nearest")
            else:
                x = F.interpolate(x, (skip.shape[-2], skip.shape[-1]), mode="nearest")
                x = torch.cat([x, skip], dim=1)
            x = block(x)
        return DenseLogits(self.head(x), size)


# --- builders -------------------------------------------------------------------------------------


def unet(
    num_classes: int,
    *,
    encoder: str | Encoder | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int | None = None,
) -> UNet | EncoderUNet:
    """U-Net: padded, with batch norm and transposed convolutions; or its decoder on any encoder.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone or an encoder; None for the network's own.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        width: channels of the decoder at full resolution; None for 64, or 16 on an encoder.

    Raises:
        ValueError: if pretrained weights are asked for where there is no encoder; see also `make_encoder`.
    """
    if encoder is None:
        if pretrained:
            raise ValueError("pretrained=True needs an encoder, such as encoder='resnet34'")
        return UNet(num_classes, in_channels=in_channels, width=width or 64)
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem)
    return EncoderUNet(made, num_classes, width=width or 16)


def unet_bilinear(num_classes: int, *, in_channels: int = 3, width: int = 64) -> UNet:
    """U-Net, padded, with batch norm, upsampling by bilinear interpolation."""
    return UNet(num_classes, in_channels=in_channels, width=width, bilinear=True)


def unet_original(num_classes: int, *, in_channels: int = 1, width: int = 64) -> UNetOriginal:
    """The paper's U-Net: unpadded, for grey images unless told otherwise."""
    return UNetOriginal(num_classes, in_channels=in_channels, width=width)


def unet_wide(num_classes: int, *, in_channels: int = 3, width: int = 35) -> UNet:
    """The wide U-Net that UNet++ is compared with: as many parameters, in 35 to 560 channels.

    Its authors' has dropout and no batch norm; this one is the padded network above.
    """
    return UNet(num_classes, in_channels=in_channels, width=width)


def from_milesial(state_dict: dict[str, Tensor]) -> UNet:
    """Weights of github.com/milesial/Pytorch-UNet in our model, in eval mode.

    Width, classes, channels and the kind of doubling are read from the weights. The biases that older
    revisions have before each batch norm are folded into its running mean, which changes nothing.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    weights = {}
    for key, tensor in state_dict.items():
        if key == "mask_values":  # kept beside the weights there: pixel values of the masks
            continue
        block, _, rest = key.partition(".")
        place = "down.0" if block == "inc" else f"{block[:-1]}.{block[-1]}"
        if block.startswith("up"):
            place = f"up.{int(block[2:]) - 1}"
        rest = rest.replace("maxpool_conv.1.", "").replace("conv.double_conv", "merge.double_conv")
        for theirs, ours in (("0", "0.0"), ("1", "0.1"), ("3", "1.0"), ("4", "1.1")):
            rest = rest.replace(f"double_conv.{theirs}.", f"{ours}.")
        weights["head." + rest.removeprefix("conv.") if block == "outc" else f"{place}.{rest}"] = tensor
    for key in [key for key in weights if key.endswith(".0.bias")]:
        mean = key.replace(".0.bias", ".1.running_mean")
        weights[mean] = weights[mean] - weights.pop(key)
    try:
        first, last = weights["down.0.0.0.weight"], weights["head.weight"]
        builder = "unet" if "up.0.up.weight" in weights else "unet_bilinear"
        arguments = {"num_classes": len(last), "in_channels": first.shape[1], "width": len(first)}
        model = UNet(**arguments, bilinear=builder == "unet_bilinear")
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of milesial's U-Net: {error}") from error
    model.built_by = BuiltBy(builder, arguments)
    return model.eval()
