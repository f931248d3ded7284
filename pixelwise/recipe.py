"""A whole experiment as one value: printable, replayable.

Each field tells its own help, bounds and choices once, in its metadata: the checks below, the documentation
of `Recipe` and the options of `pixelwise train` are made from there.
"""

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from .files import atomic_write
from .machine import usable_cores
from .wording import brief

DEFAULT_EPOCHS = 50
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")
_LARGEST = 10**9  # nothing that is counted or measured here is larger
_LARGEST_CROP = 2**14  # pixels; one such square takes 3 GiB


@dataclass(frozen=True)
class Setting:
    """What is told and checked of one field of a `Recipe`.

    Attributes:
        help: one sentence.
        panel: heading of the option in the help of `pixelwise train`; "" where it is no option by itself.
        choices: the texts that are allowed, empty for any.
        low: lowest number.
        open: whether the lowest number itself is forbidden.
        high: highest number.
        metavar: how the option's value is written.
        without: what happens where the setting is not given; the default itself if "".
        flags: names of the option, where they differ from the field's.
        is_path: whether it names a file or folder.
    """

    help: str
    panel: str = ""
    choices: tuple[str, ...] = ()
    low: int | float = 0
    open: bool = False
    high: int | float = _LARGEST
    metavar: str | None = None
    without: str = ""
    flags: tuple[str, ...] = ()
    is_path: bool = False


def _setting(default: Any, panel: str, help: str, **told: Any) -> Any:
    """A field with a default and with what is told of it."""
    return field(default=default, metadata={"setting": Setting(help, panel, **told)})


