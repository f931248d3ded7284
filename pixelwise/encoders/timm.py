"""Any timm backbone that gives a pyramid of feature maps, as an encoder."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, fit
from ..types import STAGES, Features, PerStage
from ..wording import brief
from .base import Encoder, check_output_stride
from .published import fetch
from .swin import decide_shift_by_map

StemPolicy = Literal["repeat", "mean", "zero"]

_RESNET_PARTS = {"conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"}
_STAGE_OF_STRIDE = {2: "c1", 4: "c2", 8: "c3", 16: "c4", 32: "c5"}


class TimmEncoder(Encoder):
    """A backbone of timm, cut behind its last used stage.

    Keys of `body` are timm's own, so a ResNet here has the keys of torchvision's. Backbones that accept
    only multiples of some number of pixels (Swin 4, HRNet 32) are given the image with its border repeated,
    and their maps are cut back. Swin shifts its windows wherever a map is larger than one, see `swin.py`.
    What is behind the last stage is cut off; weights before it that no stage needs (some of HRNet, say) are
    frozen. A dilated ResNet stage keeps the former dilation in its first block, as in torchvision; see
    `dilate`.

    Args:
        name: any name of `timm.list_models()`, with or without a pretrained tag ("resnet50.a1_in1k").
        in_channels: of the image; how pretrained filters are carried over is `stem`.
        pretrained: whether to load timm's weights.
        output_stride: 32, or 16 or 8 to dilate the last stages instead of striding them.
        stages: the stages to give, in any order; None for all that the backbone has (some have no c1).
        stem: what pretrained colour filters become where `in_channels` is not 3, see `adapt_stem`.
        drop_path: probability to drop a residual branch of the last block, for backbones that take one.

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
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        import timm  # takes a second: only those who build an encoder pay it

        if stem not in get_args(StemPolicy):
            raise ValueError(f"stem must be one of {', '.join(get_args(StemPolicy))}, got {stem!r}")
        check_output_stride(output_stride)
        if not timm.is_model(name):
            near = get_close_matches(name, timm.list_models(), n=3)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"timm has no backbone {brief(name)}{hint}")

        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
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
        if drop_path:
            options["drop_path_rate"] = drop_path
        try:
            self.body: nn.Module = timm.create_model(name, in_chans=in_channels, **options)
        except (AssertionError, TypeError, NotImplementedError) as error:
            raise ValueError(f"backbone {name!r} cannot be dilated to stride {output_stride}") from error
        if pretrained:
            colour = fetch(name, **options)
            self.body.load_state_dict(adapt_stem(colour, self.body.state_dict(), stem))
        _cut(self.body)
        decide_shift_by_map(self.body)
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
        if (m := self.multiple) > 1:
            x = fit(x, (-(-height // m) * m, -(-width // m) * m))
        maps = {}
        for stage, map in zip(self.stages, self.body(x), strict=True):
            if self.last_axis_is_channels:
                map = map.permute(0, 3, 1, 2)
            if self.multiple > 1:
                stride = getattr(self.strides, stage)
                map = fit(map, (-(-height // stride), -(-width // stride)))
            maps[stage] = map
        return Features(maps)


# Layers of a stem of three 3x3 convolutions: their position in the files of others -> the name here.
DEEP_STEM = {"0": "conv1.0", "1": "conv1.1", "3": "conv1.3", "4": "conv1.4", "6": "conv1.6", "7": "bn1"}


def adapt_stem(source: dict[str, Tensor], target: dict[str, Tensor], stem: StemPolicy) -> dict[str, Tensor]:
    """`source` with the filters that look at the image made to fit the image channels of `target`.

    With W_0, W_1, W_2 the parts of a filter for red, green and blue, and n channels of the image, the parts
    of the new filter are:

    - one channel, by any policy: W_0 + W_1 + W_2, so that a grey image gives what the same image in colour
      would give;
    - "repeat": part i is 3/n W_(i mod 3), the colours in turn;
    - "mean": each part is 1/n (W_0 + W_1 + W_2);
    - "zero": part i is W_i for i < 3, and 0 for further channels.

    The first two keep the sum over channels. Where there are not three, all channels are normalised alike,
    with the mean of the three means and the mean of the three standard deviations (`per_channel`).

    Args:
        source: state dict of a backbone for three channels.
        target: state dict of the same backbone for any number.
        stem: "repeat", "mean" or "zero".
    """
    adapted = dict(source)
    for key, wanted in target.items():
        weight = source[key]
        if weight.shape == wanted.shape:
            continue
        # A stem that first moves space into channels sees several pixels, each with three colours.
        pixels = weight.shape[1] // 3
        colours = weight.unflatten(1, (pixels, 3))
        n = wanted.shape[1] // pixels
        if n == 1:
            parts = colours.sum(2, keepdim=True)
        elif stem == "repeat":
            parts = colours[:, :, [i % 3 for i in range(n)]] * (3 / n)
        elif stem == "mean":
            parts = colours.sum(2, keepdim=True).repeat_interleave(n, 2) / n
        else:
            parts = torch.zeros_like(colours[:, :, :1]).repeat_interleave(n, 2)
            parts[:, :, : min(3, n)] = colours[:, :, : min(3, n)]
        adapted[key] = parts.flatten(1, 2)
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


def stride_in_first(encoder: Encoder) -> None:
    """Let the first convolution of a block stride, not the 3x3, in a ResNet of bottlenecks, in place.

    As in the ResNets that their authors published, which Caffe and Detectron2 use.

    Raises:
        ValueError: if the encoder is no ResNet of timm with bottlenecks.
    """
    blocks: list[Any] = [block for stage in blocks_of(encoder).values() for block in stage]
    if not blocks or not all("conv3" in dict(block.named_children()) for block in blocks):
        raise ValueError("the encoder must be a ResNet of timm with bottlenecks")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def blocks_of(encoder: Encoder) -> dict[str, list[nn.Module]]:
    """The blocks of each stage of a timm ResNet by stage; of other encoders none.

    >>> from pixelwise.encoders import make_encoder
    >>> {stage: len(blocks) for stage, blocks in blocks_of(make_encoder("resnet18")).items()}
    {'c2': 2, 'c3': 2, 'c4': 2, 'c5': 2}
    """
    body: nn.Module | None = dict(encoder.named_children()).get("body")
    parts = dict(body.named_children()) if body is not None else {}
    if not _RESNET_PARTS.issuperset(parts) or "layer1" not in parts:
        return {}
    return {f"c{n + 1}": list(parts[f"layer{n}"].children()) for n in range(1, 5) if f"layer{n}" in parts}


def maps_of_blocks(
    encoder: Encoder, image: Float[Tensor, "b c H W"]
) -> dict[str, list[Float[Tensor, "b _ _ _"]]]:
    """The map behind every block of a ResNet, by stage; of other encoders the one map of each stage.

    Stages are those of `encoder.stages`, so the last map of each is that of `encoder(image)`.
    """
    blocks = blocks_of(encoder)
    if not blocks:
        return {stage: [map] for stage, map in encoder(image).maps.items()}
    body: Any = encoder.body
    x, maps = encoder.normalize(image), {}
    for name, part in body.named_children():
        stage = f"c{int(name[-1]) + 1}" if name.startswith("layer") else ""
        if not stage:
            x = part(x)
            continue
        behind = []
        for block in blocks[stage]:
            x = block(x)
            behind.append(x)
        if stage in encoder.stages:
            maps[stage] = behind
    return maps


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
        for multiple in (1, 2, 4, 8, 16, 32):
            odd = max(3, 64 // multiple + 1)  # of no larger power of two is the size a multiple
            try:
                body(torch.empty(1, 3, odd * multiple, (odd + 2) * multiple))
            except (AssertionError, RuntimeError):
                continue
            return index, multiple
    raise ValueError(f"backbone {name!r} works at one image size only")


def per_channel(values: Sequence[float], in_channels: int) -> tuple[float, ...]:
    """`values` if there is one per channel, else their mean for each, also for a single channel."""
    if in_channels == len(values):
        return tuple(values)
    return (sum(values) / len(values),) * in_channels
