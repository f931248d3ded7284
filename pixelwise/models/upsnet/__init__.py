"""UPSNet: instances and stuff compete for pixels in one panoptic head without parameters (Fig. 1, 4).

On the feature pyramid of a Mask R-CNN stands a semantic head of deformable convolutions (Sec. 3.2, Fig. 3).
The panoptic head gives each pixel a score per class of stuff, one per instance, which is the semantic score
of its class within its box plus its mask, and one for "unknown", so that a pixel may be left void instead of
being wrong twice (Sec. 3.3, `merging.panoptic_scores`). In training it learns from the true boxes, of which
30 % are hidden to teach the unknown.

Departures: scores are made at stride 4 and resized. The loss of regions pools the scores, which is the same
as scoring pooled features, since a 1x1 convolution and RoIAlign commute. Thresholds and weights of losses are
those of the authors for COCO.

    upsnet.py    the network and its builders
    loss.py      what it learns
    decoding.py  what becomes of its scores
"""

from . import decoding as decoding, loss as loss
from .upsnet import (
    PAPER as PAPER,
    UnifiedLogits as UnifiedLogits,
    UPSNet as UPSNet,
    upsnet as upsnet,
    upsnet_resnet50 as upsnet_resnet50,
)
