"""Key points: the joints of people, faces or anything else that has a skeleton, found top down.

A network sees one object at a time, in a crop around its box. In training, crops are cut around the annotated
boxes. A whole image is predicted with boxes from one of three places: `boxes` of the decoding settings (a
detector's), else the annotated boxes (what the ablations of the papers call ground-truth boxes; so scores of
validation and `evaluate` are those of perfect boxes unless `boxes` names a file), else the image as one box.
"""

import colorsys
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics import Metric
from torchvision import tv_tensors

from .. import decode, heatmaps
from ..data import SegmentationData, degradations_of, parse_augmentations
from ..data.augmentations import MIXES, PLACES, refuse
from ..data.datasets import coco_keypoints
from ..data.formats.coco_keypoints import write_coco_keypoints
from ..data.object_crops import RandomObjectCrop, SingleObjects, crop_around, joined
from ..data.transforms import ColorChange, Compose, ElasticDeformation
from ..draw import rgb_image
from ..files import atomic_write
from ..losses import HeatmapLoss, PaperCriterion
from ..metrics import KeypointMetrics, keypoint_similarity
from ..metrics.coco.keypoints import SIGMA
from ..planning import Choice, DataFacts, MachineFacts, Planning, Rule, Rung, Situation, rules
from ..types import Annotation, ClassTable, Color, Heatmaps, Keypoints, Report, Sample, Skeleton
from .task import Collector, Named, Network, Settings, Task, TaskMetrics, Writer

CROP = (256, 192)
SURE = 0.2  # confidence from which a joint is drawn
PCK_SHARE = 0.05  # of the longer side of the box, within which a joint is right
_AT_ONCE = 32  # crops per forward pass
_SAME_OBJECT = 0.9  # OKS above which one of two detections is dropped, as HRNet does
_REFINE = ("quarter_offset", "dark", "highest")
_LOSSES = {"heatmap": False, "unbiased_heatmap": True}
_RESULTS, _IMAGES = "keypoints.json", "images.json"


# --- scores ---------------------------------------------------------------------------------------


class JointScores(Metric):
    """How well each joint is found: mean similarity, and share within a fraction of the box (PCK).

    Each annotated object is compared with the prediction that is most like it.

    Args:
        skeleton: names the joints and their sigmas.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    sums: Float[Tensor, "j 3"]

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__()
        self.skeleton = skeleton
        self.sigmas = skeleton.sigmas or (SIGMA,) * len(skeleton)
        empty = torch.zeros(len(skeleton), 3, dtype=torch.float64)
        self.add_state("sums", empty, dist_reduce_fx="sum")  # similarity, joints within, joints

    def update(self, prediction: Keypoints, target: Keypoints) -> None:
        """Count one image."""
        prediction, target = prediction.to("cpu"), target.to("cpu")
        for number in _with_joints(target).nonzero()[:, 0].tolist():
            seen = target.visible[number] > 0
            counted = torch.stack([torch.zeros_like(seen), torch.zeros_like(seen), seen], 1).double()
            if len(prediction):
                likeness = _similarity(prediction, _taken(target, torch.tensor([number])), self.sigmas)[:, 0]
                offset = prediction.points[int(likeness.argmax())] - target.points[number]
                squared = offset.double().square().sum(1)
                spread = 2 * target.areas[number].double() * (2 * torch.tensor(self.sigmas).double()) ** 2
                x1, y1, x2, y2 = target.boxes[number].tolist()
                near = squared.sqrt() <= PCK_SHARE * max(x2 - x1, y2 - y1)
                counted[:, 0] = torch.exp(-squared / spread.clamp(min=1e-9)) * seen
                counted[:, 1] = near & seen
            self.sums += counted.to(self.sums.device)

    def compute(self) -> dict[str, dict[str, float]]:
        """A row per joint; nan where it is nowhere annotated."""
        rows = {}
        for name, (similarity, within, count) in zip(self.skeleton.names, self.sums.tolist(), strict=True):
            shares = (similarity / count, within / count) if count else (math.nan, math.nan)
            rows[name] = {"OKS": shares[0], "PCK": shares[1], "joints": int(count)}
        return rows


class PoseMetrics(TaskMetrics):
    """COCO's AP and AR by object keypoint similarity, and a row for each joint."""

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.objects = KeypointMetrics(classes)
        self.joints = JointScores(_skeleton(classes))

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; see `TaskMetrics`."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, Keypoints)
            assert isinstance(target, Keypoints)
            self.objects.update(prediction, target, name)
            self.joints.update(prediction, target)

    def compute(self) -> Report:
        """OKS AP and its kin."""
        scores = self.objects.compute().as_dict()
        values = {f"oks_{name.lower()}": scores[name] for name in ("AP", "AP50", "AP75", "AR")}
        note = (
            "OKS of a joint is its mean similarity over the annotated objects; PCK the share that is found "
            f"within {PCK_SHARE:g} of the longer side of the box."
        )
        return Report(values, self.joints.compute(), note=note)


