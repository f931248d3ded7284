"""Windows, the network that looks at them, and its builders."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ...encoders import Encoder, StemPolicy, make_encoder
from ...layers import enlarge, fit
from ...types import Paper, Value, value
from ..fcos import LevelHead, OneStage, Scales, in_a_row, predictor
from ..feature_pyramid import P6P7

PAPER = Paper(
    "TensorMask: A Foundation for Dense Object Segmentation",
    "Chen, Girshick, He, Dollár",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1903.12174",
)

STAGES = ("c2", "c3", "c4", "c5")
STRIDE = 4  # of the finest level, and of the masks
SIDES = (11, 15)  # cells of the two windows of a place on P2; 44 and 60 pixels, doubled on each coarser level
BOX_UNITS = (2 / 3, 2 / 3, 4 / 3, 4 / 3)


@value
class WindowLogits(Value):
    """What is told about windows, finest level first, row by row, the small one of a place first.

    Attributes:
        class_logits: of the k classes; a window without an object has low scores for all.
        box_deltas: how the box lies to that of the window, in `BOX_UNITS`.
        aligned: for each level and window, scores of `side * side` places in windows, all of stride 4.
        level_sizes: height and width of each level.
        scales: sizes of the images.
    """

    class_logits: Float[Tensor, "b n k"]
    box_deltas: Float[Tensor, "b n 4"]
    aligned: tuple[tuple[Float[Tensor, "b _ h w"], ...], ...]
    level_sizes: tuple[tuple[int, int], ...]
    scales: Scales

    @property
    def windows(self) -> "Windows":
        """Where they are."""
        return windows_of(self.level_sizes, self.class_logits)


@value
class Windows(Value):
    """Windows of all levels, in the order of `WindowLogits`.

    Attributes:
        boxes: x1 y1 x2 y2 in pixels.
        level: 0 for P2.
        cell: row and column in the level.
        kind: 0 for the small one of a place, 1 for the large one.
    """

    boxes: Float[Tensor, "n 4"]
    level: Int64[Tensor, " n"]
    cell: Int64[Tensor, "n 2"]
    kind: Int64[Tensor, " n"]


def windows_of(sizes: Sequence[tuple[int, int]], like: Tensor) -> Windows:
    """The windows of levels of that height and width, on the device of `like`."""
    parts = []
    for level, (height, width) in enumerate(sizes):
        axes = [torch.arange(n, device=like.device) for n in (height, width, len(SIDES))]
        row, column, kind = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
        middle = torch.stack([column, row], 1) * (STRIDE * 2**level)
        half = torch.tensor(SIDES, device=like.device)[kind, None] * (STRIDE * 2**level / 2)
        boxes = torch.cat([middle - half, middle + half], 1)
        parts.append((boxes, torch.full_like(row, level), torch.stack([row, column], 1), kind))
    return Windows(*(torch.cat(same) for same in zip(*parts, strict=True)))


class Pyramid(nn.Module):
    """Levels P2 to P7; each is the mean of what comes from its stage and from the coarser level.

    Args:
        channels: of the stages c2 to c5.
        width: channels of every level.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.out = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.further = P6P7(channels[-1], width)
        for convolution in (*self.lateral, *self.out):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Six levels, finest first."""
        levels = [lateral(map) for lateral, map in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            coarser = F.interpolate(levels[i + 1], levels[i].shape[-2:], mode="nearest")
            levels[i] = (levels[i] + coarser) / 2
        return [
            *(out(level) for out, level in zip(self.out, levels, strict=True)),
            *self.further(maps[-1]),
        ]


def tower(c_in: int, width: int) -> nn.Sequential:
    """Four 3x3 convolutions with ReLU."""
    blocks: list[nn.Module] = []
    for i in range(4):
        blocks += [nn.Conv2d(width if i else c_in, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*blocks)


class WindowHead(LevelHead):
    """Three towers that all levels share: classes, boxes, masks (Sec. 4, Fig. 6, 7).

    Args:
        width: channels of the levels; the towers of boxes and masks have half as many.
        num_classes: number of classes k.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes, half = num_classes, max(width // 2, 8)
        self.class_tower, self.box_tower, self.mask_tower = (
            tower(width, width),
            tower(width, half),
            tower(width, half),
        )
        self.fuse = nn.Conv2d(half, half, 3, padding=1)
        self.masks = nn.ModuleList(nn.Conv2d(half, side**2, 1) for side in SIDES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # 0.01 for 256 channels, as the authors have it. With fewer, it would silence the towers: four
                # layers of 16 channels pass on 1e-4 of what they see, and classes stay at their prior.
                nn.init.normal_(module.weight, std=0.16 / module.in_channels**0.5)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.classes = predictor(width, len(SIDES) * num_classes, prior=0.01)
        self.boxes = predictor(half, len(SIDES) * 4)

    def forward(self, levels: Sequence[Tensor], scales: Scales) -> WindowLogits:
        """What is told about all windows."""
        classes = in_a_row([self.classes(self.class_tower(level)) for level in levels])
        boxes = in_a_row([self.boxes(self.box_tower(level)) for level in levels])
        fine, *coarser = (self.mask_tower(level) for level in levels)
        # The tensor bipyramid: coarse levels are as fine as the finest, and are joined with it.
        size = (fine.shape[-2], fine.shape[-1])
        enlarged = (fit(enlarge(x, 2**i), size) for i, x in enumerate(coarser, 1))
        maps = [F.relu(self.fuse(fine + x)) for x in (fine, *enlarged)]
        return WindowLogits(
            classes.unflatten(2, (len(SIDES), self.num_classes)).flatten(1, 2),
            boxes.unflatten(2, (len(SIDES), 4)).flatten(1, 2),
            tuple(tuple(masks(x) for masks in self.masks) for x in maps),
            tuple((level.shape[-2], level.shape[-1]) for level in levels),
            scales,
        )


class TensorMask(OneStage):
    """Encoder, pyramid P2 to P7, head; the arguments are those of `OneStage`."""

    tasks = ("instance",)
    output = WindowLogits
    stages = STAGES

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> WindowLogits:
        """Look for instances; the arguments are those of `FCOS.forward`."""
        output: WindowLogits = self.head(*self.levels(image, sizes))
        return output


# --- builders -------------------------------------------------------------------------------------


def tensormask(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> TensorMask:
    """TensorMask on any encoder; the arguments are those of `fcos`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    pyramid, head = Pyramid(made.channels[1:], width), WindowHead(width, num_classes)
    return TensorMask(made, pyramid, head, min_size=min_size, max_size=max_size)


def tensormask_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> TensorMask:
    """TensorMask on ResNet-50."""
    return tensormask(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )


def tensormask_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> TensorMask:
    """TensorMask on ResNet-101."""
    return tensormask(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
