"""RetinaNet: classes and boxes at every place of a pyramid in one stage, by the focal loss (Fig. 3).

Two small networks, the same for all levels, look at nine anchors per place (Sec. 4): one names the object of
each anchor, the other corrects its box. Nearly all of some 100 000 anchors are background; the focal loss
(Sec. 3) keeps these easy ones from drowning the few others. So nothing is sampled: all anchors learn.

`retinanet_resnet50_fpn` and `..._v2` are the networks that torchvision has weights for; `retinanet` takes any
encoder. Departures: torchvision's names for levels and numbers are kept, and its second version, which has
group norms and learns boxes by their generalised IoU, is an argument.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, fold_frozen_norms, make_encoder
from ..layers import FittedImages, fit_images, size_of
from ..losses import focal_loss, loss_parts
from ..ops import (
    boxes_in,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    make_anchors,
    match_boxes,
    objects_in,
    rescaled,
)
from ..types import Annotation, Batch, Boxes, BuiltBy, Model, Paper, Value, value
from .feature_pyramid import P6P7, FeaturePyramid

PAPER = Paper(
    "Focal Loss for Dense Object Detection",
    "Lin, Goyal, Girshick, He, Dollár",
    "ICCV",
    2017,
    "https://arxiv.org/abs/1708.02002",
)

STAGES = ("c3", "c4", "c5")
ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height over width
# Roots of the areas in pixels, of levels P3 to P7: three per octave (Sec. 4).
ANCHOR_SIZES = tuple(tuple(int(side * 2 ** (i / 3)) for i in range(3)) for side in (32, 64, 128, 256, 512))
NUM_ANCHORS = 9
ALPHA, GAMMA = 0.25, 2.0
PRIOR = 0.01  # probability that a fresh network gives each class of each anchor (Sec. 3.3)
POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
UNDECIDED = 255  # label of anchors between the two


@value
class AnchorLogits(Value):
    """Anchors at every place of every level, each with scores of classes and a correction of its box.

    Attributes:
        class_logits: scores of the k classes, each for itself.
        box_deltas: how a better box lies to that of the anchor.
        anchors: of every image, in pixels of the image as the network sees it.
        image_sizes: height and width of each image in pixels.
        seen_sizes: height and width of each image as the network sees it.
        by_overlap: whether boxes are learned by their generalised IoU instead of their corrections.
        detections: the objects of each image in pixels of the image as the network sees it, best first; only
            in evaluation.
    """

    class_logits: Float[Tensor, "b a k"]
    box_deltas: Float[Tensor, "b a 4"]
    anchors: Float[Tensor, "a 4"]
    image_sizes: tuple[tuple[int, int], ...]
    seen_sizes: tuple[tuple[int, int], ...]
    by_overlap: bool = False
    detections: tuple[Boxes, ...] = ()


class Subnet(nn.Module):
    """Four convolutions, and one that says `per_anchor` numbers of each anchor (Fig. 3 c, d).

    Args:
        width: channels of the levels and of the convolutions.
        per_anchor: numbers per anchor.
        norm: whether group norms follow the convolutions, which then have no bias (torchvision's v2).
        bias: of the last convolution.
    """

    def __init__(self, width: int, per_anchor: int, *, norm: bool = False, bias: float = 0.0) -> None:
        super().__init__()
        self.per_anchor = per_anchor
        self.convolutions = nn.Sequential(*(_convolution(width, norm) for _ in range(4)))
        self.out = nn.Conv2d(width, NUM_ANCHORS * per_anchor, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.constant_(module.bias, bias if module is self.out else 0.0)

    def forward(self, level: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n per_anchor"]:
        """The numbers of all anchors of a level, in the order of `make_anchors`."""
        x = self.out(self.convolutions(level)).unflatten(1, (NUM_ANCHORS, self.per_anchor))
        return x.permute(0, 3, 4, 1, 2).flatten(1, 3)


def _convolution(width: int, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
    return nn.Sequential(convolution, *([nn.GroupNorm(32, width)] if norm else []), nn.ReLU(inplace=True))


class RetinaNet(Model):
    """Encoder, feature pyramid P3 to P7, and the two networks on each level.

    Args:
        encoder: gives c3 to c5.
        num_classes: number of classes k of objects.
        width: channels of the pyramid and of both networks.
        improved: torchvision's second version: P6 is made of c5 instead of P5, group norms, generalised IoU.
        min_size: the shorter side of images is resized to it, in pixels; None to take images as they are.
        max_size: of the longer side, which holds if both cannot be met.

    Attributes:
        score_threshold: what is not above it is not detected.
        num_candidates: boxes per level that are compared.
        max_iou: of two detections of a class.
        max_detections: per image.
    """

    tasks = ("detection",)
    output = AnchorLogits
    num_classes: int

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = 256,
        improved: bool = False,
        min_size: int | None = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.min_size, self.max_size, self.improved = min_size, max_size, improved
        self.score_threshold, self.num_candidates = 0.05, 1000
        self.max_iou, self.max_detections = 0.5, 300
        self.encoder = encoder
        self.pyramid = FeaturePyramid(encoder.channels[2:], width)
        self.coarser = P6P7(encoder.channels.c5 if improved else width, width)
        prior = -math.log((1 - PRIOR) / PRIOR)
        self.classes = Subnet(width, num_classes, norm=improved, bias=prior)
        self.boxes = Subnet(width, 4, norm=improved)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return batch.image, batch.target, batch.sizes

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> AnchorLogits:
        """Look for objects.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            targets: not looked at; networks that build on this one do.
            sizes: height and width of each image; all of `image` without it.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """
        return self.look(self.prepare(image, sizes), detect=not self.training)[1]

    def prepare(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> FittedImages:
        """The images as the network sees them, padded with the mean colour."""
        sizes = sizes or [size_of(image, self.minimum_size)] * len(image)
        mean = self.encoder.normalize.mean
        return fit_images(image, sizes, mean, min_size=self.min_size, max_size=self.max_size)

    def look(self, seen: FittedImages, *, detect: bool) -> tuple[list[Tensor], AnchorLogits]:
        """The levels P3 to P7, for further heads, and what was found in them."""
        features = self.encoder(seen.images)
        levels = self.pyramid([features[stage] for stage in STAGES])
        levels += self.coarser(features["c5"] if self.improved else levels[-1])
        scores, deltas = [self.classes(level) for level in levels], [self.boxes(level) for level in levels]
        level_sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        size = seen.images.shape[-2], seen.images.shape[-1]
        anchors = make_anchors(level_sizes, size, ANCHOR_SIZES, ANCHOR_RATIOS, scores[0].float())
        found = tuple(
            self.detect([x[i] for x in scores], [x[i] for x in deltas], anchors, own)
            for i, own in enumerate(seen.seen_sizes if detect else ())
        )
        parts = torch.cat(scores, 1), torch.cat(deltas, 1), torch.cat(anchors)
        return levels, AnchorLogits(*parts, seen.image_sizes, seen.seen_sizes, self.improved, found)

    @torch.no_grad()
    def detect(
        self, scores: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], size: tuple[int, int]
    ) -> Boxes:
        """The objects of one image of that size, best first; scores and corrections are per level."""
        from torchvision.ops import batched_nms

        boxes, sure, labels = [], [], []
        for score, delta, anchor in zip(scores, deltas, anchors, strict=True):
            probability = score.float().sigmoid().flatten()
            candidates = (probability > self.score_threshold).nonzero()[:, 0]
            best = probability[candidates].topk(min(self.num_candidates, len(candidates)))
            place = candidates[best.indices]
            number = place // self.num_classes
            boxes.append(clip_boxes(decode_boxes(delta[number], anchor[number]), size))
            sure.append(best.values)
            labels.append(place % self.num_classes)
        found = Boxes.of(torch.cat(boxes), torch.cat(labels), torch.cat(sure))
        kept = batched_nms(found.boxes, found.scores, found.classes, self.max_iou)
        return found.take(kept[: self.max_detections])


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def anchor_losses(output: AnchorLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Focal loss of all anchors (Eq. 5), "class", and of the boxes of those that belong to objects, "box".

    Both are divided by the number of anchors that belong to objects, image by image (Sec. 4.1).
    """
    return losses_of_anchors(output, batch.annotations)


def losses_of_anchors(
    output: AnchorLogits,
    annotations: Sequence[Annotation],
    box_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The same for annotations that are not those of a batch, with another loss of the corrections.

    Args:
        output: of the network.
        annotations: of each image.
        box_loss: corrections and the right ones "n 4" -> the sum over all; absolute differences without it.
    """
    total: dict[str, list[Tensor]] = {"class": [], "box": []}
    targets = objects_in(boxes_in(annotations, output.image_sizes, output.seen_sizes))
    for logits, deltas, target in zip(output.class_logits, output.box_deltas, targets, strict=True):
        matched = match_boxes(output.anchors, target.boxes, NEGATIVE_IOU, POSITIVE_IOU, keep_best=True)
        positive = matched >= 0
        count, anchors = positive.sum().clamp(min=1), output.anchors[positive]
        wanted = target.boxes[matched[positive]]
        labels = torch.zeros_like(logits, dtype=torch.uint8)
        labels[positive, target.classes[matched[positive]]] = 1
        labels[matched < -1] = UNDECIDED
        alpha = logits.new_full((logits.shape[1],), ALPHA, dtype=torch.float32)
        focal = focal_loss(
            logits.T[None], labels.T[None], exclusive=False, alpha=alpha, gamma=GAMMA, reduction="sum"
        )
        own = deltas[positive].float()
        if box_loss is not None:
            difference = box_loss(own, encode_boxes(wanted, anchors))
        elif output.by_overlap:
            from torchvision.ops import generalized_box_iou_loss

            difference = generalized_box_iou_loss(decode_boxes(own, anchors), wanted, reduction="sum")
        else:
            difference = F.l1_loss(own, encode_boxes(wanted, anchors), reduction="sum")
        total["class"].append(focal / count)
        total["box"].append(difference / count)
    return {name: torch.stack(parts).mean() for name, parts in total.items()}


@decode.boxes.register
def boxes_of_anchors(output: AnchorLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    if len(output.detections) != len(output.image_sizes):
        raise ValueError("an output of training has no detections: call model.eval()")
    found = zip(output.detections, output.seen_sizes, output.image_sizes, strict=True)
    return tuple(rescaled(*one) for one in found)


# --- builders -------------------------------------------------------------------------------------


def retinanet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> RetinaNet:
    """RetinaNet on any encoder; the arguments are those of `faster_rcnn`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return RetinaNet(made, num_classes, width=width, min_size=min_size, max_size=max_size)


def retinanet_resnet50_fpn(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> RetinaNet:
    """RetinaNet on ResNet-50, as torchvision's first version."""
    made = make_encoder("resnet50", in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return RetinaNet(made, num_classes, min_size=min_size, max_size=max_size)


def retinanet_resnet50_fpn_v2(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> RetinaNet:
    """RetinaNet on ResNet-50 with group norms and a loss of overlaps, as torchvision's second version."""
    made = make_encoder("resnet50", in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return RetinaNet(made, num_classes, improved=True, min_size=min_size, max_size=max_size)


# --- weights of torchvision -------------------------------------------------------------------------

# torchvision's names on the left.
_RENAMES = (
    (r"backbone\.body\.", "encoder.body."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(0\.)?", r"pyramid.lateral.\1."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(0\.)?", r"pyramid.out.\1."),
    (r"backbone\.fpn\.extra_blocks\.", "coarser."),
    (r"head\.classification_head\.cls_logits\.", "classes.out."),
    (r"head\.regression_head\.bbox_reg\.", "boxes.out."),
    (r"head\.classification_head\.conv\.(\d)\.(\d)\.", r"classes.convolutions.\1.\2."),
    (r"head\.regression_head\.conv\.(\d)\.(\d)\.", r"boxes.convolutions.\1.\2."),
)


def from_torchvision_retinanet(state_dict: dict[str, Tensor], *, frozen_epsilon: float = 0.0) -> RetinaNet:
    """Weights of torchvision's `retinanet_resnet50_fpn` or `..._v2` in our model, in eval mode.

    torchvision counts a background that its networks never name; it is left out.

    Args:
        state_dict: of either, as published or trained further; background is its first class.
        frozen_epsilon: see `from_torchvision_faster_rcnn`.

    Raises:
        ValueError: if it is none of these.
    """
    weights = rename_retinanet(state_dict, frozen_epsilon)
    improved = "classes.convolutions.0.1.weight" in weights
    builder = retinanet_resnet50_fpn_v2 if improved else retinanet_resnet50_fpn
    try:
        for key in ("classes.out.weight", "classes.out.bias"):
            weights[key] = weights[key].unflatten(0, (NUM_ANCHORS, -1))[:, 1:].flatten(0, 1)
        arguments: dict[str, Any] = {"num_classes": len(weights["classes.out.bias"]) // NUM_ANCHORS}
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a RetinaNet from torchvision: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()


def rename_retinanet(state_dict: dict[str, Tensor], frozen_epsilon: float) -> dict[str, Tensor]:
    """Weights under our names; the files of torchvision's first release number convolutions otherwise."""
    weights = {}
    for key, tensor in state_dict.items():
        old = re.fullmatch(r"(head\.\w+\.conv)\.(\d)\.(weight|bias)", key)
        key = f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}" if old else key
        for theirs, ours in _RENAMES:
            key = re.sub(f"^{theirs}", ours, key)
        weights[key] = tensor
    return fold_frozen_norms(weights, frozen_epsilon)