def _unasked(help: str) -> Any:
    """A field that is no option of the command line: a plan fills it."""
    return field(default=(), metadata={"setting": Setting(help)})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a training goes.

    The same recipe on the same machine gives the same weights.

    >>> Recipe("street", epochs=3).changed(lr=0.01).lr
    0.01
    """

    data: str = field(
        metadata={"setting": Setting('Folder of images and masks; "" where the data are given in memory.')}
    )
    model: str = _setting(
        "unet", "Model", "See `pixelwise models`. Where none is named, unet has a width of 16."
    )
    task: str | None = _setting(
        None,
        "Model",
        "What to learn, where the model serves several tasks: see `pixelwise models`.",
        without="the first that fits model and data",
    )
    model_arguments: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "setting": Setting(
                "Further arguments of the builder by name, such as encoder or in_channels. Without "
                "'pretrained', "
                "training starts from published weights of the encoder where there are any and they can be "
                "fetched; with pretrained true it ends where they cannot."
            )
        },
    )
    reduce: int = _setting(
        1,
        "Model",
        "Look at images at this part of their height and width: 2 for half, 4 or 8; for models that score "
        "pixels. Predictions have the full size.",
        low=1,
        high=8,
    )
    init_from: str | None = _setting(
        None,
        "Model",
        "Run directory or file of weights to begin with: what has the same name and shape is taken, and what "
        "is not is told.",
        metavar="RUN",
        without="published weights, or random ones",
        is_path=True,
    )
    reset_head: bool = _setting(
        False,
        "Model",
        "With init_from, begin the layers anew whose size follows from the number of classes: needed where "
        "the run knows another number of classes.",
        flags=("--reset-head/--keep-head",),
        without="keep-head",
    )
    format: str = _setting(
        "auto",
        "Data",
        "Layout of the data, such as pairs, voc, cityscapes or coco; auto looks at the folder.",
    )
    classes: str | None = _setting(
        None, "Data", "Class table: csv, json or txt.", without="from the data", is_path=True
    )
    val_fraction: float = _setting(
        0.2, "Data", "Share of the images kept for validation where the data name none.", open=True, high=1
    )
    test_fraction: float | None = _setting(
        None,
        "Data",
        "Share of the images on which nothing is chosen, for the score of the report, where the data name no "
        "parts.",
        high=0.9,
        without="none, of 100 images or more 0.15",
    )
    folds: int | None = _setting(
        None,
        "Data",
        "Train so many models, each without one part of the images, which it is scored on; predictions are "
        "the average of all.",
        low=2,
        high=100,
        without="one model",
    )
    fold: int | None = _setting(
        None,
        "Data",
        "Train only the model without this part, 1 to the number of folds.",
        low=1,
        high=100,
        without="all",
    )
    mask_rule: Literal["exact", "above-127", "above-0", "first-channel"] = _setting(
        "exact",
        "Data",
        "exact (values of masks are classes), above-127 or above-0 (brighter pixels are foreground), or "
        "first-channel (the first channel of masks in colours holds the classes).",
        choices=("exact", "above-127", "above-0", "first-channel"),
    )
    intensity: str = _setting(
        "percentiles",
        "Data",
        "How values of volumes and images become 0 to 1: percentiles (of images, where their type has no "
        "range of its own), percentiles:LOW,HIGH, min-max or z-score of each case, window:CENTRE,WIDTH in "
        "Hounsfield units, or range:LOW,HIGH.",
    )
    slices: Literal["depth", "height", "width"] = _setting(
        "depth",
        "Data",
        "Axis of volumes across which slices are cut for a network for images: depth (axial slices of most "
        "files), height or width.",
        choices=("depth", "height", "width"),
    )
    loss: str = _setting(
        "cross_entropy", "Loss", "A loss of docs/losses.md or a sum: cross_entropy+0.5*dice."
    )
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = _setting(
        "none", "Loss", "none, balanced (median-frequency balancing), or one number per class: 1,1,5."
    )
    label_smoothing: float = _setting(0.0, "Loss", "Label smoothing of cross-entropy, in [0, 1].", high=1)
    aux_weight: float = _setting(0.4, "Loss", "Factor of the loss on each auxiliary map of the model.")
    epochs: int | None = _setting(
        None,
        "Length and batches",
        "Length in passes over the training images.",
        low=1,
        without=str(DEFAULT_EPOCHS),
    )
    steps: int | None = _setting(
        None, "Length and batches", "Length in optimiser steps instead.", low=1, without="by epochs"
    )
    batch_size: int = _setting(
        8,
        "Length and batches",
        "Images per forward pass, of all devices together; a last batch that is not full is used unless it "
        "holds one image or cannot be divided among the devices.",
        low=1,
    )
    val_batch_size: int = _setting(
        1,
        "Length and batches",
        "Images per validation pass and device; those of different size are padded, so only 1 is exact for "
        "them.",
        low=1,
    )
    images_per_epoch: int | None = _setting(
        None,
        "Length and batches",
        "Images that make an epoch, for more or fewer validations than one per pass over the images.",
        low=1,
        without="each training image once",
    )
    repeat_rare: float | None = _setting(
        None,
        "Length and batches",
        "Images of classes that are in less than this share of the images come more often (repeat-factor "
        "sampling), such as 0.001 for LVIS.",
        open=True,
        high=1,
        without="all images equally often",
    )
    group_shapes: bool = _setting(
        False,
        "Length and batches",
        "Whether wide images come into batches with wide ones and high ones with high ones: less is padded.",
        flags=("--group-shapes/--no-group-shapes",),
    )
    accumulate: int = _setting(1, "Length and batches", "Batches per optimiser step.", low=1)
    val_tile: int | None = _setting(
        None,
        "Length and batches",
        "Side in pixels of the overlapping tiles in which larger validation images are predicted, where the "
        "task is to label pixels.",
        low=64,
        high=_LARGEST_CROP,
        without="whole images",
    )
    val_every: int = _setting(
        1, "Length and batches", "Epochs between two validations; the last epoch always has one.", low=1
    )
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = _setting(
        "adamw", "Optimiser", "adamw, adam, sgd or rmsprop.", choices=("adamw", "adam", "sgd", "rmsprop")
    )
    lr: float = _setting(1e-3, "Optimiser", "Highest learning rate.", open=True, high=1e300)
    encoder_lr_factor: float = _setting(
        1.0, "Optimiser", "Learning rate of the encoder over that of the rest.", open=True
    )
    layer_decay: float = _setting(
        1.0,
        "Optimiser",
        "Learning rate of each block of the encoder over that of the block behind it, such as 0.8 for a "
        "pretrained vision transformer.",
        open=True,
        high=1,
    )
    weight_decay: float = _setting(
        0.01, "Optimiser", "Weight decay; norms, biases and position embeddings have none."
    )
    momentum: float = _setting(0.9, "Optimiser", "Momentum of sgd and rmsprop.", high=1)
    clip_norm: float | None = _setting(
        None, "Optimiser", "Largest norm of the gradient.", open=True, without="any"
    )
    schedule: Literal["poly", "cosine", "linear", "step", "constant"] = _setting(
        "poly",
        "Optimiser",
        "Learning rate over the steps: poly (power 0.9), cosine or linear (poly of power 1), all down to 0, "
        "step (to a tenth at each of the drops), or constant.",
        choices=("poly", "cosine", "linear", "step", "constant"),
    )
    drops: tuple[float, ...] = _setting(
        (0.6, 0.8),
        "Optimiser",
        "Parts of the training after which the schedule step falls to a tenth.",
        metavar="T,T",
    )
    warmup_steps: int = _setting(
        0, "Optimiser", "Optimiser steps of linear warm-up.", flags=("--warmup-steps", "--warmup")
    )
    ema: float | None = _setting(
        None,
        "Optimiser",
        "Decay of an exponential moving average of the weights, such as 0.999: the averaged weights are "
        "validated and saved.",
        open=True,
        high=1,
        without="no average",
    )
    crop: tuple[int, ...] | None = _setting(
        (256, 256),
        "Augmentation",
        "Height and width of the training crops in pixels (of volumes depth, height and width); none for "
        "whole images.",
        low=1,
        high=_LARGEST_CROP,
        metavar="HxW",
    )
    scale: tuple[float, float] = _setting(
        (0.5, 2.0), "Augmentation", "Range of random scaling.", open=True, high=100, metavar="LOW,HIGH"
    )
    scale_to: Literal["image", "crop"] = _setting(
        "image",
        "Augmentation",
        "What a scale of 1 is: the image as it is, or crop: as large as it fits into the crop (large-scale "
        "jitter, with --scale 0.1,2).",
        choices=("image", "crop"),
    )
    flip: float = _setting(0.5, "Augmentation", "Probability of mirroring.", high=1)
    flip_vertical: float = _setting(
        0.0, "Augmentation", "Probability of mirroring upside down, for images without an up.", high=1
    )
    rotate90: float = _setting(
        0.0,
        "Augmentation",
        "Probability of a quarter turn, for images without an up; crops must be square.",
        high=1,
    )
    rare_crops: float = _setting(
        0.0,
        "Augmentation",
        "Share of crops that hold a pixel of a class that is drawn by 1 / sqrt(its pixels in the image); of "
        "volumes, of patches around a structure, there 1/3 by default.",
        high=1,
    )
    copy_paste: float = _setting(
        0.0,
        "Augmentation",
        "Share of images onto which objects of another image are pasted, where objects have masks.",
        high=1,
    )
    color: float = _setting(0.4, "Augmentation", "Strength of colour changes in [0, 1].", high=1)
    rotation: float = _setting(0.0, "Augmentation", "Largest angle in degrees.", high=180)
    elastic: float = _setting(0.0, "Augmentation", "Strength of elastic deformation in pixels.")
    augment: str = _setting(
        "",
        "Augmentation",
        "Further changes by name, such as blur=0.3,mosaic: gamma, bias_field, blur, low_resolution, noise, "
        "jpeg, mosaic, cutmix, classmix (share of the images), balanced_crops (of the crops), shear "
        "(degrees), translate (share of the size); see docs/augmentation.md.",
        metavar="NAME[=X],...",
        without="none",
    )
    precision: Literal["32", "bf16", "16"] = _setting(
        "32", "Machine", "32, or bf16 or 16 for mixed precision.", choices=("32", "bf16", "16")
    )
    gradient_checkpointing: bool = _setting(
        False,
        "Machine",
        "Whether what the blocks of a transformer compute is forgotten and computed again for the gradients: "
        "less memory and more time, the same weights.",
        flags=("--gradient-checkpointing/--no-gradient-checkpointing",),
    )
    channels_last: bool = _setting(
        True,
        "Machine",
        "Memory layout of images; channels last is faster on most machines.",
        flags=("--channels-last/--channels-first",),
    )
    workers: int = _setting(
        min(2, usable_cores()),
        "Machine",
        "Processes per device that load images; 0 loads in the training process.",
        high=4096,
        without="2, or 1 on a single core",
    )
    cache: Literal["none", "ram", "disk"] = _setting(
        "none",
        "Machine",
        "Where decoded images are kept so that each is decoded once: ram, disk (a file in the folder of "
        "temporary files), or none; how much they take is told first.",
        choices=("none", "ram", "disk"),
    )
    devices: int = _setting(
        1,
        "Machine",
        "Number of devices; more than one trains with DDP, with batch norm per device.",
        low=1,
        high=4096,
    )
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = _setting(
        "auto", "Machine", "auto, cpu, gpu or mps.", choices=("auto", "cpu", "gpu", "mps")
    )
    early_stopping: int | None = _setting(
        None, "Run", "Stop after so many epochs without a better score.", low=1, without="never"
    )
    freeze: tuple[str, ...] = _setting(
        (),
        "Run",
        "Part of the model that is not trained, such as encoder; its batch norm keeps its statistics; may be "
        "repeated.",
        metavar="PART",
        without="nothing",
    )
    logger: Literal["tensorboard", "csv", "wandb", "mlflow"] = _setting(
        "tensorboard",
        "Run",
        "Where curves go beside metrics.csv: tensorboard, wandb, mlflow, or csv for nowhere else.",
        choices=LOGGERS,
    )
    choose: bool = _setting(
        True,
        "Run",
        "Whether mirror images, thresholds, the smallest component and a CRF are tried on the validation "
        "images at the end, and kept with the weights where they help by more than noise.",
        flags=("--choose/--no-choose",),
    )
    location_prior: bool = _setting(
        False,
        "Run",
        "Whether how common each class is at each place of the training images is added to the scores of "
        "pixels at the end, if 4 or more validation images say that it helps, or there are fewer.",
        flags=("--location-prior/--no-location-prior",),
    )
    seed: int = _setting(0, "Run", "Seed of every random choice.", high=2**63 - 1)
    val_images: tuple[str, ...] = _unasked(
        "Names of the images to validate on, in place of the part that the data name or val_fraction cuts."
    )
    test_images: tuple[str, ...] = _unasked("Names of the images on which nothing is chosen.")
    left_out: tuple[str, ...] = _unasked("Names of images that are in no part.")
    replans: tuple[tuple[int, int], ...] = _unasked(
        "Changes of the number of steps that a clock made on the way: after which step, and to how many."
    )
    out: str | None = _setting(None, "Run", "Run directory.", without="runs/DATA-MODEL", is_path=True)
    name: str | None = _setting(None, "Run", "Title of the run.", without="that of the run directory")

    def __post_init__(self) -> None:
        """Reject what cannot be run.

        Raises:
            ValueError: if a setting is out of its range, in one sentence that names it.
        """
        for name, setting in SETTINGS.items():
            _check(name, getattr(self, name), setting)
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"give epochs or steps, not both: got epochs {self.epochs} and steps {self.steps}"
            )
        if self.fold is not None and not self.fold <= (self.folds or 0):
            raise ValueError(f"fold must be 1 to the number of folds, got {self.fold} of {self.folds}")
        _check_weights(self.class_weights)
        if self.crop is not None:
            _check_numbers("crop", self.crop, int, (2, 3))
        _check_numbers("scale", self.scale, float, (2,))
        if not isinstance(self.drops, tuple) or not all(
            isinstance(drop, int | float) and 0 < drop < 1 for drop in self.drops
        ):
            raise ValueError(f"drops must be numbers between 0 and 1, got {self.drops!r:.80}")
        if self.scale_to == "crop" and self.crop is None:
            raise ValueError("scale_to crop needs the size of a crop: crop is none")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be a range LOW, HIGH, got {self.scale}")
        if not isinstance(self.freeze, tuple) or not all(
            isinstance(part, str) and part for part in self.freeze
        ):
            raise ValueError(f"freeze must be names of parts of the model, got {self.freeze!r:.80}")
        for name in ("val_images", "test_images", "left_out"):
            names = getattr(self, name)
            if not isinstance(names, tuple) or not all(isinstance(one, str) for one in names):
                raise ValueError(f"{name} must be names of images, got {names!r:.80}")
        if self.rotate90 and self.crop is not None and len(set(self.crop)) > 1:
            raise ValueError(f"rotate90 needs square crops, got {' x '.join(map(str, self.crop))}")
        if self.reduce not in (1, 2, 4, 8):
            raise ValueError(f"reduce must be 1, 2, 4 or 8, got {self.reduce}")
        _check_replans(self.replans)
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size is that of all devices together: {self.batch_size} images cannot be divided by "
                f"{self.devices} devices"
            )
        if not isinstance(self.model_arguments, dict):
            raise ValueError(f"model_arguments must be names with values, got {self.model_arguments!r:.80}")
        try:
            self.as_dict()
        except (TypeError, ValueError, RecursionError) as error:
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
        """Read what `write` wrote, or the same settings as TOML (where the file's name ends in .toml).

        Raises:
            ValueError: if there is no such file or it holds no recipe; names the file.
        """
        settings = read_settings(path)
        try:
            return cls.of(settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


# What is told of each field, by name.
SETTINGS: dict[str, Setting] = {field.name: field.metadata["setting"] for field in fields(Recipe)}
# The types that each may have, None among them.
KINDS: dict[str, tuple[Any, ...]] = {
    name: get_args(hint) if NoneType in get_args(hint) else (hint,)
    for name, hint in get_type_hints(Recipe).items()
}
Recipe.__doc__ = f"{Recipe.__doc__}\n    Attributes:\n" + "".join(
    f"        {name}: {setting.help}{f' None: {setting.without}.' if NoneType in KINDS[name] else ''}\n"
    for name, setting in SETTINGS.items()
)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings of a recipe from a JSON file, or from a TOML file whose name ends in .toml; not yet checked.

    Raises:
        ValueError: if there is no such file or it holds no settings; names the file.
    """
    toml = Path(path).suffix.lower() == ".toml"
    try:
        text = Path(path).read_text(encoding="utf-8")
        settings = tomllib.loads(text) if toml else json.loads(text)
    except OSError as error:
        raise ValueError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no recipe: it is not {'TOML' if toml else 'JSON'}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is no recipe: it must hold one object of settings")
    return settings


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    settings = {}
    for name, value in given.items():
        if name not in SETTINGS:
            near = get_close_matches(name, SETTINGS, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(SETTINGS)}"
            raise ValueError(f"a recipe has no setting {brief(name)}{hint}")
        if isinstance(value, list):
            value = tuple(tuple(one) if isinstance(one, list) else one for one in value)
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        settings[name] = value
    return settings


def _check(name: str, given: Any, setting: Setting) -> None:
    """One setting by its type; pairs and class weights are checked elsewhere."""
    kind, may_be_none = KINDS[name][0], NoneType in KINDS[name]
    if given is None and may_be_none:
        return
    if setting.choices:
        if given not in setting.choices:
            raise ValueError(f"{name} must be one of {', '.join(setting.choices)}, got {brief(given)}")
    elif kind is bool:
        if not isinstance(given, bool):
            raise ValueError(f"{name} must be true or false, got {given!r:.80}")
    elif kind in (int, float):
        if not _is_number(given, kind, setting):
            what = "a whole number" if kind is int else "a number"
            bound = f"{'above' if setting.open else 'at least'} {setting.low:g}"
            if setting.high < _LARGEST:
                bound += f" and at most {setting.high:g}"
            raise ValueError(f"{name} must be {what} {bound}, got {given!r:.80}")
    elif kind is str and not isinstance(given, str):
        raise ValueError(f"{name} must be text{' or None' if may_be_none else ''}, got {given!r:.80}")


def _is_number(given: Any, kind: Any, setting: Setting) -> bool:
    if isinstance(given, bool) or not isinstance(given, int if kind is int else int | float):
        return False
    return setting.low <= given <= setting.high and not (setting.open and given == setting.low)


def _check_replans(given: Any) -> None:
    pairs = isinstance(given, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in given)
    if not pairs or not all(type(x) is int and 0 < x <= _LARGEST for pair in given for x in pair):
        raise ValueError(f"replans must be pairs of a step and a number of steps, got {given!r:.80}")


def _check_weights(given: Any) -> None:
    if isinstance(given, str):
        if given not in ("none", "balanced"):
            raise ValueError(
                f"class_weights must be none, balanced or one number per class, got {given!r:.80}"
            )
    elif not isinstance(given, tuple) or not all(
        isinstance(w, int | float) and 0 <= w <= _LARGEST and math.isfinite(w) for w in given
    ):
        raise ValueError(
            f"class_weights must be none, balanced or one number >= 0 per class, got {given!r:.80}"
        )


def _check_numbers(name: str, given: Any, kind: type, lengths: tuple[int, ...]) -> None:
    setting = SETTINGS[name]
    count = " or ".join({2: "two", 3: "three"}[length] for length in lengths)
    is_tuple = isinstance(given, tuple) and len(given) in lengths
    if not is_tuple or not all(isinstance(x, int | float) for x in given):
        raise ValueError(f"{name} must be {count} positive numbers, got {given!r:.80}")
    if any(x > setting.high for x in given):
        raise ValueError(f"{name} must be {count} numbers of at most {setting.high:g}, got {given!r:.80}")
    if not all(_is_number(x, kind, setting) for x in given):
        raise ValueError(f"{name} must be {count} positive numbers, got {given!r:.80}")
