"""Instance segmentation: every object has a class, a score and a mask of its own."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from .. import decode, draw, draw_objects
from ..data import parse_augmentations
from ..data.augmentations import refuse
from ..data.datasets import (
    ade20k_full,
    cityscapes_instances,
    coco_instances,
    data_sets,
    instance_maps,
    layouts,
    voc_instances,
    yolo_instances,
)
from ..data.formats.geojson_regions import write_geojson_regions
from ..data.formats.labelme import write_labelme
from ..data.formats.yolo import write_yolo_classes, write_yolo_labels
from ..data.intensity import PERCENTILES
from ..files import atomic_write
from ..losses import PaperCriterion, paper_criterion
from ..metrics import CocoScores, InstanceMetrics
from ..planning import Choice, DataFacts, MachineFacts, Planning, Rule, Rung, Situation, rules
from ..rle import run_lengths
from ..types import Annotation, Boxes, ClassTable, MaskSet, Report, Sample
from .changes import random_changes
from .task import Collector, Named, Settings, Task, TaskMetrics, Writer, intensity_of

RESULTS, IMAGES = "coco_results.json", "coco_images.json"
MOST = 100  # detections of an image and class that COCO counts
FEW = (1, 10)  # with which it tells recall as well
RIGHT = 0.5  # IoU from which a detection counts as right in pictures
SHOWN = 0.5  # score from which a detection is drawn and painted into maps


class MaskAndBoxMetrics(TaskMetrics):
    """COCO's AP of masks, and of the boxes around them."""

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        kept = counted(settings)
        self.masks, self.boxes = (InstanceMetrics(classes, kind, kept) for kind in ("mask", "box"))

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; see `TaskMetrics`."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, MaskSet)
            assert isinstance(target, MaskSet)
            self.masks.update(prediction, target, name)
            self.boxes.update(prediction, target, name)

    def compute(self) -> Report:
        """AP over IoU thresholds from 0.50 to 0.95, and at 0.50 and 0.75."""
        masks, boxes = self.masks.compute(), self.boxes.compute()
        note = "COCO's AP: mean over IoU 0.50:0.05:0.95 and classes; boxes are those around the masks."
        note += told_of_most(self.masks.max_detections[-1])
        values = {**precisions(masks, "mask"), **precisions(boxes, "box", with_sizes=False)}
        return Report(values, of_classes(masks), note=note, **told_of_errors(masks))


def counted(settings: Settings) -> tuple[int, ...]:
    """How many detections of an image and class count: up to `max_detections`, and COCO's fewer ones."""
    most = int(settings.get("max_detections", MOST))
    return (*(few for few in FEW if few < most), most)


def told_of_most(most: int) -> str:
    """A sentence where more or fewer detections count than COCO's."""
    if most == MOST:
        return ""
    return f" Up to {most} detections of an image and class count, where COCO counts {MOST}."


def precisions(scores: CocoScores, kind: str, *, with_sizes: bool = True) -> dict[str, float]:
    """AP, AP50, AP75, and AP of small, medium and large objects, as `mask_ap` and so on."""
    official = scores.as_dict()
    names = ["AP", "AP50", "AP75", *(["AP_small", "AP_medium", "AP_large"] if with_sizes else [])]
    return {f"{kind}_{name.lower()}": official[name] for name in names}


def of_classes(scores: CocoScores) -> dict[str, dict[str, float]]:
    """AP, AP50 and the number of objects of each class; crowds are not counted."""
    columns = (scores.per_class_ap, scores.class_average_precision(0.5), scores.num_targets)
    return {
        name: {"AP": float(ap), "AP50": float(ap50), "objects": float(count)}
        for name, ap, ap50, count in zip(scores.class_names, *columns, strict=True)
    }


def told_of_errors(scores: CocoScores) -> dict[str, Any]:
    """Confusions, errors by kind and curves of precision, as arguments of a `Report`."""
    assert scores.errors is not None
    rows = {
        kind: {"count": scores.errors.counts[kind], "AP50 lost": cost}
        for kind, cost in scores.errors.costs.items()
    }
    precision = scores.precision[0, :, :, 0, -1].T  # at an IoU of 0.5, of all areas: k recalls
    lines = {
        name: line.tolist() for name, line in zip(scores.class_names, precision, strict=True) if line[0] > -1
    }
    return {
        "confusion": torch.from_numpy(scores.errors.confusion),
        "tables": {"Errors": rows},
        "curves": {"Precision over recall at an IoU of 0.5": lines},
    }


