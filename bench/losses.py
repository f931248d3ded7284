"""Forward and backward of each loss beside its peers, and the memory that they take.

    python bench/losses.py [rounds]

Logits of 2 x 19 x 512 x 1024, eager, on the CPU, 1 thread; a strip of the labels is ignored.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from side_by_side import compare, peer
from torch import Tensor
from torch.nn import functional as F

from pixelwise.losses import (
    cross_entropy,
    dice_loss,
    focal_loss,
    generalised_dice_loss,
    jaccard_loss,
    lovasz_loss,
    ohem_loss,
    tversky_loss,
)

IGNORE = 255
SHAPE = (2, 19, 512, 1024)
Loss = Callable[[Tensor, Tensor], Tensor]


def example() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(SHAPE, requires_grad=True)
    labels = torch.randint(0, SHAPE[1], (SHAPE[0], *SHAPE[2:]))
    labels[:, :40] = IGNORE
    return logits, labels


def ours() -> dict[str, Loss]:
    weight = torch.linspace(0.1, 2, SHAPE[1])
    return {
        "cross-entropy": cross_entropy,
        "weighted cross-entropy": lambda x, y: cross_entropy(x, y, weight=weight),
        "ohem, fraction 0.1": lambda x, y: ohem_loss(x, y, fraction=0.1),
        "ohem, threshold 0.7": ohem_loss,
        "focal": focal_loss,
        "focal beside its peers": focal_loss,
        "dice": dice_loss,
        "generalised dice": generalised_dice_loss,
        "jaccard": jaccard_loss,
        "tversky": tversky_loss,
        "lovasz": lovasz_loss,
    }


def peers() -> dict[str, Loss | None]:
    """MONAI knows no ignored label: it is given class 0 there, which takes it as long."""
    weight = torch.linspace(0.1, 2, SHAPE[1])
    smp, monai = peer("segmentation_models_pytorch"), peer("monai.losses")

    def of_smp(name: str) -> Loss | None:
        if smp is None:
            return None
        loss: Loss = getattr(smp.losses, name)("multiclass", ignore_index=IGNORE)
        return loss

    def of_monai(name: str, **settings: object) -> Loss | None:
        if monai is None:
            return None
        loss = getattr(monai, name)(to_onehot_y=True, **settings)
        return lambda x, y: loss(x, torch.where(y == IGNORE, 0, y)[:, None])

    return {
        "torch cross-entropy": lambda x, y: F.cross_entropy(x, y, ignore_index=IGNORE),
        "torch weighted cross-entropy": lambda x, y: F.cross_entropy(x, y, weight, ignore_index=IGNORE),
        "smp focal": of_smp("FocalLoss"),
        "monai focal": of_monai("FocalLoss", use_softmax=True),
        "smp dice": of_smp("DiceLoss"),
        "monai dice": of_monai("DiceLoss", softmax=True),
        "monai generalised dice": of_monai("GeneralizedDiceLoss", softmax=True),
        "monai jaccard": of_monai("DiceLoss", softmax=True, jaccard=True),
        "smp tversky": of_smp("TverskyLoss"),
        "monai tversky": of_monai("TverskyLoss", softmax=True),
        "smp lovasz": of_smp("LovaszLoss"),
    }


TABLES = {
    "cross-entropy": (["torch cross-entropy"], "at most 1.05 of torch's"),
    "weighted cross-entropy": (["torch weighted cross-entropy"], "at most 1.05 of torch's"),
    "ohem, fraction 0.1": (["torch cross-entropy"], "none"),
    "ohem, threshold 0.7": (["torch cross-entropy"], "none"),
    # Alone: big peers leave an allocator behind that serves one of the two faster.
    "focal": (["torch cross-entropy"], "at most 1.1 of torch's cross-entropy"),
    "focal beside its peers": (["monai focal", "smp focal"], "none"),
    "dice": (["monai dice", "smp dice"], "at most MONAI's Dice"),
    "generalised dice": (["monai generalised dice"], "at most MONAI's"),
    "jaccard": (["monai jaccard"], "at most MONAI's"),
    "tversky": (["monai dice", "monai tversky", "smp tversky"], "at most MONAI's Dice"),
    "lovasz": (["smp lovasz"], "at least 5 times faster than SMP, in a quarter of its memory"),
}


def lovasz_by_its_definition(logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Value and gradient of Lovász-softmax, present classes, in float64 as the authors compute it."""
    p = logits.detach().double().softmax(1).movedim(1, 0).flatten(1)
    y, slopes, values = labels.flatten(), torch.zeros_like(p), []
    valid = y != IGNORE
    for c in range(len(p)):
        truth = (y == c)[valid].numpy()
        value = p[c][valid].numpy()
        errors = np.where(truth, 1 - value, value)
        order = np.argsort(-errors)
        g = truth[order].astype(float)
        rise = np.diff(1 - (g.sum() - g.cumsum()) / (g.sum() + (1 - g).cumsum()), prepend=0.0)
        values.append(float((errors[order] * rise).sum()))
        slope = np.zeros(len(order))
        slope[order] = rise
        slopes[c, valid] = torch.from_numpy(np.where(truth, -slope, slope)) / len(p)
    grad = p * (slopes - (p * slopes).sum(0))
    b, k, *grid = logits.shape
    return float(np.mean(values)), grad.view(k, b, *grid).movedim(0, 1)


