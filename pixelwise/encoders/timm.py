"""Any timm backbone that gives a pyramid of feature maps, as an encoder."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..types import STAGES, Features, PerStage
from ..wording import brief
from .base import Encoder

StemPolicy = Literal["repeat", "mean", "zero"]

_STAGE_OF_STRIDE = {2: "c1", 4: "c2", 8: "c3", 16: "c4", 32: "c5"}


class TimmEncoder(Encoder):
    """A backbone of timm, cut behind its last used stage.

    Keys of `body` are timm's own, so a ResNet here has the keys of torchvision's. Backbones that accept
    only multiples of 32 pixels (Swin, HRNet) are given the image with its border repeated, and their maps
    are cut back. What is behind the last stage is cut off; weights before it that no stage needs (some of
    HRNet, say) are frozen. A dilated ResNet stage keeps the former dilation in its first block, as in
    torchvision; see `dilate`.

    Args:
        name: any name of `timm.list_models()`, with or without a pretrained tag ("resnet50.a1_in1k").
        in_channels: of the image; how pretrained filters are carried over is `stem`.
        pretrained: whether to load timm's weights.
        output_stride: 32, or 16 or 8 to dilate the last stages instead of striding them.
        stages: the stages to give, in any order; None for all that the backbone has (some have no c1).
        stem: where `in_channels` is not 3, pretrained colour filters are used in turn ("repeat"), by their
            mean ("mean"), both scaled by 3 / in_channels, or with zeros for further channels ("zero").

    Raises:
        ValueError: if timm has no such backbone, if it gives no pyramid (plain ViTs), works at one image
            size only, cannot be dilated, lacks a stage that was asked for, or its weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        output_stride: int = 32,
        stages: Sequence[str] | None = None,
        stem: StemPolicy = "repeat",
    ) -> None:
        super().__init__()
        import timm  # takes a second: only those who build an encoder pay it

        if stem not in get_args(StemPolicy):
            raise ValueError(f"stem must be one of {', '.join(get_args(StemPolicy))}, got {stem!r}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        if not timm.is_model(name):
            near = get_close_matches(name, timm.list_models(), n=3)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"timm has no backbone {brief(name)}{hint}")

        options: dict[str, Any] = {"features_only": True}
        if name.startswith("swin"):
            options["strict_img_size"] = False
        index, self.multiple = _probe(name, options)
        if missing := [stage for stage in stages or () if stage not in index]:
            raise ValueError(f"backbone {name!r} gives {', '.join(index)}: it has no {missing[0]}")
        wanted = tuple(stage for stage in index if stages is None or stage in stages)

        options["out_indices"] = tuple(index[stage] for stage in wanted)
        if output_stride != 32:
            options["output_stride"] = output_stride
        try:
            self.body: nn.Module = timm.create_model(name, in_chans=in_channels, **options)
        except (AssertionError, TypeError, NotImplementedError) as error:
            raise ValueError(f"backbone {name!r} cannot be dilated to stride {output_stride}") from error
        if pretrained:
            try:
                colour = timm.create_model(name, pretrained=True, **options).state_dict()
            except (RuntimeError, OSError) as error:
                raise ValueError(f"the pretrained weights of {name!r} cannot be had: {error}") from error
            self.body.load_state_dict(adapt_stem(colour, self.body.state_dict(), stem))
        _cut(self.body)
        _freeze_idle(self.body, in_channels)

        self.in_channels = in_channels
        self.stages = wanted
        info: Any = self.body.feature_info
        channels = dict(zip(wanted, info.channels(), strict=True))
        self.channels = PerStage(*(channels.get(stage, 0) for stage in STAGES))
        strides = dict(zip(wanted, info.reduction(), strict=True))
        self.strides = PerStage(*(strides.get(stage, 0) for stage in STAGES))
        self.last_axis_is_channels = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        config = timm.get_pretrained_cfg(name)
        self.normalize = Normalize(
            per_channel(config.mean if config else IMAGENET_MEAN, in_channels),
            per_channel(config.std if config else IMAGENET_STD, in_channels),
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        height, width = image.shape[-2:]
        x = self.normalize(image)
        if self.multiple > 1:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        maps = {}
        for stage, map in zip(self.stages, self.body(x), strict=True):
            if self.last_axis_is_channels:
                map = map.permute(0, 3, 1, 2)
            if self.multiple > 1:
                stride = getattr(self.strides, stage)
                map = map[:, :, : -(-height // stride), : -(-width // stride)]
            maps[stage] = map
        return Features(maps)


def adapt_stem(source: dict[str, Tensor], target: dict[str, Tensor], stem: StemPolicy) -> dict[str, Tensor]:
    """`source` with the filters that look at the image made to fit the image channels of `target`.

    Args:
        source: state dict of a backbone for three channels.
        target: state dict of the same backbone for any number.
        stem: see `TimmEncoder`.
    """
    adapted = dict(source)
    for key, wanted in target.items():
        weight = source[key]
        if weight.shape == wanted.shape:
            continue
        c, n = weight.shape[1], wanted.shape[1]
        if stem == "repeat":
            adapted[key] = weight[:, [i % c for i in range(n)]] * (c / n)
        elif stem == "mean":
            adapted[key] = weight.mean(1, keepdim=True).expand_as(wanted) * (c / n)
        else:
            adapted[key] = torch.zeros_like(wanted)
            adapted[key][:, : min(c, n)] = weight[:, : min(c, n)]
    return adapted


def dilate(encoder: Encoder, stage: str, *rates: int) -> None:
    """Set the dilation of every 3x3 convolution in a stage of a ResNet, in place.

    DeepLab's multi-grid and the authors' PSPNet dilate also the first block of a stage, which timm and
    torchvision leave at the dilation of the stage before.

    Args:
        encoder: on a ResNet of timm or one of its relatives, built with an output stride that leaves the
            stage without stride.
        stage: "c2" to "c5".
        rates: one per block; further blocks take the last one.

    Raises:
        ValueError: if it is no such encoder, or the stage still strides.
    """
    body = dict(encoder.named_modules()).get(f"body.layer{int(stage[1]) - 1}")
    if not isinstance(body, nn.Sequential):
        raise ValueError("setting dilations needs an encoder that is a ResNet of timm and has that stage")
    for i, block in enumerate(body):
        rate = rates[min(i, len(rates) - 1)]
        for convolution in block.modules():
            if isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (3, 3):
                if convolution.stride != (1, 1):
                    raise ValueError(f"stage {stage} strides: build the encoder with a smaller output stride")
                convolution.dilation = convolution.padding = (rate, rate)


def _cut(body: Any) -> None:
    """Remove the blocks behind the last stage where timm leaves them in place (EfficientNet and kin)."""
    from timm.models.efficientnet import EfficientNetFeatures
    from timm.models.mobilenetv3 import MobileNetV3Features

    if isinstance(body, EfficientNetFeatures | MobileNetV3Features):
        container, _, number = body.feature_info.module_name()[-1].partition(".")
        del body.blocks[int(number) + 1 if container == "blocks" else 0 :]


def _freeze_idle(body: nn.Module, in_channels: int) -> None:
    """Freeze parameters that no map depends on, found by a backward pass without storage."""
    body.eval()
    with torch.device("meta"), torch.enable_grad():
        parameters = {key: torch.empty(p.shape, requires_grad=True) for key, p in body.named_parameters()}
        buffers = {key: torch.empty(b.shape, dtype=b.dtype) for key, b in body.named_buffers()}
        maps = functional_call(body, parameters | buffers, (torch.empty(1, in_channels, 96, 160),))
        torch.stack([map.sum() for map in maps]).sum().backward()
    for key, parameter in body.named_parameters():
        parameter.requires_grad_(parameters[key].grad is not None)
    body.train()


def _probe(name: str, options: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Position of each stage among timm's maps, and the number that image sizes must be a multiple of.

    Costs no memory and little time: the backbone is built without storage.
    """
    import timm

    with torch.device("meta"):
        try:
            body: Any = timm.create_model(name, **options).eval()
        except RuntimeError as error:
            raise ValueError(f"backbone {name!r} gives no feature maps") from error
        strides = body.feature_info.reduction()
        places = zip(strides, body.feature_info.out_indices, strict=True)
        index = {_STAGE_OF_STRIDE[stride]: i for stride, i in places if stride in _STAGE_OF_STRIDE}
        if len(set(strides)) < len(strides) or "c5" not in index:
            raise ValueError(f"backbone {name!r} gives no pyramid: the strides of its maps are {strides}")
        for multiple, size in ((1, (65, 97)), (32, (96, 160))):
            try:
                body(torch.empty(1, 3, *size))
            except (AssertionError, RuntimeError):
                continue
            return index, multiple
    raise ValueError(f"backbone {name!r} works at one image size only")


def per_channel(values: Sequence[float], in_channels: int) -> tuple[float, ...]:
    """`values` if there is one per channel, else their mean for each."""
    if in_channels == len(values):
        return tuple(values)
    return (sum(values) / len(values),) * in_channels