def criterion(classes: ClassTable, settings: Settings) -> PaperCriterion:
    """The loss of the network's paper; see `paper_criterion`."""
    return paper_criterion(settings)


def transform(classes: ClassTable, settings: Settings) -> Callable[[Sample], Sample]:
    """Scale and crop, mirror, rotate, deform, recolour, and what else is asked for; nothing lies outside.

    Raises:
        ValueError: if crops shall look for rare classes of pixels.
    """
    if settings["rare_crops"]:
        raise ValueError("rare_crops is for classes of pixels, not for objects")
    refuse(
        parse_augmentations(settings["augment"]), ("balanced_crops",), "objects, only for classes of pixels"
    )
    return random_changes(settings, flip_pairs=classes.flip_pairs)


def decoded(output: Any, classes: ClassTable, settings: Settings) -> tuple[MaskSet, ...]:
    """The instances of each image, best first, without those below `min_score`."""
    return tuple(one.take(one.scores >= settings["min_score"]) for one in decode.instances(output))


def errors(
    image: Float[Tensor, "c H W"], prediction: MaskSet, target: MaskSet, classes: ClassTable
) -> Image.Image:
    """Missed instances filled red, false ones outlined red, crowds grey."""
    shown = prediction.take(prediction.scores >= SHOWN)
    found, there = run_lengths(shown), run_lengths(target)
    overlap = torch.from_numpy(found.iou(there, target.is_crowd.numpy()))
    false, missed = mistakes(overlap, shown.boxes, target.boxes)
    crowds = target.take(target.is_crowd)
    return draw_objects.wrong_instances(image, target.take(missed), shown.take(false), crowds)


def mistakes(
    overlap: Float[Tensor, "n m"], shown: Boxes, target: Boxes
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " m"]]:
    """Which detections are false and which objects were missed.

    Each detection, best first, takes the object of its class that it overlaps most and that is free, if their
    IoU is at least a half. A crowd takes any number, and is not missed.
    """
    false = torch.ones(len(shown), dtype=torch.bool)
    free = torch.ones(len(target), dtype=torch.bool)
    for number in shown.scores.argsort(descending=True).tolist():
        fits = (target.classes == shown.classes[number]) & (overlap[number] >= RIGHT)
        own = fits & free & ~target.is_crowd
        if own.any():
            free[torch.where(own, overlap[number], -1.0).argmax()] = False
        false[number] = not (own.any() or (fits & target.is_crowd).any())
    return false, free & ~target.is_crowd


def compact(annotation: Annotation) -> Annotation:
    """Masks as run lengths; other annotations as they are."""
    if isinstance(annotation, MaskSet):
        return replace(annotation, masks=run_lengths(annotation))
    return annotation


# --- files ----------------------------------------------------------------------------------------


def categories(classes: ClassTable) -> list[dict[str, Any]]:
    """COCO's table of categories."""
    named = zip(classes.category_ids, classes.names, strict=True)
    return [{"id": number, "name": name} for number, name in named]


def results(annotation: Annotation, image_id: int, classes: ClassTable) -> list[dict[str, Any]]:
    """COCO's results for one image: category, box, score, and the mask where there is one."""
    assert isinstance(annotation, MaskSet | Boxes)
    objects = annotation.boxes if isinstance(annotation, MaskSet) else annotation
    masks = run_lengths(annotation).to_coco() if isinstance(annotation, MaskSet) else [None] * len(objects)
    found = []
    corners = objects.boxes.double().tolist()
    for (x1, y1, x2, y2), label, score, mask in zip(
        corners, objects.classes.tolist(), objects.scores.double().tolist(), masks, strict=True
    ):
        box = [round(x, 3) for x in (x1, y1, x2 - x1, y2 - y1)]
        outline = {} if mask is None else {"segmentation": mask}
        category = classes.category_ids[label]
        found.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score, **outline})
    return found


def described(name: str, annotation: Annotation, image_id: int) -> dict[str, Any]:
    """COCO's entry of an image."""
    size = {}
    if isinstance(annotation, MaskSet):
        size = {"height": annotation.size[0], "width": annotation.size[1]}
    return {"id": image_id, "file_name": name, **size}


