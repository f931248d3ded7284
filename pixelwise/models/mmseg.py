"""Networks on ResNet and HRNet as OpenMMLab's mmsegmentation builds them.

They differ from the papers' in widths and in details: the ResNet starts with three 3x3 convolutions
(`resnet50c`, `resnet101c`), every context has 512 channels and ends with a 3x3 convolution, DeepLab's rates
are 12, 24 and 36, DeepLabV3+ is separable on any encoder, FCN has two more convolutions, and no resizing
aligns corners. `from_mmseg_cnn` reads the weights of their zoo, and those that people trained with their
configurations.

Departures: weights do not tell dilations. Networks are built at output stride 8, as in all of their
configurations named `-d8`; for others pass `output_stride`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, HRNet, StemPolicy, fit_hrnet_weights, make_encoder, read_mmseg_resnet
from ..layers import ConvNormAct, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Features, Paper
from .deeplabv3 import ASPP
from .deeplabv3plus import SeparableConv
from .hrnet import count
from .upernet import PooledTop

PAPER = Paper(
    "MMSegmentation: OpenMMLab Semantic Segmentation Toolbox and Benchmark",
    "MMSegmentation Contributors",
    "GitHub",
    2020,
    "https://github.com/open-mmlab/mmsegmentation",
)

RATES = (12, 24, 36)
SKIP = 48  # channels of c2 in DeepLabV3+


class Context(nn.Module, ABC):
    """Makes of the maps of an encoder the one that is classified.

    Args:
        width: channels of that map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def forward(self, features: Features) -> Float[Tensor, "b _ h w"]:
        """The map that is classified."""


class FullyConvolutional(Context):
    """Convolutions in a row; the map joined to their output once more (their `FCNHead`).

    Args:
        c_in: channels of the map; of all maps of an encoder together where `all_maps`.
        width: channels of the output.
        kernel: of the convolutions.
        depth: how many there are.
        joined: whether the input is concatenated to the output and a further convolution follows.
        all_maps: whether all maps are brought to the size of the finest and concatenated, as for HRNet.
    """

    def __init__(
        self,
        c_in: int,
        width: int,
        *,
        kernel: int = 3,
        depth: int = 2,
        joined: bool = True,
        all_maps: bool = False,
    ) -> None:
        super().__init__(width)
        self.all_maps = all_maps
        self.convolutions = nn.Sequential(
            *(ConvNormAct(width if i else c_in, width, kernel) for i in range(depth))
        )
        self.join = ConvNormAct(c_in + width, width, kernel) if joined else None

    def forward(self, features: Features) -> Float[Tensor, "b _ h w"]:
        """The map that is classified."""
        finest, *coarser = features.maps.values() if self.all_maps else (features.c5,)
        x = torch.cat([finest, *(resize_like(map, finest) for map in coarser)], 1)
        y: Tensor = self.convolutions(x)
        return y if self.join is None else self.join(torch.cat([x, y], 1))


class PyramidPooled(Context):
    """Pyramid pooling of c5 (their `PSPHead`).

    Args:
        c_in: channels of c5.
        width: channels of each bin and of the output.
    """

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__(width)
        self.pyramid = PooledTop(c_in, width)

    def forward(self, features: Features) -> Float[Tensor, "b _ h w"]:
        """The map that is classified."""
        pooled: Tensor = self.pyramid(features.c5)
        return pooled


class Atrous(Context):
    """Atrous spatial pyramid pooling of c5, and where `c_skip` DeepLabV3+'s decoder.

    They are their `ASPPHead` and `DepthwiseSeparableASPPHead`.

    Args:
        c_in: channels of c5.
        width: channels of each branch and of the output.
        c_skip: channels of c2, with which all 3x3 convolutions but one are separable; None without decoder.
    """

    def __init__(self, c_in: int, width: int, c_skip: int | None = None) -> None:
        super().__init__(width)
        convolution = ConvNormAct if c_skip is None else SeparableConv
        self.pyramid = ASPP(c_in, RATES, c_out=width, convolution=convolution)
        self.pyramid.project = nn.Sequential(ConvNormAct((len(RATES) + 2) * width, width))
        self.skip = None if c_skip is None else ConvNormAct(c_skip, SKIP, 1)
        self.decoder = (
            nn.Identity()
            if c_skip is None
            else nn.Sequential(SeparableConv(width + SKIP, width), SeparableConv(width, width))
        )

    def forward(self, features: Features) -> Float[Tensor, "b _ h w"]:
        """The map that is classified, at the size of c5 or, behind the decoder, of c2."""
        x: Tensor = self.pyramid(features.c5)
        if self.skip is not None:
            fine = self.skip(features.c2)
            x = self.decoder(torch.cat([resize_like(x, fine), fine], 1))
        return x


