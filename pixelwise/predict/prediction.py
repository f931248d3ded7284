"""What was found in one image, and the files people want of it."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .. import draw
from ..data import write_mask
from ..files import atomic_write
from ..types import ClassTable, LabelMap

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

    def overlay(
        self, *, alpha: float = 0.5, contours: bool = False, clear: Sequence[str] | None = None
    ) -> Image.Image:
        """The image tinted with the colours of the classes but the background; see `draw.overlay`."""
        return draw.overlay(
            self.image, self.label_map, self.classes, alpha=alpha, contours=contours, clear=clear
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overlay: bool = False,
        clear: Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the prediction; what is written depends on the name.

        `mask.png` is a palette image of the labels, `labels.npy` an int32 array "H W", `street_overlay.png`
        the tinted image. The file appears whole or not at all.

        Args:
            path: of the file; parent folders are made.
            overlay: whether to write the tinted image whatever the name, then in any usual picture format.
            clear: classes that are not tinted, by default the background; see `draw.overlay`.
            overwrite: whether an existing file may be replaced; never the image that was predicted.

        Returns:
            The path.

        Raises:
            ValueError: if the name asks for something else, the file exists already, or it cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        is_overlay = overlay or path.stem.endswith("_overlay")
        if is_overlay and suffix not in _PICTURES:
            raise ValueError(f"an overlay is a picture ({', '.join(_PICTURES)}), got {path.name!r}")
        if not is_overlay and suffix not in (".png", ".npy"):
            raise ValueError(
                f"cannot write {path.name!r}: a prediction is saved as .png (labels with a palette), "
                "_overlay.png (tinted image) or .npy (array of labels)"
            )
        self._check_target(path, overwrite)
        if is_overlay:
            with atomic_write(path) as temporary:
                self.overlay(clear=clear).save(temporary)
        elif suffix == ".png":
            write_mask(path, self.label_map, self.classes)
        else:
            with atomic_write(path) as temporary:
                np.save(temporary, self.label_map.labels.to(torch.int32).numpy())
        return path

    def _check_target(self, path: Path, overwrite: bool) -> None:
        with suppress(OSError):  # one of them is no file
            if path.samefile(self.id):
                raise ValueError(f"{path} is the image that was predicted and is not overwritten")
        if not overwrite and os.path.lexists(path):
            raise ValueError(f"{path} exists already: save(..., overwrite=True) replaces it")