# --- training -------------------------------------------------------------------------------------


class _Annotated(Dataset[Sample]):
    """Data whose key points can be asked for without reading the image; see `KeypointSamples`."""

    def __init__(self, data: SegmentationData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        return self.data[index]

    def keypoints(self, index: int) -> Keypoints:
        target = self.data.target(index)
        assert isinstance(target, Keypoints)
        return target


def criterion(classes: ClassTable, settings: Settings) -> PaperCriterion:
    """Squared differences from Gaussians, at the nearest cells or between them (for DARK).

    Raises:
        ValueError: if the loss is another.
    """
    if settings["loss"] not in _LOSSES:
        raise ValueError(f"the loss of key points is {' or '.join(_LOSSES)}, got {settings['loss']!r:.80}")
    return HeatmapLoss(unbiased=_LOSSES[settings["loss"]])


def prepared(data: SegmentationData, settings: Settings) -> SingleObjects:
    """One sample per object.

    Raises:
        ValueError: if no object has an annotated joint.
    """
    objects = SingleObjects(_Annotated(data))
    if not len(objects):
        raise ValueError("no object of the training images has an annotated joint")
    return objects


def transform(classes: ClassTable, settings: Settings) -> Callable[[Sample], Sample]:
    """The crop of an object, scaled, turned, mirrored and recoloured, and what else is asked for.

    Raises:
        ValueError: if the crop has not two sides, the range of scales is not symmetric around 1, or a change
            is asked for that crops of single objects have not.
    """
    low, high = settings["scale"]
    if not math.isclose(1 - low, high - 1, abs_tol=1e-6):
        raise ValueError(
            f"scale must be symmetric around 1 for key points, such as 0.65,1.35, got {low},{high}"
        )
    if settings["scale_to"] != "image":
        raise ValueError(f"scale_to is not for key points, got {settings['scale_to']}")
    for name in ("flip_vertical", "rotate90", "rare_crops"):
        if settings[name]:
            raise ValueError(f"{name} is not for key points, got {settings[name]}")
    cut = RandomObjectCrop(
        _skeleton(classes),
        _crop(settings),
        scale=high - 1,
        rotation=settings["rotation"],
        flip=settings["flip"],
    )
    asked = parse_augmentations(settings["augment"])
    refuse(asked, (*PLACES, *MIXES), "crops of single objects")
    moved = partial(_changed, cut, settings["elastic"], settings["color"])
    return Compose([moved, *degradations_of(asked)])


def _changed(cut: Callable[[Sample], Sample], elastic: float, color: float, sample: Sample) -> Sample:
    sample = cut(sample)
    if elastic:
        sample = _deformed(ElasticDeformation(elastic, ignore=0), sample)
    if not color:
        return sample
    image = ColorChange(color)(tv_tensors.Image(sample.image)).as_subclass(Tensor)
    return replace(sample, image=image)


def _deformed(change: ElasticDeformation, sample: Sample) -> Sample:
    """A crop deformed; joints that leave it are not seen."""
    target = sample.target
    assert isinstance(target, Keypoints)
    height, width = sample.image.shape[1:]
    places = tv_tensors.KeyPoints(target.points.reshape(-1, 2), canvas_size=(height, width))
    image, places = change(tv_tensors.Image(sample.image), places)
    points = places.as_subclass(Tensor).view_as(target.points)
    inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(-1)
    visible = torch.where(inside, target.visible, 0)
    target = replace(target, points=points, visible=visible)
    return replace(sample, image=image.as_subclass(Tensor), target=target)


def decoding_of(settings: Settings) -> Settings:
    """Crops as large as in training; DARK where the targets lay between the cells.

    Without mirrored crops in training there is no flip test: the network does not know left from right there.
    """
    refine = "dark" if _LOSSES.get(settings["loss"], False) else "quarter_offset"
    return {"crop": _crop(settings), "refine": refine, "flip": settings["flip"] > 0}


def _crop(settings: Settings) -> tuple[int, int]:
    """Height and width."""
    crop = settings["crop"]
    if crop is None or len(crop) != 2:
        raise ValueError(f"key points need crops of a height and a width, got {crop}")
    return int(crop[0]), int(crop[1])


# --- prediction -----------------------------------------------------------------------------------


def decoded(output: Heatmaps, classes: ClassTable, settings: Settings) -> tuple[Keypoints, ...]:
    """The joints in crops of single objects, in pixels of the crop.

    Raises:
        ValueError: if `refine` is unknown.
    """
    if settings["refine"] not in _REFINE:
        raise ValueError(f"refine must be one of {', '.join(_REFINE)}, got {settings['refine']!r:.80}")
    refine = getattr(heatmaps, settings["refine"])
    if refine is heatmaps.dark:
        # 11 cells where targets have a standard deviation of 2, 17 where they have 3.
        refine = partial(refine, kernel=2 * int(2.75 * output.coarse.shape[-2] / 32) + 1)
    return decode.keypoints(output, refine)


def inferred(network: Network, sample: Sample, classes: ClassTable, settings: Settings) -> Keypoints:
    """The joints of all objects in an image, in its pixels.

    The score of an object is that of its box times the mean confidence of its joints.

    Raises:
        ValueError: if the boxes cannot be read.
    """
    skeleton, image = _skeleton(classes), sample.image.cpu()
    boxes, scores, detected = _boxes(sample, settings["boxes"])
    crops = [crop_around(box, _crop(settings)) for box in boxes]
    f = heatmaps.with_flip_test(network, skeleton) if settings["flip"] else network
    found: list[Keypoints] = []
    for start in range(0, len(crops), _AT_ONCE):
        some = crops[start : start + _AT_ONCE]
        images = torch.stack([crop.image(image) for crop in some]).to(sample.image.device)
        poses = decoded(f(images), classes, settings)
        found += [crop.keypoints_back(pose.to("cpu")) for crop, pose in zip(some, poses, strict=True)]
    if not found:
        return _none(len(skeleton)).to(sample.image.device)
    sides = boxes[:, 2:] - boxes[:, :2]
    objects = joined(found)
    objects = replace(objects, boxes=boxes, areas=sides.prod(1), scores=objects.scores * scores)
    if detected:
        objects = _without_doubles(objects, skeleton)
    return objects.to(sample.image.device)


def _boxes(sample: Sample, given: Any) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], bool]:
    """The boxes in which to look, their scores, and whether a detector may have found one object twice."""
    if given is None and isinstance(sample.target, Keypoints):
        kept = _with_joints(sample.target)
        return sample.target.boxes[kept].cpu(), torch.ones(int(kept.sum())), False
    if given is None:
        height, width = sample.image.shape[-2:]
        return torch.tensor([[0.0, 0.0, width, height]]), torch.ones(1), False
    rows = _detections(str(given), sample.id) if isinstance(given, str | Path) else given
    try:
        table = torch.tensor([_box(row) for row in rows]).reshape(len(rows), 5)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes must be rows of x1, y1, x2, y2 and maybe a score: {error}") from error
    boxes, scores = table[:, :4], table[:, 4]
    kept = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    return boxes[kept], scores[kept], True


