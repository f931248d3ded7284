"""The one LightningModule: model, criterion and task put together."""

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, distributed

from ..losses import NoLoss, PaperCriterion
from ..tasks import Settings, Task
from ..tiling import bands, scores_of_any_size
from ..types import Batch, ClassMasks, ClassTable, DenseLogits, LabelMap, Model, Report
from .optim import Optimization, freeze

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of axes of a batch


class NonFiniteLoss(ValueError):
    """The loss became nan or infinite: training cannot go on."""


class MeanLosses:
    """Means of the parts of a loss, with weights, over all processes; nan where nothing was counted."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._weight = 0

    def update(self, parts: Mapping[str, Tensor], weight: int) -> dict[str, float]:
        """Count the parts of a loss `weight` times; gives them as numbers."""
        values = torch.stack([part.detach() for part in parts.values()]).tolist()
        named = dict(zip(parts, values, strict=True))
        for name, value in named.items():
            self._sums[name] += value * weight
        self._weight += weight
        return named

    def compute(self, name: str) -> dict[str, float]:
        """The mean loss as `name`, and each of its parts as `name_part`; forgets everything."""
        gathered: list[Any] = [(dict(self._sums), self._weight)]
        if distributed.is_available() and distributed.is_initialized():
            gathered = [None] * distributed.get_world_size()
            distributed.all_gather_object(gathered, (dict(self._sums), self._weight))
        self._sums, self._weight = defaultdict(float), 0
        weight = sum(own for _, own in gathered) or math.nan
        parts: dict[str, float] = defaultdict(float)
        for sums, _ in gathered:
            for part, value in sums.items():
                parts[part] += value / weight
        total = sum(parts.values()) if parts else math.nan
        return {name: total, **{f"{name}_{part}": value for part, value in parts.items()}}


class TrainingModule(lightning.LightningModule):
    """What is trained, how it is judged and how it learns. All parts are given.

    Logs "train_loss" and "val_loss", each part of them as "train_loss_dice" and so on, and the scores as
    "val_mean_iou" and so on. The validation loss is the mean over labelled pixels where targets are dense, so
    it does not depend on how images are batched (for cross-entropy without weights), else over images.

    Args:
        model: what is trained.
        criterion: takes its output and a batch, gives the loss.
        task: decodes, scores.
        classes: of the data.
        optimization: settings of the optimiser.
        decoding: settings of decoding that differ from the task's.
        val_tile: side in pixels of the tiles in which larger validation images are predicted; None for whole
            images.
        frozen: parts of the model that are not trained, see `freeze`.
        channels_last: whether images and volumes lie in memory pixel by pixel.

    Raises:
        ValueError: if model and table differ in classes, or a frozen part does not exist.
    """

    def __init__(
        self,
        model: Model,
        criterion: PaperCriterion,
        task: Task,
        classes: ClassTable,
        optimization: Optimization,
        *,
        decoding: Settings | None = None,
        val_tile: int | None = None,
        frozen: tuple[str, ...] = (),
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        if model.num_classes not in (None, len(classes)):
            raise ValueError(f"the model has {model.num_classes} classes, the class table {len(classes)}")
        self.task, self.classes, self.optimization = task, classes, optimization
        self.decoding, self.val_tile = task.decoding_with(decoding or {}), val_tile
        self.model, self.channels_last = model, channels_last
        if channels_last:
            for weights in model.parameters():
                if weights.ndim in _LAYOUTS:
                    weights.data = weights.data.contiguous(memory_format=_LAYOUTS[weights.ndim])
        self.criterion = criterion
        self.metrics = task.metrics(classes, task.scoring)
        self.train_means, self.val_means = MeanLosses(), MeanLosses()
        self.train_losses: dict[str, float] = {}
        self.val_losses: dict[str, float] = {}
        self.report: Report | None = None
        self.last_loss = math.nan
        self.last_parts: dict[str, float] = {}
        self._frozen = freeze(model, frozen)
        self.train()

    def train(self, mode: bool = True) -> "TrainingModule":
        """Training mode for all that is trained; frozen parts stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, batch: Batch) -> Any:
        """What the model makes of a batch."""
        if self.task.forward is not None:
            return self.task.forward(self.model, batch)
        image, *rest = self.model.inputs(batch)
        if self.channels_last:
            image = image.contiguous(memory_format=_LAYOUTS[image.ndim])
        if issubclass(self.model.output, DenseLogits) and not rest:
            return scores_of_any_size(self.model, image, self.model.minimum_size)
        return self.model(image, *rest)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch.

        Raises:
            NonFiniteLoss: if it is nan or infinite; says where.
        """
        self.model.progress(min(self.global_step / self.optimization.total_steps, 1.0))
        parts = self.criterion.parts(self(batch), batch)
        loss = torch.stack(list(parts.values())).sum()
        self.last_parts = self.train_means.update(parts, len(batch.ids))
        value = sum(self.last_parts.values())
        if not math.isfinite(value):
            raise NonFiniteLoss(self._where(value, batch))
        self.last_loss = value
        return loss

    def on_train_epoch_start(self) -> None:
        """Forget the scores of earlier epochs: not every epoch has a validation."""
        self.val_losses, self.report = {}, None

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch."""
        self.train_losses = self.train_means.compute("train_loss")
        self.log_dict(self.train_losses, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of whole images.

        No validation loss is told where a task infers images in parts, or an output of evaluation has none.
        """
        if self.task.infer is not None:
            found = [
                self.task.infer(self.model, sample, self.classes, self.decoding) for sample in batch.samples
            ]
            self.metrics.update(found, batch.annotations, batch.ids)
            return
        if self.val_tile is not None and max(batch.image.shape[2:]) > self.val_tile:
            self.metrics.update([self._in_tiles(batch, self.val_tile)], batch.annotations, batch.ids)
            return
        output = self(batch)
        if weight := self._labelled(batch):
            with suppress(NoLoss):
                self.val_means.update(self.criterion.parts(output, batch), weight)
        predictions = self.task.decode(output, self.classes, self.decoding)
        self.metrics.update(predictions, batch.annotations, batch.ids)

    def _in_tiles(self, batch: Batch, side: int) -> LabelMap | ClassMasks:
        """The annotation of one large image, a band of tiles at a time.

        Raises:
            ValueError: if there are several images, or the annotation is no map of classes.
        """
        if len(batch.ids) > 1:
            raise ValueError(f"val_tile needs a val_batch_size of 1, got {len(batch.ids)}")
        found = []
        for band in bands(self.model, batch.image, (side, side), side // 8):
            rows = DenseLogits(band, (band.shape[2], band.shape[3]))
            found.append(self.task.decode(rows, self.classes, self.decoding)[0])
        maps = [one.labels for one in found if isinstance(one, LabelMap)]
        masks = [one.masks for one in found if isinstance(one, ClassMasks)]
        if len(maps) == len(found):
            return LabelMap(torch.cat(maps))
        if len(masks) == len(found):
            return ClassMasks(torch.cat(masks, 1))
        raise ValueError(f"val_tile is for maps of classes, not for {type(found[0]).__name__}")

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        self.val_losses, self.report = self.val_means.compute("val_loss"), self.metrics.compute()
        self.metrics.reset()
        self.log_dict(self.val_losses, sync_dist=True)
        self.log_dict({f"val_{name}": score for name, score in self.report.values.items()}, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule, stepped together."""
        optimizer, schedule = self.optimization.make(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def lr(self) -> float:
        """Learning rate of the next step outside the encoder."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        return float(optimizer.param_groups[-1]["lr"])

    def _labelled(self, batch: Batch) -> int:
        """What the loss of a batch weighs in the mean: labelled pixels of dense targets, else images."""
        if isinstance(batch.target, LabelMap | ClassMasks):
            return int((batch.labels != self.classes.ignore).sum())
        return len(batch.ids)

    def _where(self, value: float, batch: Batch) -> str:
        ids = ", ".join(batch.ids[:8]) + (", ..." if len(batch.ids) > 8 else "")
        before = f"{self.last_loss:.4g}" if math.isfinite(self.last_loss) else "none"
        return (
            f"the loss became {value} in epoch {self.current_epoch + 1}, step {self.global_step + 1} "
            f"(learning rate {self.lr:.3g}, last finite loss {before}, samples {ids}): a lower learning "
            "rate, warm-up steps or clip_norm may help"
        )
