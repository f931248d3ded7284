"""ESPNetv2: depth-wise dilated convolutions, cheap enough for a phone.

The EESP unit reduces the channels, looks at the result through four depth-wise 3x3 convolutions of
growing dilation, adds each branch to the next (hierarchical fusion against gridding), and merges them
(paper Fig. 1b, Sec. 3.2). Where a unit halves the map, a shrunken copy of the image is fed in again
(Fig. 1c). For segmentation, a light decoder goes back to stride 2: at each scale the map is pooled at five
sizes (efficient pyramid pooling) and added to the gated map of the encoder.

The decoder is that of the authors' later code (EdgeNets, with published weights), which differs from the
paper's own; it trains without auxiliary outputs. Departures from that code: the activation that a halving
unit of theirs stores but never uses is not here; maps are resized to the size of their partner instead of
being upsampled 2x, so any image size works, with equal results for multiples of 16.
"""

import math
import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.timm import per_channel
from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "ESPNetv2: A Light-weight, Power Efficient, and General Purpose Convolutional Neural Network",
    "Mehta, Rastegari, Shapiro, Hajishirzi",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1811.11431",
)

NUM_BRANCHES = 4
# Largest receptive field of a branch, in pixels of the map, by stride of the unit's output.
FIELD_HALVING, FIELD_3, FIELD_4 = 9, 9, 7
NUM_UNITS_3, NUM_UNITS_4 = 3, 7
POOL_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
SMALLEST_POOL = 5


class NormPReLU(nn.Sequential):
    """Batch norm, then a ReLU with a learned slope per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.PReLU(channels))


class ConvNormPReLU(nn.Sequential):
    """Convolution without bias, batch norm, PReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out),
            nn.PReLU(c_out),
        )


