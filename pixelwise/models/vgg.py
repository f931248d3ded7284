"""VGG16: thirteen 3x3 convolutions in five stages, then three fully connected layers.

Not built by itself: FCN, SegNet and others start from it. Here are its numbers, and its published weights
under the names that Caffe's models gave the layers.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import StemPolicy
from ..encoders.timm import adapt_stem, per_channel
from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..types import Paper

PAPER = Paper(
    "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    "Simonyan, Zisserman",
    "ICLR 2015",
    2014,
    "https://arxiv.org/abs/1409.1556",
)

# Output channels of the convolutions of each stage (Table 1, column D).
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CONVOLUTIONS = tuple(
    f"conv{stage}_{i}" for stage, widths in enumerate(VGG16, 1) for i in range(1, len(widths) + 1)
)


def vgg_normalize(in_channels: int) -> Normalize:
    """ImageNet's mean and standard deviation, averaged over the colours where there are not three."""
    return Normalize(per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels))


def initialize_relu(layers: nn.Module) -> None:
    """Random weights that keep the variance through ReLUs, biases zero (He et al. 2015, as SegNet does)."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def caffe_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A VGG16 of torchvision or timm, with or without batch norm, under Caffe's names of its layers.

    Convolutions become conv1_1 to conv5_3, their norms conv1_1_bn and so on, the rest fc6, fc7 and fc8. The
    tensors are not touched: a fully connected layer may have two axes (torchvision) or four (timm).

    Args:
        state_dict: keys "features.0.weight", "classifier.0.weight" or "pre_logits.fc1.weight" ...

    Raises:
        ValueError: if these are not the layers of a VGG16.
    """
    # A convolution has four axes; the layer with a single one behind it is its batch norm.
    names = {"pre_logits.fc1": "fc6", "pre_logits.fc2": "fc7", "head.fc": "fc8"}
    names |= {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"}
    features = sorted({int(key.split(".")[1]) for key in state_dict if key.startswith("features.")})
    convolutions = [i for i in features if state_dict[f"features.{i}.weight"].ndim == 4]
    widths = [len(state_dict[f"features.{i}.weight"]) for i in convolutions]
    if widths != [c for stage in VGG16 for c in stage]:
        raise ValueError(f"state_dict is not that of a VGG16: its convolutions have the widths {widths}")
    for i, name in zip(convolutions, CONVOLUTIONS, strict=True):
        names |= {f"features.{i}": name, f"features.{i + 1}": f"{name}_bn"}
    renamed = {}
    for key, tensor in state_dict.items():
        layer, _, parameter = key.rpartition(".")
        if layer not in names:
            raise ValueError(f"state_dict is not that of a VGG16: {key} has no place in it")
        renamed[f"{names[layer]}.{parameter}"] = tensor
    return renamed


def convolutionize(
    weight: Float[Tensor, "c_out n"], kernel: int
) -> Float[Tensor, "c_out _ {kernel} {kernel}"]:
    """The weights of a fully connected layer on a flattened map, as those of a convolution (FCN, Fig. 2).

    On a map of just `kernel` x `kernel` both give the same; on a larger one the convolution gives what the
    layer would give for each window.

    Args:
        weight: n = channels * kernel * kernel.
        kernel: side of the map that the layer was made for, in pixels of that map.

    Raises:
        ValueError: if n is no multiple of kernel * kernel.
    """
    c_out, n = weight.shape
    if n % kernel**2:
        raise ValueError(
            f"a layer on {kernel} x {kernel} pixels has a multiple of {kernel**2} inputs, not {n}"
        )
    return weight.view(c_out, -1, kernel, kernel)


def copy_layers(
    source: Mapping[str, Tensor], target: nn.Module, keys: Sequence[str], stem: StemPolicy = "repeat"
) -> None:
    """Copy `source[key]` to `target` for all `keys`.

    Args:
        source: state dict.
        target: model that gets the weights, in place.
        keys: names in both.
        stem: what filters for colours become where the target's image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if `source` lacks one of `keys`.
    """
    if missing := [key for key in keys if key not in source]:
        raise ValueError(f"state_dict lacks {missing[0]}")
    state = target.state_dict()
    wanted = {key: state[key] for key in keys}
    fitting = adapt_stem({key: source[key] for key in keys}, wanted, stem)
    with torch.no_grad():
        for key in keys:
            state[key].copy_(fitting[key])
