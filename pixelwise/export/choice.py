"""The fastest form of a network on this machine that agrees with it, and where the choice is kept."""

import hashlib
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from ..checkpoint import Checkpoint
from ..files import atomic_write, cache_folder
from ..types import DenseLogits, Model
from .fast_forms import EAGER, FORMS, NEED_IMAGES, Images
from .int8 import classes_of, unused

_SURELY = 0.97  # of the time of eager: a form that gains less is not worth it
_VERSIONS = ("pixelwise", "torch", "onnxruntime", "openvino")
_CHOICE = "choice.json"
_LEAST_INT8 = 2  # images


class Measured(NamedTuple):
    """What was found out about a form.

    Attributes:
        form: its name, see `fast_forms.FORMS`; "eager" is the network as it is.
        milliseconds: median of one image, None where it was not timed.
        agreement: share of the labels that are those of the network, None where there are none.
        note: why it is out, or "".
    """

    form: str
    milliseconds: float | None
    agreement: float | None
    note: str = ""


@dataclass(frozen=True)
class Optimized:
    """The fastest form of a network that agrees with it.

    Attributes:
        form: its name.
        size: height and width that were measured.
        model: it, as a model.
        table: what was found out about every form.
    """

    form: str
    size: tuple[int, int]
    model: Model
    table: tuple[Measured, ...]


