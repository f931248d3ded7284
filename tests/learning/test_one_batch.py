"""Each model can learn one tiny batch by heart: its output, loss, gradients and decoding fit together.

The models are those that the registry knows. A new model is tested by this without a new line; a new task
needs its batch. A few run by default; all others are slow.
"""

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import pixelwise as pw
from pixelwise import models
from pixelwise.decode import semantic
from pixelwise.registry import build, describe, list_models, taken_by
from pixelwise.tasks import TASKS, Task
from pixelwise.training import Optimization, Recipe
from pixelwise.types import (
    Batch,
    ClassMasks,
    ClassTable,
    Keypoints,
    LabelMap,
    MaskSet,
    Model,
    PanopticMap,
    Skeleton,
)

CLASSES = ClassTable(
    ("wall", "box", "door"),
    ((0, 0, 0), (255, 0, 0), (0, 255, 0)),
    things=(1, 2),
    skeleton=Skeleton(("a", "b")),
)
# Detectors, and networks without norms, take smaller steps.
RATES = (0.02, 0.006, 0.003, 0.001, 0.0005)
CAREFUL = (0.003, 0.001, 0.006, 0.02)  # of networks that take long
# A decoder with a quarter of the tiny encoder's channels has one channel, and cannot tell three classes.
ENCODERS = ("tiny", "resnet18")
SLICES = "volume_slices"  # are images of one class per pixel to a network
STEPS = 60
# Steps of networks that match a set, look at random patches, point at centres, look for objects at every
# place, have no norms in many layers, or train only a few narrow ones: they take longer.
LONG = {
    "CenterMask": 200, "CondInst": 200, "DETR": 2000, "DETRPanoptic": 2000, "DeepMask": 400, "Dilation": 200,
    "ESPNetv2": 150, "FastRCNN": 500, "FCOS": 200, "HRNetV2p": 150, "KeypointRCNN": 200, "MaskFormer": 200,
    "PanopticDeepLab": 400, "PolarMask": 200, "RetinaMask": 500, "RetinaNet": 500, "ShapeMask": 500,
    "SharpMask": 200, "SOLOv2": 200, "TensorMask": 200, "YOLACT": 200, "YOLACTPlus": 200,
}  # fmt: skip
# In the default run; all others are slow.
QUICK = {
    ("deeplabv3", "multilabel"), ("deeplabv3", "semantic"), ("fcn", "semantic"), ("hrnet_pose", "keypoints"),
    ("linknet", "semantic"), ("mask_rcnn", "instance"), ("modnet", "multilabel"), ("pspnet", "semantic"),
    ("setr_naive", "multilabel"), ("setr_naive", "semantic"), ("simplebaseline", "keypoints"),
    ("unet", "multilabel"), ("unet", "semantic"),
}  # fmt: skip
SMALL: dict[str, object] = {
    "encoder": "tiny", "width": 8, "min_size": None, "stacks": 1, "modules": (1, 1, 1), "blocks": 1,
    "steps": 1, "units": 2, "num_classes": 3, "num_joints": 2, "things": (1, 2), "min_stuff_area": 1,
    "num_queries": 6, "patch": 96, "size": None,
}  # fmt: skip
# Their maps of masks, or vectors behind a dropout, must tell more than eight numbers can.
WIDTHS = {
    "deepmask": 128, "detr_panoptic": 32, "fast_rcnn": 128, "sharpmask": 64, "tensormask": 32, "yolact": 32,
    "yolact_plus": 32,
}  # fmt: skip
WINDOW = {"deconvnet": 64, "swin_upernet": 4, "hrformer": 4}  # of the image, or of a map


def scene() -> Batch:
    """Two images of 64 x 64 with three colours in boxes, and a border that is ignored."""
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[0, 8:40, 8:40], labels[0, 32:64, 40:64] = 1, 2
    labels[1, 24:56, 16:64], labels[1, 0:24, 0:24] = 1, 2
    colors = torch.tensor([[0.2, 0.3, 0.4], [0.8, 0.3, 0.2], [0.3, 0.8, 0.6]])
    image = colors[labels].permute(0, 3, 1, 2) + 0.05 * torch.randn(2, 3, 64, 64)
    labels[:, :2] = 255
    return Batch.of(image.clamp(0, 1).contiguous(), labels)


def layers() -> Batch:
    batch = scene()
    masks = torch.stack(
        [torch.where(batch.labels == 255, 255, (batch.labels == k).long()) for k in range(3)], 1
    )
    return replace(batch, target=ClassMasks(masks))


def objects_of(labels: Tensor) -> MaskSet:
    return MaskSet.of(torch.stack([labels == 1, labels == 2]), torch.tensor([1, 2]))


def instances() -> Batch:
    batch = scene()
    return replace(batch, target=tuple(map(objects_of, batch.labels)))


def boxes() -> Batch:
    batch = scene()
    return replace(batch, target=tuple(objects_of(labels).boxes for labels in batch.labels))


def panorama() -> Batch:
    batch = scene()
    maps = [torch.where(labels == 255, 0, labels + 1) for labels in batch.labels]
    ids = torch.tensor([1, 2, 3])
    return replace(batch, target=tuple(PanopticMap.of(one, ids, ids - 1) for one in maps))


