"""The one LightningModule: model, criterion and metrics put together."""

import math
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from ..decode import semantic
from ..losses import Criterion
from ..metrics import Scores, SegmentationMetrics
from ..types import Batch, ClassTable, DenseLogits, DenseModel
from .optim import Optimization, freeze


class NonFiniteLoss(ValueError):
    """The loss became nan or infinite: training cannot go on."""


class WeightedMean(Metric):
    """Mean of numbers with weights, over all processes; nan without any.

    Not torchmetrics' `MeanMetric`: it drops nan or, told not to look for it, the weights (1.9.0).
    """

    full_state_update = False
    total: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Float[Tensor, ""], weight: int) -> None:
        """Count a number `weight` times."""
        self.total = self.total + value.float() * weight
        self.weight = self.weight + weight

    def compute(self) -> Float[Tensor, ""]:
        """The mean."""
        return self.total / self.weight


class TrainingModule(lightning.LightningModule):
    """What is trained, how it is judged and how it learns. All parts are given.

    Logs "train_loss", "val_loss" and the scores as "val_mean_iou" and so on. The validation loss is the mean
    over labelled pixels, so it does not depend on how images are batched (for cross-entropy without weights).

    Args:
        model: scores every pixel.
        criterion: takes its output and a batch, gives the loss.
        classes: the task.
        optimization: settings of the optimiser.
        frozen: parts of the model that are not trained, see `freeze`.
        channels_last: whether images lie in memory pixel by pixel.

    Raises:
        ValueError: if model and table differ in classes, or a frozen part does not exist.
    """

    def __init__(
        self,
        model: DenseModel,
        criterion: Criterion,
        classes: ClassTable,
        optimization: Optimization,
        *,
        frozen: tuple[str, ...] = (),
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        if model.num_classes != len(classes):
            raise ValueError(f"the model has {model.num_classes} classes, the class table {len(classes)}")
        self.classes, self.optimization = classes, optimization
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model: DenseModel = model.to(memory_format=self.layout)
        self.criterion = criterion
        self.metrics = SegmentationMetrics(classes)
        self.mean_train_loss, self.mean_val_loss = WeightedMean(), WeightedMean()
        self.scores: Scores | None = None
        self.last_loss = math.nan
        self._frozen = freeze(model, frozen)
        self.train()

    def train(self, mode: bool = True) -> "TrainingModule":
        """Training mode for all that is trained; frozen parts stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """What the model makes of images in [0, 1]."""
        output: DenseLogits = self.model(image.contiguous(memory_format=self.layout))
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch.

        Raises:
            NonFiniteLoss: if it is nan or infinite; says where.
        """
        loss: Tensor = self.criterion(self(batch.image), batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLoss(self._where(value, batch))
        self.last_loss = value
        self.mean_train_loss.update(loss.detach(), len(batch.ids))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch."""
        self.train_loss = float(self.mean_train_loss.compute())
        self.mean_train_loss.reset()
        self.log("train_loss", self.train_loss, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of whole images."""
        output = self(batch.image)
        if labelled := int((batch.labels != self.classes.ignore).sum()):
            self.mean_val_loss.update(self.criterion(output, batch), labelled)
        coarse = DenseLogits(output.coarse.float(), output.size, (), output.align_corners)
        self.metrics.update(semantic(coarse).labels, batch.labels, batch.ids)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        self.val_loss, self.scores = float(self.mean_val_loss.compute()), self.metrics.compute()
        self.mean_val_loss.reset()
        self.metrics.reset()
        self.log("val_loss", self.val_loss, sync_dist=True)
        named = {f"val_{name}": score for name, score in self.scores.as_dict().items()}
        self.log_dict(named, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule, stepped together."""
        optimizer, schedule = self.optimization.make(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def lr(self) -> float:
        """Learning rate of the next step outside the encoder."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        return float(optimizer.param_groups[-1]["lr"])

    def _where(self, value: float, batch: Batch) -> str:
        ids = ", ".join(batch.ids[:8]) + (", ..." if len(batch.ids) > 8 else "")
        before = f"{self.last_loss:.4g}" if math.isfinite(self.last_loss) else "none"
        return (
            f"the loss became {value} in epoch {self.current_epoch + 1}, step {self.global_step + 1} "
            f"(learning rate {self.lr:.3g}, last finite loss {before}, samples {ids}): a lower learning "
            "rate, warm-up steps or clip_norm may help"
        )
