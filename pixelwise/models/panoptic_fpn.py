"""Panoptic FPN: Mask R-CNN and a semantic branch on one feature pyramid (Fig. 1c).

The branch of `fpn.py` names every pixel: each class of stuff, and one class for all things, which the
instances tell apart (Sec. 3.2). Both losses are added, the semantic one with a smaller weight (Sec. 3.3). The
two answers are merged by rules: surer instances lie above others, and stuff is what they leave (Sec. 4.1,
"Panoptic inference"; Kirillov et al. 2019, Panoptic Segmentation, Sec. 6).

Departures: thresholds of the merging and weights of the losses are those of Detectron2; the paper tunes them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize
from ..losses import loss_parts
from ..merging import NOBODY, paste_instances
from ..types import (
    Annotation,
    Batch,
    ClassTable,
    DenseLogits,
    MaskSet,
    Model,
    PanopticMap,
    Paper,
    Value,
    value,
)
from .faster_rcnn import STAGES, assemble
from .fpn import SemanticBranch
from .mask_rcnn import MaskHead, MaskRCNN, MaskRegionLogits, instance_losses

PAPER = Paper(
    "Panoptic Feature Pyramid Networks",
    "Kirillov, Girshick, He, Dollár",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1901.02446",
)

INSTANCE_WEIGHT, SEMANTIC_WEIGHT = 1.0, 0.5


@value
class PanopticLogits(Value):
    """Instances, and scores of every pixel.

    Attributes:
        instances: of the things; classes are positions in `things`.
        semantic: of each image: scores of "some thing", first, and of the classes of stuff in their order.
        things: labels of the things.
        min_score: of an instance that is drawn.
        max_overlap: share of an instance that may lie under surer ones.
        min_stuff_area: pixels of a segment of stuff; smaller ones become void.
    """

    instances: MaskRegionLogits
    semantic: tuple[DenseLogits, ...]
    things: tuple[int, ...]
    min_score: float
    max_overlap: float
    min_stuff_area: int


class PanopticFPN(Model):
    """Mask R-CNN and the semantic branch.

    Args:
        instances: finds the things.
        semantic: names pixels.
        things: labels of the things among all classes.

    Attributes:
        min_score: see `PanopticLogits`.
        max_overlap: see `PanopticLogits`.
        min_stuff_area: see `PanopticLogits`.
    """

    tasks = ("panoptic",)
    output = PanopticLogits
    encoder_parts = ("instances.detector.encoder",)

    def __init__(self, instances: MaskRCNN, semantic: SemanticBranch, things: Sequence[int]) -> None:
        super().__init__()
        self.num_classes = semantic.head.out_channels - 1 + len(things)
        self.in_channels, self.things = instances.in_channels, tuple(things)
        self.instances, self.semantic = instances, semantic
        self.min_score, self.max_overlap, self.min_stuff_area = 0.5, 0.5, 4096

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return self.instances.inputs(batch)

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> PanopticLogits:
        """Look for segments; the arguments are those of `FasterRCNN.forward`, the targets `PanopticMap`s."""
        seen = self.instances.detector.prepare(image, sizes)
        things = None
        if self.training and targets is not None:
            things = [things_of(target, self.things) for target in targets]
        levels, instances = self.instances.look(seen, things)
        scores = self.semantic(levels)
        semantic = tuple(
            _without_padding(one[None], seen.images, own, size)
            for one, own, size in zip(scores, seen.seen_sizes, seen.image_sizes, strict=True)
        )
        merging = self.min_score, self.max_overlap, self.min_stuff_area
        return PanopticLogits(instances, semantic, self.things, *merging)


def _without_padding(
    coarse: Float[Tensor, "1 k h w"], padded: Tensor, seen: tuple[int, int], size: tuple[int, int]
) -> DenseLogits:
    """Scores of one image, of which `seen` is height and width in the padded batch."""
    whole = (padded.shape[-2], padded.shape[-1])
    if whole != seen:
        coarse = resize(coarse, whole)[:, :, : seen[0], : seen[1]]
    return DenseLogits(coarse, size)


def things_of(target: Annotation, things: Sequence[int]) -> MaskSet:
    """The things of a panoptic map; classes are positions in `things`.

    Raises:
        ValueError: if it is no panoptic map.
    """
    if not isinstance(target, PanopticMap):
        raise ValueError(f"Panoptic FPN learns from PanopticMap, got {type(target).__name__}")
    position = {label: number for number, label in enumerate(things)}
    numbers = [position.get(label, -1) for label in target.classes.tolist()]
    number = torch.tensor(numbers, dtype=torch.int64, device=target.classes.device)
    wanted = number >= 0
    masks = target.id_map[None] == target.ids[wanted].to(target.id_map)[:, None, None]
    return MaskSet.of(masks, number[wanted], is_crowd=target.is_crowd[wanted])


def semantic_labels(
    target: PanopticMap, things: Sequence[int], num_classes: int, ignore: int = 255
) -> Int64[Tensor, "H W"]:
    """What the semantic branch is to say: 0 on things, from 1 on classes of stuff, `ignore` where void."""
    stuff = [label for label in range(num_classes) if label not in things]
    position = {label: number for number, label in enumerate(stuff, 1)}
    numbers = [position.get(label, 0) for label in target.classes.tolist()]
    ids, order = target.ids.to(target.id_map).sort()
    known = torch.tensor(numbers, dtype=torch.int64, device=ids.device)[order]
    place = torch.searchsorted(ids, target.id_map).clamp(max=max(len(ids) - 1, 0))
    if not len(ids):
        return torch.full_like(target.id_map, ignore, dtype=torch.int64)
    return torch.where(ids[place] == target.id_map, known[place], ignore)


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def panoptic_losses(output: PanopticLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Mask R-CNN's, and "segmentation": cross-entropy of all pixels that are not void (Sec. 3.3)."""
    things = [things_of(target, output.things) for target in batch.annotations]
    parts = {name: INSTANCE_WEIGHT * part for name, part in instance_losses(output.instances, things).items()}
    device = batch.image.device
    total, count = torch.zeros((), device=device), 0
    for scores, target in zip(output.semantic, batch.annotations, strict=True):
        assert isinstance(target, PanopticMap)
        num_classes = scores.coarse.shape[1] - 1 + len(output.things)
        labels = semantic_labels(target, output.things, num_classes).to(device)
        total = total + F.cross_entropy(
            scores.logits.float(), labels[None], ignore_index=255, reduction="sum"
        )
        count += int((labels != 255).sum())
    return parts | {"segmentation": SEMANTIC_WEIGHT * total / max(count, 1)}


