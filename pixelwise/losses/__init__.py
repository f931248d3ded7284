"""What training makes small: pure functions, thin modules, and the one wrapper around them.

Functions and modules take logits `b k *grid` and integer labels `b *grid`, on planes and volumes alike; a
`Criterion` takes what a model returns and the batch. Half-precision logits are computed in float32.
"""

from .criterion import (
    Criterion as Criterion,
    WeightedSum as WeightedSum,
    make_criterion as make_criterion,
)
from .cross_entropy import CrossEntropy as CrossEntropy, cross_entropy as cross_entropy
from .dice import Dice as Dice, dice_loss as dice_loss
from .focal import Focal as Focal, focal_loss as focal_loss