def optimize(
    found: Checkpoint,
    images: Images,
    *,
    tolerance: float = 0.995,
    forms: Sequence[str] | None = None,
    rounds: int = 5,
    tell: Callable[[str], object] = lambda form: None,
) -> Optimized:
    """Measure forms of a network on this machine and keep the fastest that agrees with it.

    Each form labels the images; those in which fewer labels than `tolerance` are those of the network in
    float32 are out. The others are timed in turn, one image each, round by round, so that what else the
    machine does hits all alike. The choice is kept in the cache of pixelwise (`PIXELWISE_CACHE`), under the
    weights, the machine, the versions and the size, for `Predictor(..., optimize=True)`. A runtime that is
    not installed is skipped.

    Args:
        found: a network that scores pixels, on the CPU.
        images: real ones, of one size; for forms in 8-bit integers at least two, better twenty. Of four or
            more every fourth is compared, and what `export_int8` chooses is chosen on the others.
        tolerance: share of equal labels, in (0, 1]; forms in 8-bit integers leave as many layers in float32
            as it takes, see `export_int8`.
        forms: names of `fast_forms.FORMS`; None for all.
        rounds: how often each form is timed.
        tell: called with the name of each form before it is tried.

    Raises:
        ValueError: if the network does not score pixels, an argument does not fit, or images differ in size.
    """
    size, names = _checked(found, images, tolerance, forms, rounds)
    found.model.cpu().eval()
    compared = unused(images)
    with torch.no_grad():
        expected = [classes_of(found, found.model(image[None])) for image in compared]
    models: dict[str, Model] = {EAGER: found.model}
    table: dict[str, Measured] = {EAGER: Measured(EAGER, None, 1.0)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            tell(name)
            if name in NEED_IMAGES and len(images) < _LEAST_INT8:
                table[name] = Measured(name, None, None, "needs a folder of images")
                continue
            kept = {"tolerance": tolerance} if name in NEED_IMAGES else {}
            try:
                model = FORMS[name](found, images, file_of(Path(scratch), name), **kept)
                agreement = _agreement(found, model, compared, expected)
            except Exception as error:  # a runtime may raise anything; the others go on
                reason = " ".join(str(error).split()) or type(error).__name__
                table[name] = Measured(name, None, None, f"skipped: {reason:.160}")
                continue
            out = "" if agreement >= tolerance else f"agrees in less than {tolerance:.2%}"
            table[name] = Measured(name, None, agreement, out)
            if not out:
                models[name] = model
        times = _timed(models, images[0][None], rounds)
        for name, seconds in times.items():
            table[name] = Measured(name, 1e3 * seconds, table[name].agreement)
        best = min(times, key=lambda name: times[name])
        if times[best] > _SURELY * times[EAGER]:
            best = EAGER
        result = Optimized(best, size, models[best], tuple(table.values()))
        _keep(folder_of(found, size), result, Path(scratch))
    return result


def recalled(found: Checkpoint, size: tuple[int, int]) -> Optimized | None:
    """The form that was chosen before for these weights, this machine, these versions and this size."""
    folder = folder_of(found, size)
    try:
        kept = json.loads((folder / _CHOICE).read_text())
        name, table = kept["form"], tuple(Measured(**row) for row in kept["table"])
        if name == EAGER:
            return Optimized(name, size, found.model, table)
        blank = [torch.zeros(found.model.in_channels, *size)]
        file = file_of(folder, name)
        if name.startswith(("onnx", "openvino")) and not list(folder.glob(f"{file.name}.*")):
            return None
        return Optimized(name, size, FORMS[name](found, blank, file), table)
    except (OSError, KeyError, TypeError, ValueError):  # nothing, or what another version wrote
        return None


def folder_of(found: Checkpoint, size: tuple[int, int]) -> Path:
    """Where a choice is kept: weights, machine, versions and size make the name."""
    digest = hashlib.sha256()
    for name, tensor in found.model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    about = [digest.hexdigest(), list(size), _machine(), [_version(name) for name in _VERSIONS]]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
    return cache_folder() / "optimized" / key


def _checked(
    found: Checkpoint, images: Images, tolerance: float, forms: Sequence[str] | None, rounds: int
) -> tuple[tuple[int, int], list[str]]:
    if not issubclass(found.model.output, DenseLogits):
        raise ValueError(f"only networks that score pixels are optimized, not {type(found.model).__name__}")
    if not 0 < tolerance <= 1:
        raise ValueError(f"tolerance is a share of equal labels above 0 and up to 1, got {tolerance}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if len({tuple(image.shape) for image in images}) != 1:
        raise ValueError("images of one size are needed to optimize a network")
    names = list(FORMS if forms is None else forms)
    if unknown := [name for name in names if name not in FORMS]:
        raise ValueError(f"there is no form {unknown[0]!r:.80}: it is one of {'; '.join(FORMS)}")
    return (images[0].shape[1], images[0].shape[2]), names


def _agreement(found: Checkpoint, model: Model, images: Images, expected: Sequence[torch.Tensor]) -> float:
    equal = total = 0
    for image, labels in zip(images, expected, strict=True):
        with torch.no_grad():
            same = classes_of(found, model(image[None])) == labels
        equal, total = equal + int(same.sum()), total + same.numel()
    return equal / total


def _timed(models: dict[str, Model], image: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each; they take turns. All have run before."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for _ in range(rounds):
            for name, model in models.items():
                started = time.perf_counter()
                model(image)
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def file_of(folder: Path, name: str) -> Path:
    """OpenVINO computes one file in float32 and in bfloat16."""
    plain = name.removesuffix(", bf16") if name.startswith("openvino") else name
    return folder / plain.replace(", ", "-").replace(".", "-")


def _keep(folder: Path, result: Optimized, scratch: Path) -> None:
    """Write the choice and the files that it needs; without a cache that can be written, nothing is kept."""
    with suppress(OSError, ValueError):
        folder.mkdir(parents=True, exist_ok=True)
        for source in scratch.glob(f"{file_of(scratch, result.form).name}.*"):
            with atomic_write(folder / source.name) as temporary:
                shutil.copyfile(source, temporary)
        with atomic_write(folder / _CHOICE) as temporary:
            kept = {
                "form": result.form,
                "size": result.size,
                "table": [row._asdict() for row in result.table],
            }
            temporary.write_text(json.dumps(kept, indent=1) + "\n")


def _machine() -> list[str]:
    """What decides which form is fast: processor, number of threads, operating system."""
    model = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    return [platform.system(), platform.machine(), model, str(torch.get_num_threads())]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