def _box(row: Sequence[float]) -> list[float]:
    """x1 y1 x2 y2 and score, which is 1 where it is not given."""
    numbers = [float(number) for number in row]
    if len(numbers) not in (4, 5):
        raise ValueError(f"got {len(numbers)} numbers")
    return [*numbers, 1.0][:5]


def _detections(path: str, name: str) -> list[list[float]]:
    """The boxes of an image from a file: x1 y1 x2 y2 and score.

    Raises:
        ValueError: if the file cannot be understood.
    """
    by_image = _read_detections(path)
    stem = Path(name).stem
    keys: list[str | int] = [Path(name).name, *([int(stem)] if stem.isdecimal() else [])]
    return [row for key in keys for row in by_image.get(key, [])]


@cache
def _read_detections(path: str) -> dict[str | int, list[list[float]]]:
    """COCO's results of boxes: a list of `bbox`, `score` and `image_id` or `file_name`.

    Objects of all categories are taken. The number of an image is looked for in the name of its file.
    """
    found: dict[str | int, list[list[float]]] = {}
    try:
        for entry in json.loads(Path(path).read_bytes()):
            x, y, width, height = (float(number) for number in entry["bbox"])
            key = Path(entry["file_name"]).name if "file_name" in entry else int(entry["image_id"])
            row = [x, y, x + width, y + height, float(entry.get("score", 1.0))]
            found.setdefault(key, []).append(row)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"cannot read boxes from {path}, expected COCO results: {reason}") from error
    return found


