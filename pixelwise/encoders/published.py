"""Published weights of backbones: which there are, and how to get them without a long wait when offline."""

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PATIENCE = 5.0  # seconds to wait for a server that may not be reachable
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class WeightsUnavailable(ValueError):
    """Pretrained weights do not exist or cannot be fetched; says which and why in one sentence."""


def timm_has_weights(name: str) -> bool:
    """Whether timm publishes pretrained weights of its backbone `name`; nothing is fetched."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return bool(config and config.has_weights)


def timm_weights_at_hand(name: str) -> bool:
    """Whether the pretrained weights of timm's backbone `name` lie on this machine already."""
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    return bool(config and config.has_weights and (config.file or _cached(config)))


def fetch(name: str, **options: Any) -> dict[str, Tensor]:
    """State dict of timm's backbone `name` with its published weights, from the cache or the network.

    Args:
        name: of the backbone.
        options: further arguments of `timm.create_model`.

    Raises:
        WeightsUnavailable: if there are no such weights, or they cannot be fetched.
    """
    import timm

    if not timm_has_weights(name):
        raise WeightsUnavailable(f"no pretrained weights are published for {name!r}")
    config: Any = timm.get_pretrained_cfg(name)
    source: dict[str, Any] = {}
    if file := _cached(config):
        source = {"pretrained_cfg_overlay": {"file": file}}
    elif not config.file:
        check_reachable(name, _hub() if config.hf_hub_id else config.url)
    try:
        weights: dict[str, Tensor] = timm.create_model(
            name, pretrained=True, **options, **source
        ).state_dict()
    except (RuntimeError, OSError) as error:
        raise unavailable(name, error) from error
    return weights


def fetch_torchvision(name: str) -> dict[str, Tensor]:
    """State dict of torchvision's classifier `name`, published weights, from the cache or the network.

    Args:
        name: of the classifier, one that timm lacks.

    Raises:
        WeightsUnavailable: if they cannot be fetched.
    """
    from torchvision.models import get_model_weights

    return fetch_file(name, get_model_weights(name)["IMAGENET1K_V1"].url)


def fetch_file(name: str, url: str) -> dict[str, Tensor]:
    """State dict in a file of `torch.save`, from torch's cache or the network.

    Args:
        name: of the backbone, for the message of an error.
        url: where the file is.

    Raises:
        WeightsUnavailable: if it cannot be fetched.
    """
    if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
        check_reachable(name, url)
    try:
        weights: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, weights_only=True
        )
    except (RuntimeError, OSError) as error:
        raise unavailable(name, error) from error
    return weights


def check_reachable(name: str, url: str) -> None:
    """Ask the server of `url` for a sign of life before a library tries for minutes.

    Args:
        name: of the backbone whose weights are wanted.
        url: from where.

    Raises:
        WeightsUnavailable: if it gives none, or HF_HUB_OFFLINE says that the network must not be used.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise unavailable(name, "they are not in the cache, and HF_HUB_OFFLINE is set")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
            pass
    except urllib.error.HTTPError:
        return  # an answer, if not to this question
    except OSError as error:
        host = url.split("/")[2]
        reason = getattr(error, "reason", None) or error
        raise unavailable(name, f"no connection to {host} ({reason})") from error


def unavailable(name: str, reason: object) -> WeightsUnavailable:
    """The error that says why weights could not be fetched."""
    first = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
    return WeightsUnavailable(f"the pretrained weights of {name!r} cannot be had: {first}")


def _hub() -> str:
    """Address of the Hugging Face hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _cached(config: Any) -> str | None:
    """The file of the weights on this machine, if they were fetched from the hub before."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id or config.custom_load:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str) and Path(found).is_file():
            return found
    return None
