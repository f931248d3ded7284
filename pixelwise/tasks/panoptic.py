"""Panoptic segmentation: every pixel belongs to a countable thing or to stuff such as sky."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from .. import decode, draw
from ..data import SegmentationData
from ..data.datasets import coco_panoptic, layouts
from ..data.formats.coco_panoptic import categories_of, read_segments, write_segments
from ..data.formats.geojson_regions import write_geojson_regions
from ..data.intensity import PERCENTILES
from ..files import atomic_write
from ..metrics import PanopticMetrics
from ..planning import DataFacts, MachineFacts, Planning, Rung
from ..rle import RleMasks
from ..types import Annotation, ClassTable, MaskSet, PanopticMap, Report
from . import instance
from .task import Collector, Named, Settings, Task, TaskMetrics, Writer, intensity_of

_NOTE = (
    "A segment counts as found if a predicted one of its class covers it with an IoU above 0.5; PQ = SQ RQ. "
    "Classes that are neither predicted nor there have no score and no part in the means."
)

LEGEND = (
    (draw.WRONG, "outside of a match: another class, or another segment"),
    ((128, 128, 128), "void: does not count"),
    ((60, 60, 60), "right: the image, darkened"),
)


class SegmentMetrics(TaskMetrics):
    """Panoptic quality; see `PanopticMetrics`."""

    may_be_drawn = True

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.segments = PanopticMetrics(classes)

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; a prediction may be larger than its target, by padding at the end of each axis."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, PanopticMap)
            assert isinstance(target, PanopticMap)
            self.segments.update(_window(prediction, target), target, (name,))

    def compute(self) -> Report:
        """PQ and its parts: means over classes, over those of things and of stuff, and a row per class."""
        scores = self.segments.compute()
        classes = scores.classes
        every, values = range(len(classes)), {}
        stuff = [label for label in every if label not in classes.things]
        for ending, labels in (("", every), ("_things", classes.things), ("_stuff", stuff)):
            for name, column in (("pq", scores.pq), ("sq", scores.sq), ("rq", scores.rq)):
                values[name + ending] = column[list(labels)].nanmean().item()
        columns = {
            "PQ": scores.pq,
            "SQ": scores.sq,
            "RQ": scores.rq,
            "TP": scores.true_positives,
            "FP": scores.false_positives,
            "FN": scores.false_negatives,
        }
        rows = zip(*(column.double().tolist() for column in columns.values()), strict=True)
        per_class = {
            name: dict(zip(columns, row, strict=True)) for name, row in zip(classes.names, rows, strict=True)
        }
        return Report(values, per_class, note=_NOTE)


def _window(prediction: PanopticMap, target: PanopticMap) -> PanopticMap:
    """The part of a prediction that lies on its target."""
    height, width = target.id_map.shape
    if tuple(prediction.id_map.shape) == (height, width):
        return prediction
    id_map = prediction.id_map[:height, :width]
    kept = torch.isin(prediction.ids, id_map)
    columns = (column[kept] for column in (prediction.ids, prediction.classes, prediction.is_crowd))
    return PanopticMap(id_map, *columns)


def decoded(output: Any, classes: ClassTable, settings: Settings) -> tuple[PanopticMap, ...]:
    """The segments, by the rule of the network's paper.

    Args:
        output: of a network for panoptic segmentation.
        classes: with `things`.
        settings: the fields of `decode.Merging`.
    """
    merging = {name: value for name, value in settings.items() if name != "intensity"}
    return decode.panoptic(output, classes, decode.Merging(**merging))


def check(classes: ClassTable) -> None:
    """Refuse a table that knows no things.

    Raises:
        ValueError: if no class is a thing.
    """
    if not classes.things:
        shown = ", ".join(classes.names)
        raise ValueError(
            f"the task panoptic needs classes that are things, but of the classes {shown:.80} none is"
        )


def model_arguments(classes: ClassTable) -> Settings:
    """Numbers of classes, and which of them are things."""
    return {"num_classes": len(classes), "things": list(classes.things)}


# --- files ----------------------------------------------------------------------------------------


def png_files(path: Path, classes: ClassTable) -> list[Path]:
    """The PNG file and the json file beside it."""
    return [path, path.with_suffix(".json")]


def write_png(path: Path, panoptic_map: PanopticMap, classes: ClassTable, image: str) -> None:
    """The ids in COCO's coding; what they are stands in a json file of the same name."""
    segments = write_segments(path, panoptic_map, classes)
    _write_json(path.with_suffix(".json"), _content([_annotation(path.name, path.stem, segments)], classes))


