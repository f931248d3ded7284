"""What was found in one image, and the files people want of it."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16
from PIL import Image
from torch import Tensor

from ..data.formats.raster import describe, has_rasterio, is_geotiff, read_raster
from ..files import atomic_write
from ..tasks import Task
from ..types import Annotation, ClassTable, LabelMap

OVERLAY, PROBABILITIES = "_overlay.png", "_probabilities.npz"  # ends of names, whatever the task
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Prediction:
    """What was found in one image. Everything is on the CPU.

    Attributes:
        annotation: of the type of the task: a `LabelMap` for one class per pixel, a `MaskSet` for instances,
            ...
        task: what was asked.
        classes: what the labels mean.
        image: as the model saw it, in [0, 1].
        id: path of the image where it has one.
        probabilities: one per class and pixel, where they were asked for.
    """

    annotation: Annotation
    task: Task
    classes: ClassTable
    image: Float[Tensor, "c *grid"]
    id: str
    probabilities: Float[Tensor, "k *grid"] | None = None

    @property
    def label_map(self) -> LabelMap:
        """The annotation, where it is one class per pixel.

        Raises:
            ValueError: if it is of another kind.
        """
        if not isinstance(self.annotation, LabelMap):
            raise ValueError(f"this prediction is a {type(self.annotation).__name__}: see `annotation`")
        return self.annotation

    @property
    def confidence(self) -> Float[Tensor, "*grid"]:
        """Probability of the class that was chosen.

        Raises:
            ValueError: if the prediction was made without `probabilities=True`.
        """
        if self.probabilities is None:
            raise ValueError("there is no confidence without probabilities: predict with probabilities=True")
        return self.probabilities.amax(0)

    def overlay(self, **options: Any) -> Image.Image:
        """The image with what was found drawn on it; the options are those of the task's `draw`."""
        return self.task.draw(self.image, self.annotation, self.classes, **options)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overlay: bool = False,
        overwrite: bool = False,
        **options: Any,
    ) -> Path:
        """Write the prediction; what is written depends on the task and on the suffix of the name.

        One class per pixel: `mask.png` is a palette image of the labels, `labels.npy` an int32 array "H W".
        `street_overlay.png` is the image with the prediction drawn on it, `street_probabilities.npz` holds
        `probabilities` "k H W" as float16 and the `names` of the classes. Files appear whole or not at all.

        Args:
            path: of the file; parent folders are made.
            overlay: whether to draw whatever the name, then in any usual picture format.
            overwrite: whether an existing file may be replaced; never the image that was predicted.
            options: of the overlay, such as `clear=()` to tint the background too.

        Returns:
            The path.

        Raises:
            ValueError: if the name asks for something else, the file exists already, or it cannot be written.
        """
        self.writing(path, overlay=overlay, overwrite=overwrite, **options)()
        return Path(path)

    def writing(
        self,
        path: str | os.PathLike[str],
        *,
        overlay: bool = False,
        overwrite: bool = False,
        **options: Any,
    ) -> Callable[[], object]:
        """What `save` does, in two steps: the returned function writes the files.

        It touches NumPy arrays and files only, so that another thread may call it; what needs tensors is done
        at once. The arguments are those of `save`.

        Raises:
            ValueError: as `save`; of the returned function, if the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if overlay or path.stem.endswith("_overlay"):
            if suffix not in _PICTURES:
                raise ValueError(f"an overlay is a picture ({', '.join(_PICTURES)}), got {path.name!r}")
            self._check_target(path, overwrite)
            return partial(_write_picture, path, self.overlay(**options))
        if path.name.endswith(PROBABILITIES):
            if self.probabilities is None:
                raise ValueError(f"cannot write {path}: predict with probabilities=True")
            self._check_target(path, overwrite)
            return partial(
                _write_probabilities, path, self.probabilities.half().numpy(), np.array(self.classes.names)
            )
        suffix = suffix_of(path, self.task)
        writer = self.task.writers[suffix]
        for target in writer.files(path, self.classes):
            self._check_target(target, overwrite)
        annotation = _of_known_pixels(self.annotation, self.id, self.classes.ignore)
        if writer.prepare is not None:
            return partial(writer.write, path, writer.prepare(annotation), self.classes, self.id)
        writer.write(path, annotation, self.classes, self.id)
        return lambda: None

    def _check_target(self, path: Path, overwrite: bool) -> None:
        with suppress(OSError):  # one of them is no file
            if path.samefile(self.id):
                raise ValueError(f"{path} is the image that was predicted and is not overwritten")
        if not overwrite and os.path.lexists(path):
            raise ValueError(f"{path} exists already: save(..., overwrite=True) replaces it")


def _of_known_pixels(annotation: Annotation, image: str, ignore: int) -> Annotation:
    """Labels with the ignore label where the file of the image, a GeoTIFF, knows no value."""
    if not isinstance(annotation, LabelMap) or annotation.labels.ndim != 2:
        return annotation
    if not is_geotiff(image) or not has_rasterio() or not describe(Path(image)).holes:
        return annotation
    known = torch.from_numpy(read_raster(Path(image))[1])
    if known.shape != annotation.labels.shape or bool(known.all()):
        return annotation
    return LabelMap(torch.where(known, annotation.labels, ignore))


def _write_picture(path: Path, picture: Image.Image) -> None:
    with atomic_write(path) as temporary:
        picture.save(temporary)


def _write_probabilities(
    path: Path, probabilities: Float16[np.ndarray, "k *grid"], names: np.ndarray
) -> None:
    with atomic_write(path) as temporary:
        np.savez(temporary, probabilities=probabilities, names=names)


def files_of(path: Path, task: Task, classes: ClassTable) -> list[Path]:
    """The files that `Prediction.save` writes for this name.

    Raises:
        ValueError: if the task writes no such file.
    """
    if path.name.endswith((OVERLAY, PROBABILITIES)):
        return [path]
    return task.writers[suffix_of(path, task)].files(path, classes)


def suffix_of(path: Path, task: Task) -> str:
    """The suffix by which a prediction is written: the longest that the name ends in, such as .nii.gz.

    Raises:
        ValueError: if the task writes no such file.
    """
    name = path.name.lower()
    found = [suffix for suffix in task.writers if name.endswith(suffix)]
    if not found:
        known = ", ".join(task.writers)
        raise ValueError(
            f"cannot write {path.name!r}: a prediction of the task {task.name} is saved as {known}, or drawn "
            "as _overlay.png"
        )
    return max(found, key=len)
