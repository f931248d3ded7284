"""FoveaNet: finds where a street scene is far away, and looks there a second time, enlarged.

A perspective estimation network predicts for every place how small things are there (paper Fig. 3, Sec. 3.1).
The window of half the height and width where they are smallest, the fovea, is cut out and enlarged to the
size of the image; both are parsed (Fig. 2, Sec. 3.2), and within the fovea their scores are fused. The third
part, a dense random field whose reach shrinks with the distance (Sec. 3.3), is
`pixelwise.algorithms.perspective_crf`; it takes the `remoteness` of the output.

The authors gave no code. Settled here: both branches share a ResNet dilated to stride 8, as far as the heads;
perspective is estimated from c4; scores in the fovea are the mean of both branches, at stride 4. What
perspective is learned from: at a pixel, 1 less the square root of the share of the image that its region (the
connected pixels of its class) covers, which needs no labels of instances.

Departure: the random field has no term of detected objects (the authors run Faster R-CNN).
"""

import numpy as np
import torch
from jaxtyping import Float, Integer
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, resize, size_of
from ..losses import loss_parts
from ..types import Batch, DenseLogits, DenseModel, Paper, value
from .fcn import FCNHead

PAPER = Paper(
    "FoveaNet: Perspective-aware Urban Scene Parsing",
    "Li, Jie, Wang, Liu, Yang, Shen, Lin, Chen, Yan, Feng",
    "ICCV",
    2017,
    "https://arxiv.org/abs/1708.02421",
)

CELLS = 16  # per axis, of which the fovea takes half
PERSPECTIVE_WEIGHT = 1.0


@value
class FoveaLogits(DenseLogits):
    """Scores of every pixel, and how far away it is.

    Attributes:
        remoteness: near 1 where things are small, in (0, 1).
        fovea: centre x y of the window that was looked at twice, from -1 to 1 over the image.
    """

    remoteness: Float[Tensor, "b 1 h w"] | None = None
    fovea: Float[Tensor, "b 2"] | None = None


