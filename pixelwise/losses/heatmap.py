"""The loss of heatmaps: squared differences from Gaussians, of the joints that are annotated."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..heatmaps import HeatmapTarget, gaussian_heatmaps
from ..types import Batch, Heatmaps, Keypoints
from .criterion import PaperCriterion, loss_parts


def heatmap_loss(maps: Float[Tensor, "b j h w"], target: HeatmapTarget) -> Float[Tensor, ""]:
    """Half the squared difference, 0 for joints that do not count; the mean over all maps and cells.

    This is the loss of SimpleBaseline and HRNet (`JointsMSELoss` with target weights).

    >>> target = HeatmapTarget(torch.ones(1, 2, 1, 1), torch.tensor([[True, False]]))
    >>> heatmap_loss(torch.zeros(1, 2, 1, 1), target)
    tensor(0.2500)
    """
    difference = maps.float() - target.maps
    return 0.5 * (difference.square() * target.counts[..., None, None]).mean()


class HeatmapLoss(PaperCriterion):
    """The criterion of `Heatmaps`: the loss of the last stage, and of every earlier one with the same weight.

    The target of each crop is one object, in pixels of the crop.

    Args:
        sigma: standard deviation of the target in cells; None for a 32nd of the height of the maps.
        unbiased: whether targets lie between the cells, see `gaussian_heatmaps`.
    """

    def __init__(self, *, sigma: float | None = None, unbiased: bool = False) -> None:
        super().__init__()
        self.sigma, self.unbiased = sigma, unbiased

    def parts(self, output: Heatmaps, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The loss of the heatmaps, and "aux" of those of earlier stages (intermediate supervision).

        Raises:
            ValueError: if a target is not one object with as many joints as there are maps.
        """
        target = self.target(output, batch)
        parts = {"heatmap": heatmap_loss(output.coarse, target)}
        if output.aux:
            parts["aux"] = torch.stack([heatmap_loss(maps, target) for maps in output.aux]).sum()
        return parts

    def target(self, output: Heatmaps, batch: Batch) -> HeatmapTarget:
        """What the heatmaps should have been.

        Raises:
            ValueError: as `parts`.
        """
        objects = _one_each(batch.target, output.coarse.shape[1])
        size = (output.coarse.shape[-2], output.coarse.shape[-1])
        device = output.coarse.device
        return gaussian_heatmaps(
            torch.cat([one.points for one in objects]).to(device),
            torch.cat([one.visible for one in objects]).to(device),
            size,
            stride=output.stride,
            sigma=self.sigma,
            unbiased=self.unbiased,
        )


def _one_each(target: object, joints: int) -> Sequence[Keypoints]:
    if not isinstance(target, tuple) or not all(isinstance(one, Keypoints) for one in target):
        raise ValueError(
            "heatmaps are compared with keypoints: the targets of this batch are of another kind"
        )
    for one in target:
        if tuple(one.points.shape) != (1, joints, 2):
            raise ValueError(
                f"the target of a crop must be one object with {joints} joints, "
                f"got {one.points.shape[0]} with {one.points.shape[1]}"
            )
    return target


@loss_parts.register
def _(output: Heatmaps, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    return HeatmapLoss().parts(output, batch)
