"""LR-ASPP: the smallest head that still sees the whole image, for mobile encoders.

The last map is reduced by one 1x1 convolution and multiplied by a gate that global pooling gives; a second
1x1 convolution on a map of stride 8 adds what is fine (Sec. 6.4, Fig. 10). On MobileNetV3-Large dilated to
stride 16 it is the network that torchvision calls LR-ASPP, whose weights `from_torchvision_lraspp` reads.

Departures: the gate pools the whole map, as in torchvision, where the paper pools windows of 49 x 49 at
stride (16, 20) of a map of fixed size and resizes what they give.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Searching for MobileNetV3",
    "Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1905.02244",
)


class LRASPP(DenseModel):
    """Encoder, gated reduction of its last map, and a classifier at stride 8 (Fig. 10).

    Args:
        encoder: gives c3 and c5.
        num_classes: number of channels k of the logits.
        width: channels of the reduced map.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 128) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c5 = encoder.channels.c5
        self.context = ConvNormAct(c5, width, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c5, width, 1, bias=False), nn.Sigmoid())
        self.low_head = nn.Conv2d(encoder.channels.c3, num_classes, 1)
        self.high_head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        context = self.context(features.c5) * self.gate(features.c5)
        high = self.high_head(resize_like(context, features.c3))
        return DenseLogits(self.low_head(features.c3) + high, size)  # b k H/8 W/8


def lraspp(
    num_classes: int,
    *,
    encoder: str | Encoder = "mobilenet_v3_large",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
    width: int = 128,
) -> LRASPP:
    """LR-ASPP on MobileNetV3-Large, or any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c3", "c5"),
    )
    return LRASPP(made, num_classes, width=width)


# torchvision's names on the left.
_NAMES = {
    "backbone": "encoder.body",
    "classifier.cbr": "context",
    "classifier.scale": "gate",
    "classifier.low_classifier": "low_head",
    "classifier.high_classifier": "high_head",
}


def from_torchvision_lraspp(state_dict: Mapping[str, Tensor]) -> LRASPP:
    """A trained `lraspp_mobilenet_v3_large` of torchvision with equal logits, in eval mode.

    Classes and image channels are read from the weights.

    Args:
        state_dict: of torchvision's model.

    Raises:
        ValueError: if the weights are not those of that network.
    """
    weights = {}
    for key, tensor in state_dict.items():
        place = next((name for name in _NAMES if key.startswith(f"{name}.")), "")
        weights[_NAMES.get(place, place) + key.removeprefix(place)] = tensor
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["low_head.bias"]),
            "in_channels": weights["encoder.body.0.0.weight"].shape[1],
            "width": len(weights["high_head.weight"][0]),
        }
        model = lraspp(**arguments)
        own = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"state_dict is not that of an LR-ASPP of torchvision: {problem}") from error
    model.built_by = BuiltBy("lraspp", arguments)
    return model.eval()
