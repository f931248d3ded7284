"""Forward and backward of each loss over PyTorch's cross-entropy, and its peer in SMP, where there is one.

    python bench/losses.py [rounds] [threads]

Logits of 2 x 19 x 512 x 1024, eager, on the CPU; a strip of the labels is ignored.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.losses import cross_entropy, dice_loss, focal_loss

IGNORE = 255


def main() -> None:
    rounds, threads = (int(word) for word in (*sys.argv[1:], *("9", "1")[len(sys.argv) - 1 :]))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    logits = torch.randn(2, 19, 512, 1024, requires_grad=True)
    labels = torch.randint(0, 19, (2, 512, 1024))
    labels[:, :40] = IGNORE
    weight = torch.rand(19)
    smp_dice = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE)
    smp_focal = smp.losses.FocalLoss("multiclass", ignore_index=IGNORE)
    losses: dict[str, Callable[[], Tensor]] = {
        "cross-entropy, torch": lambda: F.cross_entropy(logits, labels, ignore_index=IGNORE),
        "cross-entropy": lambda: cross_entropy(logits, labels),
        "cross-entropy with weights, torch": lambda: F.cross_entropy(
            logits, labels, weight, ignore_index=IGNORE
        ),
        "cross-entropy with weights": lambda: cross_entropy(logits, labels, weight=weight),
        "focal": lambda: focal_loss(logits, labels),
        "focal, smp": lambda: smp_focal(logits, labels),
        "dice": lambda: dice_loss(logits, labels),
        "dice, smp": lambda: smp_dice(logits, labels),
    }
    taken: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name in random.sample(list(losses), len(losses)):
            logits.grad = None
            start = time.perf_counter()
            losses[name]().backward()
            if number:
                taken[name].append(time.perf_counter() - start)
    base = statistics.median(taken["cross-entropy, torch"])
    print(f"medians of {rounds} rounds, {threads} thread(s), torch {torch.__version__}\n")
    print("| loss | ms | over torch's cross-entropy |\n|---|---|---|")
    for name, times in taken.items():
        print(f"| {name} | {1e3 * statistics.median(times):.0f} | {statistics.median(times) / base:.2f} |")


if __name__ == "__main__":
    main()
