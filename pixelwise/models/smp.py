"""The networks of the library Segmentation Models PyTorch (SMP), for those who have trained with it.

SMP's U-Net, PAN and MAnet are `unet`, `pan` and `manet` here, its UNet++ `unetplusplus` without deep
supervision, its UPerNet `upernet` with a norm on each map. The others go by the names of papers but differ
from them, so each has its own class: FPN upsamples lateral maps by repetition and merges with dropout;
LinkNet has four skips and plain 4x4 transposed convolutions; for PSPNet, DeepLabV3 and V3+, and Segformer see
`smp_pspnet.py`, `smp_deeplabv3.py` and `smp_segformer.py`. All but LinkNet resize with aligned
corners, UPerNet and Segformer their logits only.

Departures: maps are resized to the size of their partner instead of being upsampled 2x, so any image size
works, with equal results where SMP accepts the size; images are normalised inside, as SMP's preprocessing
does.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, fit, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .fpn import ConvGroupNormAct
from .pan import pan
from .smp_deeplabv3 import smp_deeplabv3, smp_deeplabv3plus
from .smp_pspnet import smp_pspnet
from .unet import unet
from .unetplusplus import unetplusplus
from .upernet import UPerNet

PAPER = Paper(
    "Segmentation Models PyTorch",
    "Iakubovskii",
    "GitHub",
    2019,
    "https://github.com/qubvel-org/segmentation_models.pytorch",
)


# --- FPN ------------------------------------------------------------------------------------------


class SMPFPN(DenseModel):
    """SMP's FPN: four levels of 256 channels, each brought to stride 4 with 128 channels, added.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        _, c2, c3, c4, c5 = encoder.channels
        self.laterals = nn.ModuleList(nn.Conv2d(c, 256, 1) for c in (c5, c4, c3, c2))
        # One convolution before each of the 3, 2, 1 upsamplings; the finest level has one without upsampling.
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvGroupNormAct(256 if i == 0 else 128, 128) for i in range(count))
            for count in (3, 2, 1, 1)
        )
        self.dropout = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(128, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        maps = (features.c5, features.c4, features.c3, features.c2)
        levels: list[Tensor] = []
        for lateral, map in zip(self.laterals, maps, strict=True):
            level = lateral(map)
            if levels:
                level = level + F.interpolate(levels[-1], map.shape[-2:], mode="nearest")
            levels.append(level)
        total = None
        for i, (level, branch) in enumerate(zip(levels, self.branches, strict=True)):
            for convolution, finer in zip(branch.children(), levels[i + 1 :] or [level], strict=True):
                level = resize_like(convolution(level), finer, align_corners=True)
            total = level if total is None else total + level
        return DenseLogits(self.head(self.dropout(total)), size, align_corners=True)


# --- LinkNet --------------------------------------------------------------------------------------


class LinkUp(nn.Sequential):
    """1x1 convolution to a quarter, 4x4 transposed convolution that doubles, 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        c = c_in // 4
        super().__init__(
            ConvNormAct(c_in, c, 1),
            nn.Sequential(
                nn.ConvTranspose2d(c, c, 4, stride=2, padding=1), BatchNorm2d(c), nn.ReLU(inplace=True)
            ),
            ConvNormAct(c, c_out, 1),
        )


class SMPLinknet(DenseModel):
    """SMP's LinkNet: five upsamplings, the encoder's map added after each of the first four.

    Args:
        encoder: gives all five stages.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        widths = [*reversed(encoder.channels), 32]
        self.decoder = nn.ModuleList(LinkUp(a, b) for a, b in pairwise(widths))
        self.head = nn.Conv2d(32, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = features.c5
        skips = (features.c4, features.c3, features.c2, features.c1, None)
        for up, skip in zip(self.decoder, skips, strict=True):
            target = image if skip is None else skip
            x = fit(up(x), size_of(target, 1))  # odd sizes: the upsampled map is one too large
            if skip is not None:
                x = x + skip
        return DenseLogits(self.head(x), size)


# --- builders -------------------------------------------------------------------------------------


def smp_fpn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SMPFPN:
    """SMP's FPN on any encoder."""
    stages = ("c2", "c3", "c4", "c5")
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=stages)
    return SMPFPN(made, num_classes)


def smp_linknet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SMPLinknet:
    """SMP's LinkNet on any encoder that has a stage of stride 2."""
    stages = ("c1", "c2", "c3", "c4", "c5")
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=stages)
    return SMPLinknet(made, num_classes)


def smp_upernet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
) -> UPerNet:
    """SMP's UPerNet on any encoder: a layer norm on each map, and no second classifier."""
    stages = ("c2", "c3", "c4", "c5")
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=stages)
    return UPerNet(made, num_classes, width=width, aux_width=None, norm_eps=1e-6, align_corners=True)


# --- from SMP's state dicts -----------------------------------------------------------------------

