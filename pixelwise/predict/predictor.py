"""From an image, in whatever form it comes, to a label map."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, get_args, overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .. import checkpoint, decode
from ..checkpoint import Checkpoint
from ..data.formats.image import MAX_PIXELS, Source, to_tensor
from ..types import ClassTable, DenseLogits, DenseModel, LabelMap
from .memory import available_memory, bytes_per_pixel, enough_memory, fitting_tile
from .prediction import Prediction
from .tiling import Network, Size, bands
from .tta import flipped, scaled
from .writing import overlay_of, plan, summary, write_predictions

S = TypeVar("S", bound=Source)
Precision = Literal["32", "bf16", "16"]
Refine = Callable[[Float[Tensor, "b k H W"], Float[Tensor, "b c H W"]], Float[Tensor, "b k H W"]]

_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
_LONGEST_TILE = 2**16  # pixels
_SURE = 1 << 20  # pixels up to which nobody asks whether the image fits into memory


class Predictor:
    """Images of any kind and size -> predictions.

    The model is put into eval mode once, here, and stays in it; several threads may share a predictor.

    Args:
        model: a checkpoint's path, a run directory, a loaded checkpoint, or a model.
        classes: what the channels of the logits mean; needed beside a bare model only.
        device: "cpu", "cuda", "cuda:1", ...; "auto" leaves a given model where it is and takes a loaded
            checkpoint to a GPU if there is one.
        precision: "32", or "bf16" or "16" for mixed precision.
        tile: height and width of tiles in pixels; None for the whole image at once. "auto" takes the whole
            image where that fits into half of the free memory, going by a measurement on a small image, and
            else the largest tiles that do.
        overlap: pixels that neighbouring tiles share.
        flip: whether to average over the image and its mirror image.
        scales: factors of the image's size to average over.
        refine: what to do with the probabilities "b k H W" of images "b c H W", such as
            `pixelwise.algorithms.DenseCrf()`: gives probabilities again. It sees whole images, also with
            `tile`, so the probabilities of all classes must fit into memory.
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
        model: DenseModel | Checkpoint | str | os.PathLike[str],
        classes: ClassTable | None = None,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "32",
        tile: Size | Literal["auto"] | None = "auto",
        overlap: int = 64,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        refine: Refine | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        if isinstance(tile, tuple | list):
            _check_tile(tile, overlap)
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
        self.model, self.classes, self.precision = model.eval(), classes, precision
        self.device = _place(model, device)
        self.tile, self.overlap, self.refine, self.max_pixels = tile, overlap, refine, max_pixels
        self.flip, self.scales = flip, tuple(scales)
        self._network: Network = self._score
        if tuple(scales) != (1.0,):
            self._network = scaled(self._network, scales)
        if flip:
            self._network = flipped(self._network)

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

    def labels(self, images: Float[Tensor, "b c H W"]) -> LabelMap:
        """Segment a batch: labels "b H W" on the device of the model.

        Args:
            images: values in [0, 1].
        """
        if self.refine is not None:
            return LabelMap(self.probabilities(images).argmax(1))
        b, _, height, width = images.shape
        tile = self._tile_for(images)
        with enough_memory((height, width), tile):
            # A plain tensor: one made in inference mode could not be changed or used in autograd.
            labels = torch.empty(b, height, width, dtype=torch.long, device=self.device)
            with torch.inference_mode():
                if tile is None:
                    labels.copy_(decode.semantic(self._network(images.to(self.device))).labels)
                    return LabelMap(labels)
                top = 0
                for band in self._bands(images, tile):
                    labels[:, top : top + band.size[0]] = decode.semantic(band).labels
                    top += band.size[0]
        return LabelMap(labels)

    def probabilities(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b k H W"]:
        """Probability of every class at every pixel, on the device of the model.

        Args:
            images: values in [0, 1].

        Raises:
            ValueError: if they do not fit into memory.
        """
        tile = self._tile_for(images)
        with enough_memory((images.shape[-2], images.shape[-1]), tile):
            with torch.inference_mode():
                if tile is None:
                    found = decode.probabilities(self._network(images.to(self.device)))
                else:
                    found = torch.cat(
                        [decode.probabilities(band) for band in self._bands(images, tile)], dim=2
                    )
            found = found.clone()  # a plain tensor
            return found if self.refine is None else self.refine(found, images)

    def folder(
        self,
        source: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        suffix: str = ".png",
        overlay: bool = False,
        overwrite: bool = False,
        progress: bool = True,
    ) -> list[Path]:
        """Segment every image in a folder and its sub-folders, which `out` gets as well.

        An image that cannot be used does not stop the others. No file is lost: see `overwrite`.

        Args:
            source: folder of images.
            out: folder to write to.
            suffix: ".png" for palette images, ".npy" for arrays.
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
        jobs = plan([source], out, suffix)
        written = write_predictions(self, jobs, out, overlay=overlay, overwrite=overwrite, progress=progress)
        if written.problems:
            raise ValueError(summary(written.problems, len(jobs), out))
        if not overlay:
            return written.predictions
        return [path for target in written.predictions for path in (target, overlay_of(target))]

    def _one(self, source: Source, name: str, probabilities: bool) -> Prediction:
        image, name = self._read(source, name)
        try:
            if probabilities:
                found = self.probabilities(image[None])[0].cpu()
                return Prediction(LabelMap(found.argmax(0)), self.classes, image, name, found)
            labels = self.labels(image[None]).labels[0].cpu()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return Prediction(LabelMap(labels), self.classes, image, name)

    def _read(self, source: Source, name: str) -> tuple[Float[Tensor, "c H W"], str]:
        """The image with the channels that the model takes, and its name."""
        channels = self.model.in_channels
        if isinstance(source, str | os.PathLike):
            if Path(source).is_dir():
                raise ValueError(f"{source} is a folder: use predictor.folder(source, out)")
            return to_tensor(source, channels, max_pixels=self.max_pixels), str(Path(source))
        if isinstance(source, Image.Image):
            name = str(getattr(source, "filename", "")) or name
        try:
            return to_tensor(source, channels), name
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

    def _score(self, images: Float[Tensor, "b c H W"]) -> DenseLogits:
        """The model on its device, in its precision; scores come back in float32."""
        context: AbstractContextManager[object] = nullcontext()
        if self.precision in _AUTOCAST:
            context = torch.autocast(self.device.type, _AUTOCAST[self.precision])
        with context:
            output: DenseLogits = self.model(images.to(self.device))
        return output.to(torch.float32)

    def _bands(self, images: Float[Tensor, "b c H W"], tile: Size) -> Iterator[DenseLogits]:
        """The logits of the image from top to bottom, so that all of them never are in memory."""
        for band in bands(self._network, images, tile, self.overlap):
            yield DenseLogits(band, (band.shape[-2], band.shape[-1]))


def _check_tile(tile: Size, overlap: int) -> None:
    if len(tile) != 2 or not all(1 <= side <= _LONGEST_TILE for side in tile):
        raise ValueError(f"a tile has a height and a width of 1 to {_LONGEST_TILE} pixels, got {tile}")
    if not 0 <= overlap < min(tile):
        raise ValueError(f"the overlap must be at least 0 and smaller than the tile {tile}, got {overlap}")


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
