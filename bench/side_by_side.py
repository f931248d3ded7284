"""The harness of the benches: ours and its peers in turn, in one process, as ratios."""

import importlib
import random
import statistics
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch


def peer(module: str) -> ModuleType | None:
    """A peer's module, or None where it is not installed; the bench then says so in its table."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def compare(
    title: str,
    ways: Mapping[str, Callable[[], Any] | None],
    *,
    target: str = "",
    rounds: int = 7,
    threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time each way in turn and print how many times longer than the first (ours) it takes.

    Args:
        title: what is measured, with sizes.
        ways: ours first, then the peers; None where a peer is not installed.
        target: what performance.md asks for, printed under the table.
        rounds: interleaved rounds that count; one more before them does not (it compiles and warms up).
        threads: of torch; a kernel on several threads takes its number from its own argument.
        clock: in seconds; `time.process_time` leaves out what other processes of the machine do.

    Returns:
        Median seconds of every way that ran.
    """
    torch.set_num_threads(threads)
    taken: dict[str, list[float]] = {name: [] for name, way in ways.items() if way is not None}
    for number in range(rounds + 1):
        for name in random.sample(list(taken), len(taken)):
            way = ways[name]
            assert way is not None
            start = clock()
            way()
            if number:
                taken[name].append(clock() - start)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ours = next(iter(medians.values()))
    print(f"\n### {title}, {threads} thread(s), {rounds} rounds\n\n| way | ms | over ours |\n|---|---|---|")
    for name in ways:
        if name in medians:
            print(f"| {name} | {1e3 * medians[name]:.2f} | {medians[name] / ours:.2f} |", flush=True)
        else:
            print(f"| {name} | not installed | |", flush=True)
    if target:
        print(f"\ntarget: {target}", flush=True)
    return medians