class PerspectiveEstimation(nn.Sequential):
    """Perspective estimation network: how small things are at each place, before the sigmoid."""

    def __init__(self, c_in: int) -> None:
        c = max(c_in // 4, 1)
        super().__init__(ConvNormAct(c_in, c), ConvNormAct(c, c), nn.Conv2d(c, 1, 1))


def fovea_of(remoteness: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 2"]:
    """Centre x y of the window of half the height and width with the largest mean, from -1 to 1.

    >>> remoteness = torch.zeros(1, 1, 32, 32)
    >>> remoteness[..., :16, 16:] = 1
    >>> fovea_of(remoteness)
    tensor([[ 0.5000, -0.5000]])
    """
    means = F.avg_pool2d(F.adaptive_avg_pool2d(remoteness, CELLS), CELLS // 2, stride=1)
    best = means.flatten(1).argmax(1)
    positions = CELLS // 2 + 1
    cells = torch.stack([best % positions, best // positions], dim=1)  # that the window leaves out before it
    return (2 * cells + CELLS // 2).to(remoteness) / CELLS - 1


def enlarged(image: Float[Tensor, "b c H W"], fovea: Float[Tensor, "b 2"]) -> Float[Tensor, "b c H W"]:
    """The window around `fovea`, as large as the image; bilinear."""
    return _sampled(image, 0.5, fovea, (image.shape[-2], image.shape[-1]), outside="border")


def replaced(
    window: Float[Tensor, "b c _ _"], fovea: Float[Tensor, "b 2"], size: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """A map of the enlarged window at its place in a map of the image; zero outside."""
    return _sampled(window, 2.0, -2 * fovea, size, outside="zeros")


def _sampled(
    x: Float[Tensor, "b c _ _"],
    scale: float,
    shift: Float[Tensor, "b 2"],
    size: tuple[int, int],
    *,
    outside: str,
) -> Float[Tensor, "b c h w"]:
    """`x` at scale times place plus shift, for every place of a map of `size`."""
    height, width = size
    rows = scale * _centres(height, x) + shift[:, 1:]  # b h
    columns = scale * _centres(width, x) + shift[:, :1]  # b w
    grid = torch.stack(
        [columns[:, None].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], dim=3
    )
    return F.grid_sample(x, grid, padding_mode=outside, align_corners=False)


def _centres(length: int, like: Tensor) -> Float[Tensor, " length"]:
    """Centres of as many cells between -1 and 1."""
    return (2 * torch.arange(length, dtype=like.dtype, device=like.device) + 1) / length - 1


class FoveaNet(DenseModel):
    """Perspective estimation, coarse branch, fovea branch, fusion (Fig. 2).

    Args:
        encoder: gives c4 and c5; the paper's is dilated.
        num_classes: number of channels k of the logits.
    """

    output = FoveaLogits

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.perspective = PerspectiveEstimation(encoder.channels.c4)
        self.coarse_head = FCNHead(encoder.channels.c5, num_classes)
        self.fovea_head = FCNHead(encoder.channels.c5, num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> FoveaLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        remoteness = self.perspective(features.c4).sigmoid()
        fovea = fovea_of(remoteness.detach())
        coarse = self.coarse_head(features.c5)  # b k H/8 W/8
        fine = self.fovea_head(self.encoder(enlarged(image, fovea)).c5)

        stride4 = ((size[0] + 3) // 4, (size[1] + 3) // 4)
        inside = replaced(torch.ones_like(fine[:, :1]), fovea, stride4)
        fused = resize(coarse, stride4) * (1 - inside / 2) + replaced(fine, fovea, stride4) / 2
        aux = (coarse,) if self.training else ()
        return FoveaLogits(fused, size, aux, remoteness=remoteness, fovea=fovea)


def remoteness_of(labels: Integer[Tensor, "b *k H W"], num_classes: int) -> Float[Tensor, "b 1 H W"]:
    """What the perspective is learned from; -1 where no class is known.

    Args:
        labels: one class per pixel, or 0 or 1 for each class and pixel; others are ignored.
        num_classes: number of classes k.

    >>> [round(x, 3) for x in remoteness_of(torch.tensor([[[0, 0, 0, 1]]]), 2).flatten().tolist()]
    [0.134, 0.134, 0.134, 0.5]
    """
    exclusive = labels.ndim == 3
    found = []
    for image in labels.cpu().numpy():
        far = np.full(image.shape[-2:], -1.0, np.float32)
        present = [label for label in np.unique(image).tolist() if 0 <= label < num_classes]
        for mask in (image == label for label in present) if exclusive else image == 1:
            regions, _ = ndimage.label(mask)
            areas = np.bincount(regions.ravel())
            own = 1 - np.sqrt(areas / mask.size)[regions]
            far[mask] = np.maximum(far, own)[mask]
        found.append(torch.from_numpy(far)[None])
    return torch.stack(found).to(labels.device)


@loss_parts.register
def _(output: FoveaLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """The mean square error of the remoteness; the scores' own loss is chosen as for any network."""
    assert output.remoteness is not None
    height, width = output.remoteness.shape[-2:]
    target = remoteness_of(batch.labels, output.coarse.shape[1])
    target = F.interpolate(target, (height, width), mode="nearest-exact")
    known = target >= 0
    error = ((output.remoteness.float() - target).square() * known).sum() / known.sum().clamp(min=1)
    return {"perspective": PERSPECTIVE_WEIGHT * error}


# --- builders -------------------------------------------------------------------------------------


def foveanet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
) -> FoveaNet:
    """FoveaNet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5"),
    )
    return FoveaNet(made, num_classes)


def foveanet_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> FoveaNet:
    """The paper's network on ResNet-101."""
    return foveanet(
        num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem
    )
