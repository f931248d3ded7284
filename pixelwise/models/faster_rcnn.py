"""Faster R-CNN: a network proposes regions, a second one names each of them and corrects its box (Fig. 2).

At every place of a map, boxes of fixed sizes and shapes (anchors) get a score and a correction (Sec. 3.1).
The best are the regions whose features the second network looks at: Fast R-CNN (Girshick 2015). As in all
later work the maps are a feature pyramid (Lin et al. 2017, Sec. 4), one size of anchor per level, and both
networks are trained together (Sec. 3.2, "approximate joint training").

`faster_rcnn_resnet50_fpn` and `..._v2` are the networks that torchvision has weights for; `faster_rcnn` takes
any encoder. Images are resized within the model, and boxes come back in pixels of the image.
Departures: `num_classes` counts objects only; the heads add background in front. Crowds and objects without
an area are left out. Batch norms learn from the batch, unless they are frozen.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, fold_frozen_norms, make_encoder
from ..layers import FittedImages, fit_images, size_of
from ..losses import NoLoss, loss_parts
from ..ops import (
    assigned,
    boxes_in,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    make_anchors,
    match_boxes,
    objects_in,
    objects_of,
    rescaled,
    sample_matched,
    sides_reach,
)
from ..types import Annotation, AssignedBoxes, Batch, Boxes, BuiltBy, Model, Paper, RegionLogits
from .fast_rcnn import BoxHead, fast_rcnn_losses, smooth_l1
from .feature_pyramid import FeaturePyramid, RegionPooling, subsampled

PAPER = Paper(
    "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
    "Ren, He, Girshick, Sun",
    "TPAMI",
    2017,
    "https://arxiv.org/abs/1506.01497",
)

STAGES = ("c2", "c3", "c4", "c5")
ANCHOR_SIZES = (32, 64, 128, 256, 512)  # root of the area in pixels, one per level P2 to P6
ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height over width


class RegionProposalNetwork(nn.Module):
    """Scores and corrections of anchors at every place of every level (Sec. 3.1).

    Args:
        width: of the convolutions.
        c_in: channels of the levels; as many without it.
        num_convolutions: before the two heads; 1 in the paper, 2 in torchvision's v2.
        num_anchors: at each place.

    Attributes:
        positive_iou: from it on an anchor belongs to an object.
        negative_iou: below it an anchor is background; between the two it is not learned from.
        num_sampled: anchors per image to learn from.
        positive_share: the most of them that belong to objects.
        num_candidates: boxes per level that are compared, in training and in evaluation.
        num_regions: regions per image that are proposed, in training and in evaluation.
        max_iou: of two regions of a level.
    """

    def __init__(
        self, width: int, *, c_in: int | None = None, num_convolutions: int = 1, num_anchors: int = 3
    ) -> None:
        super().__init__()
        self.positive_iou, self.negative_iou, self.max_iou = 0.7, 0.3, 0.7
        self.num_sampled, self.positive_share = 256, 0.5
        self.num_candidates, self.num_regions = (2000, 1000), (2000, 1000)
        layers = (
            nn.Sequential(nn.Conv2d(width if i else c_in or width, width, 3, padding=1), nn.ReLU())
            for i in range(num_convolutions)
        )
        self.convolutions = nn.Sequential(*layers)
        self.objectness = nn.Conv2d(width, num_anchors, 1)
        self.deltas = nn.Conv2d(width, 4 * num_anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each level, scores "b anchors" and corrections "b anchors 4", in the order of `make_anchors`."""
        scores, deltas = [], []
        for level in levels:
            x = self.convolutions(level)
            scores.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return scores, deltas

    def sample(
        self, scores: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], objects: Sequence[Boxes]
    ) -> tuple[AssignedBoxes, Float[Tensor, " a"], Float[Tensor, "a 4"]]:
        """Anchors of all images to learn from, with their scores and corrections."""
        everywhere, low, high = torch.cat(anchors), self.negative_iou, self.positive_iou
        matched = [match_boxes(everywhere, own.boxes, low, high, keep_best=True) for own in objects]
        chosen = [sample_matched(one, self.num_sampled, self.positive_share) for one in matched]
        numbers = [one[index] for one, index in zip(matched, chosen, strict=True)]
        sampled, index = assigned([everywhere[index] for index in chosen], numbers), torch.cat(chosen)
        score, delta = torch.cat(scores, 1), torch.cat(deltas, 1)
        return sampled, score[sampled.image, index], delta[sampled.image, index]

    @torch.no_grad()
    def propose(
        self, scores: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], size: tuple[int, int]
    ) -> Float[Tensor, "r 4"]:
        """Regions of one image of that size, best first. Scores "n" and corrections "n 4" are per level."""
        from torchvision.ops import batched_nms

        found = []
        for number, (score, delta, anchor) in enumerate(zip(scores, deltas, anchors, strict=True)):
            best = score.topk(min(self.num_candidates[not self.training], len(score))).indices
            boxes = clip_boxes(decode_boxes(delta[best], anchor[best]), size)
            found.append((boxes, score[best].float().sigmoid(), torch.full_like(best, number)))
        boxes, score, level = (torch.cat(parts) for parts in zip(*found, strict=True))
        large = sides_reach(boxes, 1e-3)
        boxes, score, level = boxes[large], score[large], level[large]
        kept = batched_nms(boxes, score, level, self.max_iou)
        return boxes[kept[: self.num_regions[not self.training]]]