def _without_doubles(objects: Keypoints, skeleton: Skeleton) -> Keypoints:
    """Of objects that are nearly the same, the one with the highest score."""
    sigmas = skeleton.sigmas or (SIGMA,) * len(skeleton)
    order = objects.scores.argsort(descending=True, stable=True)
    objects = _taken(objects, order)
    likeness = _similarity(objects, replace(objects, visible=torch.ones_like(objects.visible)), sigmas)
    kept: list[int] = []
    for number in range(len(objects)):
        if not any(likeness[number, other] > _SAME_OBJECT for other in kept):
            kept.append(number)
    return _taken(objects, torch.tensor(kept, dtype=torch.int64))


def _similarity(prediction: Keypoints, target: Keypoints, sigmas: tuple[float, ...]) -> Float[Tensor, "n m"]:
    boxes = torch.cat([target.boxes[:, :2], target.boxes[:, 2:] - target.boxes[:, :2]], 1)
    similarity = keypoint_similarity(
        prediction.points.numpy(),
        target.points.numpy(),
        target.visible.numpy(),
        target.areas.numpy(),
        boxes.numpy(),
        sigmas,
    )
    return torch.from_numpy(similarity)


def _with_joints(target: Keypoints) -> Bool[Tensor, " n"]:
    """The objects that a prediction is asked for: single ones, with a joint and a box."""
    x1, y1, x2, y2 = target.boxes.unbind(1)
    return ((target.visible > 0).any(1) & ~target.is_crowd & (x1 < x2) & (y1 < y2)).cpu()


def _taken(objects: Keypoints, index: Tensor) -> Keypoints:
    return Keypoints(*(field[index] for field in vars(objects).values()))


def _none(joints: int) -> Keypoints:
    points, row = torch.zeros(0, joints, 2), torch.zeros(0)
    return Keypoints(points, points[..., 0], row, row, torch.zeros(0, 4), row.bool())


def _skeleton(classes: ClassTable) -> Skeleton:
    if classes.skeleton is None:
        raise ValueError("key points need a class table with a skeleton")
    return classes.skeleton


def _model_arguments(classes: ClassTable) -> Settings:
    return {"num_joints": len(_skeleton(classes))}


# --- pictures and files ---------------------------------------------------------------------------


def draw(image: Float[Tensor, "c H W"], objects: Keypoints, classes: ClassTable) -> Image.Image:
    """The image with the joints and limbs of each object; each joint has a colour of its own."""
    skeleton = _skeleton(classes)
    picture = rgb_image(image)
    pen = ImageDraw.Draw(picture)
    colors = joint_colors(len(skeleton))
    for points, visible, box in zip(objects.points, objects.visible, objects.boxes, strict=True):
        longest = max((box[2:] - box[:2]).tolist())
        width = max(1, round(min(longest / 60, max(picture.size) / 150)))
        places, sure = points.tolist(), (visible >= SURE).tolist()
        for first, second in skeleton.edges:
            if sure[first] and sure[second]:
                pen.line([*places[first], *places[second]], colors[second], width)
        for (x, y), is_sure, color in zip(places, sure, colors, strict=True):
            if is_sure:
                reach = width + 1
                pen.ellipse((x - reach, y - reach, x + reach, y + reach), color, (255, 255, 255))
    return picture


def joint_colors(joints: int) -> list[Color]:
    """Colours around the circle of hues."""
    hues = (colorsys.hsv_to_rgb(number / joints, 0.9, 1.0) for number in range(joints))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]


def write_json(path: Path, objects: Keypoints, classes: ClassTable, image: str) -> None:
    """The names of the joints, and score, box x1 y1 x2 y2 and joints x, y, confidence of each object."""
    triples = torch.cat([objects.points, objects.visible[..., None]], -1)
    content = {
        "image": Path(image).name,
        "joints": list(_skeleton(classes).names),
        "objects": [
            {"score": score, "box": _rounded(box), "points": [_rounded(joint) for joint in joints]}
            for score, box, joints in zip(objects.scores.tolist(), objects.boxes, triples, strict=True)
        ],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def read(path: Path, data: SegmentationData, target: Keypoints) -> Keypoints:
    """What `write_json` wrote.

    Raises:
        ValueError: if the file is another, or has other joints than the data; names it.
    """
    names = _skeleton(data.classes).names
    try:
        content = json.loads(path.read_bytes())
        if tuple(content["joints"]) != names:
            raise ValueError(f"its joints must be {', '.join(names)}")
        objects = content["objects"]
        triples = torch.tensor([one["points"] for one in objects]).reshape(len(objects), len(names), 3)
        boxes = torch.tensor([one["box"] for one in objects]).reshape(len(objects), 4)
        scores = torch.tensor([float(one["score"]) for one in objects])
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"cannot read key points from {path}: {reason}") from error
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Keypoints(
        triples[..., :2], triples[..., 2], scores, areas, boxes, scores.new_zeros(len(scores)).bool()
    )


