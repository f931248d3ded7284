"""UNet++: published sizes, its nodes, pruning, deep supervision."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import pixelwise as pw
from pixelwise.models.unetplusplus import NestedUNet, UNetPlusPlus, nested, places, unetplusplus
from pixelwise.types import ClassTable

OWN: dict[str, object] = {"width": 4}
ON_TINY: dict[str, object] = {"width": 4, "encoder": "tiny"}


def made(arguments: dict[str, object], **more: object) -> NestedUNet:
    """In evaluation, with batch norms that have seen something."""
    torch.manual_seed(3)
    model = pw.build("unetplusplus", 3, **arguments, **more)
    assert isinstance(model, NestedUNet)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def count(**arguments: object) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in pw.build("unetplusplus", 1, in_channels=1, **arguments).parameters())


def test_parameters_are_those_of_the_authors_file() -> None:
    assert count(deep_supervision=False) == 9_041_601


@pytest.mark.parametrize("level, millions", [(1, 0.1), (2, 0.5), (3, 2.2), (4, 9.0)])
def test_pruned_networks_have_the_published_sizes(level: int, millions: float) -> None:
    assert round(count(depth=level) / 1e6, 1) == millions


def test_every_node_takes_the_one_below_and_all_before_it() -> None:
    taken: dict[str, tuple[int, list[int]]] = {}

    class Named(nn.Module):
        def __init__(self, i: int, j: int) -> None:
            super().__init__()
            self.i, self.j = i, j

        def forward(self, below: Tensor, row: list[Tensor]) -> Tensor:
            taken[f"{self.i}_{self.j}"] = (int(below), [int(x) for x in row])
            return torch.tensor(10 * self.i + self.j)

    nodes = nn.ModuleDict({f"{i}_{j}": Named(i, j) for i, j in places(3)})
    first = nested([torch.tensor(10 * i) for i in range(4)], nodes)
    assert [int(x) for x in first] == [1, 2, 3]
    assert taken == {
        "0_1": (10, [0]),
        "1_1": (20, [10]),
        "2_1": (30, [20]),
        "0_2": (11, [0, 1]),
        "1_2": (21, [10, 11]),
        "0_3": (12, [0, 1, 2]),
    }


def test_the_nodes_compute_what_the_authors_file_says() -> None:
    # Written out for L2, as the file does: the doubled map first, then the row from the encoder on.
    model = made({"width": 4, "depth": 2})
    assert isinstance(model, UNetPlusPlus)
    image = torch.rand(1, 3, 32, 48)

    def unit(layers: nn.Module, x: Tensor) -> Tensor:
        first, second = (layer for layer in layers.children() if isinstance(layer, nn.Conv2d))
        return F.relu(second(F.relu(first(x))))

    def node(name: str, below: Tensor, *row: Tensor) -> Tensor:
        part = model.nodes[name]
        return unit(part.unit, torch.cat([part.up(below), *row], 1))

    with torch.no_grad():
        x00 = unit(model.down[0], image)
        x10 = unit(model.down[1], F.max_pool2d(x00, 2))
        x01 = node("0_1", x10, x00)
        x20 = unit(model.down[2], F.max_pool2d(x10, 2))
        x11 = node("1_1", x20, x10)
        x02 = node("0_2", x11, x00, x01)
        expected = model.heads["2"](x02)
        torch.testing.assert_close(model(image).logits, expected)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("arguments", [OWN, ON_TINY], ids=["own", "on an encoder"])
def test_a_pruned_network_says_what_the_whole_one_says_at_that_level(arguments: dict[str, object]) -> None:
    model = made(arguments)
    for size in ((64, 96), (65, 47)):
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            levels = model.levels(image)
            assert len(levels) == 4
            for level, expected in enumerate(levels, 1):
                found = model.pruned(level)(image)
                assert torch.equal(found.coarse, expected)
                assert found.logits.shape == (2, 3, *size)
    assert not torch.allclose(levels[0], levels[1])


@pytest.mark.parametrize("arguments", [OWN, ON_TINY], ids=["own", "on an encoder"])
def test_pruning_skips_what_a_level_does_not_need(arguments: dict[str, object]) -> None:
    model, image = made(arguments), torch.rand(1, 3, 64, 64)
    work, sizes = [], []
    for level in (1, 2, 3, 4):
        smaller = model.pruned(level)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            smaller(image)
        work.append(counter.get_total_flops())
        sizes.append(sum(p.numel() for p in smaller.parameters()))
    assert work == sorted(set(work))
    assert sizes == sorted(set(sizes))
    if arguments is OWN:
        # Each row holds a quarter of the pixels and four times the weights of the one above, so nodes cost
        # about the same: L1 has three of the fifteen, L2 six, L3 ten.
        assert [round(15 * part / work[-1]) for part in work] == pytest.approx([3, 6, 10, 15], abs=1)


def test_a_pruned_network_can_be_saved_and_trained_further(tmp_path) -> None:
    model = made(ON_TINY)
    smaller = model.pruned(2)
    pw.save(smaller, tmp_path / "l2.safetensors", ClassTable.of(*"abc"))
    again = pw.load(tmp_path / "l2.safetensors").model
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image).logits, smaller(image).logits)
    before = model.state_dict()["nodes.0_1.unit.0.0.weight"].clone()
    nn.init.zeros_(smaller.nodes["0_1"].unit[0][0].weight)
    assert torch.equal(model.state_dict()["nodes.0_1.unit.0.0.weight"], before)


def test_all_levels_learn_the_deepest_first() -> None:
    model = made(ON_TINY)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        levels = model.levels(image)
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)
        output = model(image)
    assert torch.equal(output.coarse, levels[3])
    assert len(output.aux) == 3
    assert all(torch.equal(aux, level) for aux, level in zip(output.aux, levels[2::-1], strict=True))
    without = made(ON_TINY, deep_supervision=False).train()
    assert without(image).aux == ()


def test_what_cannot_be_pruned_says_why() -> None:
    with pytest.raises(ValueError, match="heads at the levels 4, not 2"):
        made(OWN, deep_supervision=False).pruned(2)
    with pytest.raises(ValueError, match=r"make it with pixelwise\.build"):
        unetplusplus(3, width=4).pruned(2)
    with pytest.raises(ValueError, match="depth must be 1 to 4, got 5"):
        unetplusplus(3, width=4, depth=5)
    with pytest.raises(ValueError, match="needs an encoder"):
        unetplusplus(3, pretrained=True)