class MMSegNetwork(DenseModel):
    """Encoder, context, classifier; a second classifier on c4.

    Args:
        encoder: gives what the context reads, and c4 where there is a second classifier.
        num_classes: number of channels k of the logits.
        context: makes of the encoder's maps the one that is classified.
        aux_width: channels within the second classifier; None to train without it.
        dropout: probability to drop a channel before it is classified.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        context: Context,
        *,
        aux_width: int | None = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder, self.context = encoder, context
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(context.width, num_classes, 1))
        self.aux_head = (
            None
            if aux_width is None
            else nn.Sequential(
                ConvNormAct(encoder.channels.c4, aux_width),
                nn.Dropout2d(0.1),
                nn.Conv2d(aux_width, num_classes, 1),
            )
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        coarse = self.head(self.context(features))
        aux = () if self.aux_head is None or not self.training else (self.aux_head(features.c4),)
        return DenseLogits(coarse, size, aux)


# --- builders -------------------------------------------------------------------------------------


def mmseg_fcn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50c",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    width: int = 512,
    aux_width: int | None = 256,
) -> MMSegNetwork:
    """Mmsegmentation's FCN (`fcn_r50-d8`)."""
    made = _encoder(encoder, in_channels, pretrained, stem, output_stride, ("c4", "c5"))
    return MMSegNetwork(made, num_classes, FullyConvolutional(made.channels.c5, width), aux_width=aux_width)


def mmseg_pspnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50c",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    width: int = 512,
    aux_width: int | None = 256,
) -> MMSegNetwork:
    """Mmsegmentation's PSPNet (`pspnet_r50-d8`)."""
    made = _encoder(encoder, in_channels, pretrained, stem, output_stride, ("c4", "c5"))
    return MMSegNetwork(made, num_classes, PyramidPooled(made.channels.c5, width), aux_width=aux_width)


def mmseg_deeplabv3(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50c",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    width: int = 512,
    aux_width: int | None = 256,
) -> MMSegNetwork:
    """Mmsegmentation's DeepLabV3 (`deeplabv3_r50-d8`)."""
    made = _encoder(encoder, in_channels, pretrained, stem, output_stride, ("c4", "c5"))
    return MMSegNetwork(made, num_classes, Atrous(made.channels.c5, width), aux_width=aux_width)


def mmseg_deeplabv3plus(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50c",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    width: int = 512,
    aux_width: int | None = 256,
) -> MMSegNetwork:
    """Mmsegmentation's DeepLabV3+ (`deeplabv3plus_r50-d8`)."""
    made = _encoder(encoder, in_channels, pretrained, stem, output_stride, ("c2", "c4", "c5"))
    context = Atrous(made.channels.c5, width, made.channels.c2)
    return MMSegNetwork(made, num_classes, context, aux_width=aux_width)


def mmseg_hrnet(
    num_classes: int,
    *,
    width: int = 18,
    modules: tuple[int, int, int] = (1, 4, 3),
    blocks: int = 4,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> MMSegNetwork:
    """Mmsegmentation's HRNet (`fcn_hr18`; `fcn_hr18s` with modules 1, 3, 2 and 2 blocks); see `HRNet`."""
    encoder = HRNet(
        width,
        in_channels=in_channels,
        upsampling="bilinear_unaligned",
        pretrained=pretrained,
        stem=stem,
        modules=modules,
        blocks=blocks,
    )
    c = sum(encoder.channels)
    context = FullyConvolutional(c, c, kernel=1, depth=1, joined=False, all_maps=True)
    return MMSegNetwork(encoder, num_classes, context, aux_width=None, dropout=0.0)


def _encoder(
    encoder: str | Encoder,
    in_channels: int,
    pretrained: bool,
    stem: StemPolicy,
    output_stride: int,
    stages: tuple[str, ...],
) -> Encoder:
    return make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=stages,
    )


# --- weights --------------------------------------------------------------------------------------

