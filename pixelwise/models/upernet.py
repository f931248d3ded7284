"""UPerNet: a feature pyramid whose top sees the whole scene, and whose levels are classified together.

Pyramid pooling (PSPNet) on the last map starts the top-down path of a feature pyramid (Fig. 4, Sec. 3.2):
each finer map is reduced by a 1x1 convolution and the level above is added to it. All levels are resized to
the finest, concatenated and fused. A second loss on c4 eases training (weight 0.4).

Only the head for objects and stuff is built, which is what is called UPerNet today; the paper also parses
parts, materials and textures from other levels. `swin.py` and `convnext.py` put it on those encoders;
`from_smp` reads SMP's.

Departures: widths and sizes are those of later code (OpenMMLab, Swin Transformer): 512 channels everywhere,
each bin of the pooling included, corners not aligned, and a layer norm on each map of an encoder that ends
its stages without one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder, read_mmseg_resnet
from ..layers import ConvNormAct, LayerNorm2d, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Unified Perceptual Parsing for Scene Understanding",
    "Xiao, Liu, Zhou, Jiang, Sun",
    "ECCV",
    2018,
    "https://arxiv.org/abs/1807.10221",
)

STAGES = ("c2", "c3", "c4", "c5")
BINS = (1, 2, 3, 6)


class PooledTop(nn.Module):
    """Pyramid pooling and a 3x3 convolution; PSPNet's, but every bin has as many channels as the output.

    Args:
        c_in: channels of the last map.
        c_out: channels of each bin and of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvNormAct(c_in, c_out, 1)) for b in BINS
        )
        self.merge = ConvNormAct(c_in + len(BINS) * c_out, c_out)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The top of the pyramid."""
        top: Tensor = self.merge(torch.cat([x, *(resize_like(pool(x), x) for pool in self.pools)], 1))
        return top


class UPerNet(DenseModel):
    """Encoder, pyramid with a pooled top, fusion, classifier; a second classifier on c4.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
        width: channels of every level.
        aux_width: channels within the second classifier; None to train without it.
        norm_eps: epsilon of a layer norm on each map of the encoder; None where its stages end with a norm.
        align_corners: whether logits are resized to the image with corners aligned, as SMP does.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = 512,
        aux_width: int | None = 256,
        norm_eps: float | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder, self.align_corners = encoder, align_corners
        *finer, last = encoder.channels[1:]
        self.norms = nn.ModuleList(
            nn.Identity() if norm_eps is None else LayerNorm2d(c, norm_eps) for c in (*finer, last)
        )
        self.context = PooledTop(last, width)
        self.laterals = nn.ModuleList(ConvNormAct(c, width, 1) for c in finer)
        self.levels = nn.ModuleList(ConvNormAct(width, width) for _ in finer)
        self.fuse = ConvNormAct(len(STAGES) * width, width)
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))
        self.aux_head = (
            None
            if aux_width is None
            else nn.Sequential(
                ConvNormAct(finer[-1], aux_width), nn.Dropout2d(0.1), nn.Conv2d(aux_width, num_classes, 1)
            )
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        *finer, last = (norm(features[stage]) for norm, stage in zip(self.norms, STAGES, strict=True))
        above = self.context(last)
        levels = [above]
        for x, lateral, level in zip(
            reversed(finer), reversed(self.laterals), reversed(self.levels), strict=True
        ):
            x = lateral(x)
            above = x + resize_like(above, x)
            levels.insert(0, level(above))
        coarse = self.head(self.fuse(torch.cat([resize_like(x, levels[0]) for x in levels], 1)))
        aux = () if self.aux_head is None or not self.training else (self.aux_head(finer[-1]),)
        return DenseLogits(coarse, size, aux, align_corners=self.align_corners)  # b k H/4 W/4


def upernet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 512,
    aux_width: int | None = 256,
    norm_eps: float | None = None,
) -> UPerNet:
    """UPerNet on any encoder; for the rest see `UPerNet`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return UPerNet(made, num_classes, width=width, aux_width=aux_width, norm_eps=norm_eps)


# --- weights --------------------------------------------------------------------------------------

# Names of transformers' head, as regular expressions, and ours.
TRANSFORMERS_HEAD = (
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"context.pools.\1.1."),
    (r"^decode_head\.bottleneck\.", "context.merge."),
    (r"^decode_head\.lateral_convs\.", "laterals."),
    (r"^decode_head\.fpn_convs\.", "levels."),
    (r"^decode_head\.fpn_bottleneck\.", "fuse."),
    (r"^decode_head\.classifier\.", "head.1."),
    (r"^auxiliary_head\.convs\.0\.", "aux_head.0."),
    (r"^auxiliary_head\.classifier\.", "aux_head.2."),
    (r"^((?:context|laterals|levels|fuse|aux_head)\b.*)\.conv\.", r"\1.0."),
    (r"^((?:context|laterals|levels|fuse|aux_head)\b.*)\.batch_norm\.", r"\1.1."),
    (r"^backbone\.hidden_states_norms\.stage([1-4])\.", lambda match: f"norms.{int(match[1]) - 1}."),
)


def rename_mmseg_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The heads of OpenMMLab's UPerNet in the names of transformers; what else is there is left out."""
    names = {".conv_seg.": ".classifier.", ".bn.": ".batch_norm."}
    renamed = {}
    for key, tensor in state_dict.items():
        if key.startswith(("decode_head.", "auxiliary_head.")):
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            renamed[key] = tensor
    return renamed


def head_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Classes and widths of the head of transformers' UPerNet.

    Raises:
        ValueError: if there is no such head.
    """
    try:
        aux = state_dict.get("auxiliary_head.convs.0.conv.weight")
        return {
            "num_classes": len(state_dict["decode_head.classifier.weight"]),
            "width": len(state_dict["decode_head.bottleneck.conv.weight"]),
            "aux_width": None if aux is None else len(aux),
        }
    except KeyError as error:
        raise ValueError(f"state_dict is not that of transformers' UPerNet: {error} is missing") from error


def load_upernet(
    build: Callable[..., UPerNet],
    arguments: Mapping[str, Any],
    head: Mapping[str, Tensor],
    encoder: Mapping[str, Tensor],
    called: str,
) -> UPerNet:
    """The network with published weights, in eval mode.

    Args:
        build: makes it.
        arguments: of `build`, but for those of the head.
        head: weights in the names of transformers; what else is there is left out.
        encoder: weights in our names.
        called: the network, in the sentence of the error.

    Raises:
        ValueError: if the weights do not fit.
    """
    weights = dict(encoder)
    for key, tensor in head.items():
        if not key.startswith("backbone."):
            for theirs, ours in TRANSFORMERS_HEAD:
                key = re.sub(theirs, ours, key)
            weights[key] = tensor
    arguments = {**head_arguments(head), **arguments}
    model = build(**arguments)
    normalize = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
    try:
        model.load_state_dict(weights | normalize)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"state_dict does not fit {called}: {reason}") from error
    model.built_by = BuiltBy(build.__name__, arguments)
    return model.eval()


def from_mmseg_upernet(state_dict: Mapping[str, Tensor]) -> UPerNet:
    """Weights of OpenMMLab's UPerNet on ResNet (github.com/open-mmlab/mmsegmentation), in eval mode.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    head = rename_mmseg_head(state_dict)
    encoder, in_channels, weights = read_mmseg_resnet(state_dict)
    arguments = {"encoder": encoder, "in_channels": in_channels}
    return load_upernet(upernet, arguments, head, weights, "UPerNet on ResNet")
