"""Published weights: what there is, and one function that fetches, checks, converts and loads them.

Which weights there are, and under what terms, is data: see `weights.toml` beside this file.
"""

import codecs
import importlib
import importlib.resources
import io
import os
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache as cached, partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .checkpoint import Checkpoint
from .checksums import checksum_of, digest_of, is_file_of, kind_and_digits, only_file
from .download import download
from .pickled_arrays import read_pickled_arrays
from .types import BuiltBy, ClassTable, Model, Skeleton
from .wording import brief, meant, some_of

_HUB = "https://huggingface.co"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_BY_HAND = "https://drive.google.com/"  # gives a page that asks back, no file
_UNPACKED = 2 << 30  # bytes
# A score beside the weights is a number of NumPy, whose reading makes nothing but numbers.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8")),
    codecs.encode,
]
Proof = Literal["file", "peer", "code"]


@dataclass(frozen=True)
class PublishedWeights:
    """One entry of `weights.toml`.

    Attributes:
        name: as `load_weights` knows it.
        builder: of `pixelwise.models`, for networks with these weights.
        arguments: of the builder, besides `num_classes`.
        converter: module and function in `pixelwise.models` that makes a model of the published state dict.
        proof: what the converter was tried on: "file", the published files or the names and shapes of all
            their tensors; "peer", networks that the publisher's own library builds; "code", names and
            shapes written down from the publisher's code.
        settings: further arguments of the converter: what the weights do not tell.
        url: where the file is, or the page that gives it to a person.
        checksum: of the file, see `checksums.py`; its first digits, or "", where the publisher tells no
            more.
        licence: of the weights (SPDX).
        commercial: whether licence and training data allow commercial use.
        classes: what the network tells apart.
        input_size: height and width in pixels at which the scores were measured.
        scores: as published, each in [0, 1].
        scores_on: the data of the scores.
        source: who says so.
        note: anything else a user must know, or "".
        task: that the weights were trained for.
    """

    name: str
    builder: str
    arguments: dict[str, Any]
    converter: str
    proof: Proof
    settings: dict[str, Any]
    url: str
    checksum: str
    licence: str
    commercial: bool
    classes: ClassTable
    input_size: tuple[int, int]
    scores: dict[str, float]
    scores_on: str
    source: str
    note: str
    task: str

    @property
    def by_hand(self) -> bool:
        """Whether a person must fetch the file, since its host gives it to nobody else."""
        return self.url.startswith(_BY_HAND)


def list_weights(
    *,
    task: str | None = None,
    model: str | None = None,
    licence: str | None = None,
    commercial: bool | None = None,
) -> list[str]:
    """The names that `load_weights` knows, sorted; where something is given, those that it is true of.

    Args:
        task: that the weights were trained for, such as "instance".
        model: a part of the name of the weights or of the builder, such as "deeplabv3".
        licence: a part of the licence's name, in any case, such as "apache".
        commercial: whether commercial use is allowed.

    Raises:
        ValueError: if no weights are for that task, of that model or under that licence.

    >>> "espnetv2_s_2_0_voc_384x384" in list_weights()
    True
    >>> list_weights(model="sinet")
    ['sinet_portrait_224x224']
    """
    entries = [entry for _, entry in sorted(_catalogue().items())]
    if task is not None:
        tasks = {entry.task for entry in entries}
        if task not in tasks:
            raise ValueError(f"there are no published weights for the task {brief(task)}{meant(task, tasks)}")
        entries = [entry for entry in entries if entry.task == task]
    if model is not None:
        entries = [entry for entry in entries if model in entry.name or model in entry.builder]
    if licence is not None:
        entries = [entry for entry in entries if licence.lower() in entry.licence.lower()]
    return [entry.name for entry in entries if commercial is None or entry.commercial == commercial]


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

    Weights whose publisher tells no checksum are not recognised.

    Raises:
        ValueError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    kinds = {kind_and_digits(entry.checksum)[0] for entry in _catalogue().values()}
    digests = {kind: digest_of(path, kind) for kind in kinds}
    for name, entry in _catalogue().items():
        kind, digits = kind_and_digits(entry.checksum)
        if digits and digests[kind].startswith(digits):
            return name
    return None