class FasterRCNN(Model):
    """Encoder, feature pyramid, region proposal network, box head.

    Args:
        encoder: gives c2 to c5.
        pyramid: makes levels of equal width of them.
        proposals: proposes regions.
        head: looks at them.
        min_size: the shorter side of images is resized to it, in pixels; None to take images as they are.
        max_size: of the longer side, which holds if both cannot be met.
    """

    tasks = ("detection",)
    output = RegionLogits

    def __init__(
        self,
        encoder: Encoder,
        pyramid: FeaturePyramid,
        proposals: RegionProposalNetwork,
        head: BoxHead,
        *,
        min_size: int | None = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = head.num_classes, encoder.in_channels
        self.min_size, self.max_size = min_size, max_size
        self.encoder, self.pyramid, self.proposals, self.head = encoder, pyramid, proposals, head
        self.pooling = RegionPooling(BoxHead.SIZE)
        self.make_anchors = partial(make_anchors, box_sizes=ANCHOR_SIZES, ratios=ANCHOR_RATIOS)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return batch.image, batch.target, batch.sizes

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> RegionLogits:
        """Look for objects.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            targets: `Boxes` or `MaskSet` of each image; they choose the regions to learn from. In evaluation
                they are not looked at.
            sizes: height and width of each image; all of `image` without it.

        Raises:
            ValueError: in training without targets, or if the image is smaller than `minimum_size`.
        """
        return self.look(self.prepare(image, sizes), targets)[1]

    def prepare(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> FittedImages:
        """The images as the network sees them, padded with the mean colour."""
        sizes = sizes or [size_of(image, self.minimum_size)] * len(image)
        mean = self.encoder.normalize.mean
        return fit_images(image, sizes, mean, min_size=self.min_size, max_size=self.max_size)

    def look(
        self, seen: FittedImages, targets: Sequence[Annotation] | None = None
    ) -> tuple[list[Tensor], RegionLogits]:
        """The levels P2 to P5 of the pyramid, for further heads, and what was found in them."""
        features = self.encoder(seen.images)
        levels = self.pyramid([features[stage] for stage in STAGES])
        all_levels = [*levels, subsampled(levels[-1])]
        scores, deltas = self.proposals(all_levels)
        level_sizes = [(level.shape[-2], level.shape[-1]) for level in all_levels]
        size = seen.images.shape[-2], seen.images.shape[-1]
        anchors = self.make_anchors(level_sizes, size, like=scores[0].float())
        proposed = [
            self.proposals.propose([x[i] for x in scores], [x[i] for x in deltas], anchors, size)
            for i, size in enumerate(seen.seen_sizes)
        ]
        old, new = seen.image_sizes, seen.seen_sizes
        if self.training:
            objects = objects_in(boxes_in(targets, old, new))
            learned = self.proposals.sample(scores, deltas, anchors, objects)
            regions = self.head.sample(proposed, objects)
            logits, corrections = self.head(self.pooling(levels, regions))
            return levels, RegionLogits(regions, logits, corrections, old, new, *learned)
        regions = assigned(proposed, [torch.full_like(boxes[:, 0], -1).long() for boxes in proposed])
        logits, corrections = self.head(self.pooling(levels, regions))
        counts = [len(boxes) for boxes in proposed]
        each = zip(logits.split(counts), corrections.split(counts), proposed, new, strict=True)
        detections = tuple(self.head.detect(*one) for one in each)
        return levels, RegionLogits(regions, logits, corrections, old, new, detections=detections)


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def region_losses(output: RegionLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Of the sampled anchors, and Fast R-CNN's of the sampled regions (Eq. 1)."""
    return detection_losses(output, batch.annotations)


def detection_losses(output: RegionLogits, annotations: Sequence[Annotation]) -> dict[str, Float[Tensor, ""]]:
    """The same for annotations that are not those of a batch."""
    targets = boxes_in(annotations, output.image_sizes, output.seen_sizes)
    return {**proposal_losses(output, targets), **fast_rcnn_losses(output, targets)}


def proposal_losses(output: RegionLogits, targets: Sequence[Boxes]) -> dict[str, Float[Tensor, ""]]:
    """Of the sampled anchors: "rpn_objectness" and "rpn_box".

    Raises:
        NoLoss: if the output is one of evaluation.
    """
    anchors, objectness, deltas = output.anchors, output.objectness, output.anchor_deltas
    if anchors is None or objectness is None or deltas is None:
        raise NoLoss
    positive, count = anchors.target >= 0, max(len(anchors), 1)
    wanted = encode_boxes(objects_of(anchors, targets).boxes, anchors.boxes[positive])
    entropy = F.binary_cross_entropy_with_logits(objectness.float(), positive.float(), reduction="sum")
    return {"rpn_objectness": entropy / count, "rpn_box": smooth_l1(deltas[positive], wanted) / count}


@decode.boxes.register
def detected_boxes(output: RegionLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    if len(output.detections) != len(output.image_sizes):
        raise ValueError("an output of training has no detections: call model.eval()")
    found = zip(output.detections, output.seen_sizes, output.image_sizes, strict=True)
    return tuple(rescaled(*one) for one in found)


# --- builders -------------------------------------------------------------------------------------


def faster_rcnn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> FasterRCNN:
    """Faster R-CNN with a feature pyramid on any encoder.

    Args:
        num_classes: number of classes k of objects, background not among them.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the pyramid; heads shrink with it.
        min_size: see `FasterRCNN`.
        max_size: see `FasterRCNN`.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return assemble(made, num_classes, width=width, min_size=min_size, max_size=max_size)


def faster_rcnn_resnet50_fpn(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> FasterRCNN:
    """Faster R-CNN on ResNet-50 with a feature pyramid, as torchvision's first version."""
    made = make_encoder("resnet50", in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return assemble(made, num_classes, min_size=min_size, max_size=max_size)


def faster_rcnn_resnet50_fpn_v2(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> FasterRCNN:
    """Faster R-CNN on ResNet-50 with more convolutions and batch norms, as torchvision's second version."""
    made = make_encoder("resnet50", in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return assemble(made, num_classes, improved=True, min_size=min_size, max_size=max_size)


def assemble(
    encoder: Encoder,
    num_classes: int,
    *,
    improved: bool = False,
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> FasterRCNN:
    """The parts of the first or the improved version on an encoder."""
    return FasterRCNN(
        encoder,
        FeaturePyramid(encoder.channels[1:], width, norm=improved),
        RegionProposalNetwork(width, num_convolutions=2 if improved else 1),
        BoxHead(width, num_classes, improved=improved),
        min_size=min_size,
        max_size=max_size,
    )


# --- weights of torchvision -------------------------------------------------------------------------


def from_torchvision_faster_rcnn(state_dict: dict[str, Tensor], *, frozen_epsilon: float = 0.0) -> FasterRCNN:
    """Weights of torchvision's `fasterrcnn_resnet50_fpn` or `..._v2` in our model, in eval mode.

    Args:
        state_dict: of either, as published or trained further; background is its first class.
        frozen_epsilon: of batch norms that were frozen, which have no counter: 0 in the published weights,
            1e-5 in those trained from `weights_backbone`.

    Raises:
        ValueError: if it is none of these.
    """
    weights, version = rename_torchvision(state_dict, frozen_epsilon)
    try:
        arguments: dict[str, Any] = {"num_classes": len(weights["head.classes.bias"]) - 1}
        builder = faster_rcnn_resnet50_fpn_v2 if version == 2 else faster_rcnn_resnet50_fpn
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a Faster R-CNN from torchvision: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()


_RENAMES = (
    (r"backbone\.body\.", "encoder.body."),
    (r"backbone\.fpn\.inner_blocks\.", "pyramid.lateral."),
    (r"backbone\.fpn\.layer_blocks\.", "pyramid.out."),
    (r"rpn\.head\.conv\.(weight|bias)", r"proposals.convolutions.0.0.\1"),
    (r"rpn\.head\.conv\.", "proposals.convolutions."),
    (r"rpn\.head\.cls_logits\.", "proposals.objectness."),
    (r"rpn\.head\.bbox_pred\.", "proposals.deltas."),
    (r"roi_heads\.box_head\.fc6\.", "head.features.1."),
    (r"roi_heads\.box_head\.fc7\.", "head.features.3."),
    (r"roi_heads\.box_head\.", "head.features."),
    (r"roi_heads\.box_predictor\.cls_score\.", "head.classes."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "head.boxes."),
)


def rename_torchvision(state_dict: dict[str, Tensor], frozen_epsilon: float) -> tuple[dict[str, Tensor], int]:
    """Weights under our names, and torchvision's version of the network: 1 or 2."""
    version = 2 if "roi_heads.box_head.5.weight" in state_dict else 1
    weights = {}
    for key, tensor in state_dict.items():
        for theirs, ours in _RENAMES:
            key = re.sub(f"^{theirs}", ours, key)
        if version == 1:
            key = re.sub(r"^(pyramid\.\w+\.\d)\.0\.", r"\1.", key)
        weights[key] = tensor
    return fold_frozen_norms(weights, frozen_epsilon), version
