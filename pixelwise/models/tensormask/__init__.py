"""TensorMask: at every place of every level stands a window, each pixel of which is told (Fig. 1, 2).

What is told about windows are tensors of four axes: two for the place of a window, two for the place in it
(Sec. 3.1). In the natural representation the values of a window stand together. In the aligned one, what is
told at a place of the map is about that place, for all windows that it lies in (Fig. 3): the network predicts
this one, finely at all levels, and it is turned into the natural one, where windows of coarser levels have
more pixels (Sec. 3.3, 4.2, tensor bipyramid; Sec. 4.3, swap_align2nat). Large objects so get fine masks.

The tensors are turned only for windows that are learned from or belong to a detection, which is the same and
takes far less memory.

Departures: levels of the pyramid are resized to the size of their partner, so any image size works. Fresh
weights of the towers are larger where these are narrower than 256 channels, see `WindowHead`.
"""

from .network import (
    PAPER as PAPER,
    TensorMask as TensorMask,
    WindowLogits as WindowLogits,
    Windows as Windows,
    tensormask as tensormask,
    tensormask_resnet50 as tensormask_resnet50,
    tensormask_resnet101 as tensormask_resnet101,
    windows_of as windows_of,
)
from .windows import (
    assign_windows as assign_windows,
    natural_windows as natural_windows,
    true_windows as true_windows,
)
