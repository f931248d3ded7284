"""Write docs/losses_table.md and docs/pictures/losses.png: what each loss does to one class of a hundredth.

    python docs/make_loss_comparison.py FOLDER [steps]

FOLDER holds the hippocampus volumes of the Medical Segmentation Decathlon (images/*.nii.gz, labels/*.nii.gz).
Of each volume those slices are taken in which the hippocampus covers 0.3 to 2 per cent: 1:100. Every loss
trains the same network from the same weights on the same batches; one volume in five is kept for the test.
"""

import gzip
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
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

HEIGHT, WIDTH, BATCH, IGNORE = 48, 64, 16, 255
SHARES = (0.003, 0.02)
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
    """Images `n 1 48 64` in [0, 1] and labels `n 48 64`; beyond a slice image 0 and label 255."""

    images: Tensor
    labels: Tensor


def read_nifti(path: Path) -> np.ndarray:
    """The voxels x y z of a compressed NIfTI-1 file."""
    content = gzip.decompress(path.read_bytes())
    _, x, y, z = struct.unpack("<4h", content[40:48])
    kind = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}[
        struct.unpack("<h", content[70:72])[0]
    ]
    start = int(struct.unpack("<f", content[108:112])[0])
    return np.frombuffer(content, kind, x * y * z, start).reshape(x, y, z, order="F")


def read_slices(folder: Path, test: bool) -> Slices:
    """Slices with a little of the hippocampus, of one volume in five or of the other four."""
    images, labels = [], []
    for number, path in enumerate(sorted((folder / "labels").glob("*.nii.gz"))):
        if (number % 5 == 0) != test:
            continue
        truth = read_nifti(path) > 0
        volume = read_nifti(folder / "images" / path.name).astype(np.float32)
        volume = np.clip(volume / np.percentile(volume, 99.5), 0, 1)
        for z in range(truth.shape[2]):
            if SHARES[0] < truth[..., z].mean() < SHARES[1]:
                image = np.zeros((1, HEIGHT, WIDTH), np.float32)
                label = np.full((HEIGHT, WIDTH), IGNORE)
                x, y = truth.shape[:2]
                image[0, :x, :y], label[:x, :y] = volume[..., z], truth[..., z]
                images.append(image)
                labels.append(label)
    return Slices(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))


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
    folder, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 500
    torch.set_num_threads(1)
    data, held_out = read_slices(folder, test=False), read_slices(folder, test=True)
    known = held_out.labels != IGNORE
    truth = held_out.labels == 1
    share = truth.sum().item() / known.sum().item()
    shown = [len(truth) // 5, len(truth) // 2, 4 * len(truth) // 5]
    figure, axes = plt.subplots(3, 2 + len(LOSSES), figsize=(1.25 * (2 + len(LOSSES)), 5.4))
    lines = []
    for column, (name, loss) in enumerate(LOSSES.items(), 2):
        start = time.perf_counter()
        model = train(loss, data, steps)
        with torch.no_grad():
            p = model(held_out.images).logits.softmax(1)[:, 1]
        said = (p > 0.5) & known
        hit = (said & truth).sum().item()
        recall, precision = hit / truth.sum().item(), hit / max(said.sum().item(), 1)
        iou = hit / (said | truth).sum().item()
        predicted = said.sum().item() / known.sum().item()
        lines.append(f"| {name} | {iou:.3f} | {recall:.3f} | {precision:.3f} | {100 * predicted:.2f} |")
        print(lines[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
        for row, index in enumerate(shown):
            draw(axes[row, column], p[index], held_out.labels[index])
        title = name.replace(", ", ",\n").replace(" + ", " +\n").replace("'s ", "'s\n")
        axes[0, column].set_title(title, fontsize=8)
        numbers = f"IoU {iou:.2f}\nrecall {recall:.2f}\nprecision {precision:.2f}"
        axes[2, column].set_xlabel(numbers, fontsize=7)
    for row, index in enumerate(shown):
        draw(axes[row, 0], held_out.images[index, 0], held_out.labels[index], contour=False)
        draw(axes[row, 1], truth[index].float(), held_out.labels[index], contour=False)
    axes[0, 0].set_title("image", fontsize=8)
    axes[0, 1].set_title("truth", fontsize=8)
    figure.tight_layout(pad=0.4)
    here = Path(__file__).parent
    figure.savefig(here / "pictures" / "losses.png", dpi=90)
    (here / "losses_table.md").write_text(
        f"""# {len(LOSSES)} losses, one class of a hundredth

Made by `python docs/make_loss_comparison.py`: {steps} steps of {BATCH} slices for each loss, the same small
U-Net (encoder "tiny") from the same weights on the same batches; {len(data.images)} slices to train on,
{len(held_out.images)} to test, of other patients. One run each, nothing tuned.
The hippocampus covers {100 * share:.2f} % of the test pixels.
Data: Medical Segmentation Decathlon, Task04 (Antonelli et al., 2022; Simpson et al., 2019), CC BY-SA 4.0,
as is the picture.

| loss | IoU | recall | precision | predicted share in % |
|---|---|---|---|---|
"""
        + "\n".join(lines)
        + "\n\n![Probability of the hippocampus by each loss; the line is the truth](pictures/losses.png)\n"
    )


def draw(axis: plt.Axes, values: Tensor, labels: Tensor, contour: bool = True) -> None:
    """One map in grey without its padding, the true boundary on it."""
    height, width = (int((labels != IGNORE).any(1 - axis_).sum()) for axis_ in (0, 1))
    axis.imshow(values[:height, :width].numpy().T, cmap="gray", vmin=0, vmax=1, origin="lower")
    if contour:
        outline = (labels[:height, :width] == 1).numpy().T
        axis.contour(outline, levels=[0.5], colors="tab:orange", linewidths=0.7)
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    main()
