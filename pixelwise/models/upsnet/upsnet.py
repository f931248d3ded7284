"""UPSNet: Mask R-CNN, a semantic head of deformable convolutions, and what the panoptic head needs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...encoders import Encoder, StemPolicy, make_encoder
from ...layers import resize
from ...ops.objects import assigned, boxes_in, sides_reach
from ...types import Annotation, AssignedBoxes, Batch, Boxes, Model, Paper, Value, value
from ..faster_rcnn import STAGES, assemble
from ..mask_rcnn import MaskHead, MaskRCNN, MaskRegionLogits
from ..panoptic_fpn import things_of

PAPER = Paper(
    "UPSNet: A Unified Panoptic Segmentation Network",
    "Xiong, Liao, Zhao, Hu, Bai, Yumer, Urtasun",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1901.03784",
)

SHOWN = 0.7  # share of the true instances that the panoptic head sees in training
STRIDE = 4  # of the scores


@value
class UnifiedLogits(Value):
    """What UPSNet says of a batch.

    Attributes:
        instances: of the things; classes are positions in `things`.
        semantic: scores of all k classes at stride 4 of the images as the network sees them, padding
            included.
        things: labels of the things.
        shown: in training, the true instances that the panoptic head sees.
        shown_masks: scores of their masks within their boxes, of background, which is not used, and of the
            things.
    """

    instances: MaskRegionLogits
    semantic: Float[Tensor, "b k h w"]
    things: tuple[int, ...]
    shown: AssignedBoxes | None = None
    shown_masks: Float[Tensor, "m k1 s s"] | None = None


class DeformableConv(nn.Module):
    """3x3 convolution whose nine samples move as a second convolution says (Dai et al. 2017), and ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(c_in, 18, 3, padding=1)
        self.weight = nn.Parameter(torch.empty(c_out, c_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(c_out))
        nn.init.kaiming_uniform_(self.weight, a=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """Same size."""
        from torchvision.ops import deform_conv2d

        return F.relu(deform_conv2d(x, self.offset(x), self.weight, self.bias, padding=1))


class SemanticHead(nn.Module):
    """The same three deformable convolutions on every level, joined at stride 4 and classified (Fig. 3).

    Args:
        width: channels of the levels; the last two convolutions have half of it.
        num_levels: how many there are.
        num_classes: number of channels k of the scores.
    """

    def __init__(self, width: int, num_levels: int, num_classes: int) -> None:
        super().__init__()
        half = width // 2
        self.convolutions = nn.Sequential(
            DeformableConv(width, width), DeformableConv(width, half), DeformableConv(half, half)
        )
        self.classes = nn.Conv2d(num_levels * half, num_classes, 1)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "b k h w"]:
        """Scores at the size of the finest level."""
        size = (levels[0].shape[-2], levels[0].shape[-1])
        scores: Tensor = self.classes(torch.cat([resize(self.convolutions(x), size) for x in levels], 1))
        return scores


class UPSNet(Model):
    """Mask R-CNN, the semantic head, the panoptic head.

    Args:
        instances: finds the things.
        semantic: names pixels.
        things: labels of the things among all classes.
    """

    tasks = ("panoptic",)
    output = UnifiedLogits
    encoder_parts = ("instances.detector.encoder",)

    def __init__(self, instances: MaskRCNN, semantic: SemanticHead, things: Sequence[int]) -> None:
        super().__init__()
        self.num_classes, self.in_channels = semantic.classes.out_channels, instances.in_channels
        self.things = tuple(things)
        self.instances, self.semantic = instances, semantic

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return self.instances.inputs(batch)

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> UnifiedLogits:
        """Look for segments; the arguments are those of `FasterRCNN.forward`, the targets `PanopticMap`s."""
        seen = self.instances.detector.prepare(image, sizes)
        if not self.training or targets is None:
            levels, instances = self.instances.look(seen)
            return UnifiedLogits(instances, self.semantic(levels), self.things)
        things = [things_of(target, self.things) for target in targets]
        levels, instances = self.instances.look(seen, things)
        shown = _shown(boxes_in(things, seen.image_sizes, seen.seen_sizes))
        drawn = self.instances.mask_head(self.instances.pooling(levels, shown))
        return UnifiedLogits(instances, self.semantic(levels), self.things, shown, drawn)


def _shown(objects: Sequence[Boxes]) -> AssignedBoxes:
    """Some of the true boxes; crowds and boxes without an area are never among them."""
    boxes, numbers = [], []
    for one in objects:
        real = ~one.is_crowd & sides_reach(one.boxes, 1e-3)
        kept = (real & (torch.rand(len(one), device=real.device) < SHOWN)).nonzero()[:, 0]
        boxes.append(one.boxes[kept])
        numbers.append(kept)
    return assigned(boxes, numbers)


# --- builders -------------------------------------------------------------------------------------


def upsnet(
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
) -> UPSNet:
    """UPSNet on any encoder; the arguments are those of `panoptic_fpn`.

    Raises:
        ValueError: if a thing is no class.
    """
    things = sorted(things) if things else range(num_classes)
    if wrong := [label for label in things if not 0 <= label < num_classes]:
        raise ValueError(f"things must be labels in 0..{num_classes - 1}, got {wrong[0]}")
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    detector = assemble(made, len(things), width=width, min_size=min_size, max_size=max_size)
    instances = MaskRCNN(detector, MaskHead(width, len(things)))
    return UPSNet(instances, SemanticHead(width, len(STAGES), num_classes), things)


def upsnet_resnet50(
    num_classes: int,
    *,
    things: Sequence[int] = (),
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> UPSNet:
    """The paper's UPSNet on ResNet-50."""
    return upsnet(
        num_classes,
        things=things,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
