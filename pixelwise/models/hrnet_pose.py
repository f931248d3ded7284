"""HRNet for human pose: one person's crop -> one heatmap per joint, at a quarter of the crop's size.

The finest branch of HRNet, which has seen all others at every exchange, and one 1x1 convolution: that is the
whole network. People are found by a detector first and cut out (`data.object_crops`); each crop is 256 x 192
or 384 x 288 pixels.

Departure: crops of any size of at least 32 pixels are taken.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import HRNet, StemPolicy, fit_hrnet_weights
from ..layers import size_of
from ..types import BuiltBy, HeatmapModel, Heatmaps, Paper

PAPER = Paper(
    "Deep High-Resolution Representation Learning for Human Pose Estimation",
    "Sun, Xiao, Liu, Wang",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1902.09212",
)

COCO_JOINTS = 17


class HRNetPose(HeatmapModel):
    """The finest branch of an HRNet, and a 1x1 convolution.

    Args:
        encoder: gives c2.
        num_joints: number of heatmaps j.
    """

    def __init__(self, encoder: HRNet, num_joints: int = COCO_JOINTS) -> None:
        super().__init__()
        self.num_joints, self.in_channels = num_joints, encoder.in_channels
        self.encoder = encoder
        self.head = nn.Conv2d(encoder.channels.c2, num_joints, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Heatmaps:
        """One map per joint; see `HeatmapModel`."""
        size = size_of(image, self.minimum_size)
        return Heatmaps(self.head(self.encoder(image).c2), size)


# --- builders -------------------------------------------------------------------------------------


def hrnet_pose(
    num_joints: int = COCO_JOINTS,
    *,
    width: int = 32,
    modules: tuple[int, int, int] = (1, 4, 3),
    blocks: int = 4,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetPose:
    """HRNet for human pose, of any width and depth.

    Args:
        num_joints: number of heatmaps j.
        width: channels of the finest branch.
        modules: exchange modules of stages 2, 3 and 4.
        blocks: residual blocks of stage 1, and of each branch of a module.
        in_channels: of the image.
        pretrained: whether the encoder starts from ImageNet weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
    """
    encoder = HRNet(
        width,
        in_channels=in_channels,
        stages=("c2",),
        pretrained=pretrained,
        stem=stem,
        modules=modules,
        blocks=blocks,
    )
    return HRNetPose(encoder, num_joints)


def hrnet_pose_w32(
    num_joints: int = COCO_JOINTS,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetPose:
    """HRNet-W32 for human pose: 28.5 million parameters."""
    return hrnet_pose(num_joints, width=32, in_channels=in_channels, pretrained=pretrained, stem=stem)


def hrnet_pose_w48(
    num_joints: int = COCO_JOINTS,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetPose:
    """HRNet-W48 for human pose: 63.6 million parameters."""
    return hrnet_pose(num_joints, width=48, in_channels=in_channels, pretrained=pretrained, stem=stem)


# --- weights --------------------------------------------------------------------------------------


def from_hrnet_pose(state_dict: Mapping[str, Tensor]) -> HRNetPose:
    """Weights of the authors or of MMPose (top-down heatmaps, also DARK's) in our model, in eval mode.

    Width and number of joints are read from the weights. UDP's networks have the same shapes, but their
    heatmaps are to be read on another grid: cell i lies at pixel i (W - 1) / (w - 1).

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
        weights[name] = tensor
    try:
        head, first = weights["final_layer.weight"], weights["conv1.weight"]
    except KeyError as error:
        raise ValueError(f"state_dict is not that of HRNet for poses: {error} is missing") from error
    num_joints, width, in_channels = head.shape[0], head.shape[1], first.shape[1]
    counts = tuple(_number_of(weights, f"stage{stage}.") for stage in (2, 3, 4))
    modules, blocks = (counts[0], counts[1], counts[2]), _number_of(weights, "layer1.")
    model = hrnet_pose(num_joints, width=width, modules=modules, blocks=blocks, in_channels=in_channels)
    model.encoder.load_state_dict(fit_hrnet_weights(weights, model.encoder.state_dict()))
    model.head.load_state_dict({name: weights[f"final_layer.{name}"] for name in ("weight", "bias")})
    arguments = {"num_joints": num_joints, "width": width, "modules": modules, "blocks": blocks}
    model.built_by = BuiltBy("hrnet_pose", {**arguments, "in_channels": in_channels})
    return model.eval()


def _number_of(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts there are: `layer1.0` to `layer1.3` are 4."""
    numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in weights if key.startswith(prefix)}
    return max(numbers, default=-1) + 1