class EESP(nn.Module):
    """Extremely efficient spatial pyramid of depth-wise dilated convolutions (Fig. 1b, Sec. 3.2).

    With stride 1 the input is added and a PReLU follows; with stride 2 the caller merges and activates.

    Args:
        c_in: channels of the input, a multiple of four.
        c_out: channels of the output, a multiple of four.
        stride: 1 or 2.
        field: branches that would look further than this many pixels use dilation 1 instead.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, field: int) -> None:
        super().__init__()
        width = c_out // NUM_BRANCHES
        dilations = sorted(d if 2 * d + 1 <= field else 1 for d in range(1, NUM_BRANCHES + 1))
        self.reduce = ConvNormPReLU(c_in, width, 1, groups=NUM_BRANCHES)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride, padding=d, dilation=d, groups=width, bias=False)
            for d in dilations
        )
        self.norm_act = NormPReLU(c_out)
        self.expand = nn.Sequential(
            nn.Conv2d(c_out, c_out, 1, groups=NUM_BRANCHES, bias=False), nn.BatchNorm2d(c_out)
        )
        self.act = nn.PReLU(c_out) if stride == 1 else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """Reduce, split, transform, merge."""
        reduced = self.reduce(x)
        sums = [self.branches[0](reduced)]
        for branch in list(self.branches)[1:]:
            sums.append(branch(reduced) + sums[-1])
        merged: Tensor = self.expand(self.norm_act(torch.cat(sums, dim=1)))
        if self.act is None:
            return merged
        out: Tensor = self.act(merged + x)
        return out


class StridedEESP(nn.Module):
    """Halves a map: average pooling beside a strided EESP, plus the shrunken image (Fig. 1c).

    Args:
        c_in: channels of the input.
        c_out: channels of the output, more than `c_in`.
        c_image: channels of the image.
        field: see `EESP`.
    """

    def __init__(self, c_in: int, c_out: int, *, c_image: int, field: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.eesp = EESP(c_in, c_out - c_in, stride=2, field=field)
        self.reinforce = nn.Sequential(
            ConvNormPReLU(c_image, c_image, 3),
            nn.Conv2d(c_image, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.act = nn.PReLU(c_out)

    def forward(
        self, x: Float[Tensor, "b c h w"], image: Float[Tensor, "b i _ _"]
    ) -> Float[Tensor, "b _ _ _"]:
        """Half of `x`; `image` has that size already."""
        half = torch.cat([self.pool(x), self.eesp(x)], dim=1)
        out: Tensor = self.act(half + self.reinforce(image))
        return out


class EfficientPyramidPooling(nn.Module):
    """The map seen at five sizes, from twice to a tenth of its own, each by a depth-wise convolution.

    Args:
        c_in: channels of the input.
        c_inner: channels at each size.
        c_out: channels of the output.
        last: whether the output are logits: with a bias, without batch norm and activation.
    """

    def __init__(self, c_in: int, c_inner: int, c_out: int, *, last: bool = False) -> None:
        super().__init__()
        c_all = c_inner * len(POOL_SCALES)
        self.project = ConvNormPReLU(c_in, c_inner, 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(c_inner, c_inner, 3, padding=1, groups=c_inner, bias=False) for _ in POOL_SCALES
        )
        self.norm_act = NormPReLU(c_all)
        self.fuse = ConvNormPReLU(c_all, c_inner, 3, groups=c_inner)
        self.out = nn.Conv2d(c_inner, c_out, 1, bias=last)
        self.out_norm_act = None if last else NormPReLU(c_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """Pool, look, resize back, merge."""
        x = self.project(x)
        h, w = x.shape[-2:]
        maps = []
        for scale, branch in zip(POOL_SCALES, self.branches, strict=True):
            size = (max(math.ceil(h * scale), SMALLEST_POOL), max(math.ceil(w * scale), SMALLEST_POOL))
            if scale > 1:
                larger = F.interpolate(x, size, mode="bilinear", align_corners=True)
                maps.append(F.adaptive_avg_pool2d(branch(larger), (h, w)))
            elif scale < 1:
                smaller = branch(F.adaptive_avg_pool2d(x, size))
                maps.append(F.interpolate(smaller, (h, w), mode="bilinear", align_corners=True))
            else:
                maps.append(branch(x))
        y = self.norm_act(torch.cat(maps, dim=1))
        # b s*c h w -> b c*s h w: the five sizes of a channel side by side, for the grouped convolution
        y = y.unflatten(1, (len(POOL_SCALES), -1)).transpose(1, 2).flatten(1, 2)
        y = self.out(self.fuse(y))
        if self.out_norm_act is not None:
            y = self.out_norm_act(y)
        return y


class GatedSkip(nn.Module):
    """A map of the encoder on its way to the decoder, its channels weighted by the whole map.

    Args:
        c_in: channels of the encoder's map.
        c_out: channels of the decoder's map.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c_in, c_out, 1, bias=False), nn.Sigmoid()
        )
        self.expand = ConvNormPReLU(c_in, c_out, 3, groups=math.gcd(c_in, c_out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """Convolve and weight."""
        out: Tensor = self.expand(x) * self.gate(x)
        return out


class ESPNetv2(DenseModel):
    """ESPNetv2 for segmentation: EESP encoder to stride 16, decoder back to stride 2.

    Args:
        num_classes: number of channels k of the logits.
        widths: channels of the encoder at strides 2, 4, 8 and 16.
        in_channels: of the image.
    """

    encoder_parts = ("stem", "down2", "down3", "units3", "down4", "units4")

    def __init__(self, num_classes: int, widths: tuple[int, int, int, int], *, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        c1, c2, c3, c4 = widths
        d4, d3, d2 = 64, 48, 32
        inner = min(max(num_classes // 2, 1), 16)
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1)

        self.stem = ConvNormPReLU(in_channels, c1, 3, stride=2)
        self.down2 = StridedEESP(c1, c2, c_image=in_channels, field=FIELD_HALVING)
        self.down3 = StridedEESP(c2, c3, c_image=in_channels, field=FIELD_HALVING)
        self.units3 = nn.Sequential(*(EESP(c3, c3, field=FIELD_3) for _ in range(NUM_UNITS_3)))
        self.down4 = StridedEESP(c3, c4, c_image=in_channels, field=FIELD_HALVING)
        self.units4 = nn.Sequential(*(EESP(c4, c4, field=FIELD_4) for _ in range(NUM_UNITS_4)))

        self.pool4 = EfficientPyramidPooling(c4, inner, d4)
        self.skip3, self.merge3 = GatedSkip(c3, d4), NormPReLU(d4)
        self.pool3 = EfficientPyramidPooling(d4, inner, d3)
        self.skip2, self.merge2 = GatedSkip(c2, d3), NormPReLU(d3)
        self.pool2 = EfficientPyramidPooling(d3, inner, d2)
        self.skip1, self.merge1 = GatedSkip(c1, d2), NormPReLU(d2)
        self.head = EfficientPyramidPooling(d2, inner, num_classes, last=True)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = self.normalize(image)
        x4 = self.shrink(self.shrink(x))
        x8 = self.shrink(x4)
        x16 = self.shrink(x8)

        e1 = self.stem(x)  # b c1 H/2 W/2
        e2 = self.down2(e1, x4)
        e3 = self.units3(self.down3(e2, x8))
        e4 = self.units4(self.down4(e3, x16))  # b c4 H/16 W/16

        d = self.pool4(e4)
        d = self.pool3(self.merge3(self.skip3(e3) + resize_like(d, e3, align_corners=True)))
        d = self.pool2(self.merge2(self.skip2(e2) + resize_like(d, e2, align_corners=True)))
        d = self.head(self.merge1(self.skip1(e1) + resize_like(d, e1, align_corners=True)))  # b k H/2 W/2
        return DenseLogits(d, size, align_corners=True)


def espnetv2_s_0_5(num_classes: int, *, in_channels: int = 3) -> ESPNetv2:
    """ESPNetv2 of width 0.5: 0.08 million weights."""
    return ESPNetv2(num_classes, (16, 32, 64, 128), in_channels=in_channels)


def espnetv2_s_1_0(num_classes: int, *, in_channels: int = 3) -> ESPNetv2:
    """ESPNetv2 of width 1.0: 0.23 million weights."""
    return ESPNetv2(num_classes, (32, 64, 128, 256), in_channels=in_channels)


def espnetv2_s_1_25(num_classes: int, *, in_channels: int = 3) -> ESPNetv2:
    """ESPNetv2 of width 1.25."""
    return ESPNetv2(num_classes, (32, 80, 160, 320), in_channels=in_channels)


def espnetv2_s_1_5(num_classes: int, *, in_channels: int = 3) -> ESPNetv2:
    """ESPNetv2 of width 1.5: 0.47 million weights."""
    return ESPNetv2(num_classes, (32, 96, 192, 384), in_channels=in_channels)


def espnetv2_s_2_0(num_classes: int, *, in_channels: int = 3) -> ESPNetv2:
    """ESPNetv2 of width 2.0: 0.79 million weights."""
    return ESPNetv2(num_classes, (32, 128, 256, 512), in_channels=in_channels)


# The authors' names on the left; the order matters where one is part of another.
_EDGENETS = (
    (r"^base_net\.level1\.", "stem."),
    (r"^base_net\.level([234])_0\.", r"down\1."),
    (r"^base_net\.level([34])\.", r"units\1."),
    (r"^bu_dec_l1\.", "pool4."),
    (r"^bu_dec_l2\.", "pool3."),
    (r"^bu_dec_l3\.", "pool2."),
    (r"^bu_dec_l4\.", "head."),
    (r"^merge_enc_dec_l2\.", "skip3."),
    (r"^merge_enc_dec_l3\.", "skip2."),
    (r"^merge_enc_dec_l4\.", "skip1."),
    (r"^bu_br_l2\.", "merge3."),
    (r"^bu_br_l3\.", "merge2."),
    (r"^bu_br_l4\.", "merge1."),
    (r"\.inp_reinf\.1\.conv\.", ".reinforce.1."),
    (r"\.inp_reinf\.1\.bn\.", ".reinforce.2."),
    (r"\.inp_reinf\.0\.", ".reinforce.0."),
    (r"\.proj_1x1\.", ".reduce."),
    (r"\.spp_dw\.(\d)\.conv\.", r".branches.\1."),
    (r"\.br_after_cat\.bn\.", ".norm_act.0."),
    (r"\.br_after_cat\.act\.", ".norm_act.1."),
    (r"\.conv_1x1_exp\.conv\.", ".expand.0."),
    (r"\.conv_1x1_exp\.bn\.", ".expand.1."),
    (r"\.module_act\.", ".act."),
    (r"\.projection_layer\.cbr\.", ".project."),
    (r"\.stages\.", ".branches."),
    (r"\.merge_layer\.0\.br\.", ".norm_act."),
    (r"\.merge_layer\.2\.cbr\.", ".fuse."),
    (r"\.merge_layer\.3\.", ".out."),
    (r"\.br\.br\.", ".out_norm_act."),
    (r"\.wt_layer\.", ".gate."),
    (r"\.expansion_layer\.cbr\.", ".expand."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
    (r"^(stem|.*\.(?:reduce|reinforce\.0))\.act\.", r"\1.2."),
)


def from_edgenets(state_dict: dict[str, Tensor]) -> ESPNetv2:
    """The authors' segmentation weights (github.com/sacmehta/EdgeNets) in our model, in eval mode.

    Width, classes and image channels are read from the weights. The slopes `*_0.eesp.module_act`, which the
    authors store but never use, are left out.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it.

    Raises:
        ValueError: if it is not a state dict of their ESPNetv2 for PASCAL VOC or Cityscapes.
    """
    try:
        stem = state_dict["base_net.level1.conv.weight"]
        c4 = len(state_dict["base_net.level4.0.module_act.weight"])
        num_classes = len(state_dict["bu_dec_l4.merge_layer.3.bias"])
        builder = {
            128: espnetv2_s_0_5, 256: espnetv2_s_1_0, 320: espnetv2_s_1_25,
            384: espnetv2_s_1_5, 512: espnetv2_s_2_0,
        }[c4]  # fmt: skip
    except KeyError as error:
        raise ValueError(f"state_dict is not that of an ESPNetv2 from EdgeNets: it has no {error}") from error
    arguments = {"num_classes": num_classes, "in_channels": stem.shape[1]}
    model = builder(**arguments)
    renamed = {"normalize.mean": model.normalize.mean, "normalize.std": model.normalize.std}
    for key, tensor in state_dict.items():
        if re.search(r"_0\.eesp\.module_act\.", key):
            continue
        for theirs, ours in _EDGENETS:
            key = re.sub(theirs, ours, key)
        renamed[key] = tensor
    shapes = {key: tensor.shape for key, tensor in renamed.items()}
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    if wrong := sorted({key for key, _ in shapes.items() ^ wanted.items()}):
        raise ValueError(
            f"state_dict does not fit {builder.__name__!r}: {len(wrong)} tensors are missing, too many or of "
            f"another shape, such as {wrong[0]}"
        )
    model.load_state_dict(renamed)
    model.built_by = BuiltBy(builder.__name__, arguments)
    model.eval()
    return model
