"""PointRend: segmentation as rendering; borders are computed where they are, at any resolution.

A network scores coarsely (Fig. 2). Points where the two best classes are nearly as good are then scored
again by a small multi-layer perceptron, the point head (Sec. 3.3), from what the coarse scores and a fine
map of features hold at these points (Sec. 3.2). In evaluation the coarse map is doubled step by step up to
the size of the image, and after each doubling a fixed number of its most uncertain points are replaced (Sec.
3.1, Fig. 4). In training the points lie anywhere: three times as many as needed are drawn, the most uncertain
ones make up three quarters of those taken, and the rest is random (Sec. 3.1, Fig. 5).

The coarse scores are those of the semantic FPN, with the finest level of its pyramid as fine features, or of
DeepLabV3, with c2 (Sec. 4.2). Numbers are those of the authors' code (Detectron2, projects/PointRend): three
hidden layers of 256, each given the coarse scores anew; 2048 points in training, 8192 in evaluation.

Departures: the doublings go through the sizes that halving the image gives, so that any image size works;
beyond the centres of the outer cells a map is read as if they went on, where the authors mix in zeros, which
makes the border of every image look uncertain.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize, size_of
from ..losses import cross_entropy, loss_parts
from ..types import Batch, DenseLogits, DenseModel, Features, Paper, value
from .deeplabv3 import ASPP
from .feature_pyramid import FeaturePyramid
from .fpn import SemanticBranch

PAPER = Paper(
    "PointRend: Image Segmentation as Rendering",
    "Kirillov, Wu, He, Girshick",
    "CVPR",
    2020,
    "https://arxiv.org/abs/1912.08193",
)

OVERSAMPLE, IMPORTANCE = 3, 0.75  # k and beta of Sec. 3.1
RATES = (6, 12, 18)  # of DeepLabV3 at output stride 16
UNKNOWN = -1


@value
class PointLogits(DenseLogits):
    """Scores of every pixel, and while training those of some points.

    Attributes:
        points: x y of p points, as fractions of width and height; None in evaluation.
        point_logits: scores of each point.
    """

    points: Float[Tensor, "b p 2"] | None = None
    point_logits: Float[Tensor, "b k p"] | None = None


# --- points ---------------------------------------------------------------------------------------


def read(maps: Float[Tensor, "b c h w"], points: Float[Tensor, "b p 2"]) -> Float[Tensor, "b c p"]:
    """Values of maps at points, x y as fractions of width and height (bilinear)."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[..., 0]


def uncertainty(scores: Float[Tensor, "b k *_"]) -> Float[Tensor, "b *_"]:
    """How little the best class leads: 0 where two are equally good, else negative (Sec. 4.2)."""
    if scores.shape[1] == 1:  # a class alone is uncertain where its score is near 0
        return -scores[:, 0].abs()
    best = scores.topk(2, dim=1).values
    return best[:, 1] - best[:, 0]


def training_points(coarse: Float[Tensor, "b k h w"], count: int) -> Float[Tensor, "b {count} 2"]:
    """Points of which most are uncertain (Sec. 3.1, Fig. 5)."""
    drawn = torch.rand(len(coarse), OVERSAMPLE * count, 2, device=coarse.device, dtype=coarse.dtype)
    chosen = uncertainty(read(coarse, drawn)).topk(int(IMPORTANCE * count), dim=1).indices
    taken = drawn.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    rest = torch.rand(len(coarse), count - taken.shape[1], 2, device=coarse.device, dtype=coarse.dtype)
    return torch.cat([taken, rest], dim=1)


