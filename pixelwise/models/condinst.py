"""CondInst: each object brings the filters that draw its mask (Fig. 2, 3).

FCOS finds the objects. At every place a controller writes the weights of a tiny network, three 1x1
convolutions of 8 channels, and this network draws the mask of the object in maps of the whole image (Sec.
3.1). It also sees how far each cell lies from the place, so that it can tell its object from others that look
alike (Sec. 3.2). No region is cropped, and masks are fine without being large.

Departures: maps are resized with the middles of their cells in place, where the authors' code pads and aligns
corners, and to the size of their partner, so any image size works.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, enlarge, resize_like
from ..losses import loss_parts
from ..rle import resize_masks
from ..types import AssignedBoxes, Batch, Boxes, MaskSet, Model, Paper, Value, value
from .fcos import (
    FCOS,
    STAGES,
    STRIDES,
    Head,
    PlaceLogits,
    Pyramid,
    assign_all,
    detection_losses,
    detections,
    extent_of,
    in_a_row,
    masks_at_cells,
    middles_of_mass,
    predictor,
    seen_objects,
)

PAPER = Paper(
    "Conditional Convolutions for Instance Segmentation",
    "Tian, Shen, Chen",
    "ECCV",
    2020,
    "https://arxiv.org/abs/2003.05664",
)

CHANNELS = 8  # of the maps of the image, and of the drawing networks
STRIDE = STRIDES[0]  # of the maps of the image; masks are twice as fine
REACH = 8  # strides of the level of a place that count as distance 1: 64 pixels on P3
MOST = 500  # masks that are learned from in one step (Sec. 4)
INSIDE = 0.5
# Output and input channels of each layer; two inputs are the distances from the place.
LAYERS = ((CHANNELS, CHANNELS + 2), (CHANNELS, CHANNELS), (1, CHANNELS))
NUM_WEIGHTS = [c_out * c_in for c_out, c_in in LAYERS]
NUM_BIASES = [c_out for c_out, _ in LAYERS]


@value
class ConditionalLogits(Value):
    """Objects at all places, and what draws their masks.

    Attributes:
        objects: what FCOS says.
        filters: weights of the three layers, then their biases, for every place.
        maps: of the whole image, of stride 8.
    """

    objects: PlaceLogits
    filters: Float[Tensor, "b n f"]
    maps: Float[Tensor, "b c h w"]


class MaskBranch(nn.Module):
    """Maps of the whole image from the levels P3 to P5 (Sec. 3.2).

    Args:
        c_in: channels of the levels.
        width: channels of the branch.
    """

    NUM_LEVELS = 3

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(ConvNormAct(c_in, width) for _ in range(self.NUM_LEVELS))
        self.tower = nn.Sequential(*(ConvNormAct(width, width) for _ in range(4)))
        self.out = nn.Conv2d(width, CHANNELS, 1)

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """The maps, of the size of P3."""
        x, *coarser = (refine(level) for refine, level in zip(self.refine, levels, strict=True))
        for y in coarser:
            x = x + resize_like(y, x)
        maps: Tensor = self.out(self.tower(x))
        return maps


class CondInst(Model):
    """FCOS, the controller and the mask branch.

    Args:
        detector: finds objects.
        width: channels of its maps; the mask branch has half as many.
    """

    tasks = ("instance",)
    output = ConditionalLogits
    encoder_parts = ("detector.encoder",)

    def __init__(self, detector: FCOS, width: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = detector.num_classes, detector.in_channels
        self.detector = detector
        self.controller = predictor(width, sum(NUM_WEIGHTS) + sum(NUM_BIASES))
        self.mask_branch = MaskBranch(width, max(width // 2, 8))

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, and the size of each."""
        return self.detector.inputs(batch)

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> ConditionalLogits:
        """Look for instances; the arguments are those of `FCOS.forward`."""
        levels, objects, towers = self.detector.look(image, sizes)
        filters = in_a_row([self.controller(x) for x in towers])
        return ConditionalLogits(objects, filters, self.mask_branch(levels[: MaskBranch.NUM_LEVELS]))


def draw(
    maps: Float[Tensor, "c h w"],
    filters: Float[Tensor, "n f"],
    points: Float[Tensor, "n 2"],
    reach: Float[Tensor, " n"],
) -> Float[Tensor, "n h2 w2"]:
    """Scores of the masks of some places of one image, twice as fine as the maps (Fig. 3).

    The first layer is linear in the maps and in the distances, which are the same along rows or columns: the
    two parts are added, and the maps are never copied for each object.

    Args:
        maps: of the whole image.
        filters: of each place.
        points: x y of the places in pixels.
        reach: pixels that count as distance 1.
    """
    parts = filters.float().split(NUM_WEIGHTS + NUM_BIASES, 1)
    first, second, third = (x.unflatten(1, shape) for x, shape in zip(parts[:3], LAYERS, strict=True))
    biases = [x[:, :, None, None] for x in parts[3:]]
    cells = [STRIDE * (torch.arange(n, device=maps.device) + 0.5) for n in maps.shape[:0:-1]]  # x, y
    x, y = ((points[:, i, None] - cells[i]) / reach[:, None] for i in (0, 1))
    hidden = torch.einsum("nij,jhw->nihw", first[:, :, 2:], maps.float()) + biases[0]
    hidden = hidden + first[:, :, 0, None, None] * x[:, None, None]
    hidden = hidden + first[:, :, 1, None, None] * y[:, None, :, None]
    hidden = torch.einsum("nij,njhw->nihw", second, hidden.relu()) + biases[1]
    scores = torch.einsum("nij,njhw->nihw", third, hidden.relu()) + biases[2]
    return enlarge(scores, 2)[:, 0]