_BUILDERS: dict[str, Callable[..., DenseModel]] = {
    "unet": unet,
    "unetplusplus": unetplusplus,
    "fpn": smp_fpn,
    "linknet": smp_linknet,
    "pspnet": smp_pspnet,
    "deeplabv3": smp_deeplabv3,
    "deeplabv3plus": smp_deeplabv3plus,
    "pan": pan,
    "upernet": smp_upernet,
}
_ASPP = (
    (r"\.convs\.4\.1\.", ".image.1.0."),
    (r"\.convs\.4\.2\.", ".image.1.1."),
    (r"\.convs\.", ".branches."),
    (r"\.project\.", ".project.0."),
)
Names = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
_NAMES: dict[str, Names] = {  # theirs, as regular expressions, and ours
    "unet": (
        (r"^decoder\.blocks\.(\d)\.conv1\.", r"decoder.\1.0."),
        (r"^decoder\.blocks\.(\d)\.conv2\.", r"decoder.\1.1."),
    ),
    "unetplusplus": (
        # Block x_d_l lies in row 3 - l, one place further for each step that d is below l.
        *(
            (rf"^decoder\.blocks\.x_{d}_{row}\.", f"nodes.{3 - row}_{row - d + 1}.unit.")
            for row in range(4)
            for d in range(row + 1)
        ),
        (r"^decoder\.blocks\.x_0_4\.", "heads.4.last."),
        (r"^(nodes|heads)\.(.*)\.conv1\.", r"\1.\2.0."),
        (r"^(nodes|heads)\.(.*)\.conv2\.", r"\1.\2.1."),
        (r"^head\.", "heads.4.score."),
    ),
    "fpn": (
        (r"^decoder\.p5\.", "laterals.0."),
        (r"^decoder\.p4\.skip_conv\.", "laterals.1."),
        (r"^decoder\.p3\.skip_conv\.", "laterals.2."),
        (r"^decoder\.p2\.skip_conv\.", "laterals.3."),
        (r"^decoder\.seg_blocks\.(\d)\.block\.(\d)\.block\.", r"branches.\1.\2."),
    ),
    "linknet": ((r"^decoder\.blocks\.(\d)\.block\.", r"decoder.\1."),),
    "pspnet": (
        (r"^decoder\.psp\.blocks\.(\d)\.pool\.1\.", r"context.convolutions.\1."),
        (r"^decoder\.conv\.", "merge."),
    ),
    "deeplabv3": (
        (r"^decoder\.aspp\.", "context."),
        *_ASPP,
        (r"^decoder\.conv\.", "merge.0."),
        (r"^decoder\.bn\.", "merge.1."),
    ),
    "deeplabv3plus": (
        (r"^decoder\.aspp\.0\.", "context.0."),
        (r"^decoder\.aspp\.1\.", "context.1.0."),
        (r"^decoder\.aspp\.2\.", "context.1.1."),
        *_ASPP,
        (r"^decoder\.block1\.", "skip."),
        (r"^decoder\.block2\.", "merge."),
    ),
    "upernet": (
        (r"^decoder\.feature_norms\.", "norms."),
        (r"^decoder\.psp\.blocks\.", "context.pools."),
        (r"^decoder\.psp\.out_conv\.", "context.merge."),
        # Their levels stand in the order of coarse to fine.
        (
            r"^decoder\.fpn_lateral_blocks\.(\d)\.conv_norm_relu\.",
            lambda match: f"laterals.{2 - int(match[1])}.",
        ),
        (r"^decoder\.fpn_conv_blocks\.(\d)\.", lambda match: f"levels.{2 - int(match[1])}."),
        (r"^decoder\.fusion_block\.", "fuse."),
        (r"^head\.", "head.1."),
    ),
    "pan": (
        (r"^decoder\.fpa\.", "context."),
        (r"^context\.branch1\.", "context.image."),
        (r"^context\.mid\.0\.", "context.middle."),
        (r"^context\.conv([12])\.", r"context.up\1."),
        (r"^decoder\.gau3\.", "decoder.0."),
        (r"^decoder\.gau2\.", "decoder.1."),
        (r"^decoder\.gau1\.", "decoder.2."),
        (r"^decoder\.(\d)\.conv1\.", r"decoder.\1.gate."),
        (r"^decoder\.(\d)\.conv2\.", r"decoder.\1.low."),
        (r"^((context|decoder)\..*)\.conv\.", r"\1.0."),
        (r"^((context|decoder)\..*)\.bn\.", r"\1.1."),
    ),
}

_ENCODER: Names = (
    (r"^encoder\.(model\.)?", "encoder.body."),
    (r"^encoder\.body\.features\.", "encoder.body.features_"),
    (r"^segmentation_head\.0\.", "head."),
)
_STRIDES = {"deeplabv3": 8, "deeplabv3plus": 16, "pan": 16}  # SMP's defaults
_RESNETS = re.compile(r"resnet(18|34|50|101|152)|resnext(50_32x4d|101_32x(4|8|16|32)d)")
_VGGS = re.compile(r"vgg(11|13|16|19)(_bn)?")


