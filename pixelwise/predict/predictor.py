"""From an image, in whatever form it comes, to a label map and the files people want of it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args, overload

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from .. import checkpoint, decode, draw
from ..checkpoint import Checkpoint
from ..data import read_image, write_mask
from ..data.formats.image import IMAGE_SUFFIXES
from ..files import atomic_write, make_folder
from ..types import ClassTable, DenseLogits, DenseModel, LabelMap
from .tiling import Network, bands
from .tta import flipped, scaled

Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
S = TypeVar("S", bound=Source)
Precision = Literal["32", "bf16", "16"]
Refine = Callable[[Float[Tensor, "b k H W"], Float[Tensor, "b c H W"]], Float[Tensor, "b k H W"]]

_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Prediction:
    """What was found in one image. Everything is on the CPU.

    Attributes:
        label_map: one class per pixel of the image, labels "H W".
        classes: what the labels mean.
        image: as the model saw it, in [0, 1].
        id: path of the image where it has one.
        probabilities: one per class and pixel, where they were asked for.
    """

    label_map: LabelMap
    classes: ClassTable
    image: Float[Tensor, "c H W"]
    id: str
    probabilities: Float[Tensor, "k H W"] | None = None

    @property
    def confidence(self) -> Float[Tensor, "H W"]:
        """Probability of the class that was chosen.

        Raises:
            ValueError: if the prediction was made without `probabilities=True`.
        """
        if self.probabilities is None:
            raise ValueError("there is no confidence without probabilities: predict with probabilities=True")
        return self.probabilities.amax(0)

    def overlay(self, *, alpha: float = 0.5, contours: bool = False) -> Image.Image:
        """The image tinted with the colours of the classes; see `draw.overlay`."""
        return draw.overlay(self.image, self.label_map, self.classes, alpha=alpha, contours=contours)

    def save(self, path: str | os.PathLike[str], *, overlay: bool = False) -> Path:
        """Write the prediction; what is written depends on the name.

        `mask.png` is a palette image of the labels, `labels.npy` an int32 array "H W", `street_overlay.png`
        the tinted image. The file appears whole or not at all.

        Args:
            path: of the file; parent folders are made.
            overlay: whether to write the tinted image whatever the name, then in any usual picture format.

        Returns:
            The path.

        Raises:
            ValueError: if the name asks for something else, or the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if overlay or path.stem.endswith("_overlay"):
            if suffix not in _PICTURES:
                raise ValueError(f"an overlay is a picture ({', '.join(_PICTURES)}), got {path.name!r}")
            with atomic_write(path) as temporary:
                self.overlay().save(temporary)
        elif suffix == ".png":
            write_mask(path, self.label_map, self.classes)
        elif suffix == ".npy":
            with atomic_write(path) as temporary:
                np.save(temporary, self.label_map.labels.to(torch.int32).numpy())
        else:
            raise ValueError(
                f"cannot write {path.name!r}: a prediction is saved as .png (labels with a palette), "
                "_overlay.png (tinted image) or .npy (array of labels)"
            )
        return path


