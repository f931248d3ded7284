"""MODNet: mattes of people from a photograph alone, by three tasks that one network solves at once.

A branch of low resolution tells where the person is (semantic estimation), one of high resolution draws what
lies at the edge (detail prediction), and a third joins both into the matte (semantic-detail fusion; Fig. 2,
Sec. 3.2 to 3.4). The first is an encoder whose last map passes through a squeeze-and-excitation block; the
second takes the encoder's finest two maps and the image itself. Norms are half batch norm, which knows the
data, and half instance norm, which knows the image (IBNorm, of the authors' code).

A channel of the logits is a class; its sigmoid is the share of each pixel that belongs to the class. Besides
the loss of these scores, which a training chooses, the paper's three are learned (Eq. 1 to 4,
`matte_losses`): the squared error of the semantic branch against the blurred matte at a sixteenth of the
size, the absolute error of the detail branch in a band around the edge, and that of the matte, where the band
counts five times, alone and times the image (the compositional loss).

Layout and numbers are those of the authors' code (github.com/ZHKKKe/MODNet), which `from_zhkkke` reads.

Departures: maps are resized to the size of their partner, so that any image size works. Masks stand for
mattes in training, and the band is where a window of a twentieth of the image sees both sides of an edge; the
authors draw mattes and trimaps by hand. Any number of classes is told apart. The self-supervised adaptation
to videos (Sec. 3.5) is left out.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, resize, resize_like, size_of
from ..losses import loss_parts
from ..types import Batch, BuiltBy, DenseLogits, DenseModel, Features, Paper, value

PAPER = Paper(
    "MODNet: Real-Time Trimap-Free Portrait Matting via Objective Decomposition",
    "Ke, Sun, Li, Yan, Lau",
    "AAAI 2022",
    2020,
    "https://arxiv.org/abs/2011.11961",
)

Map = Float[Tensor, "b _ _ _"]
STAGES = ("c1", "c2", "c3", "c4", "c5")
SEMANTIC_WEIGHT = DETAIL_WEIGHT = 10.0
BAND_WEIGHT = 4.0  # what an error of the matte counts more in the band
BAND = 0.05  # side of the window that sees both sides of an edge, of the mean side of the image
# Gaussian of standard deviation 0.8 on 3x3 pixels: corner, side, centre.
BLUR = (0.06261056, 0.1249999, 0.24955813)


# --- layers ---------------------------------------------------------------------------------------


class IBNorm(nn.Module):
    """Batch norm of one half of the channels, instance norm without weights of the other.

    Args:
        c: channels.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.batch_norm = BatchNorm2d(c // 2)
        self.split = [c // 2, c - c // 2]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise each channel."""
        known, own = x.split(self.split, 1)
        variance, mean = torch.var_mean(own, (2, 3), correction=0, keepdim=True)
        own = (own - mean) * torch.rsqrt(variance + 1e-5)
        return torch.cat([self.batch_norm(known), own], 1)


class ConvIBNormReLU(nn.Sequential):
    """Convolution with bias, IBNorm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, *, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), IBNorm(c_out), nn.ReLU(inplace=True)
        )


class SqueezeExcitation(nn.Module):
    """A factor per channel, from the means of all.

    Args:
        c: channels.
        reduction: how many times fewer there are inside.
    """

    def __init__(self, c: int, reduction: int = 4) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(c, c // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(c // reduction, c, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale each channel."""
        scaled: Tensor = x * self.gate(x.mean((2, 3)))[:, :, None, None]
        return scaled


# --- branches -------------------------------------------------------------------------------------


class LowResolutionBranch(nn.Module):
    """Semantic estimation: c5 with a gate per channel, brought to stride 8 (Sec. 3.2).

    Args:
        encoder: its channels.
        num_classes: number of channels k of the semantic map.
        c_top: channels of the 1x1 convolution that ends the encoder.
    """

    def __init__(self, encoder: Encoder, num_classes: int, c_top: int) -> None:
        super().__init__()
        _, _, c3, c4, c5 = encoder.channels
        self.top = nn.Sequential(
            nn.Conv2d(c5, c_top, 1, bias=False), BatchNorm2d(c_top), nn.ReLU6(inplace=True)
        )
        self.gate = SqueezeExcitation(c_top)
        self.at16 = ConvIBNormReLU(c_top, c4, 5)
        self.at8 = ConvIBNormReLU(c4, c3, 5)
        self.head = nn.Conv2d(c3, num_classes, 3, stride=2, padding=1)

    def forward(self, features: Features) -> Float[Tensor, "b _ h w"]:
        """The map of stride 8."""
        x = self.gate(self.top(features.c5))
        x = self.at16(resize_like(x, features.c4))
        at8: Tensor = self.at8(resize_like(x, features.c3))
        return at8


class HighResolutionBranch(nn.Module):
    """Detail prediction: the finest maps, the image, and what the other branch knows (Sec. 3.3).

    Args:
        encoder: its channels.
        num_classes: number of channels k of the details.
        width: channels of the branch.
    """

    def __init__(self, encoder: Encoder, num_classes: int, width: int) -> None:
        super().__init__()
        (c1, c2, c3, _, _), c_image, w = encoder.channels, encoder.in_channels, width
        self.narrow2 = ConvIBNormReLU(c1, w, 1)
        self.down = ConvIBNormReLU(w + c_image, w, stride=2)
        self.narrow4 = ConvIBNormReLU(c2, w, 1)
        self.join4 = ConvIBNormReLU(2 * w, 2 * w)
        joined = 2 * w + c3 + c_image
        self.at4 = nn.Sequential(*map(ConvIBNormReLU, (joined, 2 * w, 2 * w), (2 * w, 2 * w, w)))
        self.at2 = nn.Sequential(*map(ConvIBNormReLU, (2 * w, 2 * w, w, w), (2 * w, w, w, w)))
        self.head = nn.Sequential(ConvIBNormReLU(w + c_image, w), nn.Conv2d(w, num_classes, 1))

    def forward(self, image: Map, at8: Map, features: Features) -> Map:
        """The map of stride 2."""
        c1, c2 = features.c1, features.c2
        fine = self.narrow2(c1)
        x = self.down(torch.cat([resize_like(image, c1), fine], 1))
        x = self.join4(torch.cat([resize_like(x, c2), self.narrow4(c2)], 1))
        x = self.at4(torch.cat([x, resize_like(at8, c2), resize_like(image, c2)], 1))
        at2: Tensor = self.at2(torch.cat([resize_like(x, c1), fine], 1))
        return at2

    def details(self, image: Map, at2: Map) -> Map:
        """Scores of the details, which only training needs."""
        scores: Tensor = self.head(torch.cat([resize_like(at2, image), image], 1))
        return scores


class FusionBranch(nn.Module):
    """Semantic-detail fusion: both branches become the matte (Sec. 3.4).

    Args:
        encoder: its channels.
        num_classes: number of channels k of the matte.
        width: channels of the high-resolution branch.
    """

    def __init__(self, encoder: Encoder, num_classes: int, width: int) -> None:
        super().__init__()
        self.at4 = ConvIBNormReLU(encoder.channels.c3, width, 5)
        self.at2 = ConvIBNormReLU(2 * width, width)
        self.head = nn.Sequential(
            ConvIBNormReLU(width + encoder.in_channels, width // 2), nn.Conv2d(width // 2, num_classes, 1)
        )

    def forward(self, image: Map, at8: Map, at2: Map, features: Features) -> Map:
        """Scores of the matte."""
        x = resize_like(self.at4(resize_like(at8, features.c2)), at2)
        x = self.at2(torch.cat([x, at2], 1))
        scores: Tensor = self.head(torch.cat([resize_like(x, image), image], 1))
        return scores


# --- the network ----------------------------------------------------------------------------------


@value
class MatteLogits(DenseLogits):
    """Scores of the matte, and those of the two branches that it is made of.

    Attributes:
        semantic: scores at a sixteenth of the size; None in evaluation.
        detail: scores at the size of the image, which count in the band around edges; None in evaluation.
    """

    semantic: Float[Tensor, "b k _ _"] | None = None
    detail: Float[Tensor, "b k H W"] | None = None


class MODNet(DenseModel):
    """Three branches (Fig. 2).

    Args:
        encoder: gives c1 to c5.
        num_classes: number of channels k of the logits.
        width: channels of the high-resolution branch; forty times as many end the encoder.
    """

    output = MatteLogits
    gives_alpha = True

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.low = LowResolutionBranch(encoder, num_classes, 40 * width)
        self.high = HighResolutionBranch(encoder, num_classes, width)
        self.fusion = FusionBranch(encoder, num_classes, width)
        for branch in (self.low, self.high, self.fusion):
            for layer in branch.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, image: Float[Tensor, "b c H W"]) -> MatteLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features, seen = self.encoder(image), self.encoder.normalize(image)
        at8 = self.low(features)
        at2 = self.high(seen, at8, features)
        matte = self.fusion(seen, at8, at2, features)
        if not self.training:
            return MatteLogits(matte, size)
        return MatteLogits(matte, size, semantic=self.low.head(at8), detail=self.high.details(seen, at2))


# --- losses ---------------------------------------------------------------------------------------


@loss_parts.register
def matte_losses(output: MatteLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """What the paper adds: "semantics", "detail" and "matte" (Eq. 1, 2 and 4)."""
    if output.semantic is None or output.detail is None:
        return {}
    matte, known = mattes_of(batch, output.coarse.shape[1])
    near = band(matte) & known
    scores = output.logits.float()
    exclusive = batch.labels.ndim == 3
    found = scores.softmax(1) if exclusive else scores.sigmoid()
    error = torch.where(known, (found - matte).abs(), 0)
    bright = (2 * batch.image.float() - 1).abs().mean(1, keepdim=True)  # of colours in -1..1
    detail = torch.where(near, (output.detail.float().sigmoid() - matte).abs(), 0)
    return {
        "semantics": SEMANTIC_WEIGHT * semantic_loss(output.semantic.float(), matte, known),
        "detail": DETAIL_WEIGHT * detail.mean(),
        "matte": (error * (1 + BAND_WEIGHT * near) * (1 + bright)).mean(),
    }


def mattes_of(batch: Batch, num_classes: int) -> tuple[Float[Tensor, "b k H W"], Bool[Tensor, "b k H W"]]:
    """Share of each pixel that belongs to each class, 0 or 1, and where it is known (labels below 255)."""
    labels = batch.labels
    if labels.ndim == 4:
        return (labels == 1).float(), labels != 255
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1, 1)
    known = (labels != 255)[:, None].expand(-1, num_classes, -1, -1)
    return (labels[:, None] == classes).float(), known


def band(matte: Float[Tensor, "b k H W"]) -> Bool[Tensor, "b k H W"]:
    """Where a window around the pixel sees values that differ."""
    height, width = matte.shape[2:]
    radius = max(1, round(BAND * (height + width) / 4))
    inside = F.max_pool2d(matte, 2 * radius + 1, 1, radius)
    outside = F.max_pool2d(1 - matte, 2 * radius + 1, 1, radius)
    return inside + outside > 1


def semantic_loss(scores: Map, matte: Map, known: Bool[Tensor, "b k H W"]) -> Float[Tensor, ""]:
    """Mean squared error of the semantic branch against the small, blurred matte (Eq. 1)."""
    size = (scores.shape[-2], scores.shape[-1])
    corner, side, centre = BLUR
    kernel = matte.new_tensor([[corner, side, corner], [side, centre, side], [corner, side, corner]])
    small = resize(matte, size).flatten(0, 1)[:, None]
    mode = "reflect" if min(size) > 1 else "replicate"
    wanted = F.conv2d(F.pad(small, (1, 1, 1, 1), mode=mode), kernel[None, None]).view_as(scores)
    counts = resize(known.float(), size) == 1
    return torch.where(counts, (scores.sigmoid() - wanted) ** 2, 0).sum() / counts.sum().clamp(min=1)


# --- builders and weights -------------------------------------------------------------------------


def modnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "mobilenetv2_100",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 32,
) -> MODNet:
    """The paper's MODNet on MobileNetV2, or on any encoder that has a map of stride 2."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return MODNet(made, num_classes, width=width)


# Blocks of MobileNetV2 in each stage; the authors count them through.
_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_PLAIN = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
_INVERTED = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}
_KEYS = {
    "lr_branch.se_block.fc": "low.gate.gate",
    "lr_branch.conv_lr16x": "low.at16",
    "lr_branch.conv_lr8x": "low.at8",
    "lr_branch.conv_lr": "low.head",
    "hr_branch.tohr_enc2x": "high.narrow2",
    "hr_branch.conv_enc2x": "high.down",
    "hr_branch.tohr_enc4x": "high.narrow4",
    "hr_branch.conv_enc4x": "high.join4",
    "hr_branch.conv_hr4x": "high.at4",
    "hr_branch.conv_hr2x": "high.at2",
    "hr_branch.conv_hr": "high.head",
    "f_branch.conv_lr4x": "fusion.at4",
    "f_branch.conv_f2x": "fusion.at2",
    "f_branch.conv_f": "fusion.head",
}  # beginnings of theirs -> ours
_HEADS = ("low.head.layers.0.", "high.head.1.layers.0.", "fusion.head.1.layers.0.")  # without norm


def _backbone_names() -> dict[str, str]:
    """Layers of the authors' MobileNetV2, and ours."""
    names = {"0.0": "encoder.body.conv_stem", "0.1": "encoder.body.bn1"}
    number = 0
    for stage, count in enumerate(_BLOCKS):
        for block in range(count):
            number += 1
            layers = _INVERTED if stage else _PLAIN
            for theirs, ours in layers.items():
                names[f"{number}.conv.{theirs}"] = f"encoder.body.blocks.{stage}.{block}.{ours}"
    return names | {f"{number + 1}.0": "low.top.0", f"{number + 1}.1": "low.top.1"}


def from_zhkkke(state_dict: Mapping[str, Tensor]) -> MODNet:
    """Weights of the authors' MODNet (github.com/ZHKKKe/MODNet) in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key; it names the encoder twice.

    Raises:
        ValueError: if it is not a state dict of a MODNet on MobileNetV2.
    """
    backbone, weights = _backbone_names(), {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        if key.startswith("lr_branch.backbone."):
            continue
        layer, _, kind = key.rpartition(".")
        part = next((part for part in _KEYS if key.startswith(f"{part}.")), "")
        if layer.startswith("backbone.model.features."):
            layer = layer.removeprefix("backbone.model.features.")
            weights[f"{backbone.get(layer, layer)}.{kind}"] = tensor
            continue
        name = _KEYS.get(part, part) + key.removeprefix(part)
        for head in _HEADS:
            name = name.replace(head, head.replace("layers.0.", ""))
        weights[name.replace(".layers.", ".").replace(".bnorm.", ".batch_norm.")] = tensor
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["fusion.head.1.weight"]),
            "in_channels": weights["encoder.body.conv_stem.weight"].shape[1],
            "width": len(weights["high.narrow2.0.weight"]),
        }
        model = modnet(**arguments)
        for name in ("mean", "std"):  # from -1 to 1
            weights[f"encoder.normalize.{name}"] = torch.full((1, arguments["in_channels"], 1, 1), 0.5)
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a MODNet on MobileNetV2: {error}") from error
    model.built_by = BuiltBy("modnet", arguments)
    return model.eval()