@decode.instances.register
def things_found(output: PanopticLogits) -> tuple[MaskSet, ...]:
    """The instances as Mask R-CNN finds them, before the merging."""
    labels = torch.tensor(output.things)
    return tuple(
        MaskSet(one.masks, labels.to(one.classes.device)[one.classes], one.scores, one.is_crowd)
        for one in decode.instances(output.instances)
    )


@decode.panoptic.register
def segments(
    output: PanopticLogits, classes: ClassTable, merging: decode.Merging = decode.PAPERS_OWN
) -> tuple[PanopticMap, ...]:
    """Sure instances over stuff.

    Args:
        output: of Panoptic FPN.
        classes: say which labels are things.
        merging: thresholds that differ from those of the output.

    Raises:
        ValueError: if the table has other things than the model.
    """
    if sorted(classes.things) != sorted(output.things):
        raise ValueError(f"the model knows the things {output.things}, the class table {classes.things}")
    stuff = [label for label in range(len(classes)) if label not in classes.things]
    paper = decode.Thresholds(output.min_score, output.max_overlap, output.min_stuff_area)
    min_score, max_overlap, min_stuff_area = merging.over(paper)
    found = []
    for instances, scores in zip(decode.instances(output), output.semantic, strict=True):
        labels = torch.tensor([NOBODY, *stuff])[decode.semantic(scores).labels[0].cpu()]
        sure = instances.take(instances.scores >= min_score)
        found.append(
            paste_instances(sure, labels, stuff, max_overlap=max_overlap, min_stuff_area=min_stuff_area)
        )
    return tuple(found)


# --- builders -------------------------------------------------------------------------------------


def panoptic_fpn(
    num_classes: int,
    *,
    things: Sequence[int] = (),
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> PanopticFPN:
    """Panoptic FPN on any encoder.

    Args:
        num_classes: number of all classes, things and stuff.
        things: labels of the things; all classes without it.
        encoder: see `faster_rcnn`.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the pyramid.
        min_size: see `FasterRCNN`.
        max_size: see `FasterRCNN`.

    Raises:
        ValueError: if a thing is no class.
    """
    things = sorted(things) if things else range(num_classes)
    if wrong := [label for label in things if not 0 <= label < num_classes]:
        raise ValueError(f"things must be labels in 0..{num_classes - 1}, got {wrong[0]}")
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    detector = assemble(made, len(things), width=width, min_size=min_size, max_size=max_size)
    instances = MaskRCNN(detector, MaskHead(width, len(things)))
    semantic = SemanticBranch(width, len(STAGES), num_classes - len(things) + 1)
    return PanopticFPN(instances, semantic, things)


def panoptic_fpn_resnet50(
    num_classes: int,
    *,
    things: Sequence[int] = (),
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> PanopticFPN:
    """The paper's Panoptic FPN on ResNet-50."""
    return panoptic_fpn(
        num_classes,
        things=things,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