def from_smp(
    state_dict: dict[str, Tensor], architecture: str, *, encoder: str, output_stride: int | None = None
) -> DenseModel:
    """A network trained with SMP, with equal logits, in eval mode.

    Classes and image channels are read from the weights; sizes of the decoder are SMP's defaults. A
    classification head (`aux_params`) is left out, and so are the stages of the encoder that SMP's PSPNet
    stores but never uses.

    Swin takes any size here, where SMP's takes the one that it was built for (`img_size`). Logits are equal
    where that is at least the size of the published backbone and each side a multiple of 4. For a smaller
    one SMP's has smaller windows, whose bias tables do not fit and are refused (V1), or whose biases are
    computed for other windows (V2); the windows of "swinv2_cr" grow with SMP's `img_size`, but not here.

    Args:
        state_dict: `smp_model.state_dict()`.
        architecture: the name of SMP's class: "Unet", "UnetPlusPlus", "FPN", "Linknet", "PSPNet",
            "DeepLabV3", "DeepLabV3Plus", "PAN" or "UPerNet".
        encoder: `encoder_name` as given to SMP: a ResNet or ResNeXt, a VGG (not for the U-Nets), or
            "tu-" and the name of a backbone of timm.
        output_stride: `encoder_output_stride` as given to SMP's DeepLabs and PAN; None for their defaults.

    Raises:
        ValueError: if architecture or encoder is not supported, or the weights do not fit.
    """
    name = architecture.lower()
    if name not in _BUILDERS:
        raise ValueError(f"architecture must be one of SMP's {', '.join(_BUILDERS)}, got {architecture!r}")
    if _VGGS.fullmatch(encoder) and name in ("unet", "unetplusplus"):
        raise ValueError(f"SMP's {architecture} on {encoder!r} has a centre block that no network here has")
    arguments = smp_arguments(state_dict, encoder)
    if name in _STRIDES:
        arguments["output_stride"] = output_stride or _STRIDES[name]
        arguments["fully_dilated"] = bool(_RESNETS.fullmatch(encoder))
    elif output_stride is not None:
        raise ValueError(f"only SMP's DeepLabs and PAN have an output_stride, not {architecture!r}")
    if name == "upernet" and (fused := state_dict.get("decoder.fusion_block.0.weight")) is not None:
        arguments["width"] = len(fused)
    if name == "unetplusplus":
        arguments["deep_supervision"] = False
    builder = _BUILDERS[name]
    model = builder(**arguments)
    if name == "pspnet":  # leave out the stages that SMP stores but never uses
        own = model.state_dict()
        idle = {
            key for key in state_dict if key.startswith("encoder.") and _renamed(key, _ENCODER) not in own
        }
        state_dict = {key: tensor for key, tensor in state_dict.items() if key not in idle}
    weights = _without_idle_biases(state_dict) if name == "pan" else state_dict
    load_smp_weights(model, weights, _NAMES[name], f"{architecture} with {encoder!r}")
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model


def smp_arguments(state_dict: dict[str, Tensor], encoder: str) -> dict[str, Any]:
    """Encoder, classes and image channels of weights of SMP; raises as `from_smp` does."""
    if not (_RESNETS.fullmatch(encoder) or _VGGS.fullmatch(encoder) or encoder.startswith("tu-")):
        raise ValueError(
            f"SMP's encoder {encoder!r} is not supported: resnet18 to resnet152, resnext50_32x4d, "
            "resnext101_32x4d to 32x32d, vgg11 to vgg19_bn and tu-<timm name> are"
        )
    try:
        num_classes = len(state_dict["segmentation_head.0.bias"])
        first = next(t for key, t in state_dict.items() if key.startswith("encoder.") and t.ndim == 4)
    except (KeyError, StopIteration):
        raise ValueError("state_dict is not that of a segmentation network of SMP") from None
    name = encoder.removeprefix("tu-")
    return {"num_classes": num_classes, "encoder": name, "in_channels": first.shape[1]}


def load_smp_weights(model: DenseModel, state_dict: dict[str, Tensor], names: Names, what: str) -> None:
    """Load weights into one of our networks, and bring it to eval mode; raises as `from_smp` does.

    Args:
        model: the network.
        state_dict: of SMP's.
        names: how the parts of the decoder are called there and here, as regular expressions.
        what: SMP's name of the network, for the message of an error.
    """
    renamed = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
    for key, tensor in state_dict.items():
        if not key.startswith("classification_head."):
            renamed[_renamed(key, (*_ENCODER, *names))] = tensor
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    shapes = {key: tensor.shape for key, tensor in renamed.items()}
    if wrong := sorted({key for key, _ in shapes.items() ^ wanted.items()}):
        raise ValueError(
            f"state_dict does not fit SMP's {what}: {len(wrong)} tensors are "
            f"missing, too many or of another shape, such as {wrong[0]}"
        )
    model.load_state_dict(renamed)
    model.eval()


def _renamed(key: str, names: Names) -> str:
    for theirs, ours in names:
        key = re.sub(theirs, ours, key)
    return key


def _without_idle_biases(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in which each bias before a batch norm is part of its running mean, which changes nothing."""
    folded = dict(state_dict)
    for key in state_dict:
        mean = key.replace(".conv.bias", ".bn.running_mean")
        if key.startswith("decoder.") and mean != key and mean in state_dict:
            folded[mean] = state_dict[mean] - folded.pop(key)
    return folded
