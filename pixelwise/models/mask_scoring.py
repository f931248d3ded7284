"""Mask Scoring R-CNN: a branch that tells how good a mask is (Fig. 2).

The score of a detection says how sure its class is, not whether its mask is right. The branch looks at the
region and at the mask that was drawn in it, and expects an IoU for each class (Sec. 3.2). The score is
multiplied with it.

Departures: the branch sees probabilities of the mask.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Paper

PAPER = Paper(
    "Mask Scoring R-CNN",
    "Huang, Huang, Gong, Huang, Wang",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1903.00241",
)

SIDE = 14  # of a region; masks are twice as fine


class MaskIoUHead(nn.Module):
    """Tells how good the mask of each class is, from the region and the mask (Fig. 3).

    Args:
        width: channels of the levels; the hidden layers have four times as many.
        num_classes: number of classes k.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width + (i == 0), width, 3, stride=1 + (i == 3), padding=1) for i in range(4)
        )
        flat, hidden = width * (SIDE // 2) ** 2, 4 * width
        self.hidden = nn.Sequential(nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        initialise(self)
        self.iou = nn.Linear(hidden, num_classes)
        nn.init.normal_(self.iou.weight, std=0.01)
        nn.init.zeros_(self.iou.bias)

    def forward(
        self, x: Float[Tensor, "m c 14 14"], mask: Float[Tensor, "m 1 28 28"]
    ) -> Float[Tensor, "m k"]:
        """The IoU of the mask, were it of each class.

        Args:
            x: the regions.
            mask: probabilities of the mask of the class of each.
        """
        x = torch.cat([x, F.max_pool2d(mask, 2)], 1)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        expected: Tensor = self.iou(self.hidden(x.flatten(1)))
        return expected


def initialise(part: nn.Module) -> None:
    """Draw the weights of a branch as He et al. (2015) do; biases are 0."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def mask_iou(
    drawn: Bool[Tensor, "m s s"], truth: Bool[Tensor, "m s s"], area: Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """IoU of masks in their boxes with whole objects.

    Args:
        drawn: which cells of each box are set.
        truth: which cells of each box belong to the object.
        area: of the whole object, per area of the box.
    """
    cells = drawn[0].numel()
    shared, own = (drawn & truth).flatten(1).sum(1), drawn.flatten(1).sum(1)
    whole = torch.maximum(cells * area, truth.flatten(1).sum(1).float())
    return shared / (own + whole - shared).clamp(min=1)
