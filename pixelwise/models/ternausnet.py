"""TernausNet: a U-Net whose encoder is a VGG, so that it can start from weights of ImageNet.

The convolutions of VGG11 give five maps before their poolings; a centre block and four decoder blocks double
the map and join it with the encoder's of the same size, and a last convolution joins the map at full
resolution (paper Fig. 1). In `ternausnet11` a block is a convolution and a transposed convolution;
`ternausnet16`, the larger network of the authors' package on VGG16, doubles by interpolation and convolves
twice. `from_ternausnet` reads weights of that package (github.com/ternaus/TernausNet).

The decoder on other encoders is `unet(encoder=...)`: what makes these two is the skip at full resolution and
the widths of the decoder.

Departures: where a side is odd, pooling leaves out its last pixel, and the doubled map is extended to the
encoder's; random weights are drawn as He et al. do, because neither the layers of the package nor VGG have
norms that would keep a signal alive; the image is normalised inside, with ImageNet's mean and standard
deviation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import StemPolicy, fetch
from ..layers import fit, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .vgg import copy_layers, initialize_relu, vgg_normalize

PAPER = Paper(
    "TernausNet: U-Net with VGG11 Encoder Pre-Trained on ImageNet for Image Segmentation",
    "Iglovikov, Shvets",
    "arXiv",
    2018,
    "https://arxiv.org/abs/1801.05746",
)


class ConvReLU(nn.Sequential):
    """3x3 convolution with bias, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True))


class DecoderBlock(nn.Sequential):
    """Convolution, transposed convolution that doubles the map; both with ReLU."""

    def __init__(self, c_in: int, c_inner: int, c_out: int) -> None:
        super().__init__(
            ConvReLU(c_in, c_inner),
            nn.ConvTranspose2d(c_inner, c_out, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
        )


class DecoderBlockV2(nn.Sequential):
    """Bilinear doubling, two convolutions with ReLU."""

    def __init__(self, c_in: int, c_inner: int, c_out: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="bilinear"), ConvReLU(c_in, c_inner), ConvReLU(c_inner, c_out)
        )


