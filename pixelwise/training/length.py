"""How long a training is."""

import math
from dataclasses import dataclass, field


@dataclass
class Length:
    """Length of a training in optimiser steps, which a deadline may change on the way.

    Attributes:
        first: number of steps that it began with.
        steps_per_epoch: optimiser steps of an epoch; the last epoch may have fewer.
        replans: after which step the number of steps changed, and to how many.
    """

    first: int
    steps_per_epoch: int
    replans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of steps as far as is known now."""
        return self.replans[-1][1] if self.replans else self.first

    @property
    def epochs(self) -> int:
        """Number of epochs; the last may be cut short."""
        return max(1, math.ceil(self.steps / self.steps_per_epoch))

    def left(self, step: int) -> int:
        """Steps to go after `step` steps."""
        return self.steps - step

    def validates(self, epoch: int, step: int, every: int) -> bool:
        """Whether the epoch that begins after `step` steps ends in a validation.

        The last one does, and each of `every` epochs; but not one that only a piece of an epoch follows,
        which a change of the length has left over.

        Args:
            epoch: counted from 1.
            step: steps before it.
            every: epochs between two validations.
        """
        behind = self.left(step) - self.steps_per_epoch
        if behind <= 0:
            return True
        leftover = bool(self.replans) and behind <= self.steps_per_epoch / 2
        return epoch % every == 0 and not leftover
