"""An exponential moving average of the weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from jaxtyping import Shaped
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from .module import TrainingModule


class WeightAverage(Callback):
    """Averages the weights over the optimiser steps, and validates what is averaged.

    After step n, counted from 1, the average moves by 1 - d towards the weights, with
    d = min(decay, (1 + n) / (10 + n)): an average of few steps forgets the random start soon (as in
    TensorFlow's `ExponentialMovingAverage`). Buffers such as the statistics of batch norm are averaged alike;
    integers are copied. The average is kept in checkpoints.

    Args:
        decay: d of a long training, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Shaped[Tensor, "..."]] = {}
        self.updates = 0
        self._step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start with the weights as they are, or go on with the average of a checkpoint."""
        assert isinstance(pl_module, TrainingModule)
        state = pl_module.model.state_dict()
        found = self.average or state
        self.average = {
            name: found[name].detach().to(tensor.device, copy=True) for name, tensor in state.items()
        }
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Move the average after each optimiser step."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in pl_module.model.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put the average into the model."""
        assert isinstance(pl_module, TrainingModule)
        self._swap(pl_module.model)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put the weights back."""
        assert isinstance(pl_module, TrainingModule)
        self._swap(pl_module.model)

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Within it, the model has the averaged weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What a checkpoint kept."""
        self.average, self.updates = state_dict["average"], state_dict["updates"]

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, tensor in model.state_dict().items():
            kept = tensor.clone()
            tensor.copy_(self.average[name])
            self.average[name].copy_(kept)
