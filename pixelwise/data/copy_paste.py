"""Simple Copy-Paste: objects of one image on another (Ghiasi et al., CVPR 2021).

A random subset of the objects of one image is pasted onto another, both changed by the same augmentation
before (Sec. 3). What the pasted objects hide is taken from the masks below; objects of which nothing is left
are dropped. Pixels are pasted as they are: smoothing the borders made no difference in the paper (Table 2).

Departures: images of different size lie with their upper left corners on each other, and objects outside are
cut off.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from ..types import MaskSet, Sample


def copy_paste(sample: Sample, other: Sample) -> Sample:
    """`sample` with a random subset of the objects of `other` on it; crowds stay where they are.

    Draws from PyTorch's generator.

    Args:
        sample: the image below.
        other: where objects come from.

    Raises:
        ValueError: if one of the two has no masks of instances.
    """
    below, above = _masks_of(sample), _masks_of(other)
    chosen = above.take((torch.rand(len(above)) < 0.5) & ~above.is_crowd)
    height, width = sample.image.shape[-2:]
    down, right = height - other.image.shape[-2], width - other.image.shape[-1]
    pasted = F.pad(chosen.dense, (0, right, 0, down))
    seen = pasted.flatten(1).any(1)
    pasted, chosen = pasted[seen], chosen.take(seen)
    if not len(chosen):
        return sample
    hidden = pasted.any(0)
    image = torch.where(hidden, F.pad(other.image, (0, right, 0, down)), sample.image)
    left = below.dense & ~hidden
    kept = left.flatten(1).any(1)
    target = MaskSet(
        torch.cat([left[kept], pasted]),
        torch.cat([below.classes[kept], chosen.classes]),
        torch.cat([below.scores[kept], chosen.scores]),
        torch.cat([below.is_crowd[kept], chosen.is_crowd]),
    )
    return replace(sample, image=image, target=target)


def _masks_of(sample: Sample) -> MaskSet:
    if not isinstance(sample.target, MaskSet):
        raise ValueError(
            f"copy-paste needs masks of instances, {sample.id} has {type(sample.target).__name__}"
        )
    return sample.target
