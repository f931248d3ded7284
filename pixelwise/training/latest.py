"""Pictures of what a network says while it is trained, for those who watch."""

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from time import monotonic

import lightning
from lightning.pytorch.callbacks import Callback
from PIL import Image

from ..data import SegmentationData
from ..draw import side_by_side
from ..files import atomic_write, make_folder
from ..predict import Predictor
from ..report import Example
from .ema import WeightAverage
from .module import TrainingModule

PICTURES = "pictures"
_SHARE = 20  # pictures are drawn again after this many times what they took
_SIDE = 480  # pixels of a panel at most


class LatestPictures(Callback):
    """Draws some validation images with truth, prediction and errors after validations.

    They take at most about a twentieth of the time of training: after a validation that follows too soon they
    stay as they are. Volumes are not drawn. If drawing fails, the training goes on without pictures.

    Args:
        path: run directory.
        data: the validation part.
        average: holds the averaged weights, which are looked at in place of the model's; None for no average.
        count: number of images.
    """

    def __init__(
        self, path: Path, data: SegmentationData, *, average: WeightAverage | None = None, count: int = 3
    ) -> None:
        self.path, self.data, self.average, self.count = path, data, average, count
        self._next = -math.inf

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw, if there was a validation."""
        assert isinstance(pl_module, TrainingModule)
        began = monotonic()
        if pl_module.report is None or not trainer.is_global_zero or began < self._next:
            return
        modes = [(part, part.training) for part in pl_module.model.modules()]
        try:
            with self.average.inside(pl_module.model) if self.average is not None else nullcontext():
                self._draw(pl_module)
        except (ValueError, RuntimeError, OSError) as error:
            print(f"no pictures of the latest predictions: {str(error)[:200]}", file=sys.stderr)
            self._next = math.inf
            return
        finally:
            for part, mode in modes:
                part.training = mode
        now = monotonic()
        self._next = now + _SHARE * (now - began)

    def _draw(self, module: TrainingModule) -> None:
        task = module.task
        predictor = Predictor(module.model, module.classes, task=task.name, decoding=module.decoding)
        data = self.data.with_channels(module.model.in_channels)
        count = min(self.count, len(data))
        folder = make_folder(self.path / PICTURES)
        for number in range(count):
            sample = data[number * len(data) // count]
            if sample.image.ndim != 3 or sample.target is None:
                self._next = math.inf
                return
            found = predictor.annotations([sample])[0].to("cpu")
            example = Example(sample.id, math.nan, sample.image, sample.target, found, task, sample.spacing)
            panels = [(caption, _small(panel)) for caption, panel in example.panels(module.classes)]
            with atomic_write(folder / f"latest_{number + 1}.png") as temporary:
                side_by_side(panels).save(temporary, "PNG")


def _small(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    return picture