# Their names as regular expressions, and ours, in the order of application.
_RENAMES = (
    (r"^decode_head\.conv_seg\.", "head.1."),
    (r"^auxiliary_head\.convs\.0\.", "aux_head.0."),
    (r"^auxiliary_head\.conv_seg\.", "aux_head.2."),
    (r"^decode_head\.convs\.", "context.convolutions."),
    (r"^decode_head\.conv_cat\.", "context.join."),
    (r"^decode_head\.psp_modules\.", "context.pyramid.pools."),
    (r"^decode_head\.image_pool\.", "context.pyramid.image."),
    (r"^decode_head\.aspp_modules\.", "context.pyramid.branches."),
    (r"^decode_head\.c1_bottleneck\.", "context.skip."),
    (r"^decode_head\.sep_bottleneck\.", "context.decoder."),
    (r"^decode_head\.bottleneck\.", "context.pyramid.project.0."),
    (r"\.depthwise_conv\.", ".0."),
    (r"\.pointwise_conv\.", ".1."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
)
_SIGNS = (  # a name that only this network has
    ("decode_head.c1_bottleneck.conv.weight", mmseg_deeplabv3plus),
    ("decode_head.aspp_modules.0.conv.weight", mmseg_deeplabv3),
    ("decode_head.psp_modules.0.1.conv.weight", mmseg_pspnet),
    ("decode_head.conv_cat.conv.weight", mmseg_fcn),
)


def from_mmseg_cnn(state_dict: Mapping[str, Tensor]) -> MMSegNetwork:
    """Weights of mmsegmentation's FCN, PSPNet, DeepLabV3, DeepLabV3+ or HRNet, in eval mode.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is that of another network, or on an encoder other than ResNet and HRNet.
    """
    heads = {key: x for key, x in state_dict.items() if key.startswith(("decode_head.", "auxiliary_head."))}
    if "backbone.stage4.0.fuse_layers.0.1.0.weight" in state_dict:
        return _hrnet(state_dict, heads)
    builder = next((builder for sign, builder in _SIGNS if sign in heads), None)
    if builder is None:
        raise ValueError(
            "state_dict is not that of an FCN, PSPNet, DeepLabV3 or DeepLabV3+ of mmsegmentation"
        )
    aux = heads.get("auxiliary_head.convs.0.conv.weight")
    encoder, in_channels, weights = read_mmseg_resnet(state_dict)
    arguments: dict[str, Any] = {
        "num_classes": len(heads["decode_head.conv_seg.weight"]),
        "encoder": encoder,
        "in_channels": in_channels,
        "width": heads["decode_head.conv_seg.weight"].shape[1],
        "aux_width": None if aux is None else len(aux),
    }
    model = builder(**arguments)
    own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
    for key, tensor in heads.items():
        if builder is mmseg_pspnet:
            key = key.replace("decode_head.bottleneck.", "context.pyramid.merge.")
        if key == "decode_head.bottleneck.conv.weight":  # they have image-level features first, we last
            tensor = tensor.roll(-arguments["width"], 1)
        weights[_renamed(key)] = tensor
    return _loaded(model, weights | own, BuiltBy(builder.__name__, arguments))


def _hrnet(state_dict: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> MMSegNetwork:
    body = {key.removeprefix("backbone."): x for key, x in state_dict.items() if key.startswith("backbone.")}
    if "decode_head.convs.0.conv.weight" not in heads:
        raise ValueError("state_dict is that of an HRNet with another head than that of their fcn_hr18")
    arguments: dict[str, Any] = {
        "num_classes": len(heads["decode_head.conv_seg.weight"]),
        "width": len(body["stage2.0.branches.0.0.conv1.weight"]),
        "modules": tuple(count(body, f"stage{stage}.") for stage in (2, 3, 4)),
        "blocks": count(body, "layer1."),
        "in_channels": body["conv1.weight"].shape[1],
    }
    model = mmseg_hrnet(**arguments)
    weights = {_renamed(key): x for key, x in heads.items()}
    fitted = fit_hrnet_weights(body, model.encoder.state_dict())
    weights |= {f"encoder.{key}": x for key, x in fitted.items()}
    return _loaded(model, weights, BuiltBy("mmseg_hrnet", arguments))


def _renamed(key: str) -> str:
    for theirs, ours in _RENAMES:
        key = re.sub(theirs, ours, key)
    return key


def _loaded(model: MMSegNetwork, weights: Mapping[str, Tensor], built_by: BuiltBy) -> MMSegNetwork:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"state_dict is not that of a network of mmsegmentation: {error}") from error
    model.built_by = built_by
    return model.eval()
