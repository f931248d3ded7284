"""LoRA: a large network learns a small change (Sec. 4, Eq. 3).

The weights W of a linear layer stay as they are; learned is the change B A of low rank that is added to them.
B begins with zeros, so that training begins with the network as it was.

Departures: of attention, one matrix makes queries, keys and values here, and all three learn; the paper's
best setting leaves out the keys. The scale alpha / r is 1.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Paper

PAPER = Paper(
    title="LoRA: Low-Rank Adaptation of Large Language Models",
    authors="Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen",
    venue="ICLR",
    year=2022,
    url="https://arxiv.org/abs/2106.09685",
)


class LowRankLinear(nn.Linear):
    """A linear layer whose weights stay and to which a change of low rank is added.

    Args:
        layer: its weights are shared.
        rank: r of the change.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, input: Float[Tensor, "*_ a"]) -> Float[Tensor, "*_ b"]:
        """The layer and its change."""
        return super().forward(input) + F.linear(F.linear(input, self.lora_a), self.lora_b)


def add_lora(module: nn.Module, rank: int, name: str = "qkv") -> None:
    """Freeze a module, except for changes of low rank of its linear layers of that name.

    Weights keep their names, so that those of the module without changes can be loaded.

    Args:
        module: changed in place.
        rank: r of the changes.
        name: of the layers.

    Raises:
        ValueError: if there is no such layer.
    """
    module.requires_grad_(False)
    found = 0
    for parent in list(module.modules()):
        layer = dict(parent.named_children()).get(name)
        if isinstance(layer, nn.Linear):
            setattr(parent, name, LowRankLinear(layer, rank))
            found += 1
    if not found:
        raise ValueError(f"there is no linear layer called {name!r} to be changed")