class Predictor:
    """Images of any kind and size -> predictions.

    Args:
        model: a checkpoint's path, a run directory, a loaded checkpoint, or a model.
        classes: what the channels of the logits mean; needed beside a bare model only.
        device: "cpu", "cuda", "cuda:1", ...; "auto" leaves a given model where it is and takes a loaded
            checkpoint to a GPU if there is one.
        precision: "32", or "bf16" or "16" for mixed precision.
        tile: height and width of tiles in pixels for large images, None for the whole image at once.
        overlap: pixels that neighbouring tiles share.
        flip: whether to average over the image and its mirror image.
        scales: factors of the image's size to average over.
        refine: what to do with the probabilities "b k H W" of images "b c H W", such as
            `pixelwise.algorithms.DenseCrf()`: gives probabilities again. It sees whole images, also with
            `tile`, so the probabilities of all classes must fit into memory.

    Raises:
        ValueError: if there is no such checkpoint or device, or an argument does not fit.

    >>> import pixelwise as pw
    >>> model = pw.build("pspnet", 2, encoder="tiny")
    >>> predict = Predictor(model, pw.ClassTable.of("sky", "road"))
    >>> predict(torch.rand(3, 50, 70)).label_map.labels.shape
    torch.Size([50, 70])
    """

    def __init__(
        self,
        model: DenseModel | Checkpoint | str | os.PathLike[str],
        classes: ClassTable | None = None,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "32",
        tile: tuple[int, int] | None = None,
        overlap: int = 64,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        refine: Refine | None = None,
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if tile is not None and not 0 <= overlap < min(tile):
            raise ValueError(
                f"the overlap must be at least 0 and smaller than the tile {tile}, got {overlap}"
            )
        if isinstance(model, str | os.PathLike):
            model = checkpoint.load(model)
        if isinstance(model, Checkpoint):
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            classes, model = classes or model.classes, model.model
        if classes is None:
            raise ValueError("a bare model needs a class table: Predictor(model, classes)")
        if len(classes) != model.num_classes:
            raise ValueError(f"the model has {model.num_classes} classes, the class table {len(classes)}")
        if not classes.exclusive:
            raise ValueError(
                "a label map needs exclusive classes (one per pixel), this table has exclusive=False"
            )
        self.model, self.classes, self.precision = model, classes, precision
        self.device = _place(model, device)
        self.tile, self.overlap, self.refine = tile, overlap, refine
        self._network: Network = self._score
        if tuple(scales) != (1.0,):
            self._network = scaled(self._network, scales)
        if flip:
            self._network = flipped(self._network)

    @overload
    def __call__(self, source: Source, *, probabilities: bool = False) -> Prediction: ...

    @overload
    def __call__(
        self, source: list[S] | tuple[S, ...], *, probabilities: bool = False
    ) -> list[Prediction]: ...

    def __call__(
        self, source: Source | list[S] | tuple[S, ...], *, probabilities: bool = False
    ) -> Prediction | list[Prediction]:
        """Segment an image, or each of a list.

        Args:
            source: path of an image file; PIL image; array "H W" or "H W c" of uint8 or uint16 over their
                whole range, bool, or floats in [0, 1]; tensor "c H W" likewise; or a list of those. Grey
                and RGBA are made RGB for a model that takes RGB.
            probabilities: whether to keep the probability of every class.

        Raises:
            ValueError: if the source cannot be read, has other channels than the model takes, or is smaller
                than the model's minimum; names the file.
        """
        if isinstance(source, list | tuple):
            return [self._one(item, f"image {i}", probabilities) for i, item in enumerate(source)]
        return self._one(source, "image", probabilities)

    def labels(self, images: Float[Tensor, "b c H W"]) -> LabelMap:
        """Segment a batch: labels "b H W" on the device of the model.

        Args:
            images: values in [0, 1].
        """
        if self.refine is not None:
            return LabelMap(self.probabilities(images).argmax(1))
        b, _, height, width = images.shape
        # Made outside, this is a plain tensor: those of inference mode cannot be changed or used in autograd.
        labels = torch.empty(b, height, width, dtype=torch.long, device=self.device)
        with torch.inference_mode(), _evaluating(self.model):
            if self.tile is None:
                labels.copy_(decode.semantic(self._network(images.to(self.device))).labels)
            else:
                top = 0
                for band in self._bands(images):
                    labels[:, top : top + band.size[0]] = decode.semantic(band).labels
                    top += band.size[0]
        return LabelMap(labels)

    def probabilities(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b k H W"]:
        """Probability of every class at every pixel, on the device of the model.

        Args:
            images: values in [0, 1].
        """
        with torch.inference_mode(), _evaluating(self.model):
            if self.tile is None:
                found = decode.probabilities(self._network(images.to(self.device)))
            else:
                found = torch.cat([decode.probabilities(band) for band in self._bands(images)], dim=2)
        found = found.clone()  # a plain tensor
        return found if self.refine is None else self.refine(found, images)

    def folder(
        self,
        source: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        suffix: str = ".png",
        overlay: bool = False,
        progress: bool = True,
    ) -> list[Path]:
        """Segment every image in a folder and its sub-folders, which `out` gets as well.

        An image that cannot be used does not stop the others.

        Args:
            source: folder of images.
            out: folder to write to.
            suffix: ".png" for palette images, ".npy" for arrays.
            overlay: whether to write `name_overlay.png` as well.
            progress: whether to show a progress bar.

        Returns:
            The files written.

        Raises:
            ValueError: at once if there is no such folder, no image in it, two images would be written to
                one file, or nothing can be written; at the end if some images could not be used, with
                their names.
        """
        if suffix not in (".png", ".npy"):
            raise ValueError(f"predictions are saved as .png or .npy, got {suffix!r}")
        source, out = Path(source), Path(out)
        images = find_images(source, but=out)
        if not images:
            raise ValueError(f"there is no image in the folder {source}")
        targets = [out / image.relative_to(source).with_suffix(suffix) for image in images]
        seen: dict[Path, Path] = {}
        for image, target in zip(images, targets, strict=True):
            if target in seen:
                raise ValueError(f"{seen[target]} and {image} would both be written to {target}")
            seen[target] = image
        make_folder(out)
        written: list[Path] = []
        problems: list[str] = []
        console = Console(stderr=True)
        pairs = list(zip(images, targets, strict=True))
        for image, target in track(pairs, "predicting", console=console, disable=not progress):
            try:
                prediction = self._one(image, "", False)
            except ValueError as error:
                problems.append(str(error))
                continue
            written.append(prediction.save(target))
            if overlay:
                written.append(prediction.save(target.with_name(f"{target.stem}_overlay.png")))
        if problems:
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(
                f"{len(problems)} of {len(images)} images could not be used, the others are in {out}: "
                f"{'; '.join(problems[:5])}{more}"
            )
        return written

    def _one(self, source: Source, name: str, probabilities: bool) -> Prediction:
        image, name = _read(source, self.model.in_channels, name)
        try:
            if probabilities:
                found = self.probabilities(image[None])[0].cpu()
                return Prediction(LabelMap(found.argmax(0)), self.classes, image, name, found)
            labels = self.labels(image[None]).labels[0].cpu()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return Prediction(LabelMap(labels), self.classes, image, name)

    def _score(self, images: Float[Tensor, "b c H W"]) -> DenseLogits:
        """The model on its device, in its precision; scores come back in float32."""
        context: AbstractContextManager[object] = nullcontext()
        if self.precision in _AUTOCAST:
            context = torch.autocast(self.device.type, _AUTOCAST[self.precision])
        with context:
            output: DenseLogits = self.model(images.to(self.device))
        return output.to(torch.float32)

    def _bands(self, images: Float[Tensor, "b c H W"]) -> Iterator[DenseLogits]:
        """The logits of the image from top to bottom, so that all of them never are in memory."""
        assert self.tile is not None
        for band in bands(self._network, images, self.tile, self.overlap):
            yield DenseLogits(band, (band.shape[-2], band.shape[-1]))


def find_images(folder: str | os.PathLike[str], *, but: str | os.PathLike[str] | None = None) -> list[Path]:
    """Every image in a folder and its sub-folders, by its suffix, sorted; hidden files are left out.

    Args:
        folder: where to look.
        but: a folder inside it that is left out, such as the one for results.

    Raises:
        ValueError: if `folder` is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    left_out = None if but is None or Path(but).resolve() == folder.resolve() else Path(but).resolve()
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() not in IMAGE_SUFFIXES or hidden or not path.is_file():
            continue
        if left_out is None or left_out not in path.resolve().parents:
            found.append(path)
    return found


def _read(source: Source, channels: int, name: str) -> tuple[Float[Tensor, "c H W"], str]:
    """The image with the channels that the model takes, and its name."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: use predictor.folder(source, out)")
        return read_image(path, channels=channels), str(path)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "")) or name
    try:
        return _image(source, channels).contiguous(), name
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _image(source: Image.Image | np.ndarray | Tensor, channels: int) -> Float[Tensor, "c H W"]:
    """What is in memory already, as the model takes it."""
    if isinstance(source, Image.Image):
        source = _array(source, channels)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise ValueError(f"an array must have axes H W or H W c, got shape {source.shape}")
        image = torch.from_numpy(np.ascontiguousarray(_unit(source)))
        return _with_channels(image[None] if image.ndim == 2 else image.permute(2, 0, 1), channels)
    if isinstance(source, Tensor):
        if source.ndim != 3:
            raise ValueError(f"a tensor must have axes c H W, got shape {tuple(source.shape)}")
        source = source.detach().cpu()
        if source.dtype == torch.bfloat16:  # which NumPy does not know
            source = source.float()
        return _with_channels(torch.from_numpy(_unit(source.numpy())), channels)
    raise ValueError(f"an image is a path, a PIL image, an array or a tensor, got {type(source).__name__}")


