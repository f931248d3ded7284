"""Frames per second of another background behind a person, and where the time goes.

    python bench/background.py --threads 2 --weights SINet.pth

Without --weights the network has random ones, which takes as long.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from pixelwise.backgrounds import BackgroundReplacer, background_predictor
from pixelwise.models import sinet
from pixelwise.ops import guided_filter
from pixelwise.predict import Predictor
from pixelwise.training.environment import cpu_name
from pixelwise.types import ClassTable

SIZES = ((256, 256), (480, 640), (720, 1280))


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"{cpu_name()}, {options.threads} thread(s), torch {torch.__version__}, {platform.python_version()}\n"
    )
    if options.weights:
        predictor = background_predictor(options.weights, allow_noncommercial=True)
    else:
        predictor = Predictor(sinet(2), ClassTable.of("background", "person"))
    print("| frames | background | ms per frame | frames per second |\n|---|---|---|---|")
    for height, width in SIZES:
        frame = F.interpolate(torch.rand(1, 3, height // 8, width // 8), (height, width), mode="bicubic")[0]
        frame = frame.clamp(0, 1)
        for name, background in (("picture", torch.rand(3, 100, 150)), ("blur", "blur")):
            replacer = BackgroundReplacer(predictor, background, smoothing=0.7)
            taken = milliseconds(lambda r=replacer, f=frame: r(f), options.rounds)
            print(f"| {width} x {height} | {name} | {taken:.1f} | {1e3 / taken:.0f} |", flush=True)
    small = torch.rand(1, 3, 256, 256)
    probability = torch.rand(1, 1, 256, 256)
    print("\n| part, 256 x 256 | ms |\n|---|---|")
    print(f"| network | {milliseconds(lambda: predictor.probabilities(small), options.rounds):.1f} |")
    filtering = milliseconds(lambda: guided_filter(small, probability, 4, 1e-4), options.rounds)
    print(f"| guided filter in colour | {filtering:.1f} |")


if __name__ == "__main__":
    main()
