"""What a machine can do, as far as a training plan asks."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..machine import usable_cores
from ..wording import counted


@dataclass(frozen=True)
class Probe:
    """What some real training steps took.

    Attributes:
        rung: name of the rung of the ladder.
        crop: of the images; empty for whole ones.
        batch: images per step.
        precision: as in a recipe.
        seconds: per step, with its augmentation, loss, backward pass and optimiser.
        loading: seconds that one process takes to read and change one image.
        validation: seconds per validation image.
        memory: bytes at the peak above what was used before; 0 where nobody knows.
        reduce: what sides of images were divided by before the network saw them.
    """

    rung: str
    crop: tuple[int, ...]
    batch: int
    precision: str
    seconds: float
    loading: float = 0.0
    validation: float = 0.0
    memory: int = 0
    reduce: int = 1


@dataclass(frozen=True)
class RangeTest:
    """What some training steps at rising learning rates showed.

    Attributes:
        turn: the rate at which the loss began to rise; infinite where it fell to the end.
        highest: rate that was tried.
        steps: that were made.
        seconds: that it took.
        skipped: why there was no test; "" where there was one.
    """

    turn: float = math.inf
    highest: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    skipped: str = ""


@dataclass(frozen=True)
class MachineFacts:
    """What a machine can do.

    Attributes:
        device: "cpu", "cuda" or "mps".
        name: of the processor.
        cores: that this process may use.
        memory: free bytes, of the GPU where there is one.
        bf16: whether it computes with bfloat16.
        probes: what was measured.
    """

    device: str = "cpu"
    name: str = ""
    cores: int = 1
    memory: int = 0
    bf16: bool = False
    probes: tuple[Probe, ...] = ()

    def with_probes(self, *probes: Probe) -> "MachineFacts":
        """The same machine with more measured."""
        return replace(self, probes=(*self.probes, *probes))

    def probe(self, rung: str, *, batch: int | None = None, precision: str | None = None) -> Probe | None:
        """The last probe of that rung; None where it was not measured."""
        for one in reversed(self.probes):
            if (
                one.rung == rung
                and (batch is None or one.batch == batch)
                and (precision is None or one.precision == precision)
            ):
                return one
        return None

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON knows them."""
        return asdict(self)

    def sentence(self) -> str:
        """The facts in a few words."""
        kind = counted(self.cores, "core") if self.device == "cpu" else self.device
        fast = "bf16" if self.bf16 else "no bf16"
        return f"{self.name or self.device}, {kind}, {self.memory / 2**30:.1f} GiB free, {fast}"


def machine_facts(accelerator: str = "auto") -> MachineFacts:
    """What this machine can do; nothing is probed yet.

    Args:
        accelerator: "auto", "cpu", "gpu" or "mps", as in a recipe.
    """
    cores = usable_cores()
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return MachineFacts("cuda", name, cores, free, torch.cuda.is_bf16_supported())
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return MachineFacts("mps", "", cores, free_memory(), False)
    bf16 = (
        bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False
    )
    return MachineFacts("cpu", "", cores, free_memory(), bf16)


def free_memory() -> int:
    """Bytes of main memory that this process may still take: the system's, or what its container leaves."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 0
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return max(0, free)
