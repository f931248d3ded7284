"""Which parameters are trained, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..types import Model
from .schedule import Schedule, factor


@dataclass(frozen=True)
class Optimization:
    """Settings of the optimiser.

    Attributes:
        total_steps: number of optimiser steps of the training.
        optimizer: "adamw", "adam" (weight decay is part of the gradient), "sgd" or "rmsprop".
        lr: highest learning rate.
        encoder_lr_factor: learning rate of the model's encoder over that of the rest.
        weight_decay: of weights; see `ParameterRole` for what has none.
        momentum: of sgd and rmsprop.
        schedule: see `schedule.factor`.
        warmup_steps: of linear warm-up.
        drops: of the schedule "step", see `schedule.factor`.
        replans: see `schedule.factor`.
    """

    total_steps: int
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    lr: float = 1e-3
    encoder_lr_factor: float = 1.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Schedule = "poly"
    warmup_steps: int = 0
    drops: tuple[float, ...] = ()
    replans: Sequence[tuple[int, int]] = ()

    def make(self, model: Model) -> tuple[Optimizer, LambdaLR]:
        """Optimiser and schedule (to be stepped with the optimiser) for the parameters that are trained.

        Raises:
            ValueError: see `parameter_groups`; or if the warm-up is longer than the training.
        """
        groups = parameter_groups(
            model, lr=self.lr, encoder_lr_factor=self.encoder_lr_factor, weight_decay=self.weight_decay
        )
        on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
        # The fused kernel is several times as fast on a CPU; on a GPU it would forbid clipping under fp16.
        fused: dict[str, Any] = {"fused": True} if on_cpu else {}
        optimizer: Optimizer
        if self.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=self.lr, **fused)
        elif self.optimizer == "adam":
            optimizer = torch.optim.Adam(groups, lr=self.lr, **fused)
        elif self.optimizer == "rmsprop":
            optimizer = torch.optim.RMSprop(groups, lr=self.lr, momentum=self.momentum)
        else:
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, **fused)
        at = factor(self.schedule, self.total_steps, self.warmup_steps, self.drops, self.replans)
        return optimizer, LambdaLR(optimizer, at)


def parameter_groups(
    model: Model, *, lr: float, encoder_lr_factor: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Trained parameters in up to four groups: of the encoder or not, with weight decay or not.

    Which is which, the model says: `Model.parameter_roles`.

    Raises:
        ValueError: if no parameter is trained, or `encoder_lr_factor` is not 1 and none of the encoder is.
    """
    roles = model.parameter_roles()
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        of_encoder, decays = roles[name]
        group = groups.setdefault(
            (of_encoder, decays),
            {
                "name": ("encoder, " if of_encoder else "rest, ")
                + ("weights" if decays else "norms, biases and embeddings"),
                "params": [],
                "lr": lr * (encoder_lr_factor if of_encoder else 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ValueError("no parameter is left to train: freeze less")
    if encoder_lr_factor != 1 and not any(of_encoder for of_encoder, _ in groups):
        raise ValueError(
            f"encoder_lr_factor must be 1 where no encoder is trained, got {encoder_lr_factor}: "
            f"{type(model).__name__} has none, or it is frozen"
        )
    return list(groups.values())


def freeze(model: nn.Module, parts: Sequence[str]) -> tuple[nn.Module, ...]:
    """Take parts of a model out of training.

    Args:
        model: whose parts.
        parts: names of modules or parameters, such as "encoder" or "encoder.body.layer1".

    Returns:
        The frozen modules; hold them in eval mode, so that batch norm keeps its statistics.

    Raises:
        ValueError: if there is no such part (suggests one).
    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    frozen = []
    for part in parts:
        if part in parameters:
            parameters[part].requires_grad_(False)
        elif part and part in modules:
            modules[part].requires_grad_(False)
            frozen.append(modules[part])
        else:
            names = [name for name in (*modules, *parameters) if name]
            near = get_close_matches(part, names, n=1)
            children = ", ".join(name for name, _ in model.named_children())
            hint = f"did you mean {near[0]!r}?" if near else f"its parts are {children}"
            raise ValueError(f"freeze: the model has no part {part!r}: {hint}")
    return tuple(frozen)
