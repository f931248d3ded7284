"""The network, its builders, and the weights of its authors."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...encoders import Encoder, StemPolicy, make_encoder
from ...layers import enlarge, resize, resize_like, size_of
from ...types import Batch, BuiltBy, Model, Paper, Value, value
from ..fcos import Scales, in_a_row, see

PAPER = Paper(
    "YOLACT: Real-time Instance Segmentation",
    "Bolya, Zhou, Xiao, Lee",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1904.02689",
)

STAGES = ("c3", "c4", "c5")
ANCHOR_SIZES = (24, 48, 96, 192, 384)  # pixels, of the levels P3 to P7, in images of 550
ANCHOR_RATIOS = (1.0, 0.5, 2.0)
BOX_UNITS = (0.1, 0.1, 0.2, 0.2)  # SSD's variances
NUM_PROTOTYPES = 32


@value
class PrototypeLogits(Value):
    """Anchors with scores, boxes and factors, and the prototypes of the image.

    Attributes:
        class_logits: of background, first, and of the k classes.
        box_deltas: correction of the box of each anchor, in `BOX_UNITS`.
        coefficients: factor of each prototype in [-1, 1].
        prototypes: at least 0.
        anchors: x1 y1 x2 y2 in pixels as the network sees them.
        scales: sizes of the images.
        semantic: scores of the k classes in every cell of P3; only while training.
    """

    class_logits: Float[Tensor, "b n k1"]
    box_deltas: Float[Tensor, "b n 4"]
    coefficients: Float[Tensor, "b n p"]
    prototypes: Float[Tensor, "b p h w"]
    anchors: Float[Tensor, "n 4"]
    scales: Scales
    semantic: Float[Tensor, "b k h2 w2"] | None = None


class Pyramid(nn.Module):
    """A feature pyramid with bilinear enlargement and ReLU behind P3 to P5; P6 and P7 by strides.

    Args:
        channels: of the stages c3 to c5.
        width: channels of every level.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.out = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.further = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Five levels, finest first."""
        levels = [lateral(map) for lateral, map in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + resize_like(levels[i + 1], levels[i])
        levels = [F.relu(out(level)) for out, level in zip(self.out, levels, strict=True)]
        for convolution in self.further:
            levels.append(convolution(levels[-1]))
        return levels


class Protonet(nn.Module):
    """Draws the prototypes from P3, at twice its resolution (Fig. 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coarse = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, NUM_PROTOTYPES, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p h2 w2"]:
        """Prototypes, which have no upper bound (Sec. 3.1)."""
        for convolution in self.coarse:
            x = F.relu(convolution(x))
        return F.relu(self.out(F.relu(self.fine(enlarge(x, 2)))))


class PredictionHead(nn.Module):
    """Scores, boxes and factors of the anchors of a place, shared by all levels (Fig. 4)."""

    def __init__(self, width: int, num_classes: int, anchors: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.shared = nn.Conv2d(width, width, 3, padding=1)
        self.classes = nn.Conv2d(width, anchors * (num_classes + 1), 3, padding=1)
        self.boxes = nn.Conv2d(width, anchors * 4, 3, padding=1)
        self.coefficients = nn.Conv2d(width, anchors * NUM_PROTOTYPES, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores "b n k1", corrections "b n 4" and factors "b n p" of all levels."""
        shared = [F.relu(self.shared(level)) for level in levels]
        branches = (
            (self.classes, self.num_classes + 1),
            (self.boxes, 4),
            (self.coefficients, NUM_PROTOTYPES),
        )
        classes, boxes, factors = (
            in_a_row([branch(x) for x in shared]).unflatten(2, (-1, size)).flatten(1, 2)
            for branch, size in branches
        )
        return classes, boxes, factors.tanh()


def anchors_of(
    levels: Sequence[Tensor], canvas: tuple[int, int], sizes: Sequence[Sequence[float]]
) -> Float[Tensor, "n 4"]:
    """The squares around all places of all levels, in the order of `PredictionHead`.

    Args:
        levels: finest first.
        canvas: height and width of the image as the network sees it.
        sizes: of the anchors of each level, in pixels.
    """
    anchors = []
    roots = levels[0].new_tensor(ANCHOR_RATIOS, dtype=torch.float32).sqrt()
    for level, own in zip(levels, sizes, strict=True):
        down, along = (
            (torch.arange(n, device=level.device) + 0.5) * (side / n)
            for n, side in zip(level.shape[-2:], canvas, strict=True)
        )
        y, x = torch.meshgrid(down, along, indexing="ij")
        middle = torch.stack([x, y], -1)[:, :, None]
        half = torch.cat([size / 2 * roots for size in own])[:, None]
        anchors.append(torch.cat([middle - half, middle + half], -1).flatten(0, 2))
    return torch.cat(anchors)


class YOLACT(Model):
    """Encoder, pyramid, prototypes, head.

    Args:
        encoder: gives c3 to c5.
        num_classes: number of classes k of objects.
        width: channels of the pyramid and the branches.
        size: side of the square that images are resized to, whatever their shape; None to take them as they
            are. Anchors are 24 to 384 pixels in 550, and as much smaller or larger as the square is.
        growths: sizes of the anchors of a place, over that of their level.
    """

    tasks = ("instance",)
    output = PrototypeLogits

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int,
        size: int | None,
        growths: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.size = num_classes, encoder.in_channels, size
        scale = (size or 550) / 550
        self.anchor_sizes = [[scale * own * growth for growth in growths] for own in ANCHOR_SIZES]
        self.encoder, self.pyramid = encoder, Pyramid(encoder.channels[2:], width)
        self.protonet, self.head = (
            Protonet(width),
            PredictionHead(width, num_classes, len(growths) * len(ANCHOR_RATIOS)),
        )
        self.semantic = nn.Conv2d(width, num_classes, 1)
        for part in (self.pyramid, self.protonet, self.head, self.semantic):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, and the size of each."""
        return batch.image, batch.sizes

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> PrototypeLogits:
        """Look for instances.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            sizes: height and width of each image; all of `image` without it.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """
        seen, scales = self.resized(image, sizes)
        features = self.encoder(seen)
        levels = self.pyramid([features[stage] for stage in STAGES])
        classes, boxes, factors = self.head(levels)
        anchors = anchors_of(levels, scales.canvas, self.anchor_sizes)
        semantic = self.semantic(levels[0]) if self.training else None
        return PrototypeLogits(classes, boxes, factors, self.protonet(levels[0]), anchors, scales, semantic)

    def resized(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None
    ) -> tuple[Float[Tensor, "b c h w"], Scales]:
        """The images as the network sees them."""
        whole = size_of(image, self.minimum_size)
        if self.size is None:
            fill = self.encoder.normalize.mean
            return see(image, sizes, fill, least=self.minimum_size, min_size=None, max_size=0)
        square = (self.size, self.size)
        if sizes is None or all(tuple(size) == whole for size in sizes):
            return resize(image, square), Scales(square, (whole,), (square,))
        each = [resize(one[None, :, :h, :w], square) for one, (h, w) in zip(image, sizes, strict=True)]
        return torch.cat(each), Scales(square, tuple((h, w) for h, w in sizes), (square,) * len(sizes))


# --- builders -------------------------------------------------------------------------------------


def yolact(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    size: int | None = 550,
) -> YOLACT:
    """YOLACT on any encoder.

    Args:
        num_classes: number of classes k of objects, background not among them.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the pyramid and the branches.
        size: see `YOLACT`; the paper has 400, 550 and 700.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return YOLACT(made, num_classes, width=width, size=size)


def yolact_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    size: int | None = 550,
) -> YOLACT:
    """YOLACT on ResNet-50."""
    return yolact(
        num_classes,
        encoder="resnet50",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        size=size,
    )


def yolact_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    size: int | None = 550,
) -> YOLACT:
    """YOLACT on ResNet-101, the network of the paper's main result."""
    return yolact(num_classes, in_channels=in_channels, pretrained=pretrained, stem=stem, size=size)


# --- weights of the authors -----------------------------------------------------------------------

# The authors' names on the left. They count levels from the coarsest.
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"backbone\.layers\.(\d)\.", lambda found: f"encoder.body.layer{int(found[1]) + 1}."),
    (r"backbone\.(conv1|bn1)\.", r"encoder.body.\1."),
    (r"fpn\.lat_layers\.(\d)", lambda found: f"pyramid.lateral.{2 - int(found[1])}"),
    (r"fpn\.pred_layers\.(\d)", lambda found: f"pyramid.out.{2 - int(found[1])}"),
    (r"fpn\.downsample_layers\.", "pyramid.further."),
    (r"proto_net\.([024])\.", lambda found: f"protonet.coarse.{int(found[1]) // 2}."),
    (r"proto_net\.8\.", "protonet.fine."),
    (r"proto_net\.10\.", "protonet.out."),
    (r"prediction_layers\.0\.upfeature\.0\.", "head.shared."),
    (r"prediction_layers\.0\.bbox_layer\.", "head.boxes."),
    (r"prediction_layers\.0\.conf_layer\.", "head.classes."),
    (r"prediction_layers\.0\.mask_layer\.", "head.coefficients."),
    (r"semantic_seg_conv\.", "semantic."),
)
# Left over from earlier versions of their code, which does not load them either.
_SURPLUS = re.compile(r"backbone\.layer\d|fpn\.downsample_layers\.[2-9]")
_MEAN, _STD = (123.68, 116.78, 103.94), (58.40, 57.12, 57.38)  # in 0..255


def from_yolact(state_dict: dict[str, Tensor]) -> YOLACT:
    """Weights of the authors' `yolact_resnet50` or `yolact_base` in our model, in eval mode.

    Args:
        state_dict: as published or trained further; background is its first class.

    Raises:
        ValueError: if it is neither.
    """
    weights = {}
    for key, tensor in state_dict.items():
        if _SURPLUS.match(key):
            continue
        for theirs, ours in _RENAMES:
            key = re.sub(f"^{theirs}", ours, key)
        weights[key] = tensor
    builder = yolact_resnet101 if "encoder.body.layer3.22.conv1.weight" in weights else yolact_resnet50
    try:
        arguments: dict[str, Any] = {"num_classes": len(weights["semantic.bias"])}
        model = builder(**arguments)
        model.load_state_dict(
            {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key} | weights
        )
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a YOLACT of its authors: {error}") from error
    for buffer, values in ((model.encoder.normalize.mean, _MEAN), (model.encoder.normalize.std, _STD)):
        buffer.copy_(torch.tensor(values).view_as(buffer) / 255)
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
