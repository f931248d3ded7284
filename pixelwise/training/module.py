"""The one LightningModule: model, criterion and metrics put together."""

import math
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric

from ..decode import semantic
from ..losses import Criterion
from ..metrics import Scores, SegmentationMetrics
from ..types import Batch, ClassTable, DenseLogits, DenseModel
from .optim import Optimization, freeze


class NonFiniteLoss(ValueError):
    """The loss became nan or infinite: training cannot go on."""


class WeightedMeans(Metric):
    """Means of named numbers with weights, over all processes; nan without any.

    All processes must update with the same names. Not torchmetrics' `MeanMetric`: it drops nan or, told not
    to look for it, the weights (1.9.0).
    """

    full_state_update = False
    totals: Float[Tensor, " n"]
    weight: Float[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("totals", torch.zeros(0), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Float[Tensor, ""]], weight: int) -> None:
        """Count each number `weight` times; with weight 0, only its name."""
        if not len(self.totals):
            self.names, self.totals = tuple(values), self.weight.new_zeros(len(values))
        if weight:
            self.totals = self.totals + torch.stack(list(values.values())).float() * weight
            self.weight = self.weight + weight

    def compute(self) -> dict[str, float]:
        """The means, by name."""
        return dict(zip(self.names, (self.totals / self.weight).tolist(), strict=True))


class TrainingModule(lightning.LightningModule):
    """What is trained, how it is judged and how it learns. All parts are given.

    Logs "train_loss" and "val_loss", each part of them as "train_loss_dice" and so on, and the scores as
    "val_mean_iou" and so on. The validation loss is the mean over labelled pixels, so it does not depend on
    how images are batched (for cross-entropy without weights).

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
        self.model: nn.Module = model.to(memory_format=self.layout)
        self.criterion = criterion
        self.metrics = SegmentationMetrics(classes)
        self.train_means, self.val_means = WeightedMeans(), WeightedMeans()
        self.train_losses: dict[str, float] = {}
        self.val_losses: dict[str, float] = {}
        self.scores: Scores | None = None
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

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """What the model makes of images in [0, 1]."""
        output: DenseLogits = self.model(image.contiguous(memory_format=self.layout))
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch.

        Raises:
            NonFiniteLoss: if it is nan or infinite; says where.
        """
        parts = self.criterion.parts(self(batch.image), batch)
        loss = torch.stack(list(parts.values())).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLoss(self._where(value, batch))
        self.last_loss = value
        self.last_parts = {name: float(part.detach()) for name, part in parts.items()}
        self.train_means.update(_named("train", loss, parts), len(batch.ids))
        return loss

    def on_train_epoch_start(self) -> None:
        """Forget the scores of earlier epochs: not every epoch has a validation."""
        self.val_losses, self.scores = {}, None

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch."""
        self.train_losses = self.train_means.compute()
        self.train_means.reset()
        self.log_dict(self.train_losses, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of whole images."""
        output = self(batch.image)
        labelled = int((batch.labels != self.classes.ignore).sum())
        parts = self.criterion.parts(output, batch)
        self.val_means.update(_named("val", torch.stack(list(parts.values())).sum(), parts), labelled)
        coarse = DenseLogits(output.coarse.float(), output.size, (), output.align_corners)
        self.metrics.update(semantic(coarse).labels, batch.labels, batch.ids)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        self.val_losses, self.scores = self.val_means.compute(), self.metrics.compute()
        self.val_means.reset()
        self.metrics.reset()
        named = {f"val_{name}": score for name, score in self.scores.as_dict().items()}
        self.log_dict({**self.val_losses, **named}, sync_dist=True)

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


def _named(
    stage: str, loss: Float[Tensor, ""], parts: Mapping[str, Float[Tensor, ""]]
) -> dict[str, Float[Tensor, ""]]:
    """A loss and its parts by the names under which they are logged."""
    named = {f"{stage}_loss": loss, **{f"{stage}_loss_{name}": part for name, part in parts.items()}}
    return {name: value.detach() for name, value in named.items()}
