"""YOLACT: masks as sums of prototypes (Fig. 2).

One branch draws prototypes of the whole image, which know no objects (Sec. 3.1, Fig. 3). The other one names
anchors, corrects their boxes, and tells for each by which factors the prototypes are to be added (Sec. 3.1,
Fig. 4). The mask of an object is that sum behind a sigmoid, cropped to its box (Eq. 1). Neither waits for the
other, and boxes are suppressed by a single matrix per class (Sec. 3.3, Fast NMS): the network is fast.

Departures: what is below `MIN_SCORE` in one class is dropped there, where the authors drop an anchor that is
below it in all. Anchors are square whatever their ratio, by an accident that the published weights keep.
"""

from .decoding import (
    assembled as assembled,
    candidates as candidates,
    detect as detect,
    drawn_masks as drawn_masks,
)
from .losses import class_loss as class_loss, in_boxes as in_boxes, in_crowds as in_crowds
from .network import (
    PAPER as PAPER,
    STAGES as STAGES,
    YOLACT as YOLACT,
    PrototypeLogits as PrototypeLogits,
    from_yolact as from_yolact,
    yolact as yolact,
    yolact_resnet50 as yolact_resnet50,
    yolact_resnet101 as yolact_resnet101,
)