def load_weights(
    name: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    allow_noncommercial: bool = False,
    offline: bool = False,
    revision: str | None = None,
) -> Checkpoint:
    """A network with published weights, ready to predict, or to `save` in our own format.

    The file is fetched once, checked against its checksum, and kept. Pickles are read with
    `weights_only=True`, which runs no code.

    Args:
        name: one of `list_weights()`.
        cache: folder to keep files in; None for PIXELWISE_CACHE or else `~/.cache/pixelwise`.
        source: the published file, where you have it already; nothing is fetched then.
        allow_noncommercial: whether to load weights whose terms forbid commercial use.
        offline: whether to use no network; see `fetch_weights`.
        revision: of a repository on the hub; see `fetch_weights`.

    Raises:
        ValueError: if there are no such weights, their terms are not accepted, the file cannot be fetched,
            is not the published one, or does not fit the network.
    """
    entry = _accepted(name, allow_noncommercial)
    convert = find_converter(entry)
    if source is None:
        path = fetch_weights(
            name, cache=cache, allow_noncommercial=allow_noncommercial, offline=offline, revision=revision
        )
    else:
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        if not is_file_of(path, entry.checksum):
            told = checksum_of(path, entry.checksum)
            raise ValueError(f"{path.name} is not the published file of {name!r}: {told}")
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
    return Checkpoint(model.eval(), entry.classes, model.built_by, notes, entry.task)


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
    return partial(converter, **entry.settings) if entry.settings else converter


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a file of `torch.save`, on the CPU.

    A file of `torch.save` may hold them under `state_dict`, `model`, `net` or `model_state`, beside other
    things, and may be the only file in a zip archive; `.pkl` is a pickle of NumPy arrays, as Detectron2 has
    them.

    Raises:
        ValueError: if it is neither, is not whole, or holds more than tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".pkl":
            return read_pickled_arrays(path)
        with torch.serialization.safe_globals(_NUMBERS):
            state_dict = torch.load(_unpacked(path), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever it stumbles over: KeyError, EOFError ...
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a file of weights: {said}") from error
    for name in ("state_dict", "model", "net", "model_state"):  # OpenMMLab, SAM 2, EMANet, VainF
        if isinstance(state_dict, dict) and isinstance(state_dict.get(name), dict):
            state_dict = state_dict[name]
    if isinstance(state_dict, dict):
        state_dict = {key: value for key, value in state_dict.items() if key != "mask_values"}  # milesial's
    if not isinstance(state_dict, dict) or not all(isinstance(t, Tensor) for t in state_dict.values()):
        raise ValueError(f"{path} holds something else than tensors by name")
    return dict(state_dict)


def _unpacked(path: Path) -> Path | io.BytesIO:
    """The file itself, or what is packed in it; files of `torch.save` are zip archives, too.

    Raises:
        ValueError: if it is an archive of other things, or of more than 2 GB.
    """
    if path.suffix != ".zip" or not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        name = only_file(archive)
        if archive.getinfo(name).file_size > _UNPACKED:
            raise ValueError(f"{name} in it would have more than {_UNPACKED >> 30} GB")
        return io.BytesIO(archive.read(name))


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
        skeleton = _skeleton(fields["skeleton"]) if "skeleton" in fields else None
        exclusive = fields.get("exclusive", True)
        tables[name] = replace(table, ids=ids, things=things, skeleton=skeleton, exclusive=exclusive)
    for name, fields in data.get("numbered_classes", {}).items():
        tables[name] = _numbered(tables[fields["of"]], fields["count"])
    proofs = data["proofs"]
    entries = {}
    for name, fields in data["weights"].items():
        height, width = fields["input_size"]
        entries[name] = PublishedWeights(
            name=name,
            builder=fields["builder"],
            arguments=fields.get("arguments", {}),
            converter=fields["converter"],
            proof=proofs[fields["converter"]],
            settings=fields.get("settings", {}),
            url=fields["url"],
            checksum=_checksum(fields),
            licence=fields["licence"],
            commercial=fields["commercial"],
            classes=tables[fields["classes"]],
            input_size=(height, width),
            scores=fields["scores"],
            scores_on=fields["scores_on"],
            source=fields["source"],
            note=fields.get("note", ""),
            task=fields["task"],
        )
    return entries


def _checksum(fields: Mapping[str, Any]) -> str:
    """What an entry tells in one of three ways; "" where it tells nothing."""
    told = (fields[key] for key in ("sha256", "sha256_prefix", "checksum") if key in fields)
    return str(next(told, ""))


def _skeleton(fields: Mapping[str, Any]) -> Skeleton:
    """The joints that a table of classes tells."""
    edges, flips = ([(a, b) for a, b in fields[key]] for key in ("edges", "flip_pairs"))
    return Skeleton(tuple(fields["names"]), tuple(edges), tuple(flips), tuple(fields["sigmas"]))


def _numbered(table: ClassTable, count: int) -> ClassTable:
    """The classes at the places of their ids, as networks have them whose outputs are numbers of COCO.

    Places without a class are called "unused".
    """
    place = {id: number for number, id in enumerate(table.ids)}
    plain = ClassTable.of(*(table.names[place[i]] if i in place else f"unused {i}" for i in range(count)))
    things = tuple(i for i in range(count) if place.get(i) in table.things)
    return replace(plain, ids=tuple(range(count)), things=things)


# --- fetching -------------------------------------------------------------------------------------


def fetch_weights(
    name: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    allow_noncommercial: bool = False,
    offline: bool = False,
    revision: str | None = None,
) -> Path:
    """The published file itself, whole and checked; fetched where the cache does not have it.

    What a broken connection left is gone on with. PIXELWISE_MIRROR, a folder or an address under which files
    lie as in the cache, is asked first; HF_ENDPOINT takes the place of https://huggingface.co.

    Args:
        name: one of `list_weights()`.
        cache: folder to keep files in; None for PIXELWISE_CACHE or else `~/.cache/pixelwise`.
        allow_noncommercial: whether to take weights whose terms forbid commercial use.
        offline: whether to use no network; so do PIXELWISE_OFFLINE and, for files of the hub,
            HF_HUB_OFFLINE.
        revision: branch, tag or commit of the hub's repository, instead of the one in the catalogue. The
            file is checked against the checksum that the hub tells of it.

    Raises:
        ValueError: if there are no such weights, their terms are not accepted, or the file cannot be had.
    """
    entry = _accepted(name, allow_noncommercial)
    mirror = os.environ.get("PIXELWISE_MIRROR", "")
    online = not (offline or offline_by_environment(on_hub=entry.url.startswith(_HUB)))
    if revision is not None:
        entry, mirror = _at_revision(entry, revision, online), ""
    path = _cache_folder(cache) / _cache_name(entry)
    if is_file_of(path, entry.checksum):
        return path
    addresses = [_on_hub(entry.url)] if online and not entry.by_hand else []
    if mirror and (online or "://" not in mirror):
        in_mirror = mirror.rstrip("/") + "/" + path.name
        addresses.insert(0, in_mirror if "://" in mirror else Path(in_mirror).resolve().as_uri())
    if not addresses and entry.by_hand:
        raise ValueError(
            f"the weights {name!r} must be fetched by hand: open {entry.url} and put the file at {path}"
        )
    if not addresses:
        raise ValueError(
            f"the weights {name!r} are not on this machine, and the network must not be used: fetch "
            f"{entry.url} elsewhere and put it at {path}"
        )
    download(addresses, path, entry.checksum, title=name)
    return path


def cached_file(name: str, cache: str | os.PathLike[str] | None = None) -> Path | None:
    """Where the cache has a file of published weights, unchecked; None where it has none.

    Raises:
        ValueError: if there are no such weights.
    """
    path = _cache_folder(cache) / _cache_name(describe_weights(name))
    return path if path.is_file() else None


def _accepted(name: str, allow_noncommercial: bool) -> PublishedWeights:
    """The entry, if its terms are accepted.

    Raises:
        ValueError: if there is none, or they are not.
    """
    entry = describe_weights(name)
    if not (entry.commercial or allow_noncommercial):
        raise ValueError(
            f"the weights {name!r} are not for commercial use ({(entry.note or entry.licence).rstrip('.')}): "
            "pass allow_noncommercial=True (--allow-noncommercial) if yours is not"
        )
    return entry


def _cache_folder(cache: str | os.PathLike[str] | None) -> Path:
    if cache is not None:
        return Path(cache)
    if named := os.environ.get("PIXELWISE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixelwise"


def _cache_name(entry: PublishedWeights) -> str:
    """The file's own name, or the entry's where all files of a hub are called the same or it has none."""
    if entry.by_hand:
        return f"{entry.name}.pth"
    name = entry.url.rpartition("/")[2].partition("?")[0]
    shared = name in _HUB_FILES or entry.url.startswith(_HUB)
    return f"{entry.name}{Path(name).suffix}" if shared else name


def offline_by_environment(*, on_hub: bool) -> bool:
    """Whether PIXELWISE_OFFLINE or, for what lies on the hub, HF_HUB_OFFLINE forbids to use the network."""
    names = ("PIXELWISE_OFFLINE", "HF_HUB_OFFLINE") if on_hub else ("PIXELWISE_OFFLINE",)
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def _on_hub(url: str) -> str:
    """The address, on the hub that HF_ENDPOINT names where it is one of the hub."""
    if not url.startswith(_HUB):
        return url
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/") + url.removeprefix(_HUB)


def _at_revision(entry: PublishedWeights, revision: str, online: bool) -> PublishedWeights:
    """The entry at another revision of its repository on the hub, with the checksum that the hub tells.

    Raises:
        ValueError: if it is not on the hub, the hub does not know the revision, or is not to be asked.
    """
    head, resolve, tail = entry.url.partition("/resolve/")
    if not (resolve and entry.url.startswith(_HUB)):
        raise ValueError(f"the weights {entry.name!r} have no revisions: they are not on the hub")
    if not online:
        raise ValueError(f"the revision {brief(revision)} of {entry.name!r} cannot be asked for offline")
    url = f"{head}/resolve/{quote(revision, safe='')}/{tail.partition('/')[2]}"
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    try:
        told = get_hf_file_metadata(_on_hub(url))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(f"the hub does not tell of {url}: {str(error).splitlines()[0]}") from error
    if told.etag is None or len(told.etag) != 64:
        raise ValueError(f"the hub tells no checksum of {url}")
    name = f"{entry.name}-{(told.commit_hash or revision)[:12]}"
    return replace(entry, name=name, url=url, checksum=told.etag)
