"""Which parameters are trained, and how."""

import re
from collections.abc import Iterable, Sequence
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
        layer_decay: learning rate of each block of the encoder over that of the block behind it, see
            `parameter_groups`.
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
    layer_decay: float = 1.0

    def make(self, model: Model) -> tuple[Optimizer, LambdaLR]:
        """Optimiser and schedule (to be stepped with the optimiser) for the parameters that are trained.

        Raises:
            ValueError: see `parameter_groups`; or if the warm-up is longer than the training.
        """
        groups = parameter_groups(
            model,
            lr=self.lr,
            encoder_lr_factor=self.encoder_lr_factor,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
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
    model: Model,
    *,
    lr: float,
    encoder_lr_factor: float = 1.0,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Trained parameters in groups: of the encoder or not, with weight decay or not, and by layers.

    Which is which, the model says: `Model.parameter_roles`. With a `layer_decay` below 1, block i of n of the
    encoder learns with `layer_decay ** (n + 1 - i)` times the rate of the encoder, and what comes before the
    first block like a block 0; what comes behind the last block has the rate of the encoder (Bao et al. 2022,
    BEiT, appendix on semantic segmentation, and the authors' code).

    Args:
        model: whose parameters.
        lr: learning rate.
        encoder_lr_factor: learning rate of the encoder over that of the rest.
        weight_decay: of weights.
        layer_decay: learning rate of each block over that of the block behind it.

    Raises:
        ValueError: if no parameter is trained, `encoder_lr_factor` is not 1 and none of the encoder is, or
            `layer_decay` is not 1 and the encoder has no blocks.
    """
    roles = model.parameter_roles()
    steps = dict.fromkeys(roles, 0)
    if layer_decay != 1:
        steps |= steps_to_the_end(name for name, role in roles.items() if role.of_encoder)
        if not any(steps.values()):
            raise ValueError(
                f"layer_decay must be 1 where the encoder has no blocks, such as those of a transformer, got "
                f"{layer_decay} for {type(model).__name__}"
            )
    groups: dict[tuple[bool, bool, int], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        of_encoder, decays = roles[name]
        group = groups.setdefault(
            (of_encoder, decays, steps[name]),
            {
                "name": ("encoder, " if of_encoder else "rest, ")
                + ("weights" if decays else "norms, biases and embeddings")
                + (f", {steps[name]} steps of decay before the end" if steps[name] else ""),
                "params": [],
                "lr": lr * (encoder_lr_factor if of_encoder else 1.0) * layer_decay ** steps[name],
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ValueError("no parameter is left to train: freeze less")
    if encoder_lr_factor != 1 and not any(of_encoder for of_encoder, *_ in groups):
        raise ValueError(
            f"encoder_lr_factor must be 1 where no encoder is trained, got {encoder_lr_factor}: "
            f"{type(model).__name__} has none, or it is frozen"
        )
    return list(groups.values())


# Names of the blocks of an encoder: body.blocks.3, body.c4.blocks.0, layers_2.blocks.5. A table of positions
# that a plain ViT holds for a block belongs to it.
_BLOCK = re.compile(r"^(.*\bblocks\.\d+)\.")
_TABLE = re.compile(r"^(.*)\brelative_positions\.(\d+)$")


def steps_to_the_end(names: Iterable[str]) -> dict[str, int]:
    """How many blocks of an encoder each parameter lies before its end: 1 in the last block, 0 behind it.

    What lies between two blocks counts to the one behind it, all that lies before the first one to none.

    Args:
        names: of the parameters, in their order.

    >>> steps_to_the_end(["pos_embed", "blocks.0.weight", "blocks.1.weight", "norm.weight"])
    {'pos_embed': 3, 'blocks.0.weight': 2, 'blocks.1.weight': 1, 'norm.weight': 0}
    """
    names = list(names)
    blocks = [match[1] if (match := _BLOCK.match(name)) else None for name in names]
    number = {block: i for i, block in enumerate(dict.fromkeys(filter(None, blocks)), start=1)}
    if not number:
        return dict.fromkeys(names, 0)
    steps, following = {}, len(number) + 1
    for name, block in zip(reversed(names), reversed(blocks), strict=True):
        if block is not None:
            following = number[block]
        elif following == 1:
            following = 0
        if table := _TABLE.match(name):
            steps[name] = len(number) + 1 - number[f"{table[1]}body.blocks.{table[2]}"]
        else:
            steps[name] = len(number) + 1 - following
    return {name: steps[name] for name in names}


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
