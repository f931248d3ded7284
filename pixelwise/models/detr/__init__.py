"""DETR: detection as direct prediction of a set by a transformer (Fig. 2).

The last map of the encoder, with sines of its places, goes through a transformer encoder; learned queries ask
it in a decoder, all at once, and each says a class or "no object" and a box (Sec. 3.2, supplement A.3). True
objects and queries are matched one to one at least cost, so nothing has to be suppressed (Sec. 3.1). For
panoptic segmentation a small network turns what each query looked at into a mask (Sec. 4.4, Fig. 8).

    transformer.py   positions, attention, layers of encoder and decoder
    network.py       DETR for boxes, builders
    set_loss.py      matching, loss, decoding
    panoptic.py      the head for masks, its loss and decoding, builders
    read_weights.py  weights of the authors and of transformers

Images are resized within the model as in `faster_rcnn.py`; padding is neither attended to nor counted in
positions. Departures: `num_classes` counts objects only. Crowds and objects without an area are left out, as
in the authors' data. Batch norms learn from the batch, unless they are frozen.
"""

from .network import (
    DETR as DETR,
    PAPER as PAPER,
    SetOfBoxes as SetOfBoxes,
    detr as detr,
    detr_resnet50 as detr_resnet50,
    detr_resnet50_dc5 as detr_resnet50_dc5,
    detr_resnet101 as detr_resnet101,
)
from .panoptic import (
    DETRPanoptic as DETRPanoptic,
    SetOfMasks as SetOfMasks,
    detr_panoptic as detr_panoptic,
    detr_panoptic_resnet50 as detr_panoptic_resnet50,
    detr_panoptic_resnet101 as detr_panoptic_resnet101,
)
from .read_weights import from_detr as from_detr, from_transformers_detr as from_transformers_detr