def most_uncertain(
    scores: Float[Tensor, "b k h w"], count: int
) -> tuple[Int64[Tensor, "b p"], Float[Tensor, "b p 2"]]:
    """The `count` most uncertain cells of a map, or all of them where there are fewer (Sec. 3.1, Fig. 4).

    Returns:
        Their numbers, row by row, and their centres as fractions of width and height.
    """
    height, width = scores.shape[-2:]
    taken = torch.sym_min(count, height * width)
    cells = uncertainty(scores).flatten(1).topk(taken, dim=1).indices
    x, y = (cells % width + 0.5) / width, (cells // width + 0.5) / height
    return cells, torch.stack([x, y], dim=2).to(scores.dtype)


class PointHead(nn.Module):
    """Scores of points from fine features and coarse scores (Sec. 3.3).

    Args:
        c_fine: channels of the fine features.
        num_classes: number of classes k.
        c_hidden: of each of three hidden layers.
    """

    def __init__(self, c_fine: int, num_classes: int, c_hidden: int = 256) -> None:
        super().__init__()
        inputs = (c_fine + num_classes, c_hidden + num_classes, c_hidden + num_classes)
        self.hidden = nn.ModuleList(nn.Conv1d(c, c_hidden, 1) for c in inputs)
        self.out = nn.Conv1d(c_hidden + num_classes, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.out.weight, std=0.001)

    def forward(self, fine: Float[Tensor, "b _ p"], coarse: Float[Tensor, "b k p"]) -> Float[Tensor, "b k p"]:
        """Score each point."""
        x = fine
        for layer in self.hidden:
            x = F.relu(layer(torch.cat([x, coarse], dim=1)))
        scores: Tensor = self.out(torch.cat([x, coarse], dim=1))
        return scores


# --- coarse scores and fine features --------------------------------------------------------------


class PyramidScores(nn.Module):
    """Semantic FPN: coarse scores and fine features both have stride 4.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of classes k.
    """

    c_fine = 256

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.stride = encoder.strides.c2
        self.pyramid = FeaturePyramid(encoder.channels[1:])
        self.branch = SemanticBranch(256, 4, num_classes)

    def forward(self, features: Features) -> tuple[Float[Tensor, "b k _ _"], Float[Tensor, "b _ _ _"]]:
        """Coarse scores, fine features."""
        levels = self.pyramid([features.c2, features.c3, features.c4, features.c5])
        return self.branch(levels), levels[0]


class AtrousScores(nn.Module):
    """DeepLabV3: coarse scores at the stride of c5, fine features are c2.

    Args:
        encoder: gives c2 and c5.
        num_classes: number of classes k.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.stride, self.c_fine = encoder.strides.c5, encoder.channels.c2
        self.context = ASPP(encoder.channels.c5, RATES)
        self.head = nn.Conv2d(256, num_classes, 1)

    def forward(self, features: Features) -> tuple[Float[Tensor, "b k _ _"], Float[Tensor, "b _ _ _"]]:
        """Coarse scores, fine features."""
        return self.head(self.context(features.c5)), features.c2


# --- the network ----------------------------------------------------------------------------------


class PointRend(DenseModel):
    """Coarse scores, and points of them rendered by the point head (Fig. 2).

    Args:
        encoder: gives what `scores` needs.
        scores: coarse scores and fine features.
        num_classes: number of channels k of the logits.
        train_points: number of points per image while training.
        num_points: number of points per image and doubling in evaluation.
    """

    output = PointLogits

    def __init__(
        self,
        encoder: Encoder,
        scores: PyramidScores | AtrousScores,
        num_classes: int,
        *,
        train_points: int = 2048,
        num_points: int = 8192,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.train_points, self.num_points = train_points, num_points
        self.encoder, self.scores = encoder, scores
        self.head = PointHead(scores.c_fine, num_classes)
        self.steps = scores.stride.bit_length() - 1  # doublings up to the image

    def forward(self, image: Float[Tensor, "b c H W"]) -> PointLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        coarse, fine = self.scores(self.encoder(image))
        if not self.training:
            return PointLogits(self.render(coarse, fine, size), size)
        with torch.no_grad():
            points = training_points(coarse, self.train_points)
        rendered = self.head(read(fine, points), read(coarse, points))
        return PointLogits(coarse, size, points=points, point_logits=rendered)

    def render(
        self, coarse: Float[Tensor, "b k _ _"], fine: Float[Tensor, "b _ _ _"], size: tuple[int, int]
    ) -> Float[Tensor, "b k H W"]:
        """Subdivide: double the scores up to `size`, and render the most uncertain ones after each step."""
        scores = coarse
        for step in reversed(range(self.steps)):
            cell = 2**step  # pixels of the image
            height, width = (-(-side // cell) for side in size)
            scores = resize(scores, (height, width))
            cells, points = most_uncertain(scores, self.num_points)
            rendered = self.head(read(fine, points), read(coarse, points))
            everywhere = cells[:, None].expand(-1, scores.shape[1], -1)
            scores = scores.flatten(2).scatter(2, everywhere, rendered).view_as(scores)
        return scores


# --- the loss of points ---------------------------------------------------------------------------


def labels_at(
    labels: Integer[Tensor, "b *k H W"], points: Float[Tensor, "b p 2"], num_classes: int
) -> Integer[Tensor, "b *k p"]:
    """The label of the pixel in which each point lies; `UNKNOWN` where it is none of a class.

    Args:
        labels: one class per pixel; or 0 or 1 for each class and pixel. Any other label is ignored.
        points: x y as fractions of width and height.
        num_classes: number of classes k.
    """
    height, width = labels.shape[-2:]
    x = (points[..., 0] * width).long().clamp(0, width - 1)
    y = (points[..., 1] * height).long().clamp(0, height - 1)
    place = y * width + x  # b p
    most = num_classes
    if labels.ndim == 4:
        place, most = place[:, None].expand(-1, labels.shape[1], -1), 2
    found = labels.flatten(-2).gather(-1, place)
    return torch.where((found >= 0) & (found < most), found, UNKNOWN)


@loss_parts.register
def _(output: PointLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    if output.points is None or output.point_logits is None:
        return {}
    labels = labels_at(batch.labels, output.points, output.point_logits.shape[1])
    exclusive = labels.ndim == 2
    return {"points": cross_entropy(output.point_logits, labels, ignore=UNKNOWN, exclusive=exclusive)}


# --- builder --------------------------------------------------------------------------------------


def pointrend(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    features: Literal["fpn", "deeplabv3"] = "fpn",
    train_points: int = 2048,
    num_points: int = 8192,
) -> PointRend:
    """PointRend on the semantic FPN or on DeepLabV3 of any encoder.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        features: what gives coarse scores and fine features.
        train_points: number of points per image while training.
        num_points: number of points per image and doubling in evaluation.
    """
    pyramid = features == "fpn"
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=32 if pyramid else 16,
        stages=("c2", "c3", "c4", "c5") if pyramid else ("c2", "c5"),
    )
    scores = PyramidScores(made, num_classes) if pyramid else AtrousScores(made, num_classes)
    return PointRend(made, scores, num_classes, train_points=train_points, num_points=num_points)
