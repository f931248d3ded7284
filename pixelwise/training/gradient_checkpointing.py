"""Gradient checkpointing (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost).

Of a block, only its input is kept; what it computes within is computed again for the gradients. Random
numbers are drawn as they were the first time, so dropout drops the same and no weight changes.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_BLOCK = re.compile(r"(^|\.)(blocks|layers)\.\d+$")


def checkpoint_blocks(model: nn.Module) -> int:
    """Let the blocks of a network forget what they compute, in training, in place.

    Blocks are the modules in lists called "blocks" or "layers", as transformers have them. Those with batch
    norm stay as they are: computed twice, they would count each batch twice.

    Returns:
        The number of blocks.

    Raises:
        ValueError: if there are none.
    """
    blocks = [
        module
        for name, module in model.named_modules()
        if _BLOCK.search(name) and not any(isinstance(part, _BatchNorm) for part in module.modules())
    ]
    if not blocks:
        raise ValueError(
            f"gradient_checkpointing is for networks of blocks without batch norm, such as transformers: "
            f"{type(model).__name__} has none"
        )
    inner = {id(part) for block in blocks for part in block.modules() if part is not block}
    outermost = [block for block in blocks if id(block) not in inner]
    for block in outermost:
        block.forward = partial(_forgetting, block, block.forward)
    return len(outermost)


def _forgetting(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not block.training or not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)