def collect(folder: Path, found: Sequence[Named], classes: ClassTable) -> list[Path]:
    """COCO's results in keypoints.json, which pycocotools loads; the images' numbers in images.json.

    The number of an image is that in its name, as COCO's images have it; where a name has none, or two names
    have one, images are numbered from 1.
    """
    names = [name for name, _ in found]
    numbers = image_numbers(names)
    results = {
        number: objects
        for number, (_, objects) in zip(numbers, found, strict=True)
        if isinstance(objects, Keypoints)
    }
    images = [{"id": number, "file_name": name} for number, name in zip(numbers, names, strict=True)]
    paths = _collected(folder, names)
    write_coco_keypoints(paths[0], results)
    with atomic_write(paths[1]) as temporary:
        temporary.write_text(json.dumps(images, indent=1))
    return paths


def image_numbers(names: Sequence[str]) -> list[int]:
    """COCO's number of each image.

    >>> image_numbers(["a/000000000785.jpg"]), image_numbers(["a.jpg", "b.jpg"])
    ([785], [1, 2])
    """
    stems = [Path(name).stem for name in names]
    if all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(names) + 1))


def _collected(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / _RESULTS, folder / _IMAGES]


def _rounded(numbers: Tensor) -> list[float]:
    rounded: list[float] = np.round(numbers.double().numpy(), 3).tolist()
    return rounded


# --- planning -------------------------------------------------------------------------------------


def ladder(data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """The networks to choose from, small to large."""
    return tuple(
        Rung(f"simplebaseline on {name}", "simplebaseline", {"encoder": name})
        for name in ("resnet18", "resnet34", "resnet50")
    )


def size_of_crops(situation: Situation, chosen: Settings) -> Choice:
    """Crops of single objects."""
    if situation.machine.device == "cuda":
        return Choice({"crop": CROP}, "as in the papers")
    return Choice({"crop": (128, 96)}, "half the sides of the papers, a quarter of the time")


def crops_per_step(situation: Situation, chosen: Settings) -> Choice:
    """Crops per step."""
    return Choice({"batch_size": 16}, "crops are small")


def step_size(situation: Situation, chosen: Settings) -> Choice:
    """The highest learning rate."""
    return Choice({"lr": 1e-3}, "Adam of the papers")


PLANNING = Planning(
    ladder,
    "SimpleBaseline on resnet18, resnet34, resnet50.",
    (
        rules.SPLIT,
        Rule("crop", ("crop",), size_of_crops, "256 x 192 pixels as in the papers; half of it on a CPU."),
        Rule("batch", ("batch_size",), crops_per_step, "16 crops of single objects."),
        Rule("learning rate", ("lr",), step_size, "0.001, as in the papers."),
        rules.MODEL,
        rules.RANGE_TEST,
        rules.VALIDATION,
        rules.LENGTH,
        rules.EMA,
        rules.WORKERS,
    ),
)

KEYPOINTS = Task(
    name="keypoints",
    hub_name="keypoint-detection",
    annotation=Keypoints,
    formats={"coco_keypoints": coco_keypoints},
    criterion=criterion,
    decode=decoded,
    metrics=PoseMetrics,
    monitor="oks_ap",
    transform=transform,
    draw=draw,
    writers={".json": Writer(write_json)},
    collectors={"coco": Collector(collect, _collected)},
    read=read,
    infer=inferred,
    prepare=prepared,
    decoding={"boxes": None, "crop": CROP, "flip": True, "refine": "quarter_offset"},
    decoding_of=decoding_of,
    model_arguments=_model_arguments,
    defaults={
        "crop": CROP,
        "scale": (0.65, 1.35),
        "rotation": 45.0,
        "color": 0.0,
        "loss": "heatmap",
        "batch_size": 16,
    },
    planning=PLANNING,
)
