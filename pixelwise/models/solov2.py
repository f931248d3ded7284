"""SOLOv2: each cell of a grid brings the filter that draws the mask of the object in its middle (Fig. 2).

The image is divided into grids of 40 to 12 cells along each side, for small to large objects. A cell says
what is there, and writes a filter of 256 numbers (Sec. 3.1). The mask is that filter's answer to maps of the
whole image, in which each place knows where it is (Sec. 3.2). No boxes are told. Masks are compared with each
other at once instead of one after the other: the score of one falls the more it overlaps better ones of its
class (Sec. 3.3, Matrix NMS).

Departures: maps are resized to the size of their partner, so any image size works. Masks are learned from at
the middles of their cells.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import at_least, resize, resize_like
from ..losses import loss_parts
from ..ops import matrix_nms
from ..rle import resize_masks
from ..types import Batch, Boxes, MaskSet, Paper, Value, value
from .condinst import dice_loss
from .fcos import (
    LevelHead,
    OneStage,
    Scales,
    extent_of,
    in_a_row,
    masks_at_cells,
    middles_of_mass,
    predictor,
    seen_objects,
)
from .feature_pyramid import FeaturePyramid, subsampled

PAPER = Paper(
    "SOLOv2: Dynamic and Fast Instance Segmentation",
    "Wang, Zhang, Kong, Li, Shen",
    "NeurIPS",
    2020,
    "https://arxiv.org/abs/2003.10152",
)

STAGES = ("c2", "c3", "c4", "c5")
GRIDS = (40, 36, 24, 16, 12)  # cells along each side, of the levels P2 to P6
RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))  # root of the area of objects, in pixels
FEWEST = (8, 8, 16, 32, 32)  # cells of stride 4 of a mask that is kept, by level
STRIDE = 4  # of the masks
MIDDLE = 0.2  # share of the box of an object whose cells belong to it
MASK_WEIGHT = 3.0
MIN_SCORE, CANDIDATES, LEAST_AFTER, MOST = 0.1, 500, 0.05, 100
INSIDE = 0.5


@value
class GridLogits(Value):
    """What the cells of all grids say, finest grid first, row by row.

    Attributes:
        class_logits: of the k classes; a cell without an object has low scores for all.
        filters: that draw a mask in the maps.
        maps: of the whole image, of stride 4.
        scales: sizes of the images.
    """

    class_logits: Float[Tensor, "b n k"]
    filters: Float[Tensor, "b n c"]
    maps: Float[Tensor, "b c h w"]
    scales: Scales


class Block(nn.Sequential):
    """Convolution without bias, group norm of 32 groups, ReLU; fewer groups for few channels."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        convolution = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        nn.init.normal_(convolution.weight, std=0.01)
        super().__init__(convolution, nn.GroupNorm(max(1, min(32, c_out // 4)), c_out), nn.ReLU())


def with_positions(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
    """The map with two more channels: x and y of each place, from -1 at one border to 1 at the other."""
    axes = [torch.arange(n, device=x.device, dtype=x.dtype) for n in x.shape[-2:]]
    down, along = (2 * axis / at_least(n - 1, 1) - 1 for axis, n in zip(axes, x.shape[-2:], strict=True))
    shape = (x.shape[0], 1, x.shape[-2], x.shape[-1])
    return torch.cat([x, along.expand(shape), down[:, None].expand(shape)], 1)


class GridHead(LevelHead):
    """Two towers that all levels share: classes, and filters, which see where they are (Fig. 2).

    Args:
        c_in: channels of the levels.
        width: channels of the towers.
        num_classes: number of classes k.
        num_filters: numbers of a filter.
    """

    def __init__(self, c_in: int, width: int, num_classes: int, num_filters: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_tower = nn.Sequential(*(Block(width if i else c_in, width) for i in range(4)))
        self.filter_tower = nn.Sequential(*(Block(width if i else c_in + 2, width) for i in range(4)))
        self.classes = predictor(width, num_classes, prior=0.01)
        self.filters = predictor(width, num_filters)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores "b n k" and filters "b n c" of all cells."""
        classes, filters = [], []
        for level, cells in zip(levels, GRIDS, strict=True):
            x = resize(with_positions(level), (cells, cells))
            classes.append(self.classes(self.class_tower(x[:, :-2])))
            filters.append(self.filters(self.filter_tower(x)))
        return in_a_row(classes), in_a_row(filters)


class MaskMaps(nn.Module):
    """Maps of the whole image from the levels P2 to P5; the coarsest sees where it is (Sec. 3.2, Fig. 3).

    Args:
        c_in: channels of the levels.
        width: channels on the way.
        c_out: channels of the maps.
    """

    NUM_LEVELS = 4

    def __init__(self, c_in: int, width: int, c_out: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for number in range(self.NUM_LEVELS):
            first = c_in + 2 * (number == self.NUM_LEVELS - 1)
            blocks = [Block(width if i else first, width) for i in range(max(number, 1))]
            self.levels.append(nn.ModuleList(blocks))
        self.out = Block(width, c_out, 1)

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """The maps, of the size of P2."""
        *finer, coarsest = levels[: self.NUM_LEVELS]
        added = []
        for number, x in enumerate([*finer, with_positions(coarsest)]):
            blocks: Sequence[nn.Module] = self.levels[number]  # type: ignore[assignment]
            for step, block in enumerate(blocks):
                x = block(x)
                if number:
                    x = resize_like(x, levels[number - 1 - step])
            added.append(x)
        maps: Tensor = self.out(torch.stack(added).sum(0))
        return maps


class SOLOv2(OneStage):
    """Encoder, pyramid P2 to P5, grids, and maps; the other arguments are those of `OneStage`.

    Args:
        encoder: gives c2 to c5.
        pyramid: makes levels of equal width of them.
        head: looks at the cells.
        mask_maps: what masks are drawn from.
    """

    tasks = ("instance",)
    output = GridLogits
    stages = STAGES

    def __init__(
        self,
        encoder: Encoder,
        pyramid: FeaturePyramid,
        head: GridHead,
        mask_maps: MaskMaps,
        *,
        min_size: int | None = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__(encoder, pyramid, head, min_size=min_size, max_size=max_size)
        self.mask_maps = mask_maps

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> GridLogits:
        """Look for instances; the arguments are those of `FCOS.forward`."""
        levels, scales = self.levels(image, sizes)
        middle, last = levels[1:], subsampled(levels[-1])
        for_cells = [resize_like(levels[0], middle[0]), *middle, resize_like(last, middle[-1])]
        classes, filters = self.head(for_cells)
        return GridLogits(classes, filters, self.mask_maps(levels), scales)


# --- loss -----------------------------------------------------------------------------------------


@loss_parts.register
def grid_losses(output: GridLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Focal loss of the classes of cells, and Dice loss of the masks of cells with an object (Eq. 3, SOLO).

    Raises:
        ValueError: if targets have no masks.
    """
    from torchvision.ops import sigmoid_focal_loss

    covered, grid = covered_by(output.maps), (output.maps.shape[-2], output.maps.shape[-1])
    objects = seen_objects(batch.annotations, output.scales)
    each = enumerate(zip(batch.annotations, objects, *output.scales.of(len(objects)), strict=True))
    wanted, count = torch.zeros_like(output.class_logits, dtype=torch.float32), 0
    total = 0.0 * (output.maps.sum() + output.filters.sum())
    for number, (target, boxes, old, new) in each:
        if not isinstance(target, MaskSet):
            raise ValueError(f"SOLOv2 learns from MaskSet, got {type(target).__name__}")
        middles = middles_of_mass(target, old, new).to(wanted.device)
        cell, own = assign_cells(boxes, middles, covered)
        wanted[number, cell, boxes.classes[own]] = 1
        if not len(cell):
            continue
        drawn = draw(output.maps[number], output.filters[number, cell])
        used, place = own.unique(return_inverse=True)
        truth = masks_at_cells(target.take(used.to(target.classes.device)), old, new, grid, covered)
        total = total + dice_loss(drawn.sigmoid(), truth.to(drawn.device).float()[place]).sum()
        count += len(cell)
    focal = sigmoid_focal_loss(output.class_logits.float(), wanted, 0.25, 2, "sum")
    return {"class": focal / (count + 1), "mask": MASK_WEIGHT * total / max(count, 1)}


def assign_cells(
    objects: Boxes, middles: Float[Tensor, "m 2"], covered: tuple[int, int]
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """The cells that belong to objects, and the number of the object of each (SOLO, Sec. 3.3.1).

    A cell belongs to an object if it holds a part of the middle fifth of its box, around the middle of its
    mass, and is at most one cell from it. In each grid of its range an object has at least one cell; of
    several objects in a cell the last one counts.

    Args:
        objects: as the network sees them; those without an area get no cell.
        middles: x y of the middle of mass of each.
        covered: height and width in pixels of what the grids cover.
    """
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    root, extent = sides.prod(1).sqrt(), sides.new_tensor(covered).flip(0)
    owner = torch.full((sum(n * n for n in GRIDS),), -1, device=sides.device)
    first = 0
    for cells, (least, most) in zip(GRIDS, RANGES, strict=True):
        pixels = extent / cells
        own = (middles / pixels).long()
        low = torch.maximum(((middles - MIDDLE / 2 * sides) / pixels).floor().long(), own - 1).clamp(min=0)
        high = torch.minimum(((middles + MIDDLE / 2 * sides) / pixels).long(), own + 1).clamp(max=cells - 1)
        for number in ((root >= least) & (root <= most)).nonzero()[:, 0].tolist():
            (left, top), (right, bottom) = low[number].tolist(), high[number].tolist()
            grid = owner[first : first + cells * cells].view(cells, cells)
            grid[top : bottom + 1, left : right + 1] = number
        first += cells * cells
    cell = (owner >= 0).nonzero()[:, 0]
    return cell, owner[cell]


# --- decoding -------------------------------------------------------------------------------------


def covered_by(maps: Float[Tensor, "b c h w"]) -> tuple[int, int]:
    """Height and width in pixels of what the maps cover, which may be more than the image."""
    return STRIDE * maps.shape[-2], STRIDE * maps.shape[-1]


def draw(maps: Float[Tensor, "c h w"], filters: Float[Tensor, "n c"]) -> Float[Tensor, "n h w"]:
    """Scores of masks: the answers of 1x1 filters, one for each object (Sec. 3.1)."""
    return (filters.float() @ maps.float().flatten(1)).unflatten(1, maps.shape[1:])


def peaks(scores: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """The scores of cells that no neighbour to the left or above, or between, surpasses; 0 elsewhere."""
    parts = []
    for part, cells in zip(scores.split([n * n for n in GRIDS]), GRIDS, strict=True):
        grid = part.T.unflatten(1, (cells, cells))
        highest = F.max_pool2d(F.pad(grid, (1, 0, 1, 0)), 2, stride=1)
        parts.append((grid * (grid == highest)).flatten(1).T)
    return torch.cat(parts)


@decode.instances.register
@torch.no_grad()
def instances_of(output: GridLogits) -> tuple[MaskSet, ...]:
    """The masks of cells that are sure of a class; overlapping ones lose score (Sec. 3.3).

    The score of a mask is that of its class, times the mean probability of the mask's pixels.
    """
    fewest = torch.cat([torch.full((n * n,), float(least)) for n, least in zip(GRIDS, FEWEST, strict=True)])
    covered, found = covered_by(output.maps), []
    for number, (old, new) in enumerate(zip(*output.scales.of(len(output.maps)), strict=True)):
        scores = peaks(output.class_logits[number].float().sigmoid())
        cell, label = (scores > MIN_SCORE).nonzero(as_tuple=True)
        drawn = draw(output.maps[number], output.filters[number, cell]).sigmoid()
        inside = drawn > INSIDE
        area = inside.flatten(1).sum(1)
        score = scores[cell, label] * (drawn * inside).flatten(1).sum(1) / area.clamp(min=1)
        index = (area > fewest.to(area.device)[cell]).nonzero()[:, 0]
        index = index[score[index].argsort(descending=True, stable=True)][:CANDIDATES]
        lowered = matrix_nms(inside[index], score[index], label[index])
        best = lowered.argsort(descending=True, stable=True)
        best = best[lowered[best] >= LEAST_AFTER][:MOST]
        masks = resize_masks(drawn[index[best]], extent_of(covered, old, new), *old, INSIDE)
        one = MaskSet.of(masks, label[index[best]], lowered[best])
        found.append(one.take(torch.from_numpy(masks.area > 0).to(label.device)))
    return tuple(found)


@decode.boxes.register
def boxes_of_instances(output: GridLogits) -> tuple[Boxes, ...]:
    """The boxes around the masks."""
    return tuple(one.boxes for one in decode.instances(output))


# --- builders -------------------------------------------------------------------------------------


def solov2(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> SOLOv2:
    """SOLOv2 on any encoder; the arguments are those of `fcos`.

    The towers have twice the `width` of the pyramid, the branch of the maps half of it.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    head = GridHead(width, 2 * width, num_classes, width)
    maps = MaskMaps(width, max(width // 2, 8), width)
    pyramid = FeaturePyramid(made.channels[1:], width)
    return SOLOv2(made, pyramid, head, maps, min_size=min_size, max_size=max_size)


def solov2_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> SOLOv2:
    """SOLOv2 on ResNet-50."""
    return solov2(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
