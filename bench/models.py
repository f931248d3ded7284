"""Time of each model on a CPU, over that of `unet` on `resnet34`.

One image of 256 x 256, random weights, evaluation. The reference runs again beside every model, because
machines drift: the ratio is the median of the rounds. Prints a table of Markdown; docs/make_models.py reads
the one of the last day that lies in this folder.

    python bench/models.py > bench/$(date +%F)-models.md
    python bench/models.py --threads 2 pspnet_resnet50 bisenet_resnet18
"""

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from datetime import date

import torch
from torch import Tensor

import pixelwise as pw
from pixelwise.registry import describe
from pixelwise.training.environment import cpu_name
from pixelwise.types import DenseModel, Model

SIDE, CLASSES = 256, 21
REFERENCE = "unet on resnet34"
ROUNDS, SECONDS = 3, 4.0  # at most so many rounds, and no further one after so long a time


def seconds(model: Model, image: Tensor) -> float:
    """Of one forward pass."""
    with torch.inference_mode():
        start = time.perf_counter()
        model(image)
        return time.perf_counter() - start


def measure(model: Model, reference: Model) -> tuple[float, float]:
    """Median time of a model in seconds, and median of its ratio to the reference."""
    random = torch.Generator().manual_seed(0)
    image, other = (torch.rand(1, m.in_channels, SIDE, SIDE, generator=random) for m in (model, reference))
    seconds(model, image)  # the first pass chooses kernels
    taken: list[float] = []
    ratios: list[float] = []
    while len(taken) < ROUNDS and (not taken or sum(taken) < SECONDS):
        taken.append(seconds(model, image))
        ratios.append(taken[-1] / seconds(reference, other))
    return statistics.median(taken), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models; all that score the pixels of an image without any")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    names = options.names or [
        name for name in pw.list_models() if describe(name).tasks[:1] == DenseModel.tasks[:1]
    ]
    print(f"# Time of models on a CPU, {date.today()}\n")
    print(
        f"`python bench/models.py`, {cpu_name()}, {options.threads} threads, torch {torch.__version__}, ",
        end="",
    )
    print(f"Python {platform.python_version()}. One image of {SIDE} x {SIDE}; ratio to {REFERENCE}.\n")
    print("| name | ms | ratio |\n|---|---|---|")
    reference = pw.build("unet", CLASSES, encoder="resnet34").eval()
    measure(reference, reference)
    for name in names:
        taken, ratio = measure(pw.build(name, CLASSES).eval(), reference)
        print(f"| `{name}` | {taken * 1e3:.0f} | {ratio:.2f} |", flush=True)
        print(name, file=sys.stderr)


if __name__ == "__main__":
    main()
