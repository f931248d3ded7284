"""Promptable segmentation: a mask for each point or box that a person gives.

Models are `PromptableModel`s; `Predictor.embed` looks at an image once, `Predictor.masks` answers prompts.
Training and scores need nobody who clicks: clicks are simulated on annotated objects, the first one anywhere
on the object (in scores in its middle), each further one where the mask is wrong (SAM, Sec. 3 and App. A;
RITM, Sofiiuk et al. 2022, Sec. 4).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from .. import draw_objects
from ..files import atomic_write
from ..losses import AnsweredClicks
from ..planning import DataFacts, MachineFacts, Planning, Rung
from ..rle import RleMasks, run_lengths
from ..types import (
    Annotation,
    Batch,
    ClassTable,
    MaskSet,
    Model,
    PromptableModel,
    PromptMasks,
    Prompts,
    Report,
    Sample,
    value,
)
from . import instance
from .clicks import anywhere, best_of, clicked, in_the_middle, noisy_boxes
from .task import Network, Settings, Task, TaskMetrics, Writer

CLICKS_IN_TRAINING = 4
OBJECTS_IN_TRAINING = 12  # of an image in one step, chosen by chance
LEAST_IN_TRAINING = 16  # pixels of an object; smaller ones are mostly what a crop left of larger ones
OBJECTS_AT_ONCE = 16  # of an image when it is scored
TOLD = (1, 3, 5, 8)  # clicks after which the mean IoU is told
GOALS = (0.85, 0.90)  # IoU up to which clicks are counted


@value
class ClickedMasks(MaskSet):
    """Masks after the last of some clicks.

    Attributes:
        rounds: the masks after each click, the last among them.
        prompts: what a picture shows of clicks and boxes.
    """

    rounds: tuple[RleMasks, ...] = ()
    prompts: Prompts | None = None


class PromptMetrics(TaskMetrics):
    """IoU of the mask of each prompt with the object that was meant: masks and objects in one order.

    Where masks are known after each of several clicks, also the mean IoU after 1, 3, 5 and 8 of them, and the
    mean number of clicks until an IoU is reached (NoC), where an object that never reaches it counts as all.
    """

    iou_sum: Float[Tensor, " r"]
    clicks_sum: Float[Tensor, " g"]
    count: Float[Tensor, ""]
    rounds: Float[Tensor, ""]
    MOST = 64  # clicks

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.add_state("iou_sum", torch.zeros(self.MOST, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clicks_sum", torch.zeros(len(GOALS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rounds", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; see `TaskMetrics`."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, MaskSet)
            assert isinstance(target, MaskSet)
            if (len(prediction), prediction.size) != (len(target), target.size):
                raise ValueError(
                    f"{name}: {len(target)} objects of {target.size} pixels need as many masks of that size, "
                    f"got {len(prediction)} of {prediction.size}"
                )
            rounds = prediction.rounds if isinstance(prediction, ClickedMasks) else ()
            there = run_lengths(target)
            told = [_iou_in_order(one, there) for one in rounds or (run_lengths(prediction),)]
            iou = torch.from_numpy(np.stack(told)).to(self.iou_sum)
            self.iou_sum[: len(iou)] += iou.sum(1)
            reached = iou[None] >= iou.new_tensor(GOALS)[:, None, None]  # goals, clicks, objects
            first = torch.where(reached.any(1), reached.double().argmax(1) + 1.0, float(len(iou)))
            self.clicks_sum += first.sum(1).to(self.clicks_sum)
            self.count += len(target)
            self.rounds = torch.maximum(self.rounds, self.rounds.new_tensor(float(len(iou))))

    def compute(self) -> Report:
        """Means over objects."""
        rounds, count = int(self.rounds), float(self.count) or float("nan")
        means = [float(one) / count for one in self.iou_sum[: max(rounds, 1)]]
        values = {"mean_iou": means[-1]}
        if rounds > 1:
            values |= {f"mean_iou_{n}": means[n - 1] for n in TOLD if n <= rounds}
            goals = zip(GOALS, self.clicks_sum.tolist(), strict=True)
            values |= {f"noc_{goal * 100:.0f}": clicks / count for goal, clicks in goals}
        told = f" after {rounds} clicks; NoC counts at most {rounds}" if rounds > 1 else ""
        return Report(values, {}, note=f"IoU of each prompt's mask{told}.")


def _iou_in_order(found: RleMasks, there: RleMasks) -> np.ndarray:
    """IoU of each mask with the one of its number; 1 where both are empty."""
    pairs = zip(found, there, strict=True)
    shared = np.array([one.iou(other)[0, 0] for one, other in pairs], np.float64)
    empty = (found.area == 0) & (there.area == 0)
    return np.where(empty, 1.0, shared)


# --- training and scores --------------------------------------------------------------------------


def answered(model: Model, batch: Batch) -> AnsweredClicks:
    """What a network answers to simulated clicks and boxes on some objects of each image of a batch."""
    assert isinstance(model, PromptableModel)
    samples = batch.samples
    rounds, targets = [], []
    seen = model.embed_all([one.image for one in samples])
    for sample, embedding in zip(samples, seen, strict=True):
        assert isinstance(sample.target, MaskSet)
        chosen = _usable(sample.target, LEAST_IN_TRAINING)
        chosen = chosen[torch.randperm(len(chosen))[:OBJECTS_IN_TRAINING]]
        if not len(chosen):
            continue
        some = sample.target.take(chosen)
        objects = some.dense.to(sample.image.device)
        boxes = None
        if torch.rand(()) < 0.5:
            boxes = noisy_boxes(some.boxes.boxes.to(sample.image.device), some.size)
        answers = clicked(model, embedding, objects, CLICKS_IN_TRAINING, anywhere, boxes)
        rounds += answers
        targets += [objects.float()] * len(answers)
    nothing = torch.stack([0.0 * map.sum() for one in seen for map in one.maps]).sum()
    return AnsweredClicks(tuple(rounds), tuple(targets), nothing)


def inferred(network: Network, sample: Sample, classes: ClassTable, settings: Settings) -> ClickedMasks:
    """Masks of the annotated objects of an image after each of some clicks.

    Args:
        network: a `PromptableModel`.
        sample: an image with its objects.
        classes: of one class.
        settings: `clicks`, how many.

    Raises:
        ValueError: if nobody knows the objects.
    """
    if not isinstance(network, PromptableModel) or not isinstance(sample.target, MaskSet):
        raise ValueError("clicks can be simulated where objects are annotated only: give prompts")
    image = sample.image.to(next(network.parameters()).device)
    (embedding,) = network.embed_all([image])
    usable = _usable(sample.target)
    rounds: list[list[np.ndarray]] = [[] for _ in range(settings["clicks"])]
    scores = torch.zeros(len(sample.target))
    seen: list[Prompts] = []
    for start in range(0, len(usable), OBJECTS_AT_ONCE):
        part = usable[start : start + OBJECTS_AT_ONCE]
        objects = sample.target.take(part).dense.to(image.device)
        answers = clicked(network, embedding, objects, settings["clicks"], in_the_middle)
        asked = answers[-1].prompts
        assert asked is not None
        answers = [best_of(one) for one in answers]
        found = [answer.logits[:, 0] > 0 for answer in answers]
        for known, masks in zip(rounds, found, strict=True):
            known.append(masks.cpu().numpy())
        seen.append(_needed(asked, found, objects))
        scores[part] = answers[-1].iou[:, 0].float().clamp(0, 1).cpu()
    sets = tuple(_placed(known, usable, sample.target) for known in rounds)
    none = torch.zeros(len(sample.target), dtype=torch.bool)
    shown = None
    if seen:
        points, labels = (
            torch.cat([getattr(one, name) for one in seen]) for name in ("points", "point_labels")
        )
        shown = Prompts.of(points, labels)
    return ClickedMasks(sets[-1], sample.target.classes.cpu(), scores, none, sets, shown)


def _needed(asked: Prompts, found: list[Bool[Tensor, "p H W"]], objects: Bool[Tensor, "p H W"]) -> Prompts:
    """The clicks until the mask of each object is good enough to be counted; later ones are left out."""
    assert asked.points is not None
    assert asked.point_labels is not None
    overlaps = [(one & objects).flatten(1).sum(1) / (one | objects).flatten(1).sum(1) for one in found]
    reached = torch.stack(overlaps) >= GOALS[0]
    last = torch.where(reached.any(0), reached.int().argmax(0), len(found) - 1)
    needed = torch.arange(len(found), device=last.device) <= last[:, None]
    return Prompts.of(asked.points.cpu(), torch.where(needed, asked.point_labels, -1).cpu())


def _usable(target: MaskSet, least: int = 1) -> Tensor:
    """Numbers of the objects that have so many pixels and are no crowds."""
    areas = torch.from_numpy(run_lengths(target).area)
    return torch.nonzero((areas >= least) & ~target.is_crowd.cpu())[:, 0]


def _placed(parts: list[np.ndarray], usable: Tensor, target: MaskSet) -> RleMasks:
    """Masks at the places of their objects; others, which nobody can click on, count as found."""
    there = run_lengths(target)
    if not parts:
        return there
    found = RleMasks.concatenate([RleMasks.encode(part) for part in parts])
    order = {int(place): number for number, place in enumerate(usable.tolist())}
    return RleMasks.concatenate([found[order[i]] if i in order else there[i] for i in range(len(there))])


def decoded(output: PromptMasks, classes: ClassTable, settings: Settings) -> tuple[MaskSet, ...]:
    """The masks of one image, in the order of the prompts; all of them have the first class.

    Args:
        output: candidates for each prompt.
        classes: of one class.
        settings: `all`, whether every candidate is kept; else the one of the highest expected IoU.
    """
    masks, scores = output.logits > 0, output.iou.float().clamp(0, 1)
    if settings["all"]:
        masks, scores = masks.flatten(0, 1), scores.flatten()
    else:
        scores, best = scores.max(1)
        masks = masks[torch.arange(len(masks), device=masks.device), best]
    labels = torch.zeros(len(masks), dtype=torch.int64, device=masks.device)
    none = torch.zeros_like(labels, dtype=torch.bool)
    return (ClickedMasks(masks, labels, scores, none, prompts=output.prompts),)


def write_npy(path: Path, masks: MaskSet, classes: ClassTable, image: str) -> None:
    """An array "n H W" of 0 and 1, uint8."""
    with atomic_write(path) as temporary:
        np.save(temporary, masks.dense.to(torch.uint8).cpu().numpy())


def write_png(path: Path, masks: MaskSet, classes: ClassTable, image: str) -> None:
    """One mask in black and white; of several a map of 16 bits: 1, 2, ... in the order of the prompts.

    Where masks overlap, that of the earlier prompt is seen.
    """
    dense = masks.dense.cpu().numpy()
    pixels = dense[0] * np.uint8(255) if len(dense) == 1 else np.zeros(masks.size, np.uint16)
    for number in range(len(dense), 0, -1) if len(dense) != 1 else ():
        pixels[dense[number - 1]] = number
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def draw(image: Float[Tensor, "c H W"], masks: MaskSet, classes: ClassTable) -> Image.Image:
    """Every mask, however unsure, and what was pointed at.

    Of simulated clicks those are shown that an IoU of 85 percent took.
    """
    drawn = draw_objects.instances(image, masks, classes, min_score=0.0)
    prompts = masks.prompts if isinstance(masks, ClickedMasks) else None
    return drawn if prompts is None else draw_objects.prompts(drawn, prompts)


DEFAULTS: Settings = {**instance.DEFAULTS, "lr": 5e-4, "clip_norm": 1.0, "weight_decay": 0.05}


def ladder(data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """A small SAM; published weights are fine-tuned with `--init-from`."""
    return (Rung("sam", "sam", {"image_size": 256}),)


PROMPTABLE = Task(
    name="promptable",
    hub_name="mask-generation",
    annotation=MaskSet,
    formats=instance.INSTANCE.formats,
    criterion=instance.criterion,
    decode=decoded,
    metrics=PromptMetrics,
    monitor="mean_iou",
    transform=instance.transform,
    draw=draw,
    writers={
        ".json": instance.INSTANCE.writers[".json"],
        ".npy": Writer(write_npy),
        ".png": Writer(write_png),
    },
    decoding={"all": False, "clicks": TOLD[-1]},
    forward=answered,
    infer=inferred,
    defaults=DEFAULTS,
    planning=Planning(ladder, "SAM, small enough to be trained from random weights.", instance.RULES),
)