def joints() -> Batch:
    """Two crops of one object each, with a bright dot at either joint."""
    image, targets = 0.1 * torch.rand(2, 3, 64, 64), []
    for number, points in enumerate(torch.tensor([[[16.0, 20], [44, 40]], [[40.0, 12], [24, 52]]])):
        for channel, (x, y) in enumerate(points.long().tolist()):
            image[number, channel, y - 4 : y + 5, x - 4 : x + 5] = 1
        box = torch.tensor([[8.0, 4, 56, 60]])
        area, none = torch.tensor([48.0 * 56]), torch.tensor([False])
        targets.append(Keypoints(points[None], torch.full((1, 2), 2.0), torch.ones(1), area, box, none))
    return Batch.of(image, targets)


def volume() -> Batch:
    labels = torch.zeros(1, 16, 16, 32, dtype=torch.long)
    labels[0, 2:12, 4:12, 8:28], labels[0, 12:16] = 1, 2
    image = labels[:, None] / 2 + 0.05 * torch.randn(1, 1, 16, 16, 32)
    return Batch.of(image, LabelMap(labels))


BATCHES: dict[str, Callable[[], Batch]] = {
    "semantic": scene,
    "multilabel": layers,
    "instance": instances,
    "detection": boxes,
    "panoptic": panorama,
    "keypoints": joints,
    "keypoint_detection": joints,
    "volume": volume,
}


def models_and_tasks() -> list[object]:
    """Every model with every task that it serves."""
    pairs = [(name, task) for name in filter(is_asked, list_models()) for task in describe(name).tasks]
    pairs = [pair for pair in pairs if pair[1] != SLICES]
    assert set(pairs) >= QUICK
    return [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in pairs]


def kind_of(name: str) -> str:
    """The name of the class of a model."""
    return getattr(signature(getattr(models, name)).return_annotation, "__name__", "")


def takes_encoder(name: str) -> bool:
    """Whether a builder takes an encoder, so that a small one can be given."""
    return "encoder" in signature(getattr(models, name)).parameters


def siblings(name: str) -> list[str]:
    """The builders that give the same class."""
    return [other for other in list_models() if kind_of(other) == kind_of(name)]


def has_norms(name: str) -> bool:
    """Whether norms keep the scale of the maps, so that large steps can be tried first."""
    with torch.device("meta"):
        model = build(name, **taken_by(name, small(name)))
    return any(
        isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm)) for module in model.modules()
    )


def is_asked(name: str) -> bool:
    """Whether a model is trained here; see `LONG`, and test_promptable.py for clicks.

    Where one builder of a class takes an encoder, the others are that network with a larger one.
    """
    if describe(name).tasks == ("promptable",):
        return False
    return takes_encoder(name) or not any(map(takes_encoder, siblings(name)))


def small(name: str) -> dict[str, object]:
    """`SMALL` with what differs for a model."""
    own = {"window": WINDOW.get(name), "width": WIDTHS.get(name)}
    return SMALL | {key: value for key, value in own.items() if value is not None}


@pytest.mark.parametrize("name, task", models_and_tasks())
def test_a_model_overfits_one_batch(name: str, task: str) -> None:
    assert task in BATCHES, f"a batch of the task {task} is needed here"
    torch.manual_seed(0)
    data = BATCHES[task]()
    encoders = ENCODERS if takes_encoder(name) else ENCODERS[:1]
    rates = CAREFUL if kind_of(name) in LONG else RATES if has_norms(name) else RATES[::-1]
    for encoder, rate in product(encoders, rates):
        start, end, right = learn(name, TASKS[task], data, encoder, rate)
        if end < 0.4 * start and right > 0.75:
            return
    pytest.fail(f"the loss went from {start:.3f} to {end:.3f}, the score is {right:.3f}")


@pytest.mark.parametrize(
    "loss",
    ["dice", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("focal", "cross_entropy+dice"))],
)
def test_every_loss_can_be_learned_from(loss: str) -> None:
    data, classes = scene(), ClassTable.of(*CLASSES.names)
    model = pw.build("unet", 3, encoder="tiny")
    start, end, output = fit(model, pw.make_criterion(loss, classes), data, 0.02)
    right = (semantic(output).labels == data.labels)[data.labels != 255].float().mean()
    assert end < 0.6 * start
    assert right > 0.9


def learn(name: str, task: Task, data: Batch, encoder: str, rate: float) -> tuple[float, float, float]:
    """First and last loss of a short training, and the score of what the model then says of the batch."""
    torch.manual_seed(0)
    classes = replace(CLASSES, exclusive=task.annotation is not ClassMasks)
    arguments = small(name) | {"encoder": encoder, "in_channels": data.image.shape[1]}
    model = build(name, **taken_by(name, arguments))
    settings = Recipe("").as_dict() | dict(task.defaults)
    steps = LONG.get(kind_of(name), STEPS)
    start, end, _ = fit(model, task.criterion(classes, settings), data, rate, steps)
    with torch.no_grad():
        decoding = {key: SMALL.get(key, value) for key, value in task.decoding.items()}
        found = task.decode(model.eval()(data.image), classes, decoding)
    metrics = task.metrics(classes, task.scoring)
    metrics.update(found, data.annotations, data.ids)
    report = metrics.compute()
    return start, end, report[task.monitor]


def fit(
    model: Model, criterion: torch.nn.Module, data: Batch, rate: float, steps: int = STEPS
) -> tuple[float, float, object]:
    """First and last loss of a short training, and the last output."""
    optimizer, schedule = Optimization(steps, "adamw", lr=rate, weight_decay=0.0).make(model)
    model.train()
    losses = []
    for _ in range(steps):
        output = model(*model.inputs(data))
        value = criterion(output, data)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return losses[0], losses[-1], output
