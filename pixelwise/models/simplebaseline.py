"""Simple baseline for human pose: a ResNet, three transposed convolutions, one heatmap per joint.

Each transposed convolution (4x4, stride 2, 256 channels, batch norm, ReLU) upsamples 2x, from 1/32 to 1/4 of
the crop. It was made to show how little is needed.

Departures: any encoder; crops of any size of at least 32 pixels, whose maps are cut to the cells that lie in
the crop.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, size_of
from ..types import BuiltBy, HeatmapModel, Heatmaps, Paper

PAPER = Paper(
    "Simple Baselines for Human Pose Estimation and Tracking",
    "Xiao, Wu, Wei",
    "ECCV",
    2018,
    "https://arxiv.org/abs/1804.06208",
)

COCO_JOINTS = 17
STRIDE = 4  # of the heatmaps


class SimpleBaseline(HeatmapModel):
    """Three transposed convolutions and a 1x1 convolution on the last stage of an encoder.

    Args:
        encoder: gives c5 at stride 32.
        num_joints: number of heatmaps j.
        width: channels of the transposed convolutions.
    """

    def __init__(self, encoder: Encoder, num_joints: int = COCO_JOINTS, *, width: int = 256) -> None:
        super().__init__()
        if encoder.strides.c5 != 32:
            raise ValueError(f"the encoder must give c5 at stride 32, got {encoder.strides.c5}")
        self.num_joints, self.in_channels = num_joints, encoder.in_channels
        self.encoder = encoder
        layers: list[nn.Module] = []
        for c_in in (encoder.channels.c5, width, width):
            up = nn.ConvTranspose2d(c_in, width, 4, stride=2, padding=1, bias=False)
            nn.init.normal_(up.weight, std=0.001)
            layers += [up, BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.decoder = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, num_joints, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Heatmaps:
        """One map per joint; see `HeatmapModel`."""
        height, width = size_of(image, self.minimum_size)
        maps = self.head(self.decoder(self.encoder(image).c5))
        return Heatmaps(maps[:, :, : -(-height // STRIDE), : -(-width // STRIDE)], (height, width))


# --- builders -------------------------------------------------------------------------------------


def simplebaseline(
    num_joints: int = COCO_JOINTS,
    *,
    encoder: str | Encoder = "resnet50",
    width: int = 256,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SimpleBaseline:
    """Simple baseline for human pose on any encoder.

    Args:
        num_joints: number of heatmaps j.
        encoder: name of a backbone or an encoder.
        width: channels of the transposed convolutions.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.

    Raises:
        ValueError: see `make_encoder`; or if the last stage of the encoder has not stride 32.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stages=("c5",), stem=stem)
    return SimpleBaseline(made, num_joints, width=width)


def simplebaseline_resnet50(
    num_joints: int = COCO_JOINTS,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SimpleBaseline:
    """Simple baseline for human pose on ResNet-50: 34.0 million parameters."""
    return simplebaseline(num_joints, in_channels=in_channels, pretrained=pretrained, stem=stem)


# --- weights --------------------------------------------------------------------------------------


def from_simplebaseline(state_dict: Mapping[str, Tensor]) -> SimpleBaseline:
    """Weights of the authors or of MMPose, on ResNet-50, in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it; of MMPose's file, the entry
            "state_dict".

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    weights = {}
    for key, tensor in state_dict.items():
        name = (
            key.removeprefix("module.")
            .removeprefix("backbone.")
            .removeprefix("head.")
            .removeprefix("keypoint_head.")
        )
        part, _, rest = name.partition(".")
        place = {"deconv_layers": "decoder", "final_layer": "head"}.get(part, f"encoder.body.{part}")
        weights[f"{place}.{rest}"] = tensor
    try:
        num_joints, in_channels = len(weights["head.weight"]), weights["encoder.body.conv1.weight"].shape[1]
        model = simplebaseline_resnet50(num_joints, in_channels=in_channels)
        own = model.state_dict()
        kept = {key: own[key] for key in own if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | kept)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a simple baseline on ResNet-50: {error}") from error
    model.built_by = BuiltBy(
        "simplebaseline_resnet50", {"num_joints": num_joints, "in_channels": in_channels}
    )
    return model.eval()