def coco_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """`panoptic.json`, and a PNG file per image below `panoptic/`.

    Raises:
        ValueError: if two images differ in their suffix only.
    """
    files: dict[Path, str] = {}
    for name in names:
        file = folder / "panoptic" / _png_name(name)
        if file in files:
            raise ValueError(f"{files[file]} and {name} would both be written to {file}")
        files[file] = name
    return [folder / "panoptic.json", *files]


def write_coco(folder: Path, named: Sequence[Named], classes: ClassTable) -> list[Path]:
    """A folder of PNG files and a json file, as COCO's panoptic evaluation takes them.

    The ids of images are the numbers that their names are, as in COCO; where that is not so for all of them,
    or two have one number, the names without their suffix.
    """
    files = coco_files(folder, [name for name, _ in named])
    annotations, images = [], []
    ids = _image_ids([name for name, _ in named])
    for (name, panoptic_map), file, image in zip(named, files[1:], ids, strict=True):
        assert isinstance(panoptic_map, PanopticMap)
        height, width = panoptic_map.id_map.shape
        segments = write_segments(file, panoptic_map, classes)
        annotations.append(_annotation(_png_name(name), image, segments))
        images.append({"id": image, "file_name": name, "height": height, "width": width})
    _write_json(files[0], {"images": images, **_content(annotations, classes)})
    return files


def regions(panoptic_map: PanopticMap) -> MaskSet:
    """The segments, as run lengths with the score 1."""
    id_map = panoptic_map.id_map.numpy()
    return MaskSet.of(RleMasks.from_map(id_map, panoptic_map.ids.tolist()), panoptic_map.classes)


def read(path: Path, data: SegmentationData, target: PanopticMap) -> PanopticMap:
    """Predicted segments from a PNG file and the json file of the same name beside it.

    Raises:
        ValueError: if a file is missing, is not in the format, or has another size than its target.
    """
    beside = path.with_suffix(".json")
    try:
        (annotation,) = json.loads(beside.read_bytes())["annotations"]
        segments: list[Mapping[str, Any]] = annotation["segments_info"]
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {beside} with the classes of {path}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{beside} does not tell the segments of {path}: {error}") from error
    label_of = {number: label for label, number in enumerate(data.classes.category_ids)}
    found = replace(read_segments(path, segments, label_of), areas=None)
    if found.id_map.shape != target.id_map.shape:
        given, wanted = (" x ".join(map(str, x.id_map.shape)) for x in (found, target))
        raise ValueError(f"{path} has {given} pixels, its target {wanted}")
    return found


def _png_name(name: str) -> str:
    return PurePosixPath(name).with_suffix(".png").as_posix()


def _image_ids(names: Sequence[str]) -> Sequence[int | str]:
    stems = [PurePosixPath(name).stem for name in names]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return [PurePosixPath(name).with_suffix("").as_posix() for name in names]


def _annotation(file_name: str, image: int | str, segments: list[dict[str, Any]]) -> dict[str, Any]:
    return {"image_id": image, "file_name": file_name, "segments_info": segments}


def _content(annotations: list[dict[str, Any]], classes: ClassTable) -> dict[str, Any]:
    return {"annotations": annotations, "categories": categories_of(classes)}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content))


def ladder(data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """The networks to choose from, small to large."""
    return instance.encoders_of("panoptic_fpn", data, machine)


PANOPTIC = Task(
    name="panoptic",
    annotation=PanopticMap,
    formats={"coco_panoptic": coco_panoptic, **layouts("panoptic")},
    criterion=instance.criterion,
    decode=decoded,
    check=check,
    metrics=SegmentMetrics,
    monitor="pq",
    transform=instance.transform,  # what comes from outside the image has the id 0, void
    draw=draw.segments,
    errors=draw.segment_errors,
    legend=LEGEND,
    read=read,
    writers={
        ".png": Writer(write_png, png_files),
        ".geojson": Writer(write_geojson_regions, prepare=regions),
    },
    collectors={"coco": Collector(write_coco, coco_files)},
    decoding={"min_score": None, "max_overlap": None, "min_stuff_area": None, "intensity": PERCENTILES},
    decoding_of=intensity_of,
    model_arguments=model_arguments,
    defaults=instance.DEFAULTS,
    planning=Planning(ladder, instance.LADDER.format("Panoptic FPN"), instance.RULES),
)
