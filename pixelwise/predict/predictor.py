"""From an image, in whatever form it comes, to an annotation."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_map

from .. import decode, export
from ..checkpoint import Checkpoint
from ..data.formats.image import MAX_PIXELS, Source, to_tensor
from ..tasks import Task, get_task
from ..tiling import Network, Size, bands
from ..types import (
    Annotation,
    BuiltBy,
    ClassMasks,
    ClassTable,
    DenseLogits,
    Embedding,
    LabelMap,
    Model,
    PromptableModel,
    Prompts,
    Sample,
)
from .memory import available_memory, bytes_per_pixel, enough_memory, fitting_tile
from .prediction import Prediction
from .tta import flipped, scaled
from .writing import plan, summary, write_predictions

S = TypeVar("S", bound=Source)
Precision = Literal["32", "bf16", "16"]
Refine = Callable[[Float[Tensor, "b k H W"], Float[Tensor, "b c H W"]], Float[Tensor, "b k H W"]]

_CHOOSING = threading.Lock()  # of forms: two measurements at once would disturb each other
_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
_LONGEST_TILE = 2**16  # pixels
_SURE = 1 << 20  # pixels up to which nobody asks whether the image fits into memory


class Predictor:
    """Images of any kind and size -> predictions.

    The model is put into eval mode once, here, and stays in it; several threads may share a predictor.

    Args:
        model: a checkpoint's path, a run directory, a loaded checkpoint, a model, or the path of a file that
            `pixelwise export` wrote (.onnx, .pt2 or .xml).
        classes: what the labels mean; needed beside a bare model and an ONNX file of another program only.
        task: name of the task; None for that of the checkpoint, or the first that the model serves.
        device: "cpu", "cuda", "cuda:1", ...; "auto" leaves a given model where it is and takes a loaded
            checkpoint to a GPU if there is one.
        precision: "32", or "bf16" or "16" for mixed precision.
        tile: height and width of tiles in pixels (of volumes depth, height and width); None for the whole
            image at once. "auto" takes the whole image where that fits into half of the free memory, going by
            a measurement on a small image, and else the largest tiles that do; of volumes, the task's tiles.
        overlap: pixels that neighbouring tiles share. Tiles, flips, scales and refinement are for models
            that score every pixel of an image.
        flip: whether to average over the image and its mirror image; None for what was chosen for the
            weights on validation images.
        scales: factors of the image's size to average over.
        refine: what to do with the probabilities "b k H W" of images "b c H W", such as
            `pixelwise.algorithms.DenseCrf()`: gives probabilities again. It sees whole images, also with
            `tile`, so the probabilities of all classes must fit into memory. None for what was chosen for
            the weights.
        decoding: settings of the task's decoding that differ from those of the checkpoint, such as
            `{"thresholds": 0.4}` for several classes per pixel.
        plain: whether to leave out what was chosen for the weights on validation images (mirror images,
            thresholds, smallest component, CRF).
        optimize: whether to use the fastest form of the network on this machine, as `pixelwise optimize`
            chose it for the size of the first image; where it chose none, forms are measured on that image,
            which takes minutes, once.
        max_pixels: largest height times width of an image file.

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
        model: Model | Checkpoint | str | os.PathLike[str],
        classes: ClassTable | None = None,
        *,
        task: str | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "32",
        tile: Size | Literal["auto"] | None = "auto",
        overlap: int = 64,
        flip: bool | None = None,
        scales: Sequence[float] = (1.0,),
        refine: Refine | None = None,
        decoding: Mapping[str, Any] | None = None,
        plain: bool = False,
        optimize: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        if isinstance(model, str | os.PathLike):
            model = export.load(model, classes)
        own: Mapping[str, Any] = {}
        if isinstance(model, Checkpoint):
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            if task in (None, model.task):
                task, own = model.task, model.decoding
            classes, model = classes or model.classes, model.model
        if classes is None:
            raise ValueError("a bare model needs a class table: Predictor(model, classes)")
        self.task = task_of(model, task, classes)
        tiled = self.task.infer is not None and "tile" in self.task.decoding and tile not in (None, "auto")
        in_tiles = {"tile": tile} if tiled else {}
        if plain:
            own = {name: value for name, value in own.items() if name not in self.task.chosen}
        self.decoding = self.task.decoding_with({**own, **in_tiles, **(decoding or {})})
        self.model, self.classes, self.precision = model.eval(), classes, precision
        self.device = _place(model, device)
        self.tile, self.overlap, self.refine, self.max_pixels = tile, overlap, refine, max_pixels
        self._scores_pixels = issubclass(model.output, DenseLogits) and self.task.infer is None
        if flip is None:
            flip = self._scores_pixels and bool(self.decoding.get("flip", False))
        if self._scores_pixels and refine is None and self.decoding.get("crf", False):
            from ..algorithms.dense_crf import DenseCrf

            self.refine = DenseCrf(threads=torch.get_num_threads())
        self.flip, self.scales = flip, tuple(scales)
        if isinstance(tile, tuple | list):
            # How tiles of volumes overlap is a setting of their decoding.
            _check_tile(tile, *((overlap, (2,)) if self._scores_pixels else (0, (2, 3))))
        if not self._scores_pixels:
            self._refuse_pixelwise_options()
        if optimize and (not self._scores_pixels or self.device.type != "cpu" or precision != "32"):
            raise ValueError(
                "optimize is for networks that score pixels, on the CPU, and chooses the precision itself"
            )
        self._fast: Model | None = None if optimize else self.model
        self._others: dict[tuple[bool, bool], Predictor] = {}  # of `in_ways`, by mirror images and CRF
        self._network: Network = self._score_dense
        if tuple(scales) != (1.0,):
            self._network = scaled(self._network, scales, classes.exclusive)
        if flip:
            self._network = flipped(self._network, classes.exclusive)

    def __repr__(self) -> str:
        names = self.classes.names
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        views = f", flip={self.flip}" * self.flip + f", scales={self.scales}" * (self.scales != (1.0,))
        refined = "" if self.refine is None else f", refine={self.refine!r:.60}"
        return (
            f"Predictor({type(self.model).__name__}, {len(names)} classes: {shown:.200};\n"
            f"    device={self.device}, precision={self.precision}, tile={self.tile}{views}{refined})"
        )

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
                and RGBA are made RGB for a model that takes RGB; files and PIL images are turned as their
                EXIF orientation says.
            probabilities: whether to keep the probability of every class.

        Raises:
            ValueError: if the source cannot be read, has other channels than the model takes, or is smaller
                than the model's minimum; names the file.
        """
        if isinstance(source, list | tuple):
            return [self._one(item, f"image {i}", probabilities) for i, item in enumerate(source)]
        return self._one(source, "image", probabilities)

    def annotations(self, samples: Sequence[Sample]) -> tuple[Annotation, ...]:
        """Segment images of one size: one annotation each, on the device of the model.

        Args:
            samples: images in [0, 1]; what a task needs of the target (boxes for keypoints) is taken from
                there.

        Raises:
            ValueError: if they do not fit into memory.
        """
        images = torch.stack([sample.image for sample in samples])
        if self._scores_pixels:
            return self._dense_annotations(images)
        with enough_memory(tuple(images.shape[2:]), None), torch.no_grad():
            if self.task.infer is None:
                decoded = self.task.decode(self._score(images), self.classes, self.decoding)
                return tuple(self._finished(one) for one in decoded)
            return tuple(
                self.task.infer(self._score, sample, self.classes, self.decoding) for sample in samples
            )

    def labels(self, images: Float[Tensor, "b c H W"]) -> LabelMap:
        """Segment a batch by a model with one class per pixel: labels "b H W" on the device of the model.

        Args:
            images: values in [0, 1].

        Raises:
            ValueError: if the task is another, or the images do not fit into memory.
        """
        maps = self.annotations([Sample(image, None, "") for image in images])
        if not all(isinstance(one, LabelMap) for one in maps):
            raise ValueError(
                f"labels are for one class per pixel, this predictor is for the task {self.task.name}"
            )
        return LabelMap(torch.stack([one.labels for one in maps if isinstance(one, LabelMap)]))

    def probabilities(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b k H W"]:
        """Probability of every class at every pixel, on the device of the model.

        Args:
            images: values in [0, 1].

        Raises:
            ValueError: if they do not fit into memory, or the model does not score every pixel.
        """
        if not self._scores_pixels:
            raise ValueError(f"the task {self.task.name} has no probabilities of pixels")
        tile = self._tile_for(images)
        self._choose_form(images, tile)
        with enough_memory((images.shape[-2], images.shape[-1]), tile):
            with torch.inference_mode():
                found = torch.cat([self._probable(band) for band in self._bands(images, tile)], dim=2)
            found = found.clone()  # a plain tensor
            return found if self.refine is None else self.refine(found, images)

    def _probable(self, output: DenseLogits) -> Float[Tensor, "b k _ W"]:
        if self.classes.exclusive:
            return decode.probabilities(output)
        return output.logits.float().sigmoid()

    def _dense_annotations(self, images: Float[Tensor, "b c H W"]) -> tuple[Annotation, ...]:
        """Decoded in bands from top to bottom where the images are predicted in tiles."""
        if self.refine is not None:
            refined = self.probabilities(images)
            size = (refined.shape[-2], refined.shape[-1])
            logits = refined.log() if self.classes.exclusive else refined.logit()
            found = self.task.decode(DenseLogits(logits, size), self.classes, self.decoding)
            return tuple(self._finished(one) for one in found)
        tile = self._tile_for(images)
        self._choose_form(images, tile)
        with enough_memory((images.shape[-2], images.shape[-1]), tile):
            # Plain tensors: those made in inference mode could not be changed or used in autograd.
            with torch.no_grad():
                parts = [
                    self.task.decode(band, self.classes, self.decoding) for band in self._bands(images, tile)
                ]
            return tuple(self._finished(_joined(bands_of_one)) for bands_of_one in zip(*parts, strict=True))

    def _choose_form(self, images: Float[Tensor, "b c H W"], tile: Size | None) -> None:
        """With `optimize`, before the first image: the form of the network for its size."""
        with _CHOOSING:
            if self._fast is not None:
                return
            height, width = tile or images.shape[-2:]
            part = images[0, :, :height, :width]
            found = Checkpoint(self.model, self.classes, BuiltBy("", {}), {}, self.task.name)
            size = (part.shape[1], part.shape[2])
            self._fast = (export.recalled(found, size) or export.optimize(found, [part])).model

    def _finished(self, annotation: Annotation) -> Annotation:
        """What is left to do once an image is whole."""
        if self.task.finish is None:
            return annotation
        return self.task.finish(annotation, self.classes, self.decoding)

    def in_ways(self, sample: Sample, settings: Sequence[Mapping[str, Any]]) -> list[Annotation]:
        """Segment an image under several settings of decoding; the network runs once for those that share it.

        Args:
            sample: an image in [0, 1].
            settings: of decoding, each in place of this predictor's own.

        Raises:
            ValueError: as `annotations`.
        """
        found: list[Annotation] = []
        known: dict[tuple[bool, bool], Any] = {}
        for changes in settings:
            decoding = self.task.decoding_with({**self.decoding, **changes})
            views = bool(decoding.get("flip", False)), bool(decoding.get("crf", False))
            if views not in known:
                known[views] = self._before_finishing(sample, views, changes)
            made = known[views]
            if self._scores_pixels:
                logits = made.log() if self.classes.exclusive else made.logit()
                made = self.task.decode(DenseLogits(logits, tuple(made.shape[2:])), self.classes, decoding)[0]
            found.append(made if self.task.finish is None else self.task.finish(made, self.classes, decoding))
        return found

    def _before_finishing(self, sample: Sample, views: tuple[bool, bool], changes: Mapping[str, Any]) -> Any:
        """Probabilities, or an annotation from which no small component was removed yet."""
        if views not in self._others:
            whole = {"min_component": 0} if "min_component" in self.decoding else {}
            self._others[views] = Predictor(
                self.model,
                self.classes,
                task=self.task.name,
                precision=self.precision,
                tile=self.tile,
                overlap=self.overlap,
                scales=self.scales,
                decoding={**self.decoding, **changes, **whole},
            )
        other = self._others[views]
        if self._scores_pixels:
            return other.probabilities(sample.image[None])
        return other.annotations([sample])[0]

    def embed(self, source: Source) -> "EmbeddedImage":
        """Look at an image once, for any number of prompts.

        Raises:
            ValueError: if the model takes no prompts, or as `__call__`.
        """
        model = self._promptable()
        image, name, _ = self._read(source, "image")
        with enough_memory((image.shape[-2], image.shape[-1]), None), torch.no_grad(), self._autocast():
            return EmbeddedImage(image, name, model.embed(image[None].to(self.device)))

    def prompt(self, embedded: "EmbeddedImage", prompts: Prompts) -> Prediction:
        """What the prompts point at in an image that was embedded by this predictor.

        Raises:
            ValueError: if the model takes no prompts.
        """
        model = self._promptable()
        with torch.no_grad(), self._autocast():
            output = _in_float32(model.masks(embedded.embedding, prompts.to(self.device)))
        annotation = self.task.decode(output, self.classes, self.decoding)[0]
        return Prediction(annotation.to("cpu"), self.task, self.classes, embedded.image, embedded.name)

    def _promptable(self) -> PromptableModel:
        if not isinstance(self.model, PromptableModel):
            raise ValueError(f"{type(self.model).__name__} takes no prompts: call the predictor itself")
        return self.model

    def folder(
        self,
        source: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        suffix: str | None = None,
        overlay: bool = False,
        overwrite: bool = False,
        progress: bool = True,
    ) -> list[Path]:
        """Segment every image in a folder and its sub-folders, which `out` gets as well.

        An image that cannot be used does not stop the others. No file is lost: see `overwrite`.

        Args:
            source: folder of images.
            out: folder to write to.
            suffix: how predictions are saved, such as ".npy"; None for the first that the task knows.
            overlay: whether to write `name_overlay.png` as well.
            overwrite: whether predictions that were written to `out` before may be replaced; other files, and
                those that were changed since, never are.
            progress: whether to show a progress bar.

        Returns:
            The files written.

        Raises:
            ValueError: at once if there is no such folder, no image in it, two images would be written to
                one file, a file would be lost, or nothing can be written; at the end if some images could not
                be used, with their names.
        """
        source, out = Path(source), Path(out)
        if not source.is_dir():
            raise ValueError(f"there is no folder {source}")
        jobs = plan([source], out, suffix or next(iter(self.task.writers)), self.task.suffixes)
        written = write_predictions(self, jobs, out, overlay=overlay, overwrite=overwrite, progress=progress)
        if written.problems:
            raise ValueError(summary(written.problems, len(jobs), out))
        return sorted([*written.predictions, *written.overlays])

    def _one(self, source: Source, name: str, probabilities: bool) -> Prediction:
        if isinstance(self.model, PromptableModel):
            raise ValueError("this model answers prompts: predictor.prompt(predictor.embed(image), prompts)")
        image, name, spacing = self._read(source, name)
        try:
            found = self.probabilities(image[None])[0].cpu() if probabilities else None
            if found is not None:
                output = DenseLogits(
                    (found.log() if self.classes.exclusive else found.logit())[None], found.shape[1:]
                )
                annotation = self._finished(self.task.decode(output, self.classes, self.decoding)[0])
            else:
                annotation = self.annotations([Sample(image, None, name, spacing)])[0]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return Prediction(annotation.to("cpu"), self.task, self.classes, image, name, found)

    def _read(
        self, source: Source, name: str
    ) -> tuple[Float[Tensor, "c *grid"], str, tuple[float, ...] | None]:
        """The image with the channels that the model takes, its name, and the size of a pixel where known."""
        channels = self.model.in_channels
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            if path.is_dir():
                raise ValueError(f"{source} is a folder: use predictor.folder(source, out)")
            if self.task.read_image is not None:
                image, spacing = self.task.read_image(path, channels)
                return image, str(path), spacing
            return to_tensor(source, channels, max_pixels=self.max_pixels), str(path), None
        if isinstance(source, Image.Image):
            name = str(getattr(source, "filename", "")) or name
        if isinstance(source, Tensor) and self.task.read_image is not None:
            return source.detach().float().cpu(), name, None
        try:
            return to_tensor(source, channels), name, None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _tile_for(self, images: Float[Tensor, "b c H W"]) -> Size | None:
        """The tile to predict these images with, None for the whole images."""
        if self.tile != "auto":
            return self.tile
        b, _, height, width = images.shape
        if b * height * width <= _SURE:
            return None
        available = available_memory(self.device)
        return fitting_tile((height, width), b * self._bytes_per_pixel, b * len(self.classes), available)

    @cached_property
    def _bytes_per_pixel(self) -> float:
        return bytes_per_pixel(self._network, self.model.in_channels, self.model.minimum_size, self.device)

    def _score(self, images: Float[Tensor, "b c *grid"]) -> Any:
        """The model on its device, in its precision; what it says comes back in float32."""
        with self._autocast():
            network = self.model if self._fast is None else self._fast
            return _in_float32(network(images.to(self.device)))

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision in _AUTOCAST:
            return torch.autocast(self.device.type, _AUTOCAST[self.precision])
        return nullcontext()

    def _score_dense(self, images: Float[Tensor, "b c H W"]) -> DenseLogits:
        output = self._score(images)
        assert isinstance(output, DenseLogits)
        return output

    def _bands(self, images: Float[Tensor, "b c H W"], tile: Size | None) -> Iterator[DenseLogits]:
        """The scores of the images: all at once, or in tiles from top to bottom."""
        if tile is None:
            yield self._network(images.to(self.device))
            return
        for band in bands(self._network, images, tile, self.overlap):
            yield DenseLogits(band, (band.shape[-2], band.shape[-1]))

    def _refuse_pixelwise_options(self) -> None:
        """Refuse what is for scores of every pixel only."""
        given = {
            "tile": self.tile not in (None, "auto") and "tile" not in self.task.decoding,
            "flip": self.flip,
            "scales": self.scales != (1.0,),
            "refine": self.refine is not None,
        }
        if wrong := [name for name, is_given in given.items() if is_given]:
            raise ValueError(
                f"{wrong[0]} is for models that score every pixel of an image, not for the task "
                f"{self.task.name}"
            )


@dataclass(frozen=True)
class EmbeddedImage:
    """An image that a promptable model has looked at; see `Predictor.embed`.

    Attributes:
        image: as the model saw it, in [0, 1].
        name: path of the image where it has one.
        embedding: what the model keeps of it, on the device of the model.
    """

    image: Float[Tensor, "c H W"]
    name: str
    embedding: Embedding


def _in_float32(output: Any) -> Any:
    """The output with its scores in float32."""
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, output)


def task_of(model: Model, name: str | None, classes: ClassTable) -> Task:
    """The task called `name`, or the first of the model's that fits the classes.

    Raises:
        ValueError: if the model does not serve it, or has another number of classes than the table, or the
            table does not suit the task.
    """
    if name is None:
        several = [one for one in model.tasks if get_task(one).annotation is ClassMasks]
        name = several[0] if several and not classes.exclusive else model.tasks[0]
    task = get_task(name)
    if name not in model.tasks:
        raise ValueError(f"the model serves {', '.join(model.tasks)}, not {name}")
    if model.num_classes not in (None, len(classes)):
        raise ValueError(f"the model has {model.num_classes} classes, the class table {len(classes)}")
    if task.annotation is ClassMasks and classes.exclusive:
        raise ValueError(f"the task {name} needs a class table with exclusive=False")
    if task.annotation is LabelMap and not classes.exclusive:
        raise ValueError(
            f"the task {name} needs exclusive classes (one per pixel), this table has exclusive=False"
        )
    task.check(classes)
    return task


def _joined(parts: Sequence[Annotation]) -> Annotation:
    """Dense annotations of bands of rows, one below the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, LabelMap):
        return LabelMap(torch.cat([part.labels for part in parts if isinstance(part, LabelMap)]))
    assert isinstance(first, ClassMasks)
    masks = [part for part in parts if isinstance(part, ClassMasks)]
    probabilities = [part.probabilities for part in masks if part.probabilities is not None]
    return ClassMasks(
        torch.cat([part.masks for part in masks], dim=1),
        torch.cat(probabilities, dim=1) if probabilities else None,
    )


def _check_tile(tile: Size, overlap: int, axes: tuple[int, ...]) -> None:
    if len(tile) not in axes or not all(1 <= side <= _LONGEST_TILE for side in tile):
        raise ValueError(f"a tile has a height and a width of 1 to {_LONGEST_TILE} pixels, got {tile}")
    if not 0 <= overlap < min(tile):
        raise ValueError(f"the overlap must be at least 0 and smaller than the tile {tile}, got {overlap}")


def _place(model: Model, device: str | torch.device) -> torch.device:
    """Move the model to `device` ("auto": leave it) and tell where it is."""
    if device != "auto":
        try:
            model.to(torch.device(device))
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}"
            ) from error
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