class TernausNet(DenseModel):
    """VGG's convolutions, a centre block and four decoder blocks.

    Args:
        num_classes: number of channels k of the logits.
        stages: output channels of the convolutions of each of the encoder's five stages.
        blocks: five that double a map: the centre, and the decoder's from the coarsest on.
        in_channels: of the image.
        width: channels of the encoder's first map; the last of the blocks gives half as many.
    """

    def __init__(
        self,
        num_classes: int,
        stages: tuple[tuple[int, ...], ...],
        blocks: Sequence[nn.Module],
        *,
        in_channels: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.normalize = vgg_normalize(in_channels)
        self.encoder = nn.ModuleList()
        c = in_channels
        for widths in stages:
            self.encoder.append(nn.Sequential(*map(ConvReLU, (c, *widths[:-1]), widths)))
            c = widths[-1]
        self.decoder = nn.ModuleList(blocks)
        self.last = ConvReLU(width + width // 2, width // 2)
        self.head = nn.Conv2d(width // 2, num_classes, 1)
        initialize_relu(self)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x, skips = self.normalize(image), []
        for stage in self.encoder:
            skip = stage(x)
            skips.append(skip)
            x = F.max_pool2d(skip, 2)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = torch.cat([fit(block(x), size_of(skip, 1)), skip], dim=1)
        return DenseLogits(self.head(self.last(x)), size)


def ternausnet11(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> TernausNet:
    """The paper's U-Net on VGG11 (pretrained: its encoder begins with a classifier of ImageNet)."""
    w = width
    stages = ((w,), (2 * w,), (4 * w, 4 * w), (8 * w, 8 * w), (8 * w, 8 * w))
    blocks = (
        DecoderBlock(8 * w, 8 * w, 4 * w),
        DecoderBlock(12 * w, 8 * w, 4 * w),
        DecoderBlock(12 * w, 8 * w, 2 * w),
        DecoderBlock(6 * w, 4 * w, w),
        DecoderBlock(3 * w, 2 * w, w // 2),
    )
    model = TernausNet(num_classes, stages, blocks, in_channels=in_channels, width=w)
    return _classifier_inside(model, "vgg11", pretrained, stem)


def ternausnet16(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> TernausNet:
    """The authors' U-Net on VGG16 (pretrained: its encoder begins with a classifier of ImageNet)."""
    w = width
    stages = ((w,) * 2, (2 * w,) * 2, (4 * w,) * 3, (8 * w,) * 3, (8 * w,) * 3)
    blocks = (
        DecoderBlockV2(8 * w, 8 * w, 4 * w),
        DecoderBlockV2(12 * w, 8 * w, 4 * w),
        DecoderBlockV2(12 * w, 8 * w, 4 * w),
        DecoderBlockV2(8 * w, 4 * w, w),
        DecoderBlockV2(3 * w, 2 * w, w // 2),
    )
    model = TernausNet(num_classes, stages, blocks, in_channels=in_channels, width=w)
    return _classifier_inside(model, "vgg16", pretrained, stem)


def _classifier_inside(model: TernausNet, name: str, pretrained: bool, stem: StemPolicy) -> TernausNet:
    if pretrained:
        load_vgg_encoder(model, fetch(name), stem)
    return model


def load_vgg_encoder(
    model: TernausNet, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat"
) -> None:
    """Begin with the convolutions of a classifier, in place.

    Args:
        model: whose encoder gets the weights.
        state_dict: of a VGG11 or VGG16 of torchvision or timm without batch norm, as the model has it.
        stem: what its colour filters become where the image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if it is not that of such a VGG.
    """
    ours = [key.removesuffix(".weight") for key in model.encoder.state_dict() if key.endswith(".weight")]
    weights = [
        key.split(".") for key in state_dict if key.startswith("features.") and key.endswith(".weight")
    ]
    theirs = [f"features.{place}" for place in sorted(int(place) for _, place, _ in weights)]
    wanted = [model.encoder.get_parameter(f"{name}.weight").shape[0] for name in ours]
    if wanted != (widths := [len(state_dict[f"{name}.weight"]) for name in theirs]):
        raise ValueError(f"state_dict is not that of the model's VGG: it has layers of the widths {widths}")
    pairs = zip(ours, theirs, strict=True)
    names = {f"{a}.{part}": f"{b}.{part}" for a, b in pairs for part in ("weight", "bias")}
    found = {a: state_dict[b] for a, b in names.items() if b in state_dict}
    copy_layers(found, model.encoder, tuple(names), stem)


def from_ternausnet(state_dict: Mapping[str, Tensor]) -> TernausNet:
    """Weights of the authors' `UNet11` or `UNet16` in our model, in eval mode.

    The package gives each convolution of the encoder two names; those that begin with `encoder` are read. Of
    `UNet16` the form that interpolates is read, the package's default.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key.

    Raises:
        ValueError: if it is not a state dict of one of the two.
    """
    given = {key.removeprefix("module."): tensor for key, tensor in state_dict.items()}
    try:
        builder = ternausnet16 if "encoder.28.weight" in given else ternausnet11
        first, last = given["encoder.0.weight"], given["final.weight"]
        arguments: dict[str, Any] = {
            "num_classes": len(last),
            "in_channels": first.shape[1],
            "width": len(first),
        }
        model = builder(**arguments)
        classifier = {f"features.{k[8:]}": t for k, t in given.items() if k.startswith("encoder.")}
        load_vgg_encoder(model, classifier)
        places = {name: f"decoder.{i}" for i, name in enumerate(("center", "dec5", "dec4", "dec3", "dec2"))}
        places |= {"dec1": "last", "final": "head"}
        weights = {}
        for key, tensor in given.items():
            name, _, rest = key.partition(".")
            if name in places:
                weights[f"{places[name]}.{rest.removeprefix('block.').replace('conv.', '0.')}"] = tensor
        kept = {k: t for k, t in model.state_dict().items() if k.startswith(("encoder.", "normalize."))}
        model.load_state_dict(weights | kept)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a network of TernausNet: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
