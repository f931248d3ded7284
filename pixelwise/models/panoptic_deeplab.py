"""Panoptic-DeepLab: classes from one decoder, centres of things and the way to them from another (Fig. 2).

Both decoders begin with an atrous spatial pyramid pooling of their own and take up the maps of strides 8 and
4 (Sec. 3.1). The second says for every pixel how likely it is the centre of mass of a thing, and for every
pixel of a thing how far its centre lies; nothing is said of boxes. Pixels go to the centre that they point
at, and the group takes the class of most of its pixels (Sec. 3.2, `merging.py`). Learned are a bootstrapped
cross-entropy in which small things count three times, the squared error of the heatmap and the absolute one
of the offsets (Sec. 3.3).

Departures: the deviation of the heatmap is 10 pixels, as in Detectron2; in the paper it is 8.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, resize, resize_like, size_of
from ..losses import loss_parts
from ..merging import find_centers, group_pixels, name_groups
from ..types import (
    Annotation,
    Batch,
    ClassTable,
    DenseLogits,
    Features,
    Model,
    PanopticMap,
    Paper,
    Value,
    value,
)
from .deeplabv3 import ASPP
from .deeplabv3plus import SeparableConv as SeparableAtrous

PAPER = Paper(
    "Panoptic-DeepLab: A Simple, Strong, and Fast Baseline for Bottom-Up Panoptic Segmentation",
    "Cheng, Collins, Zhu, Liu, Huang, Adam, Chen",
    "CVPR",
    2020,
    "https://arxiv.org/abs/1911.10194",
)

STAGES, SKIPS, STRIDE = ("c2", "c3", "c5"), ("c3", "c2"), 4
RATES = (6, 12, 18)  # at output stride 16
CENTER_WEIGHT, OFFSET_WEIGHT = 200.0, 0.01
HARDEST = 0.2  # share of the pixels that the cross-entropy learns from
SMALL_AREA, SMALL_WEIGHT = 4096, 3.0  # of a thing in pixels, and what its pixels count
SIGMA = 10.0  # of the heatmap, in pixels
MIN_SCORE, MIN_STUFF_AREA = 0.1, 2048


@value
class CenterLogits(Value):
    """What Panoptic-DeepLab says of every pixel; all maps are coarse.

    Attributes:
        semantic: scores of the k classes.
        heatmap: how likely a place is the centre of a thing; 1 is sure.
        offsets: rows and columns of the image from a pixel to the centre of its thing.
        size: height and width of the image.
        things: labels of things.
    """

    semantic: Float[Tensor, "b k h w"]
    heatmap: Float[Tensor, "b 1 h w"]
    offsets: Float[Tensor, "b 2 h w"]
    size: tuple[int, int]
    things: tuple[int, ...]


class SeparableConv(nn.Sequential):
    """Depthwise 5x5 convolution and pointwise one, both with norm and ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(ConvNormAct(c_in, c_in, 5, groups=c_in), ConvNormAct(c_in, c_out, 1))