def write_json(path: Path, annotation: MaskSet | Boxes, classes: ClassTable, image: str) -> None:
    """A COCO file of one image: `images`, `categories`, and `annotations` with a score each."""
    found = results(annotation, 1, classes)
    areas = run_lengths(annotation).area if isinstance(annotation, MaskSet) else None
    for number, entry in enumerate(found):
        area = entry["bbox"][2] * entry["bbox"][3] if areas is None else int(areas[number])
        entry |= {"id": number + 1, "area": area, "iscrowd": 0}
    name = Path(image).name if image else path.stem
    content = {
        "images": [described(name, annotation, 1)],
        "categories": categories(classes),
        "annotations": found,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content))


def write_png(path: Path, instances: MaskSet, classes: ClassTable, image: str) -> None:
    """A map of 16 bits: 1, 2, ... in the order of falling scores from 0.5 on, 0 where no instance is."""
    shown = instances.take(instances.scores >= SHOWN)
    numbers = np.zeros(instances.size, np.uint16)
    for rank, place in reversed(list(enumerate(shown.scores.argsort(descending=True).tolist(), start=1))):
        numbers[shown.take(torch.tensor([place])).dense[0].numpy()] = rank
    with atomic_write(path) as temporary:
        Image.fromarray(numbers).save(temporary)


def image_ids(names: Sequence[str]) -> list[int]:
    """A number for each image: that of its name, as in COCO, where each has one; else 1, 2, ..."""
    stems = [PurePosixPath(name).stem for name in names]
    numbers = [int(stem) for stem in stems if stem.isdecimal() and len(stem) < 16]
    return numbers if len(set(numbers)) == len(names) else list(range(1, len(names) + 1))


def collect(folder: Path, found: Sequence[Named], classes: ClassTable) -> list[Path]:
    """COCO's list of results, and a file of the images and categories that it speaks of.

    `pycocotools` reads both: `COCO("coco_images.json").loadRes("coco_results.json")`.
    """
    numbers = image_ids([name for name, _ in found])
    everything: dict[str, Any] = {
        RESULTS: [
            entry | {"file_name": name}
            for number, (name, annotation) in zip(numbers, found, strict=True)
            for entry in results(annotation, number, classes)
        ],
        IMAGES: {
            "images": [
                described(name, annotation, number)
                for number, (name, annotation) in zip(numbers, found, strict=True)
            ],
            "categories": categories(classes),
            "annotations": [],
        },
    }
    for name, content in everything.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(json.dumps(content))
    return [folder / name for name in everything]


def collected_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """What `collect` writes."""
    return [folder / RESULTS, folder / IMAGES]


def yolo_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """`data.yaml`, and a text file per image below `labels/`.

    Raises:
        ValueError: if two images differ in their suffix only.
    """
    return [folder / "data.yaml", *_one_each(folder / "labels", names, ".txt")]


def write_yolo(folder: Path, found: Sequence[Named], classes: ClassTable) -> list[Path]:
    """Outlines of the instances with a score from 0.5 on; the format has no scores."""
    files = yolo_files(folder, [name for name, _ in found])
    for (_, annotation), file in zip(found, files[1:], strict=True):
        assert isinstance(annotation, MaskSet)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_yolo_labels(file, annotation.take(annotation.scores >= SHOWN))
    write_yolo_classes(files[0], classes, {"train": "images"})
    return files


def labelme_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """A json file per image.

    Raises:
        ValueError: if two images differ in their suffix only.
    """
    return _one_each(folder, names, ".json")


def write_labelme_files(folder: Path, found: Sequence[Named], classes: ClassTable) -> list[Path]:
    """The instances with a score from 0.5 on, to be looked at and corrected in labelme."""
    files = labelme_files(folder, [name for name, _ in found])
    for (name, annotation), file in zip(found, files, strict=True):
        assert isinstance(annotation, MaskSet)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_labelme(file, annotation.take(annotation.scores >= SHOWN), classes, PurePosixPath(name).name)
    return files


def _one_each(folder: Path, names: Sequence[str], suffix: str) -> list[Path]:
    files: dict[Path, str] = {}
    for name in names:
        file = folder / PurePosixPath(name).with_suffix(suffix)
        if file in files:
            raise ValueError(f"{files[file]} and {name} would both be written to {file}")
        files[file] = name
    return list(files)