def _array(image: Image.Image, channels: int) -> np.ndarray:
    """The pixels, converted as `read_image` does it; not turned, whatever EXIF says."""
    if image.mode == "F" or image.mode.startswith("I"):
        array = np.asarray(image)
        if image.mode == "I":  # how Pillow opens some 16-bit files
            if array.min() < 0 or array.max() > 65535:
                raise ValueError(f"integer pixels must be in 0..65535, got {array.min()} to {array.max()}")
            return array.astype(np.uint16)
        return array.astype(array.dtype.newbyteorder("="))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert(_MODES.get(channels, "RGB")))


def _unit(array: np.ndarray) -> Float[np.ndarray, "..."]:
    """Values in [0, 1] as float32."""
    if array.dtype == bool:
        return array.astype(np.float32)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"pixels must be uint8, uint16, bool or floats in [0, 1], got {array.dtype}")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # also catches nan
        raise ValueError(f"floating-point pixels must be in [0, 1], got {low:g} to {high:g}")
    return array.astype(np.float32)


def _with_channels(image: Float[Tensor, "c H W"], channels: int) -> Float[Tensor, "_ H W"]:
    """RGB of RGBA, RGB of grey (with or without alpha)."""
    given = image.shape[0]
    if given == channels:
        return image
    if channels == 3 and given in (1, 2):
        return image[:1].expand(3, -1, -1)
    if channels == 3 and given == 4:
        return image[:3]
    raise ValueError(f"the model takes images of {channels} channels, got {given}")


def _place(model: DenseModel, device: str | torch.device) -> torch.device:
    """Move the model to `device` ("auto": leave it) and tell where it is."""
    if device != "auto":
        try:
            model.to(torch.device(device))
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}"
            ) from error
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def _evaluating(model: DenseModel) -> Iterator[None]:
    """Eval mode for a while; every part gets its own mode back."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
