"""On a CPU, several images or tiles at a time, each on cores of its own.

Cores that share an image wait for each other at every layer, and layers of a small network are short; cores
with an image each do not wait (`bench/predict_folder.py`, `bench/tiling.py`).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")
R = TypeVar("R")
PIXELS_TOGETHER = 1 << 22  # of images at the same time: each takes the memory of one
_MOST = 8  # images at the same time


def images_at_once(network: nn.Module, device: torch.device) -> int:
    """How many images a network looks at at the same time: more than one where torch computes it on a CPU.

    Other runtimes, whose networks have no parameters that torch knows, have threads of their own.
    """
    if device.type != "cpu" or next(network.parameters(), None) is None:
        return 1
    return min(torch.get_num_threads(), _MOST)


def in_parallel(
    work: Callable[[T], R],
    items: Iterable[T],
    count: int,
    alone: Callable[[T], bool] = lambda item: False,
) -> Generator[R, None, None]:
    """`work` of every item, in order, by `count` threads that share the threads of torch.

    The items are asked for in the calling thread, one more than there are threads. Until the last result is
    taken, torch computes with that share in the calling thread too. Gradient and inference mode are those of
    the calling thread; autocast is not.

    Args:
        work: must not change anything that its other calls use.
        items: what it is called with.
        count: of threads; with 1 everything runs in the calling thread.
        alone: whether an item is too large to have others beside it; all threads of torch work on it.
    """
    if count <= 1:
        yield from map(work, items)
        return
    total, grad, inference = (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )
    share = max(1, total // count)

    def call(item: T) -> R:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):  # local to a thread
            return work(item)

    running: deque[Future[R]] = deque()
    try:
        with ThreadPoolExecutor(count, "pixelwise-compute", torch.set_num_threads, (share,)) as threads:
            torch.set_num_threads(share)
            try:
                for item in items:
                    if alone(item):
                        while running:
                            yield running.popleft().result()
                        torch.set_num_threads(total)
                        yield work(item)
                        torch.set_num_threads(share)
                        continue
                    running.append(threads.submit(call, item))
                    if len(running) > count:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                for future in running:
                    future.cancel()
    finally:
        torch.set_num_threads(total)
