"""FCOS: every place of a feature pyramid says what is there, and how far the sides of its box are (Fig. 1).

There are no anchors. A place belongs to the smallest object in whose middle it lies and whose size suits its
level (Sec. 3.1, 3.2). A third branch tells how near to the middle of its object a place is, and lowers the
score of those far from it, whose boxes are poor (Sec. 3.3, Eq. 3).

PolarMask, CondInst and CenterMask stand on this.

Departures, all from the authors' later version, which torchvision has too: centreness is told by the branch
of boxes, places belong to an object only within 1.5 strides of its middle, distances are in strides, and the
loss of boxes is that of generalised IoU.
"""

from .network import (
    FCOS as FCOS,
    PAPER as PAPER,
    STAGES as STAGES,
    STRIDES as STRIDES,
    USUAL as USUAL,
    Found as Found,
    Head as Head,
    Limits as Limits,
    PlaceLogits as PlaceLogits,
    Pyramid as Pyramid,
    Seen as Seen,
    Tower as Tower,
    assign_all as assign_all,
    class_loss as class_loss,
    detect as detect,
    detection_losses as detection_losses,
    detections as detections,
    fcos as fcos,
    fcos_resnet50_fpn as fcos_resnet50_fpn,
    predictor as predictor,
    seen_objects as seen_objects,
)
from .places import (
    LevelHead as LevelHead,
    OneStage as OneStage,
    Places as Places,
    Scales as Scales,
    assign_places as assign_places,
    boxes_around as boxes_around,
    centerness as centerness,
    distances_to as distances_to,
    extent_of as extent_of,
    in_a_row as in_a_row,
    masks_at_cells as masks_at_cells,
    middles_of_mass as middles_of_mass,
    places_of as places_of,
    see as see,
)
from .together import detect_together as detect_together
