"""ConvNeXt with UPerNet: a ResNet with the habits of a Swin Transformer, decoded by a feature pyramid.

The encoder is timm's, with its weights. Each of its four maps passes a layer norm of its own before UPerNet
(`upernet.py`) decodes them (Sec. 4).

`from_transformers_convnext` reads transformers' UPerNet on ConvNeXt, and so the files
openmmlab/upernet-convnext-* of the Hugging Face hub; `from_mmseg_convnext` those of OpenMMLab's model zoo
and of the authors.

Departures: none known.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..encoders import Encoder, StemPolicy, TimmEncoder, make_encoder
from ..types import BuiltBy, Paper
from .hrnet import count
from .upernet import STAGES, TRANSFORMERS_HEAD, UPerNet, head_arguments, rename_mmseg_head

PAPER = Paper(
    "A ConvNet for the 2020s",
    "Liu, Mao, Wu, Feichtenhofer, Darrell, Xie",
    "CVPR",
    2022,
    "https://arxiv.org/abs/2201.03545",
)

EPSILON = 1e-6  # of the layer norms
SIZES: dict[
    tuple[int, tuple[int, ...]], str
] = {  # channels of the first stage and blocks of each, and timm's name
    (40, (2, 2, 6, 2)): "convnext_atto",
    (48, (2, 2, 6, 2)): "convnext_femto",
    (64, (2, 2, 6, 2)): "convnext_pico",
    (80, (2, 2, 8, 2)): "convnext_nano",
    (96, (3, 3, 9, 3)): "convnext_tiny",
    (96, (3, 3, 27, 3)): "convnext_small",
    (128, (3, 3, 27, 3)): "convnext_base",
    (192, (3, 3, 27, 3)): "convnext_large",
    (256, (3, 3, 27, 3)): "convnext_xlarge",
}


def convnext_upernet(
    num_classes: int,
    *,
    encoder: str | Encoder = "convnext_tiny",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 512,
    aux_width: int | None = 256,
) -> UPerNet:
    """Any ConvNeXt of timm with UPerNet, without drop path; see `UPerNet`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return UPerNet(made, num_classes, width=width, aux_width=aux_width, norm_eps=EPSILON)


def _published(
    name: str, num_classes: int, in_channels: int, pretrained: bool, stem: StemPolicy, drop_path: float
) -> UPerNet:
    encoder = TimmEncoder(
        name, in_channels=in_channels, pretrained=pretrained, stages=STAGES, stem=stem, drop_path=drop_path
    )
    return UPerNet(encoder, num_classes, norm_eps=EPSILON)


def convnext_tiny_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """ConvNeXt-T with UPerNet: 60 million parameters."""
    return _published("convnext_tiny", num_classes, in_channels, pretrained, stem, 0.4)


def convnext_small_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """ConvNeXt-S with UPerNet: 82 million parameters."""
    return _published("convnext_small", num_classes, in_channels, pretrained, stem, 0.3)


def convnext_base_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """ConvNeXt-B with UPerNet: 122 million parameters."""
    return _published("convnext_base", num_classes, in_channels, pretrained, stem, 0.4)


def convnext_large_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """ConvNeXt-L with UPerNet: 235 million parameters."""
    return _published("convnext_large", num_classes, in_channels, pretrained, stem, 0.4)


def convnext_xlarge_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """ConvNeXt-XL with UPerNet: 391 million parameters."""
    return _published("convnext_xlarge", num_classes, in_channels, pretrained, stem, 0.4)


# --- weights --------------------------------------------------------------------------------------

_NAMES = (
    *TRANSFORMERS_HEAD,
    (r"^backbone\.embeddings\.patch_embeddings\.", "encoder.body.stem_0."),
    (r"^backbone\.embeddings\.layernorm\.", "encoder.body.stem_1."),
    (r"^backbone\.encoder\.stages\.(\d)\.downsampling_layer\.", r"encoder.body.stages_\1.downsample."),
    (r"^backbone\.encoder\.stages\.(\d)\.layers\.(\d+)\.", r"encoder.body.stages_\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
)
_UNUSED = re.compile(r"^backbone\.layernorm\.")  # the norm behind the last block of a classifier


def from_transformers_convnext(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> UPerNet:
    """Weights of transformers' UperNetForSemanticSegmentation on a ConvNeXt backbone, in eval mode.

    Args:
        state_dict: of a model, or of a file of the hub, such as openmmlab/upernet-convnext-tiny.
        config: not needed; classes and sizes are read from the weights.

    Raises:
        ValueError: if it is not a state dict of that network in one of the sizes that timm has.
    """
    arguments = head_arguments(state_dict)
    weights: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if not _UNUSED.search(key):
            for theirs, ours in _NAMES:
                key = re.sub(theirs, ours, key)
            weights[key] = tensor
    first = weights.get("encoder.body.stem_0.weight")
    if first is None:
        raise ValueError("state_dict is not that of UPerNet on ConvNeXt: it has no patch embedding")
    depths = tuple(count(weights, f"encoder.body.stages_{i}.blocks.") for i in range(4))
    if (len(first), depths) not in SIZES:
        sizes = f"a first stage of {len(first)} channels and {depths} blocks"
        raise ValueError(f"state_dict is that of no ConvNeXt that timm has: it has {sizes}")
    arguments |= {"encoder": SIZES[len(first), depths], "in_channels": first.shape[1]}
    model = convnext_upernet(**arguments)
    own = model.state_dict()
    for key, tensor in weights.items():  # small sizes of timm have 1x1 convolutions for linear layers
        if key in own and tensor.shape == own[key].shape[:2]:
            weights[key] = tensor.reshape(own[key].shape)
    normalize = {key: tensor for key, tensor in own.items() if ".normalize." in key}
    try:
        model.load_state_dict({**weights, **normalize})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"state_dict does not fit UPerNet on ConvNeXt: {reason}") from error
    model.built_by = BuiltBy("convnext_upernet", arguments)
    return model.eval()


_MMSEG: tuple[
    tuple[str, str | Callable[[re.Match[str]], str]], ...
] = (  # names of OpenMMLab and of the authors, and those of transformers
    (r"^backbone\.downsample_layers\.0\.0\.", "backbone.embeddings.patch_embeddings."),
    (r"^backbone\.downsample_layers\.0\.1\.", "backbone.embeddings.layernorm."),
    (r"^backbone\.downsample_layers\.([1-3])\.", r"backbone.encoder.stages.\1.downsampling_layer."),
    (r"^backbone\.stages\.(\d)\.(\d+)\.", r"backbone.encoder.stages.\1.layers.\2."),
    (
        r"^backbone\.norm([0-3])\.",
        lambda found: f"backbone.hidden_states_norms.stage{int(found[1]) + 1}.",
    ),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv([12])\.", r".pwconv\1."),
    (r"^(.*\.layers\..*)\.norm\.", r"\1.layernorm."),
    (r"^(.*\.layers\..*)\.gamma$", r"\1.layer_scale_parameter"),
)


def from_mmseg_convnext(state_dict: Mapping[str, Tensor]) -> UPerNet:
    """Weights of OpenMMLab's UPerNet on ConvNeXt (github.com/open-mmlab/mmsegmentation), in eval mode.

    The files of the authors (github.com/facebookresearch/ConvNeXt) are read as well.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network in one of the sizes that timm has.
    """
    weights = rename_mmseg_head(state_dict)
    for key, tensor in state_dict.items():
        if key.startswith("backbone."):
            for theirs, ours in _MMSEG:
                key = re.sub(theirs, ours, key)
            weights[key] = tensor
    return from_transformers_convnext(weights)
