"""Write docs/losses_table.md and docs/pictures/losses.png: what each loss does to one class of a hundredth.

    python docs/make_loss_comparison.py [steps]

The images are slices of a phantom, drawn here, in which a crescent that covers about one pixel in
a hundred has to be told from dimmer round spots. Every loss trains the same network from the
same weights on the same batches; the slices of the test come from another seed.
"""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

import pixelwise as pw
from pixelwise.losses import (
    CrossEntropy,
    Dice,
    Focal,
    Lovasz,
    Ohem,
    Tversky,
    WeightedSum,
)
from pixelwise.losses.boundary import Boundary
from pixelwise.losses.weight_map import BorderCrossEntropy

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HEIGHT, WIDTH, BATCH = 48, 64, 16
TRAINING, TEST = 300, 80
LOSSES: dict[str, nn.Module] = {
    "cross-entropy": CrossEntropy(),
    "cross-entropy, weights 1:100": CrossEntropy(weight=[0.01, 1.0]),
    "OHEM, hardest quarter": Ohem(fraction=0.25),
    "focal": Focal(),
    "Dice": Dice(),
    "Tversky": Tversky(),
    "Lovász": Lovasz(),
    "cross-entropy + Dice": WeightedSum({"cross_entropy": CrossEntropy(), "dice": Dice()}),
    "Dice + boundary": WeightedSum(
        {"dice": Dice(), "boundary": Boundary(weight=[0.0, 1.0])}, {"boundary": 0.05}
    ),
    "U-Net's weight map": BorderCrossEntropy(),
}


class Slices(NamedTuple):
    """Images `n 1 48 64` in [0, 1] and labels `n 48 64`."""

    images: Tensor
    labels: Tensor


def draw_slices(count: int, seed: int) -> Slices:
    """Slices of a phantom: in uneven, noisy tissue lies one crescent among dimmer round spots."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    images = np.empty((count, 1, HEIGHT, WIDTH), np.float32)
    labels = np.zeros((count, HEIGHT, WIDTH), np.int64)
    for image, label in zip(images, labels, strict=True):
        tissue = gaussian_filter(random.normal(size=(HEIGHT, WIDTH)), 4)
        image[0] = 0.45 + 0.07 * tissue / tissue.std()
        brightness = random.uniform(0.15, 0.3)
        for _ in range(random.integers(2, 6)):
            radius = random.uniform(1.5, 3.5)
            spot = disc(x, y, random.uniform(0, WIDTH), random.uniform(0, HEIGHT), radius)
            image[0] += random.uniform(0.2, 0.6) * brightness * spot
        cx, cy = random.uniform(10, WIDTH - 10), random.uniform(10, HEIGHT - 10)
        radius, angle = random.uniform(4.5, 6.5), random.uniform(0, 2 * np.pi)
        shift = 0.55 * radius
        hole = disc(x, y, cx + shift * np.cos(angle), cy + shift * np.sin(angle), 0.8 * radius)
        crescent = np.clip(disc(x, y, cx, cy, radius) - hole, 0, 1)
        label[:] = crescent > 0.5
        image[0] = np.where(label, 0.45 + brightness * crescent, image[0])
        image[0] = gaussian_filter(image[0], 0.7) + random.normal(scale=0.05, size=(HEIGHT, WIDTH))
    return Slices(torch.from_numpy(images.clip(0, 1)), torch.from_numpy(labels))


def disc(x: np.ndarray, y: np.ndarray, cx: float, cy: float, radius: float) -> np.ndarray:
    """A disc with a soft border: 1 inside, 0 outside, in between over one pixel."""
    return np.clip(radius + 0.5 - np.hypot(x - cx, y - cy), 0, 1)


def train(loss: nn.Module, data: Slices, steps: int) -> nn.Module:
    """A network trained with a loss; everything else is the same for all losses."""
    torch.manual_seed(0)
    model = pw.build("unet", 2, encoder="tiny", in_channels=1, width=8).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(data.images), (BATCH,), generator=random)
        shift = torch.randint(0, 5, (2,), generator=random).tolist()
        images = data.images[chosen].roll(shift, (-2, -1))
        labels = data.labels[chosen].roll(shift, (-2, -1))
        optimiser.zero_grad()
        loss(model(images).logits, labels).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def main() -> None:
    """Train with every loss, write the table and the picture."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    torch.set_num_threads(1)
    data, held_out = draw_slices(TRAINING, seed=0), draw_slices(TEST, seed=1)
    truth = held_out.labels == 1
    share = truth.double().mean().item()
    shown = [len(truth) // 5, len(truth) // 2, 4 * len(truth) // 5]
    figure, axes = plt.subplots(3, 2 + len(LOSSES), figsize=(1.25 * (2 + len(LOSSES)), 5.4))
    lines = []
    for column, (name, loss) in enumerate(LOSSES.items(), 2):
        start = time.perf_counter()
        model = train(loss, data, steps)
        with torch.no_grad():
            p = model(held_out.images).logits.softmax(1)[:, 1]
        said = p > 0.5
        hit = (said & truth).sum().item()
        recall, precision = hit / truth.sum().item(), hit / max(said.sum().item(), 1)
        iou = hit / (said | truth).sum().item()
        predicted = said.double().mean().item()
        lines.append(f"| {name} | {iou:.3f} | {recall:.3f} | {precision:.3f} | {100 * predicted:.2f} |")
        print(lines[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
        for row, index in enumerate(shown):
            show(axes[row, column], p[index], truth[index])
        title = name.replace(", ", ",\n").replace(" + ", " +\n").replace("'s ", "'s\n")
        axes[0, column].set_title(title, fontsize=8)
        numbers = f"IoU {iou:.2f}\nrecall {recall:.2f}\nprecision {precision:.2f}"
        axes[2, column].set_xlabel(numbers, fontsize=7)
    for row, index in enumerate(shown):
        show(axes[row, 0], held_out.images[index, 0], None)
        show(axes[row, 1], truth[index].float(), None)
    axes[0, 0].set_title("image", fontsize=8)
    axes[0, 1].set_title("truth", fontsize=8)
    figure.tight_layout(pad=0.4)
    here = Path(__file__).parent
    figure.savefig(here / "pictures" / "losses.png", dpi=90)
    (here / "losses_table.md").write_text(
        f"""# {len(LOSSES)} losses, one class of a hundredth

Made by `python docs/make_loss_comparison.py`: {steps} steps of {BATCH} slices for each loss, the same small
U-Net (encoder "tiny") from the same weights on the same batches; {len(data.images)} slices to train on,
{len(held_out.images)} to test, of another seed. One run each, nothing tuned.
The images are slices of a phantom that the same file draws: a crescent among dimmer round spots,
on {100 * share:.2f} % of the test pixels.

| loss | IoU | recall | precision | predicted share in % |
|---|---|---|---|---|
"""
        + "\n".join(lines)
        + "\n\n![Probability of the crescent by each loss; the line is the truth](pictures/losses.png)\n"
    )


def show(axis: Axes, values: Tensor, truth: Tensor | None) -> None:
    """One map in grey, the boundary of the truth on it."""
    axis.imshow(values.numpy(), cmap="gray", vmin=0, vmax=1)
    if truth is not None:
        axis.contour(truth.numpy(), levels=[0.5], colors="tab:orange", linewidths=0.7)
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    main()