def check() -> None:
    """Values and gradients are equal where they should be."""
    logits, labels = example()
    mine, theirs = ours(), peers()

    def both(loss: Loss) -> tuple[float, Tensor]:
        logits.grad = None
        value = loss(logits, labels)
        value.backward()
        assert logits.grad is not None
        return value.item(), logits.grad

    pairs = {"cross-entropy": "torch cross-entropy", "weighted cross-entropy": "torch weighted cross-entropy"}
    pairs |= {"dice": "smp dice"}
    for name, other in pairs.items():
        if (loss := theirs[other]) is not None:
            torch.testing.assert_close(both(mine[name]), both(loss), rtol=1e-4, atol=1e-9)
    value, grad = both(mine["lovasz"])
    exact, slope = lovasz_by_its_definition(logits, labels)
    print("\n### Lovász-softmax over its definition in float64\n\n| way | value | gradient |\n|---|---|---|")
    print(f"| ours | {abs(value / exact - 1):.1e} | {distance(grad, slope):.1e} |")
    if (loss := theirs["smp lovasz"]) is not None:
        other_value, other_grad = both(loss)
        print(f"| smp | {abs(other_value / exact - 1):.1e} | {distance(other_grad, slope):.1e} |")
        torch.testing.assert_close(torch.tensor(value), torch.tensor(other_value), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(value).double(), torch.tensor(exact).double(), rtol=1e-5, atol=0)
    # An error of float32 can stand on the wrong side of a neighbour that differs from it by its rounding.
    torch.testing.assert_close(grad.double(), slope, rtol=1e-5, atol=5e-5 * slope.abs().max().item())
    print("\nrelative difference of the value; largest difference of the gradient over its largest entry")


def distance(grad: Tensor, exact: Tensor) -> float:
    return ((grad - exact).abs().max() / exact.abs().max()).item()


def peak(name: str) -> float:
    """Most memory that a loss takes beyond its logits and labels, in a process of its own, in MiB."""
    command = [sys.executable, str(Path(__file__).resolve()), "--peak", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(name: str) -> None:
    """Linux: the high-water mark of resident memory, set back before one forward and backward."""
    torch.set_num_threads(1)
    logits, labels = example()
    loss = {**ours(), **peers()}[name]
    assert loss is not None
    loss(logits[:, :, :8, :8], labels[:, :8, :8] % IGNORE).backward()  # compiles and loads what it needs
    logits.grad = None
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    loss(logits, labels).backward()
    print(resident("VmHWM") - before)


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main(rounds: int = 7) -> None:
    torch.set_num_threads(1)
    logits, labels = example()
    check()

    def timed(loss: Loss | None) -> Callable[[], None] | None:
        if loss is None:
            return None

        def way() -> None:
            logits.grad = None
            loss(logits, labels).backward()

        return way

    mine, theirs = ours(), peers()
    size = "x".join(str(part) for part in SHAPE)
    for name, (others, target) in TABLES.items():
        ways = {name: timed(mine[name]), **{other: timed(theirs[other]) for other in others}}
        few = min(rounds, 3) if name == "lovasz" else rounds
        compare(f"{name}, forward and backward, {size}", ways, target=target, rounds=few)
    if not Path("/proc/self/clear_refs").exists():
        return
    print("\n### peak memory beyond logits and labels, MiB\n\n| way | MiB |\n|---|---|")
    for name in (
        "cross-entropy",
        "torch cross-entropy",
        "focal",
        "dice",
        "monai dice",
        "lovasz",
        "smp lovasz",
    ):
        if {**mine, **theirs}[name] is not None:
            print(f"| {name} | {peak(name):.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(sys.argv[2])
    else:
        main(*(int(word) for word in sys.argv[1:]))
