"""To the Hugging Face hub and from it."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoint import FROM_HUB, Checkpoint, load
from ..converters import from_transformers
from ..types import ClassTable
from ..weights import offline_by_environment, read_state_dict
from ..wording import brief
from .folder import CARD, CONFIG, LIBRARY, Source, save_for_hub

_PICKLED = "pytorch_model.bin"


def push_to_hub(
    source: Source,
    repository: str,
    *,
    licence: str | None = None,
    private: bool = False,
    revision: str | None = None,
    pull_request: bool = False,
    token: str | None = None,
) -> str:
    """Publish a trained network as a repository of the hub, with a model card made from its run's report.

    Args:
        source: a run directory, the path of a checkpoint, or a checkpoint.
        repository: OWNER/NAME; made where there is none.
        licence: of the weights, as the hub calls it, such as "apache-2.0"; None for that of published
            weights, if they are some.
        private: whether a new repository is private.
        revision: branch to write to; None for main.
        pull_request: whether to open a pull request instead of writing to the branch.
        token: of the hub; None for HF_TOKEN or that of `hf auth login`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: if there is no such checkpoint, the hub is not to be asked, or refuses.
    """
    _check_name(repository)
    if offline_by_environment(on_hub=True):
        raise ValueError(f"{repository} cannot be published: the network must not be used")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        files = save_for_hub(source, folder, name=repository, licence=licence)
        with _in_a_sentence(f"{repository} cannot be published"):
            api = HfApi(endpoint=_endpoint(), token=token, library_name=LIBRARY)
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                allow_patterns=[file.name for file in files],
                revision=revision,
                create_pr=pull_request,
                commit_message="Weights, config and model card",
            )
    return str(commit.pr_url or commit.commit_url)


def from_hub(
    repository: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    offline: bool = False,
    token: str | None = None,
) -> Checkpoint:
    """A network from the hub: one of pixelwise's, or one of transformers that `from_transformers` reads.

    Its licence stands in the notes of the checkpoint; whether it suits you is yours to judge. Files are kept
    in the cache of huggingface_hub.

    Args:
        repository: OWNER/NAME, or a folder with the files of a repository.
        revision: branch, tag or commit; None for main.
        cache: folder to keep files in; None for the hub's own.
        offline: whether to take what the cache has, and use no network; so do PIXELWISE_OFFLINE and
            HF_HUB_OFFLINE.
        token: of the hub; None for HF_TOKEN or that of `hf auth login`.

    Raises:
        ValueError: if there is no such repository or revision, it cannot be reached, or it holds no network
            that can be read.
    """
    where = Path(repository)
    if where.is_dir():
        if revision is not None:
            raise ValueError(f"revision is of a repository on the hub, and {where} is a folder")
        return _loaded(where, str(where))
    name = os.fspath(repository)
    _check_name(name)
    from huggingface_hub import snapshot_download

    offline = offline or offline_by_environment(on_hub=True)

    def fetched(weights: str) -> Path:
        found = snapshot_download(
            name,
            revision=revision,
            cache_dir=None if cache is None else Path(cache),
            allow_patterns=[weights, CONFIG, CARD],
            local_files_only=offline,
            token=token,
            endpoint=_endpoint(),
            library_name=LIBRARY,
        )
        return Path(str(found))

    with _in_a_sentence(f"{name} cannot be had from the hub"):
        folder = fetched(FROM_HUB)
        if not (folder / FROM_HUB).is_file():
            folder = fetched(_PICKLED)
    return _loaded(folder, name)


def _loaded(folder: Path, name: str) -> Checkpoint:
    """The network in a folder as a repository has it.

    Raises:
        ValueError: if there is none that can be read.
    """
    weights = next((folder / file for file in (FROM_HUB, _PICKLED) if (folder / file).is_file()), None)
    if weights is None:
        raise ValueError(f"{name} holds neither {FROM_HUB} nor {_PICKLED}")
    config = _config(folder, name)
    if config.get("library_name") == LIBRARY:
        return load(weights)
    model = from_transformers(read_state_dict(weights), config)
    labels = config.get("id2label") or {}
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    classes = ClassTable.of("object") if model.num_classes is None else ClassTable.of(*names)
    if model.num_classes not in (None, len(classes)):
        raise ValueError(f"{name} names {len(classes)} classes for a model of {model.num_classes}")
    if model.built_by is None:
        raise ValueError(f"{name} holds a network that does not know how it was built")
    notes = {"source": name, "licence": _licence(folder)}
    return Checkpoint(model.eval(), classes, model.built_by, notes)


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} tells by no readable {CONFIG} what its weights are: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} of {name} holds no settings by name")
    return config


def _licence(folder: Path) -> str:
    """What the model card says of the licence."""
    from huggingface_hub import ModelCard

    try:
        told = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data
    except (OSError, ValueError):
        return "not told"
    return str(told.get("license_name") or told.get("license") or "not told")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _check_name(repository: str) -> None:
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise ValueError(f"a repository on the hub is OWNER/NAME, got {brief(repository)}")


@contextmanager
def _in_a_sentence(what: str) -> Iterator[None]:
    """Errors of huggingface_hub in one sentence."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    except (OSError, ValueError, EntryNotFoundError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{what}: {lines[0] if lines else type(error).__name__}") from error
