"""Published weights: what there is, and one function that fetches, checks, converts and loads them.

Which weights there are, and under what terms, is data: see `weights.toml` beside this file.
"""

import http.client
import importlib
import importlib.resources
import os
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache as cached
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .checkpoint import Checkpoint
from .files import atomic_write, sha256_of
from .types import BuiltBy, ClassTable, Model
from .wording import brief, some_of

_TIMEOUT = 30.0  # seconds without a byte
_PIECE = 1 << 18  # bytes per read
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class PublishedWeights:
    """One entry of `weights.toml`.

    Attributes:
        name: as `load_weights` knows it.
        builder: of `pixelwise.models`, for networks with these weights.
        arguments: of the builder, besides `num_classes`.
        converter: module and function in `pixelwise.models` that makes a model of the published state dict.
        url: where the file is.
        sha256: of the file, in hexadecimal; its first eight digits where the publisher tells no more.
        licence: of the weights (SPDX).
        commercial: whether licence and training data allow commercial use.
        classes: what the network tells apart.
        input_size: height and width in pixels at which the scores were measured.
        scores: as published, each in [0, 1].
        scores_on: the data of the scores.
        source: who says so.
        note: anything else a user must know, or "".
    """

    name: str
    builder: str
    arguments: dict[str, Any]
    converter: str
    url: str
    sha256: str
    licence: str
    commercial: bool
    classes: ClassTable
    input_size: tuple[int, int]
    scores: dict[str, float]
    scores_on: str
    source: str
    note: str


def list_weights() -> list[str]:
    """The names that `load_weights` knows, sorted.

    >>> "espnetv2_s_2_0_voc_384x384" in list_weights()
    True
    """
    return sorted(_catalogue())


def describe_weights(name: str) -> PublishedWeights:
    """What is known of published weights without fetching them.

    Raises:
        ValueError: if there are none of that name.

    >>> describe_weights("espnetv2_s_2_0_voc_384x384").scores
    {'mean_iou': 0.6701}
    """
    known = _catalogue()
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(near)}?" if near else f": there are {some_of(sorted(known), 20)}"
    raise ValueError(f"there are no published weights {brief(name)}{hint}")