class Decoder(nn.Module):
    """Context at stride 16, then strides 8 and 4, each with a map of the encoder (Fig. 2).

    Args:
        channels: of c5, c3 and c2.
        context: channels of the pyramid pooling.
        width: channels of the result.
        skips: channels that c3 and c2 are reduced to.
        convolution: makes the atrous convolutions of the pyramid pooling, with norm and ReLU.
    """

    def __init__(
        self,
        channels: Sequence[int],
        context: int,
        width: int,
        skips: tuple[int, int],
        convolution: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.context = ASPP(channels[0], RATES, c_out=context, dropout=0.5, convolution=convolution)
        self.skips = nn.ModuleList(
            ConvNormAct(c, skip, 1) for c, skip in zip(channels[1:], skips, strict=True)
        )
        self.fuse = nn.ModuleList(
            [SeparableConv(context + skips[0], width), SeparableConv(width + skips[1], width)]
        )

    def forward(self, features: Features) -> Float[Tensor, "b c h w"]:
        """The map at stride 4."""
        x = self.context(features.c5)
        for stage, skip, fuse in zip(SKIPS, self.skips, self.fuse, strict=True):
            fine = skip(features[stage])
            x = fuse(torch.cat([resize_like(x, fine, align_corners=True), fine], 1))
        return x


class PanopticDeepLab(Model):
    """Dilated encoder, a decoder for classes, one for instances.

    Args:
        encoder: gives c2, c3 and c5.
        num_classes: number of all classes, things and stuff.
        things: labels of the things.
        width: channels of the decoder for classes; the other has half of it.
        convolution: makes the atrous convolutions; separable ones on Xception, as in DeepLabV3+.
    """

    tasks = ("panoptic",)
    output = CenterLogits

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        things: Sequence[int],
        width: int = 256,
        *,
        convolution: Callable[..., nn.Module] = ConvNormAct,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.things = num_classes, encoder.in_channels, tuple(things)
        self.encoder = encoder
        channels = [encoder.channels.c5, encoder.channels.c3, encoder.channels.c2]
        quarter, eighth, sixteenth = (max(width // n, 1) for n in (4, 8, 16))
        half = max(width // 2, 1)
        self.semantic_decoder = Decoder(channels, width, width, (quarter, eighth), convolution)
        self.instance_decoder = Decoder(channels, width, half, (eighth, sixteenth), convolution)
        self.semantic = nn.Sequential(SeparableConv(width, width), nn.Conv2d(width, num_classes, 1))
        self.center = nn.Sequential(SeparableConv(half, eighth), nn.Conv2d(eighth, 1, 1))
        self.offset = nn.Sequential(SeparableConv(half, eighth), nn.Conv2d(eighth, 2, 1))

    def forward(self, image: Float[Tensor, "b c H W"]) -> CenterLogits:
        """Name every pixel, and point from it to a centre.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        semantic = self.semantic(self.semantic_decoder(features))
        x = self.instance_decoder(features)
        return CenterLogits(semantic, self.center(x), STRIDE * self.offset(x), size, self.things)


# --- loss -----------------------------------------------------------------------------------------


@value
class CenterTargets(Value):
    """What the network is to say of one image.

    Attributes:
        labels: class of each pixel, 255 where it is void.
        weights: of each pixel in the cross-entropy.
        heatmap: Gaussians around the centres of mass of things.
        offsets: rows and columns from each pixel of a thing to its centre.
        known: False on void and on crowds, of which no centre is learned.
        on_things: where there is a thing, and so an offset.
    """

    labels: Int64[Tensor, "H W"]
    weights: Float[Tensor, "H W"]
    heatmap: Float[Tensor, "H W"]
    offsets: Float[Tensor, "2 H W"]
    known: Tensor
    on_things: Tensor


def center_targets(
    target: Annotation, things: Sequence[int], size: tuple[int, int], sigma: float = SIGMA
) -> CenterTargets:
    """Targets of one image (Sec. 3.3).

    Args:
        target: a panoptic map.
        things: labels of things.
        size: height and width of the result; beyond the target all is void.
        sigma: standard deviation of the Gaussians in pixels; they end at three times that.

    Raises:
        ValueError: if the target is no panoptic map.
    """
    if not isinstance(target, PanopticMap):
        raise ValueError(f"Panoptic-DeepLab learns from PanopticMap, got {type(target).__name__}")
    height, width = target.id_map.shape
    id_map = F.pad(target.id_map.long(), (0, size[1] - width, 0, size[0] - height))
    labels = torch.full_like(id_map, 255)
    weights, heatmap = torch.ones(size, device=id_map.device), torch.zeros(size, device=id_map.device)
    offsets = torch.zeros(2, *size, device=id_map.device)
    known, on_things = (torch.zeros_like(id_map, dtype=torch.bool) for _ in range(2))
    reach = round(3 * sigma)
    segments = zip(target.ids.tolist(), target.classes.tolist(), target.is_crowd.tolist(), strict=True)
    for number, label, is_crowd in segments:
        mask = id_map == number
        labels = torch.where(mask, label, labels)
        known = known | (mask & (not is_crowd))
        places = mask.nonzero().float()
        if label not in things or is_crowd or not len(places):
            continue
        if len(places) < SMALL_AREA:
            weights = torch.where(mask, SMALL_WEIGHT, weights)
        center = places.mean(0)
        rows, columns = places.long().unbind(1)
        offsets[:, rows, columns] = (center[:, None] - places.T).to(offsets)
        on_things = on_things | mask
        y, x = int(center[0]), int(center[1])
        down = torch.arange(max(y - reach, 0), min(y + reach + 1, size[0]), device=id_map.device)
        along = torch.arange(max(x - reach, 0), min(x + reach + 1, size[1]), device=id_map.device)
        blob = (-((down[:, None] - y) ** 2 + (along - x) ** 2) / (2 * sigma**2)).exp()
        part = heatmap[down[0] : down[-1] + 1, along[0] : along[-1] + 1]
        part.copy_(torch.maximum(part, blob))
    return CenterTargets(labels, weights, heatmap, offsets, known, on_things)


def bootstrapped_cross_entropy(
    logits: Float[Tensor, "b k H W"],
    labels: Int64[Tensor, "b H W"],
    weights: Float[Tensor, "b H W"],
    share: float = HARDEST,
) -> Float[Tensor, ""]:
    """Mean weighted cross-entropy of the pixels where it is largest (Yang et al. 2019, DeeperLab, Eq. 1).

    Args:
        logits: scores.
        labels: 255 where void, whose loss is 0.
        weights: factor of each pixel; it also decides which are largest.
        share: of all pixels that are taken, those that are void included.

    >>> logits = torch.tensor([[[[0.0, 5.0]], [[0.0, 0.0]]]])
    >>> bootstrapped_cross_entropy(logits, torch.zeros(1, 1, 2).long(), torch.ones(1, 1, 2), 0.5).item()
    0.6931471824645996
    """
    losses = (F.cross_entropy(logits.float(), labels, ignore_index=255, reduction="none") * weights).flatten()
    return losses.topk(max(int(share * len(losses)), 1)).values.mean()


@loss_parts.register
def center_losses(output: CenterLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Of classes, of the heatmap where something is known, of the offsets on things (Sec. 3.3)."""
    each = [center_targets(target, output.things, output.size) for target in batch.annotations]
    device = output.semantic.device
    labels, weights, heatmap, offsets, known, on_things = (
        torch.stack([getattr(one, name) for one in each]).to(device)
        for name in ("labels", "weights", "heatmap", "offsets", "known", "on_things")
    )
    semantic, center, way = (
        resize(x.float(), output.size, align_corners=True)
        for x in (output.semantic, output.heatmap, output.offsets)
    )
    squares = (center[:, 0] - heatmap) ** 2 * known
    steps = (way - offsets).abs().mean(1) * on_things
    return {
        "segmentation": bootstrapped_cross_entropy(semantic, labels, weights),
        "center": CENTER_WEIGHT * squares.sum() / known.sum().clamp_min(1),
        "offset": OFFSET_WEIGHT * steps.sum() / on_things.sum().clamp_min(1),
    }


# --- decoding -------------------------------------------------------------------------------------


@decode.panoptic.register
def segments(
    output: CenterLogits, classes: ClassTable, merging: decode.Merging = decode.PAPERS_OWN
) -> tuple[PanopticMap, ...]:
    """Pixels of things grouped by the centre that they point at, over stuff.

    Args:
        output: of Panoptic-DeepLab.
        classes: say which labels are things.
        merging: `min_score` of a centre and `min_stuff_area`; groups never overlap.

    Raises:
        ValueError: if the table has other things than the model.
    """
    if sorted(classes.things) != sorted(output.things):
        raise ValueError(f"the model knows the things {output.things}, the class table {classes.things}")
    limits = merging.over(decode.Thresholds(MIN_SCORE, 1.0, MIN_STUFF_AREA))
    stuff = [label for label in range(len(classes)) if label not in classes.things]
    labels = decode.semantic(DenseLogits(output.semantic, output.size, align_corners=True)).labels
    found = []
    for image, named in enumerate(labels):
        groups = groups_of(output, image, limits.min_score)
        found.append(name_groups(groups, named, output.things, stuff, min_stuff_area=limits.min_stuff_area))
    return tuple(found)


def groups_of(output: CenterLogits, image: int, min_score: float) -> Int64[Tensor, "H W"]:
    """The centre that each pixel of one image points at."""
    heatmap, offsets = (
        resize(x[image : image + 1].detach().float(), output.size, align_corners=True)[0]
        for x in (output.heatmap, output.offsets)
    )
    return group_pixels(offsets, find_centers(heatmap[0], min_score=min_score).places)


# --- builders -------------------------------------------------------------------------------------


def panoptic_deeplab(
    num_classes: int,
    *,
    things: Sequence[int] = (),
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
) -> PanopticDeepLab:
    """Panoptic-DeepLab on any encoder that can be dilated to stride 16.

    Args:
        num_classes: number of all classes, things and stuff.
        things: labels of the things; all classes without it.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the decoder for classes; the other has half of it.

    Raises:
        ValueError: if a thing is no class.
    """
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=16, stem=stem, stages=STAGES
    )
    return PanopticDeepLab(made, num_classes, _checked(things, num_classes), width)


def _checked(things: Sequence[int], num_classes: int) -> Sequence[int]:
    if wrong := [label for label in things if not 0 <= label < num_classes]:
        raise ValueError(f"things must be labels in 0..{num_classes - 1}, got {wrong[0]}")
    return sorted(things) if things else range(num_classes)


def panoptic_deeplab_resnet50(
    num_classes: int,
    *,
    things: Sequence[int] = (),
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> PanopticDeepLab:
    """The paper's Panoptic-DeepLab on ResNet-50."""
    return panoptic_deeplab(
        num_classes, things=things, in_channels=in_channels, pretrained=pretrained, stem=stem
    )


def panoptic_deeplab_xception71(
    num_classes: int,
    *,
    things: Sequence[int] = (),
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> PanopticDeepLab:
    """The paper's Panoptic-DeepLab on aligned Xception-71, with separable convolutions."""
    made = make_encoder(
        "aligned_xception71",
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=16,
        stem=stem,
        stages=STAGES,
    )
    return PanopticDeepLab(made, num_classes, _checked(things, num_classes), convolution=SeparableAtrous)
