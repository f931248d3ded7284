"""How much memory a prediction takes, and how much there is."""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..tiling import Network, Size

_PROBE = 256  # side of the image by which memory is measured, in pixels
_SHARE = 0.5  # of the free memory that may be used; convolutions need room beside their results
_SIDES = (2048, 1536, 1024, 768, 512, 384, 256)  # of tiles, in pixels
_NO_ROOM = ("not enough memory", "can't allocate memory", "out of memory")


def available_memory(device: torch.device) -> int:
    """Free memory in bytes: of the GPU, or of the machine and of the control group the process runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [_of_the_machine()]
    group = Path("/sys/fs/cgroup")
    try:
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or one without a limit ("max")
        pass
    return max(0, min(found))


def _of_the_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operators make while they live, and their highest number."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in pytree.tree_leaves(args) if torch.is_tensor(x)}
        for made in pytree.tree_leaves(result):
            if torch.is_tensor(made) and made.untyped_storage().data_ptr() not in given:
                storage = made.untyped_storage()
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes()).atexit = False
        return result

    def _add(self, bytes: int) -> None:
        self.now += bytes
        self.peak = max(self.peak, self.now)


def bytes_per_pixel(network: Network, channels: int, minimum_size: int, device: torch.device) -> float:
    """Peak memory of a forward pass over the pixels of the image, measured on a small one."""
    side = max(_PROBE, minimum_size)
    image = torch.zeros(1, channels, side, side, device=device)
    return live_bytes(lambda: network(image).logits.argmax(1)) / side**2


def live_bytes(work: Callable[[], object]) -> int:
    """Highest number of bytes of the tensors that `work` makes."""
    with torch.no_grad(), _LiveBytes() as measured:
        work()
    return measured.peak


def fitting_tile(size: Size, per_pixel: float, num_classes: int, available: int) -> Size | None:
    """The largest tile that fits into memory: None where the whole image does.

    Args:
        size: height and width of the image.
        per_pixel: see `bytes_per_pixel`.
        num_classes: k of the logits.
        available: free memory in bytes.

    Raises:
        ValueError: if not even the smallest tile fits.
    """
    height, width = size
    room = _SHARE * available
    if per_pixel * height * width <= room:
        return None
    for side in _SIDES:
        # Sums of float32: of a tile, and of the rows that it shares with the next ones over the whole width.
        sums = 4 * num_classes * (3 * side**2 + side // 4 * width)
        if per_pixel * side**2 + sums <= room:
            return side, side
    raise ValueError(
        f"{height} x {width} pixels do not fit into memory ({available / 2**30:.1f} GiB are free), "
        f"nor do tiles of {_SIDES[-1]} pixels: choose smaller ones (--tile HxW, tile=)"
    )


@contextmanager
def enough_memory(size: tuple[int, ...], tile: Size | None) -> Iterator[None]:
    """A sentence where memory runs out, whatever the library raises."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        shown = " x ".join(map(str, size))
        given = f"even in tiles of {tile[0]} x {tile[1]}" if tile else "at once"
        raise ValueError(
            f"{shown} pixels do not fit into memory {given}: predict in "
            f"{'smaller ' if tile else ''}tiles (--tile HxW, tile=)"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch says so by a RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_ROOM)
    )
