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


def milliseconds(work: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median and best time on the clock, and median time of the processors, of all threads together."""
    work()
    clock, processors = [], []
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        work()
        clock.append(1e3 * (time.perf_counter() - start))
        processors.append(1e3 * (time.process_time() - used))
    return statistics.median(clock), min(clock), statistics.median(processors)


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
    print("| frames | background | ms, median | ms, best | processor ms | frames per second, best |")
    print("|---|---|---|---|---|---|")
    for height, width in SIZES:
        frame = F.interpolate(torch.rand(1, 3, height // 8, width // 8), (height, width), mode="bicubic")[0]
        frame = frame.clamp(0, 1)
        for name, background in (("picture", torch.rand(3, 100, 150)), ("blur", "blur")):
            replacer = BackgroundReplacer(predictor, background, smoothing=0.7)
            clock, best, used = milliseconds(lambda r=replacer, f=frame: r(f), options.rounds)
            print(
                f"| {width} x {height} | {name} | {clock:.1f} | {best:.1f} | {used:.1f} | {1e3 / best:.0f} |",
                flush=True,
            )
    small, half, probability = (
        torch.rand(1, *shape) for shape in ((3, 256, 256), (3, 128, 128), (1, 128, 128))
    )
    parts = {
        "network at 256 x 256": lambda: predictor.probabilities(small),
        "guided filter in colour at 128 x 128": lambda: guided_filter(half, probability, 2, 1e-4),
    }
    print("\n| part | ms, median | ms, best | processor ms |\n|---|---|---|---|")
    for name, work in parts.items():
        clock, best, used = milliseconds(work, options.rounds)
        print(f"| {name} | {clock:.1f} | {best:.1f} | {used:.1f} |", flush=True)


if __name__ == "__main__":
    main()
