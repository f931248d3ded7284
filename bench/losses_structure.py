"""Losses on structure beside MONAI's: Hausdorff and clDice, forward and backward.

    python bench/losses_structure.py [rounds]

Planes of 2 x 2 x 512 x 512 and volumes of 1 x 2 x 64 x 96 x 96, eager, on the CPU, one thread; the truth is a
sum of waves above a threshold, the prediction a noisy version of it.
"""

import sys
from collections.abc import Callable

import torch
from side_by_side import compare, peer
from torch import Tensor

from pixelwise.losses.boundary import boundary_loss
from pixelwise.losses.cldice import cldice_loss
from pixelwise.losses.hausdorff import hausdorff_loss
from pixelwise.losses.rmi import rmi_loss
from pixelwise.losses.weight_map import border_cross_entropy

PLANES, VOLUMES = (2, 512, 512), (1, 64, 96, 96)


def scene(images: int, *grid: int) -> tuple[Tensor, Tensor]:
    """Logits of two classes, and labels in blobs and threads."""
    axes = torch.meshgrid(*[torch.arange(float(side)) for side in grid], indexing="ij")
    height = sum(torch.sin(axis / (5 + 3 * number)) for number, axis in enumerate(axes))
    labels = (height + torch.zeros(images, *grid) > 0.8).long()
    score = 4.0 * labels - 2 + torch.randn(images, *grid)
    return torch.stack([-score, score], 1), labels


def step(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    x = logits.clone().requires_grad_()
    value = loss(x)
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


def main(rounds: int = 7) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monai = peer("monai.losses")
    foreground = torch.tensor([0.0, 1.0])
    for name, (images, *grid) in (("planes", PLANES), ("volumes", VOLUMES)):
        logits, labels = scene(images, *grid)
        radius = 5 - len(grid)
        binary, mask = logits[:1, 1:], labels[:1, None]
        ours = {
            "Hausdorff": lambda x, y=labels: hausdorff_loss(x, y, weight=foreground),
            "clDice": lambda x, y=mask: cldice_loss(x, y, exclusive=False),
        }
        inputs = {"Hausdorff": logits, "clDice": binary}
        theirs = {}
        if monai is not None:
            hausdorff = monai.HausdorffDTLoss(softmax=True, to_onehot_y=True)
            cldice = monai.SoftclDiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=0, smooth=1e-12)
            theirs = {
                "Hausdorff": lambda x, y=labels, f=hausdorff: f(x, y[:, None]),
                "clDice": lambda x, y=mask, f=cldice: f(x, y.float()),
            }
        for title, loss in ours.items():
            ways = {"ours": lambda f=loss, x=inputs[title]: step(f, x), "MONAI": None}
            if title in theirs:
                for mine, other in zip(
                    step(loss, inputs[title]), step(theirs[title], inputs[title]), strict=True
                ):
                    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6 * other.abs().max().item())
                ways["MONAI"] = lambda f=theirs[title], x=inputs[title]: step(f, x)
            compare(f"{title}, {name}", ways, rounds=rounds)
        own = {
            "cross-entropy of torch": lambda x, y=labels: torch.nn.functional.cross_entropy(x, y),
            "boundary": lambda x, y=labels: boundary_loss(x, y),
            "U-Net's weight map": lambda x, y=labels: border_cross_entropy(x, y),
            "RMI": lambda x, y=labels, r=radius: rmi_loss(x, y, radius=r),
        }
        compare(
            f"without a peer, {name}",
            {title: lambda f=loss, x=logits: step(f, x) for title, loss in own.items()},
            rounds=rounds,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
