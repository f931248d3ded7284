"""RefineNet: every map of the encoder is refined on its way up, coarse to fine.

A RefineNet block (Fig. 3) adapts its inputs by two residual convolution units each (RCU, Fig. 3b), sums
them at the larger size (Fig. 3c), adds to the sum what chained poolings see (CRP, Fig. 3d), and refines by
further units. Four blocks in a cascade take c5 to c2 (Fig. 2c).

Where the paper leaves numbers open, those of the authors' released networks are taken, as
github.com/DrSleep/refinenet-pytorch has them, whose parameters are counted in our tests: maps are reduced by
3x3 convolutions to 512 channels at the lowest level and 256 above; four poolings of 5x5, each pooled, then
convolved; three units behind them; dropout of a half on c4, c5 and before the classifier; no batch norm
outside of the encoder.

Departures: the resize of a lower path has its own gradient, where the authors' code shrinks the gradient.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation",
    "Lin, Milan, Shen, Reid",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1611.06612",
)

STAGES = ("c2", "c3", "c4", "c5")


def convolution(c_in: int, c_out: int) -> nn.Conv2d:
    """3x3 convolution without bias."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)


class ResidualConvUnit(nn.Module):
    """Residual convolution unit (Fig. 3b): a residual block without batch norm.

    Args:
        c: channels of input and output.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1)
        self.conv2 = convolution(c, c)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what two convolutions, each behind a ReLU, find."""
        refined: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return refined


class ChainedResidualPooling(nn.Module):
    """Chained residual pooling (Fig. 3d): each pooling starts from the one before, all are summed.

    Args:
        c: channels of input and output.
        num_stages: number of poolings.
    """

    def __init__(self, c: int, num_stages: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(5, stride=1, padding=2), convolution(c, c)) for _ in range(num_stages)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what wider and wider windows see."""
        total = pooled = F.relu(x)
        for stage in self.stages:
            pooled = stage(pooled)
            total = total + pooled
        return total


class Refinement(nn.Module):
    """RefineNet block of one map of the encoder and, but at the lowest level, the path below (Fig. 3a).

    Args:
        c_in: channels of the map.
        c: channels inside.
        lowest: whether there is no path below.
    """

    def __init__(self, c_in: int, c: int, *, lowest: bool = False) -> None:
        super().__init__()
        self.adapt = nn.Sequential(convolution(c_in, c), ResidualConvUnit(c), ResidualConvUnit(c))
        if not lowest:
            self.adapt.append(convolution(c, c))  # of the fusion
        self.pool = ChainedResidualPooling(c)
        self.out = nn.Sequential(*(ResidualConvUnit(c) for _ in range(3)))

    def forward(
        self, x: Float[Tensor, "b _ h w"], below: Float[Tensor, "b _ _ _"] | None = None
    ) -> Float[Tensor, "b _ h w"]:
        """Adapt, fuse, pool, refine."""
        x = self.adapt(x)
        if below is not None:
            x = x + resize_like(below, x, align_corners=True)
        refined: Tensor = self.out(self.pool(x))
        return refined


class RefineNet(DenseModel):
    """Encoder and four cascaded blocks (Fig. 2c).

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
        width: channels of the blocks; the lowest one has twice as many.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 256) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        _, c2, c3, c4, c5 = encoder.channels
        self.dropout = nn.Dropout(0.5)
        self.lowest = Refinement(c5, 2 * width, lowest=True)
        self.blocks = nn.ModuleList(Refinement(c, width) for c in (c4, c3, c2))
        # What carries a path up belongs to the fusion of the block above it.
        self.carry = nn.ModuleList(convolution(c, width) for c in (2 * width, width, width))
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = self.lowest(self.dropout(features.c5))
        maps = (self.dropout(features.c4), features.c3, features.c2)
        for carry, block, map in zip(self.carry, self.blocks, maps, strict=True):
            x = block(map, carry(x))
        return DenseLogits(self.head(self.dropout(x)), size, align_corners=True)  # b k H/4 W/4


def refinenet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
) -> RefineNet:
    """RefineNet on any encoder."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return RefineNet(made, num_classes, width=width)


def refinenet_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> RefineNet:
    """The paper's RefineNet on ResNet-101."""
    return refinenet(
        num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem
    )


def refinenet_resnet152(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> RefineNet:
    """The paper's RefineNet on ResNet-152."""
    return refinenet(
        num_classes, encoder="resnet152", in_channels=in_channels, pretrained=pretrained, stem=stem
    )


def _keys_of_the_port() -> dict[str, str]:
    """Names of the layers behind the encoder in DrSleep's port, and ours."""
    keys = {"clf_conv": "head"}
    for level in (1, 2, 3, 4):
        block = "lowest" if level == 1 else f"blocks.{level - 2}"
        keys[f"p_ims1d2_outl{level}_dimred"] = f"{block}.adapt.0"
        keys[f"adapt_stage{level}_b2_joint_varout_dimred"] = f"{block}.adapt.3"
        keys[f"mflow_conv_g{level}_b3_joint_varout_dimred"] = f"carry.{level - 1}"
        for i in (1, 2, 3, 4):
            keys[f"mflow_conv_g{level}_pool.0.{i}_outvar_dimred"] = f"{block}.pool.stages.{i - 1}.1"
        for i in (1, 2, 3):
            for theirs, ours in (
                (f"adapt_stage{level}_b.0", f"{block}.adapt.{i}"),
                (f"mflow_conv_g{level}_b.0", f"{block}.out.{i - 1}"),
            ):
                keys[f"{theirs}.{i}_conv"] = f"{ours}.conv1"
                keys[f"{theirs}.{i}_conv_relu_varout_dimred"] = f"{ours}.conv2"
    return keys


def from_drsleep(state_dict: Mapping[str, Tensor]) -> RefineNet:
    """Weights of the released layout (github.com/DrSleep/refinenet-pytorch) in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key.

    Raises:
        ValueError: if it is not a state dict of a RefineNet on ResNet-101 or ResNet-152.
    """
    renamed, weights = _keys_of_the_port(), {}
    for key, tensor in state_dict.items():
        layer, _, kind = key.removeprefix("module.").rpartition(".")
        weights[f"{renamed.get(layer, f'encoder.body.{layer}')}.{kind}"] = tensor
    builder = refinenet_resnet152 if "encoder.body.layer3.35.conv1.weight" in weights else refinenet_resnet101
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.weight"]),
            "in_channels": weights["encoder.body.conv1.weight"].shape[1],
        }
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a RefineNet of DrSleep's port: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
