"""A whole experiment as one value: printable, replayable."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from ..files import atomic_write

ClassWeights = Literal["none", "balanced"] | tuple[float, ...]
DEFAULT_EPOCHS = 50

_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("poly", "cosine", "constant"),
    "precision": ("32", "bf16", "16"),
    "accelerator": ("auto", "cpu", "gpu", "mps"),
}
# name: (type, lowest, whether the lowest itself is allowed, highest)
_NUMBERS: dict[str, tuple[type, float, bool, float]] = {
    "val_fraction": (float, 0, False, 1),
    "label_smoothing": (float, 0, True, 1),
    "aux_weight": (float, 0, True, float("inf")),
    "lr": (float, 0, False, float("inf")),
    "encoder_lr_factor": (float, 0, False, float("inf")),
    "weight_decay": (float, 0, True, float("inf")),
    "momentum": (float, 0, True, 1),
    "clip_norm": (float, 0, False, float("inf")),
    "warmup_steps": (int, 0, True, float("inf")),
    "epochs": (int, 1, True, float("inf")),
    "steps": (int, 1, True, float("inf")),
    "batch_size": (int, 1, True, float("inf")),
    "val_batch_size": (int, 1, True, float("inf")),
    "accumulate": (int, 1, True, float("inf")),
    "flip": (float, 0, True, 1),
    "color": (float, 0, True, 1),
    "rotation": (float, 0, True, 180),
    "elastic": (float, 0, True, float("inf")),
    "workers": (int, 0, True, float("inf")),
    "devices": (int, 1, True, float("inf")),
    "early_stopping": (int, 1, True, float("inf")),
    "seed": (int, 0, True, 2**63 - 1),
}
_MAY_BE_NONE = {"clip_norm", "epochs", "steps", "early_stopping"}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a training goes.

    The same recipe on the same machine gives the same weights.

    Attributes:
        data: folder of images and masks; "" where the data are given in memory.
        model: name of a builder, see `list_models()`.
        model_arguments: further arguments of the builder by name, such as encoder or in_channels. Without
            "pretrained", training starts from published weights of the encoder where there are any and they
            can be fetched; with "pretrained": true it ends where they cannot.
        format: layout of the data; "auto" looks at the folder.
        classes: file of the class table; None takes it from the data.
        val_fraction: share of the images in (0, 1) kept for validation where the data name none.
        loss: a name that `make_criterion` knows, or a sum of such: "cross_entropy+0.5*dice".
        class_weights: "none", "balanced" (median-frequency balancing), or one factor per class.
        label_smoothing: in [0, 1], for cross-entropy.
        aux_weight: factor of the loss on each auxiliary map of the model.
        optimizer: "adamw" or "sgd".
        lr: highest learning rate.
        encoder_lr_factor: learning rate of the model's encoder over that of the rest.
        weight_decay: of weights; norms, biases and position embeddings have none.
        momentum: of sgd.
        clip_norm: largest norm of the gradient, None for any.
        schedule: "poly" (power 0.9) or "cosine", both down to 0, or "constant".
        warmup_steps: optimiser steps of linear warm-up.
        epochs: passes over the training images. 50 if neither this nor `steps` is given.
        steps: length in optimiser steps instead.
        batch_size: images per forward pass, of all devices together. A last batch that is not full is
            used, unless it holds a single image (batch norm cannot learn from one) or cannot be divided
            evenly among the devices; the order changes, so no image is left out for good.
        val_batch_size: images per validation pass and device; images of different size are padded, so only
            1 is exact for them.
        accumulate: batches per optimiser step.
        crop: height and width in pixels of what the model sees in training; None for whole images.
        scale: range of random scaling.
        flip: probability of mirroring.
        color: strength of colour changes in [0, 1].
        rotation: largest angle in degrees.
        elastic: strength of elastic deformation in pixels.
        precision: "32", or "bf16" or "16" for mixed precision.
        channels_last: whether images lie in memory pixel by pixel, which is faster on most machines.
        workers: processes per device that load images; 0 loads in the training process.
        seed: of all random numbers.
        devices: how many; more than one trains with DDP. Batch norm is then per device.
        accelerator: "auto", "cpu", "gpu" or "mps".
        early_stopping: epochs without a better mean IoU after which training ends, None for never.
        freeze: names of parts of the model that are not trained, such as "encoder"; their batch norm keeps
            its statistics.
        out: run directory; None for runs/DATA-MODEL.
        name: title of the run.

    >>> Recipe("street", epochs=3).changed(lr=0.01).lr
    0.01
    """

    data: str
    model: str = "unet"
    model_arguments: dict[str, Any] = field(default_factory=dict)
    format: str = "auto"
    classes: str | None = None
    val_fraction: float = 0.2
    loss: str = "cross_entropy"
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0
    aux_weight: float = 0.4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    encoder_lr_factor: float = 1.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    clip_norm: float | None = None
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup_steps: int = 0
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 8
    val_batch_size: int = 1
    accumulate: int = 1
    crop: tuple[int, int] | None = (256, 256)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    color: float = 0.4
    rotation: float = 0.0
    elastic: float = 0.0
    precision: Literal["32", "bf16", "16"] = "32"
    channels_last: bool = True
    workers: int = 2
    seed: int = 0
    devices: int = 1
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    early_stopping: int | None = None
    freeze: tuple[str, ...] = ()
    out: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be run.

        Raises:
            ValueError: if a setting is out of its range, in one sentence that names it.
        """
        for name, choices in _CHOICES.items():
            if (given := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {given!r}")
        for name, (kind, low, closed, high) in _NUMBERS.items():
            _check_number(name, getattr(self, name), kind, low, closed, high)
        for name in ("data", "model", "format", "loss"):
            if not isinstance(given := getattr(self, name), str):
                raise ValueError(f"{name} must be text, got {given!r}")
        for name in ("classes", "out", "name"):
            if not isinstance(given := getattr(self, name), str | None):
                raise ValueError(f"{name} must be text or None, got {given!r}")
        if not isinstance(self.channels_last, bool):
            raise ValueError(f"channels_last must be true or false, got {self.channels_last!r}")
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"give epochs or steps, not both: got epochs {self.epochs} and steps {self.steps}"
            )
        _check_weights(self.class_weights)
        _check_pair("crop", self.crop, int, 1)
        _check_pair("scale", self.scale, float, 0)
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be a range LOW, HIGH, got {self.scale}")
        if isinstance(self.freeze, str) or not all(isinstance(part, str) and part for part in self.freeze):
            raise ValueError(f"freeze must be names of parts of the model, got {self.freeze!r}")
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size is that of all devices together: {self.batch_size} images cannot be divided by "
                f"{self.devices} devices"
            )
        try:
            json.dumps(self.model_arguments)
        except TypeError as error:
            raise ValueError(
                f"model_arguments must be plain values (pass encoders by name): {error}"
            ) from error

    def changed(self, **changes: Any) -> "Recipe":
        """The same recipe with other settings. Lists become tuples, paths text.

        Raises:
            ValueError: if there is no such setting (suggests one), or it is out of its range.
        """
        return replace(self, **_settings(changes))

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON knows them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Recipe":
        """The recipe of `as_dict`.

        Raises:
            ValueError: if a setting is unknown, out of its range, or `data` is missing.
        """
        known = _settings(settings)
        if "data" not in known:
            raise ValueError("a recipe needs data, the folder of images and masks")
        return cls(**known)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the settings as JSON.

        Raises:
            ValueError: if the file cannot be written.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Recipe":
        """Read what `write` wrote.

        Raises:
            ValueError: if there is no such file or it holds no recipe; names the file.
        """
        try:
            settings = json.loads(Path(path).read_text())
        except OSError as error:
            raise ValueError(f"cannot read the recipe {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{path} is no recipe: it is not JSON") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} is no recipe: it must hold one object of settings")
        try:
            return cls.of(settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    known = [field.name for field in fields(Recipe)]
    settings = {}
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}"
            raise ValueError(f"a recipe has no setting {name!r}{hint}")
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        settings[name] = value
    return settings


def _check_number(name: str, given: Any, kind: type, low: float, closed: bool, high: float) -> None:
    if given is None and name in _MAY_BE_NONE:
        return
    allowed = (int,) if kind is int else (int, float)
    right = isinstance(given, allowed) and not isinstance(given, bool)
    if not right or not (low <= given <= high) or (given == low and not closed) or given == float("inf"):
        what = "a whole number" if kind is int else "a number"
        bound = f"{'at least' if closed else 'above'} {low:g}"
        if high <= 180:
            bound += f" and at most {high:g}"
        raise ValueError(f"{name} must be {what} {bound}, got {given!r}")


def _check_weights(given: Any) -> None:
    if isinstance(given, str):
        if given not in ("none", "balanced"):
            raise ValueError(f"class_weights must be none, balanced or one number per class, got {given!r}")
    elif not isinstance(given, tuple) or not all(
        isinstance(w, int | float) and 0 <= w < float("inf") for w in given
    ):
        raise ValueError(f"class_weights must be none, balanced or one number >= 0 per class, got {given!r}")


def _check_pair(name: str, given: Any, kind: type, low: float) -> None:
    if given is None and name == "crop":
        return
    allowed = (int,) if kind is int else (int, float)
    if (
        not isinstance(given, tuple)
        or len(given) != 2
        or not all(isinstance(x, allowed) and low <= x < float("inf") and x > 0 for x in given)
    ):
        raise ValueError(f"{name} must be two positive numbers, got {given!r}")
