"""DeepLabV3 and DeepLabV3+ as VainF's package builds them (github.com/VainF/DeepLabV3Plus-Pytorch).

DeepLabV3 is torchvision's without its second loss, at output stride 16 with the rates of that stride.
DeepLabV3+ differs from the paper's: its decoder has one 3x3 convolution, and no resizing aligns corners.
`from_vainf` reads the package's weights on ResNets.

Left out: the package's MobileNetV2, whose blocks pad before their first convolution, unlike any other's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..encoders import Encoder, StemPolicy, make_encoder
from ..types import BuiltBy
from .deeplabv3 import TorchvisionDeepLabV3, atrous_rates
from .deeplabv3plus import PAPER as PAPER, DeepLabV3Plus

SKIP = 48  # channels of c2


class VainFDeepLabV3Plus(DeepLabV3Plus):
    """DeepLabV3+ with one convolution in its decoder.

    Args:
        encoder: gives c2 and c5.
        num_classes: number of channels k of the logits.
    """

    align_corners = False

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__(encoder, num_classes, atrous_rates(encoder))
        self.decoder = self.decoder[:1]


def vainf_deeplabv3(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
) -> TorchvisionDeepLabV3:
    """DeepLabV3 on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    return TorchvisionDeepLabV3(made, num_classes, aux_stage=None, rates=atrous_rates(made))


def vainf_deeplabv3plus(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
) -> VainFDeepLabV3Plus:
    """DeepLabV3+ on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c2", "c5"),
    )
    return VainFDeepLabV3Plus(made, num_classes)


_ASPP = {
    "convs.4.1.": "image.1.0.",
    "convs.4.2.": "image.1.1.",
    "convs.": "branches.",
    "project.": "project.0.",
}
_PLAIN = {f"classifier.classifier.0.{key}": f"context.{ours}" for key, ours in _ASPP.items()} | {
    "classifier.classifier.1.": "head.0.0.",
    "classifier.classifier.2.": "head.0.1.",
    "classifier.classifier.4.": "head.1.",
}
_PLUS = {f"classifier.aspp.{key}": f"context.{ours}" for key, ours in _ASPP.items()} | {
    "classifier.project.": "skip.",
    "classifier.classifier.0.": "decoder.0.0.",
    "classifier.classifier.1.": "decoder.0.1.",
    "classifier.classifier.3.": "head.",
}  # beginnings of theirs -> ours; of those that fit, the first is taken


def from_vainf(
    state_dict: Mapping[str, Tensor], *, output_stride: int = 16
) -> TorchvisionDeepLabV3 | VainFDeepLabV3Plus:
    """Weights of DeepLabV3 or DeepLabV3+ on ResNet-50 or ResNet-101 in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path)["model_state"]` gives it, with or without `module.` before each key.
        output_stride: with which it was trained, 16 or 8; weights do not tell.

    Raises:
        ValueError: if it is not a state dict of one of them.
    """
    plus = any(key.removeprefix("module.").startswith("classifier.aspp.") for key in state_dict)
    parts, weights = {"backbone.": "encoder.body."} | (_PLUS if plus else _PLAIN), {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        part = next((part for part in parts if key.startswith(part)), "")
        weights[parts.get(part, "") + key.removeprefix(part)] = tensor
    builder = vainf_deeplabv3plus if plus else vainf_deeplabv3
    deep = "encoder.body.layer3.22.conv1.weight" in weights
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.weight" if plus else "head.1.weight"]),
            "encoder": "resnet101" if deep else "resnet50",
            "output_stride": output_stride,
        }
        model: Any = builder(**arguments)
        if plus:  # theirs joins c2 first
            joined = weights["decoder.0.0.weight"]
            weights["decoder.0.0.weight"] = torch.cat([joined[:, SKIP:], joined[:, :SKIP]], 1)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a DeepLab of VainF: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    found: TorchvisionDeepLabV3 | VainFDeepLabV3Plus = model.eval()
    return found