LEGEND = (
    (draw.WRONG, "filled: missed; outlined: false or not where it is (IoU below a half)"),
    (draw.UNKNOWN, "crowd: does not count"),
    (draw.DARKENED, "right: the image, darkened"),
)
COCO = {"coco": Collector(collect, collected_files, compact)}
# Whole images at their own size, few per batch; steps are cut where they are too long.
DEFAULTS: Mapping[str, Any] = {
    "crop": None,
    "scale": (0.8, 1.25),
    "batch_size": 2,
    "lr": 2e-4,
    "clip_norm": 10.0,
}


# --- planning -------------------------------------------------------------------------------------

_SHORT_SIDE = (192, 320)  # pixels of images inside the network, on a CPU
_SIZES = (
    ("resnet18", 32),
    ("resnet18", 64),
    ("resnet18", 128),
    ("resnet18", 256),
    ("resnet34", 256),
    ("resnet50", 256),
)


def resized(data: DataFacts, machine: MachineFacts) -> dict[str, int]:
    """Sides of images inside the network: the paper's on a GPU, about their own on a CPU."""
    if machine.device == "cuda":
        return {"min_size": 800, "max_size": 1333}
    low, high = _SHORT_SIDE
    side = min(max(min(data.size), low), high)
    return {"min_size": side, "max_size": 2 * side}


def encoders_of(model: str, data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """A network of regions on small to large encoders, before them with fewer channels in its pyramid."""
    sides = resized(data, machine)
    return tuple(
        Rung(f"{model} on {encoder}, width {width}", model, {"encoder": encoder, "width": width, **sides})
        for encoder, width in _SIZES
    )


def ladder(data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """The networks to choose from, small to large."""
    return encoders_of("mask_rcnn", data, machine)


def few_per_step(situation: Situation, chosen: Settings) -> Choice:
    """Images per step."""
    return Choice({"batch_size": 2}, "whole images of different size, whose norms are frozen or per image")


def small_steps(situation: Situation, chosen: Settings) -> Choice:
    """The highest learning rate."""
    if chosen.get("model_arguments", {}).get("pretrained"):
        return Choice({"lr": 2e-4, "clip_norm": 10.0}, "published weights")
    return Choice({"lr": 8e-4, "clip_norm": 10.0}, "random weights")


LADDER = (
    "{} on resnet18 with 32, 64, 128 and 256 channels in its pyramid, on resnet34 and resnet50. On a CPU the "
    "shorter side of an image is its median within 192 and 320 pixels, on a GPU 800 as in the paper."
)
BATCH_SIZE = Rule("batch", ("batch_size",), few_per_step, "Two whole images.")
LR = Rule(
    "learning rate",
    ("lr", "clip_norm"),
    small_steps,
    "0.0008 from random weights, 0.0002 from published ones; gradients cut to a norm of 10.",
    probed=True,
)
RULES = (
    rules.SPLIT,
    rules.FLIPS,
    BATCH_SIZE,
    rules.MODEL,
    LR,
    rules.RANGE_TEST,
    rules.VALIDATION,
    rules.LENGTH,
    rules.EMA,
    rules.WORKERS,
)

INSTANCE = Task(
    name="instance",
    annotation=MaskSet,
    formats={
        "cityscapes": cityscapes_instances,
        "voc": voc_instances,
        "ade20k_full": ade20k_full.INSTANCES,
        **data_sets("instance"),
        **layouts("instances"),
        "yolo": yolo_instances,
        "coco": coco_instances,
        "instance_maps": instance_maps,
    },
    criterion=criterion,
    decode=decoded,
    metrics=MaskAndBoxMetrics,
    monitor="mask_ap",
    transform=transform,
    draw=draw_objects.instances,
    errors=errors,
    legend=LEGEND,
    writers={
        ".json": Writer(write_json, prepare=compact),
        ".png": Writer(write_png),
        ".geojson": Writer(write_geojson_regions, prepare=compact),
    },
    collectors={
        **COCO,
        "yolo": Collector(write_yolo, yolo_files, compact),
        "labelme": Collector(write_labelme_files, labelme_files, compact),
    },
    decoding={"min_score": 0.0, "intensity": PERCENTILES},
    decoding_of=intensity_of,
    scoring={"max_detections": MOST},
    defaults=DEFAULTS,
    planning=Planning(ladder, LADDER.format("Mask R-CNN"), RULES),
)