def name_of_file(path: str | os.PathLike[str]) -> str | None:
    """The name of the published weights that a file holds, by its checksum; None for any other file.

    Raises:
        ValueError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    digest = sha256_of(path)
    return next((name for name, entry in _catalogue().items() if digest.startswith(entry.sha256)), None)


def load_weights(
    name: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    allow_noncommercial: bool = False,
) -> Checkpoint:
    """A network with published weights, ready to predict, or to `save` in our own format.

    The file is fetched once, checked against its checksum, and kept. Pickles are read with
    `weights_only=True`, which runs no code.

    Args:
        name: one of `list_weights()`.
        cache: folder to keep files in; None for PIXELWISE_CACHE or else `~/.cache/pixelwise`.
        source: the published file, where you have it already; nothing is fetched then.
        allow_noncommercial: whether to load weights whose terms forbid commercial use.

    Raises:
        ValueError: if there are no such weights, their terms are not accepted, the file cannot be fetched,
            is not the published one, or does not fit the network.
    """
    entry = describe_weights(name)
    if not (entry.commercial or allow_noncommercial):
        raise ValueError(
            f"the weights {name!r} are not for commercial use ({entry.note or entry.licence}): "
            "pass allow_noncommercial=True (--allow-noncommercial) if yours is not"
        )
    convert = find_converter(entry)
    if source is None:
        path = _fetched(entry, _cache_folder(cache))
    else:
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        _check(path, entry)
    model = convert(read_state_dict(path))
    if model.num_classes not in (None, len(entry.classes)):
        raise ValueError(f"{path} scores {model.num_classes} classes, {name!r} has {len(entry.classes)}")
    if model.built_by is None:
        classes = {} if model.num_classes is None else {"num_classes": model.num_classes}
        model.built_by = BuiltBy(entry.builder, {**classes, **entry.arguments})
    notes = {
        "weights": name,
        "url": entry.url,
        "licence": entry.licence,
        "source": entry.source,
        "scores_on": entry.scores_on,
        **{key: str(score) for key, score in entry.scores.items()},
    }
    return Checkpoint(model.eval(), entry.classes, model.built_by, notes)


def find_converter(entry: PublishedWeights) -> Callable[[dict[str, Tensor]], Model]:
    """The function that makes a model of the published state dict.

    Raises:
        ValueError: if this version of pixelwise has no such function.
    """
    module, _, function = entry.converter.rpartition(".")
    try:
        converter: Callable[[dict[str, Tensor]], Model] = getattr(
            importlib.import_module(f".models.{module}", __package__), function
        )
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no converter {entry.converter!r} for {entry.name!r}") from error
    return converter


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a file of `torch.save`, on the CPU.

    A file of `torch.save` may hold them under `state_dict` or `model`, beside other things.

    Raises:
        ValueError: if it is neither, is not whole, or holds more than tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever it stumbles over: KeyError, EOFError ...
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a file of weights: {said}") from error
    for name in ("state_dict", "model"):  # OpenMMLab's files tell more beside it; SAM 2's have nothing else
        if isinstance(state_dict, dict) and isinstance(state_dict.get(name), dict):
            state_dict = state_dict[name]
    if not isinstance(state_dict, dict) or not all(isinstance(t, Tensor) for t in state_dict.values()):
        raise ValueError(f"{path} holds something else than tensors by name")
    return dict(state_dict)


@cached
def _catalogue() -> dict[str, PublishedWeights]:
    text = importlib.resources.files(__package__).joinpath("weights.toml").read_text(encoding="utf-8")
    return read_catalogue(text)


def read_catalogue(text: str) -> dict[str, PublishedWeights]:
    """The entries of a file like `weights.toml`, by name."""
    data = tomllib.loads(text)
    tables = {}
    for name, fields in data["classes"].items():
        table = ClassTable.of(*fields["names"])
        if "colors" in fields:
            table = ClassTable(table.names, tuple((r, g, b) for r, g, b in fields["colors"]))
        ids, things = tuple(fields.get("ids", ())), tuple(range(fields.get("num_things", 0)))
        tables[name] = replace(table, ids=ids, things=things)
    entries = {}
    for name, fields in data["weights"].items():
        height, width = fields["input_size"]
        entries[name] = PublishedWeights(
            name=name,
            builder=fields["builder"],
            arguments=fields.get("arguments", {}),
            converter=fields["converter"],
            url=fields["url"],
            sha256=fields["sha256"] if "sha256" in fields else fields["sha256_prefix"],
            licence=fields["licence"],
            commercial=fields["commercial"],
            classes=tables[fields["classes"]],
            input_size=(height, width),
            scores=fields["scores"],
            scores_on=fields["scores_on"],
            source=fields["source"],
            note=fields.get("note", ""),
        )
    return entries


# --- fetching -------------------------------------------------------------------------------------


def _cache_folder(cache: str | os.PathLike[str] | None) -> Path:
    if cache is not None:
        return Path(cache)
    if named := os.environ.get("PIXELWISE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixelwise"


def _fetched(entry: PublishedWeights, folder: Path) -> Path:
    """Path of the whole, checked file; a broken one that lies there is fetched anew."""
    path = folder / _cache_name(entry)
    if path.is_file() and sha256_of(path).startswith(entry.sha256):
        return path
    try:
        response = urllib.request.urlopen(entry.url, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(
            f"cannot fetch {entry.url}: the server answers {error.code} {error.reason}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise ValueError(
            f"cannot fetch {entry.url}: {why}; pass source= if you have the file elsewhere"
        ) from error
    with response, atomic_write(path) as temporary:
        _receive(response, temporary, entry)
        _check(temporary, entry)
    return path


def _cache_name(entry: PublishedWeights) -> str:
    """The file's own name, or the entry's where all files of a hub are called the same."""
    name = entry.url.rpartition("/")[2]
    return f"{entry.name}{Path(name).suffix}" if name in _HUB_FILES else name


def _receive(response: Any, path: Path, entry: PublishedWeights) -> None:
    expected = int(response.headers.get("Content-Length") or 0)
    received = 0
    with path.open("wb") as file, _progress(entry.name, expected) as advance:
        while True:
            try:
                piece = response.read(_PIECE)
            except (OSError, http.client.HTTPException) as error:
                raise ValueError(f"fetching {entry.url} broke off after {received} bytes: {error}") from error
            if not piece:
                break
            file.write(piece)
            received += len(piece)
            advance(len(piece))
    if received < expected:
        raise ValueError(f"fetching {entry.url} broke off after {received} of {expected} bytes")


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error where that is a terminal; call what it gives with bytes received."""
    from rich.console import Console  # only those who fetch pay for it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total or None)
        yield lambda count: bar.advance(task, count)


def _check(path: Path, entry: PublishedWeights) -> None:
    digest = sha256_of(path)
    if not digest.startswith(entry.sha256):
        raise ValueError(
            f"{path.name} is not the published file of {entry.name!r}: "
            f"its SHA-256 must start with {entry.sha256[:16]}, it is {digest[:16]}..."
        )