def covered_by(maps: Float[Tensor, "b c h w"]) -> tuple[int, int]:
    """Height and width in pixels of what the maps cover, which may be more than the image."""
    return STRIDE * maps.shape[-2], STRIDE * maps.shape[-1]


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def conditional_losses(output: ConditionalLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """FCOS's, and "mask": Dice loss of the masks drawn from places with an object (Eq. 2).

    Places belong to an object near the middle of its mass.

    Raises:
        ValueError: if targets have no masks.
    """
    targets = seen_objects(batch.annotations, output.objects.scales)
    old, new = output.objects.scales.of(len(targets))
    middles = []
    for target, *sizes in zip(batch.annotations, old, new, strict=True):
        if not isinstance(target, MaskSet):
            raise ValueError(f"CondInst learns from MaskSet, got {type(target).__name__}")
        middles.append(middles_of_mass(target, *sizes).to(output.maps.device))
    chosen = assign_all(output.objects.places, targets, middles)
    parts = detection_losses(output.objects, chosen, targets)
    return parts | {"mask": mask_loss(output, chosen, batch.annotations)}


def mask_loss(
    output: ConditionalLogits, chosen: AssignedBoxes, instances: Sequence[Any]
) -> Float[Tensor, ""]:
    """Mean Dice loss over places with an object, at most 500 of them.

    Args:
        output: of training.
        chosen: the object of each place of all images.
        instances: of each image.
    """
    places, (old, new) = output.objects.places, output.objects.scales.of(len(instances))
    positive = (chosen.target >= 0).nonzero()[:, 0]
    positive = positive[torch.randperm(len(positive), device=positive.device)[:MOST]]
    total = 0.0 * (output.maps.sum() + output.filters.sum())
    for number, target in enumerate(instances):
        index = positive[chosen.image[positive] == number]
        if not len(index):
            continue
        place = index % len(places.stride)
        scores = draw(
            output.maps[number],
            output.filters[number, place],
            places.points[place],
            REACH * places.stride[place],
        )
        used, own = chosen.target[index].unique(return_inverse=True)
        masks = target.take(used.to(target.classes.device))
        grid, covered = (scores.shape[1], scores.shape[2]), covered_by(output.maps)
        wanted = masks_at_cells(masks, old[number], new[number], grid, covered).to(scores.device)
        total = total + dice_loss(scores.sigmoid(), wanted.float()[own]).sum()
    return total / max(len(positive), 1)


def dice_loss(drawn: Float[Tensor, "n h w"], wanted: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """1 - 2 |p g| / (|p|^2 + |g|^2) of each mask, as in V-Net."""
    shared = (drawn * wanted).sum((1, 2))
    return 1 - 2 * shared / (drawn.square().sum((1, 2)) + wanted.square().sum((1, 2)) + 1e-5)


@decode.boxes.register
def boxes_of_instances(output: ConditionalLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    return decode.boxes(output.objects)


@decode.instances.register
@torch.no_grad()
def instances_of(output: ConditionalLogits) -> tuple[MaskSet, ...]:
    """The mask of each detection; those without a pixel are left out."""
    places, found = output.objects.places, []
    each = zip(detections(output.objects), *output.objects.scales.of(len(output.maps)), strict=True)
    for number, (one, old, new) in enumerate(each):
        points, reach = places.points[one.place], REACH * places.stride[one.place]
        drawn = draw(output.maps[number], output.filters[number, one.place], points, reach).sigmoid()
        extent = extent_of(covered_by(output.maps), old, new)
        masks = resize_masks(drawn, extent, *old, INSIDE)
        objects = one.objects
        kept = torch.from_numpy(masks.area > 0).to(objects.classes.device)
        found.append(MaskSet(masks, objects.classes, objects.scores, objects.is_crowd).take(kept))
    return tuple(found)


# --- builders -------------------------------------------------------------------------------------


def condinst(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> CondInst:
    """CondInst on any encoder; the arguments are those of `fcos`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    pyramid, head = Pyramid(made.channels[2:], width), Head(width, num_classes)
    return CondInst(FCOS(made, pyramid, head, min_size=min_size, max_size=max_size), width)


def condinst_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> CondInst:
    """CondInst on ResNet-50."""
    return condinst(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
