"""Networks whose feature maps tell content and style: VGG-19, as in the paper, or any encoder."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, WeightsUnavailable, fetch, make_encoder
from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize

# Output channels of the convolutions between two poolings (Simonyan and Zisserman 2014, Table 1, column E).
WIDTHS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
# Sec. 3 of the paper.
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CONTENT_LAYER = "conv4_2"
# Means of blue, green and red, from which the authors' network expects values of 0..255 to be taken.
AUTHORS_MEAN = (0.40760392, 0.45795686, 0.48501961)


class StyleNetwork(nn.Module, ABC):
    """Image in [0, 1] -> feature maps by name. Its weights are never trained.

    Attributes:
        content_layer: the map that stands for the content.
        style_layers: the maps that stand for the style.
        filters: where the weights are from, for messages.
        minimum_side: shortest side of an image in pixels.
    """

    content_layer: str
    style_layers: tuple[str, ...]
    filters: str
    minimum_side: int

    @abstractmethod
    def forward(self, image: Float[Tensor, "1 3 H W"]) -> dict[str, Tensor]:
        """The maps of content and style, each "1 c h w"."""


class Vgg19(StyleNetwork):
    """VGG-19 up to conv5_1, with average pooling as the paper has it (Sec. 2).

    Maps have the names of the convolutions and are taken behind their ReLU. Filters are random
    (`load_vgg19` replaces them): He initialisation without biases, under which the deeper maps say less.

    Args:
        style_layers: which maps stand for the style.
        content_layer: which map stands for the content.
        seed: of the random filters.

    Raises:
        ValueError: if there is no such layer.
    """

    def __init__(
        self,
        style_layers: tuple[str, ...] = STYLE_LAYERS,
        content_layer: str = CONTENT_LAYER,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        known = [f"conv{i}_{j}" for i, part in enumerate(WIDTHS, 1) for j in range(1, len(part) + 1)]
        wanted = {content_layer, *style_layers}
        if unknown := sorted(wanted - set(known)):
            raise ValueError(f"VGG-19 has the layers {', '.join(known)}, not {unknown[0]}")
        self.style_layers, self.content_layer = style_layers, content_layer
        self.normalize = Normalize()
        last = max(map(known.index, wanted))
        random = torch.Generator().manual_seed(seed)
        self.convolutions = nn.ModuleDict()
        c_in = 3
        for name in known[: last + 1]:
            c_out = WIDTHS[int(name[4]) - 1][int(name[6]) - 1]
            convolution = nn.Conv2d(c_in, c_out, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=random)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.convolutions[name] = convolution
            c_in = c_out
        self.minimum_side = 2 ** (int(known[last][4]) - 1)
        self.filters = "random filters"
        self.requires_grad_(False).eval()

    def forward(self, image: Float[Tensor, "1 3 H W"]) -> dict[str, Tensor]:
        """The maps of content and style."""
        maps, x = {}, self.normalize(image)
        for name, convolution in self.convolutions.items():
            if name.endswith("_1") and name != "conv1_1":
                x = nn.functional.avg_pool2d(x, 2)
            x = convolution(x).relu()
            if name == self.content_layer or name in self.style_layers:
                maps[name] = x
        return maps


def load_vgg19(network: Vgg19, state_dict: Mapping[str, Tensor], filters: str) -> None:
    """Begin with published filters, in place.

    Args:
        network: gets the filters.
        state_dict: of a VGG-19 without batch norm of torchvision or timm ("features.0.weight", ...), or the
            authors' normalised one ("conv1_1.weight", ...; blue, green and red from 0 to 255).
        filters: where they are from, for messages.

    Raises:
        ValueError: if they are not those of VGG-19.
    """
    weights = {key: value for key, value in state_dict.items() if not key.startswith(("classifier", "head"))}
    of_authors = "conv1_1.weight" in weights
    if not of_authors:
        # torchvision and timm number convolutions, activations and poolings alike, in their order.
        numbers = sorted({int(found[1]) for key in weights if (found := re.match(r"features\.(\d+)\.", key))})
        names = [f"conv{i}_{j}" for i, part in enumerate(WIDTHS, 1) for j in range(1, len(part) + 1)]
        if len(numbers) != len(names):
            raise ValueError(
                f"the weights are not those of VGG-19: it has 16 convolutions, not {len(numbers)}"
            )
        weights = {
            f"{name}.{part}": weights[f"features.{number}.{part}"]
            for name, number in zip(names, numbers, strict=True)
            for part in ("weight", "bias")
            if f"features.{number}.{part}" in weights
        }
    own = network.convolutions.state_dict()
    try:
        fitting = {key: weights[key] for key in own}
        if of_authors:
            fitting["conv1_1.weight"] = fitting["conv1_1.weight"].flip(1)
        network.convolutions.load_state_dict(fitting)
    except (KeyError, RuntimeError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"the weights are not those of VGG-19: {first}") from error
    mean, std = (AUTHORS_MEAN[::-1], (1 / 255,) * 3) if of_authors else (IMAGENET_MEAN, IMAGENET_STD)
    network.normalize = Normalize(mean, std).to(network.normalize.mean.device)
    network.filters = filters


class EncoderNetwork(StyleNetwork):
    """Any encoder: all its stages stand for the style, the last but one for the content."""

    def __init__(self, encoder: Encoder, filters: str) -> None:
        super().__init__()
        if encoder.in_channels != 3:
            raise ValueError(f"style transfer takes RGB images, the encoder {encoder.in_channels} channels")
        self.encoder = encoder
        self.style_layers = encoder.stages
        self.content_layer = encoder.stages[max(0, len(encoder.stages) - 2)]
        self.minimum_side = 32
        self.filters = filters
        self.requires_grad_(False).eval()

    def forward(self, image: Float[Tensor, "1 3 H W"]) -> dict[str, Tensor]:
        """The stages."""
        maps: dict[str, Tensor] = self.encoder(image).maps
        return maps


def make_network(
    encoder: str | Encoder = "vgg19", weights: str | Path | None = None, *, seed: int = 0
) -> StyleNetwork:
    """A network by name.

    Args:
        encoder: "vgg19", or an encoder as `pixelwise.encoders.make_encoder` takes it.
        weights: "imagenet" for published weights, "random", or for VGG-19 the path of a file; None for
            published weights where they can be had, and else random filters: `filters` says which. A given
            encoder keeps its own weights.
        seed: of random filters.

    Raises:
        ValueError: if there is no such encoder, or the weights cannot be had or do not fit.
    """
    if isinstance(encoder, Encoder):
        return EncoderNetwork(encoder, "the filters of the encoder given")
    if encoder != "vgg19" and weights not in (None, "imagenet", "random"):
        raise ValueError(f"weights from a file are for vgg19, not for {encoder}: take imagenet or random")
    if weights in (None, "imagenet"):
        try:
            return _build(encoder, "imagenet", seed)
        except WeightsUnavailable:
            if weights is not None:
                raise
    return _build(encoder, weights or "random", seed)


def _build(encoder: str, weights: str | Path, seed: int) -> StyleNetwork:
    filters = {"imagenet": "filters from ImageNet", "random": "random filters"}.get(
        str(weights), str(weights)
    )
    if encoder != "vgg19":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return EncoderNetwork(make_encoder(encoder, pretrained=weights == "imagenet"), filters)
    network = Vgg19(seed=seed)
    if weights == "imagenet":
        load_vgg19(network, fetch("vgg19"), filters)
    elif weights != "random":
        load_vgg19(network, _read(Path(weights)), filters)
    return network


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict, never unpickled beyond tensors."""
    if not path.is_file():
        raise ValueError(f"there is no file of weights {path} (or say imagenet or random)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state_dict: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything
        raise ValueError(f"cannot read {path}: it is not a file of weights") from error
    if not isinstance(state_dict, dict) or not all(isinstance(x, Tensor) for x in state_dict.values()):
        raise ValueError(f"{path} holds no state dict of tensors")
    return state_dict
