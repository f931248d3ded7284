"""Volumes: one class per voxel, as in CT and MR. Label 0 is the background, all others are structures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import decode, draw
from ..data import SegmentationData, degradations_of, parse_augmentations
from ..data.augmentations import MIXES, PLACES, refuse
from ..data.datasets import volumes
from ..data.datasets.volume_sets import volume_sets
from ..data.formats import volume_files
from ..data.formats.dicom import is_dicom, is_series
from ..data.formats.dicom_seg_writer import write_dicom_seg
from ..data.formats.volume_files import SUFFIXES, WRITTEN, is_volume, prediction_suffix
from ..data.intensity import normaliser
from ..data.transforms import Compose
from ..data.volume_transforms import volume_transform
from ..metrics import SurfaceMetrics
from ..metrics.rows import RowMetric
from ..planning import Choice, DataFacts, MachineFacts, Planning, Rule, Rung, Situation, rules
from ..planning.data_facts import UPRIGHT_LABELS
from ..tiling import among_zeros, bands
from ..types import Annotation, ClassTable, DenseLogits, LabelMap, Report, Sample
from . import semantic
from .task import Network, Settings, Task, TaskMetrics, Writer

TILE = (96, 96, 96)
_ML = 1000.0  # mm^3


# --- scores ---------------------------------------------------------------------------------------


class Millilitres(RowMetric):
    """How large each structure is in prediction and target."""

    sizes: list[Tensor]

    def __init__(self, classes: ClassTable) -> None:
        super().__init__()
        self.count = len(classes)
        self.add_rows("sizes", 2, self.count, dtype=torch.float64)

    def update(self, prediction: LabelMap, target: LabelMap) -> None:
        """Count one volume; one without spacing has no size."""
        voxel = float(np.prod(target.spacing)) / _ML if target.spacing is not None else float("nan")
        both = [
            torch.bincount(one.labels[one.labels < self.count].flatten(), minlength=self.count)
            for one in (prediction, target)
        ]
        self.sizes.append(torch.stack(both)[None].double().to(self.device) * voxel)

    def compute(self) -> Tensor:
        """Mean over the volumes: of the prediction and of the target, for each class."""
        return self.rows("sizes").mean(0).cpu()


class VolumeMetrics(TaskMetrics):
    """Dice, HD95 and surface Dice of each structure: means over the volumes, as challenges have them."""

    may_be_drawn = True

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.tolerance = float(settings["tolerance"])
        # What one of both has not at all has no distance: it counts in Dice and surface Dice only.
        self.surfaces = SurfaceMetrics(classes, (1.0, 1.0, 1.0), self.tolerance, missed=float("nan"))
        self.sizes = Millilitres(classes)

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count volumes; see `TaskMetrics`. Without a spacing, voxels are 1 mm wide."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, LabelMap)
            assert isinstance(target, LabelMap)
            labels = prediction.labels.to(target.labels.device)
            self.surfaces.update(labels, target.labels, (name,), spacing=target.spacing)
            self.sizes.update(LabelMap(labels), target)

    def compute(self) -> Report:
        """Mean Dice and its kin, over the structures."""
        scores, sizes = self.surfaces.compute(), self.sizes.compute()
        dice, surface_dice = scores.volumetric_dice, scores.surface_dice
        hd95, missed = scores.hausdorff_percentile, scores.one_empty
        names = scores.classes.names
        rows = {
            names[label]: {
                "Dice": float(dice[label]),
                "HD95 mm": float(hd95[label]),
                "surface Dice": float(surface_dice[label]),
                "predicted ml": float(sizes[0, label]),
                "true ml": float(sizes[1, label]),
                "in one only": int(missed[label]),
            }
            for label in range(1, len(names))
        }
        values = {
            "mean_dice": float(dice[1:].nanmean()),
            "mean_hd95_mm": float(hd95[1:].nanmean()),
            "mean_surface_dice": float(surface_dice[1:].nanmean()),
        }
        note = (
            f"Means over the volumes; {names[0]} does not count. Surface Dice at {self.tolerance:g} mm. A "
            "structure that only prediction or only target has (in one only) has a Dice of 0 and no HD95."
        )
        return Report(values, rows, note=note)


# --- training and prediction ----------------------------------------------------------------------


def transform(classes: ClassTable, settings: Settings) -> Callable[[Sample], Sample]:
    """A patch, a share of them (`rare_crops`) around a structure; mirrors, intensities, and what is asked.

    Raises:
        ValueError: if there is no crop of three sides, or a change is asked for that volumes have not.
    """
    crop = settings["crop"]
    if crop is None or len(crop) != 3:
        raise ValueError(f"volumes need crops of a depth, a height and a width, such as 64x64x64, got {crop}")
    changes = {
        "scale_to": "image",
        "elastic": 0,
        "flip_vertical": 0,
        "rotate90": 0,
    }
    for name, neutral in changes.items():
        if settings[name] != neutral:
            raise ValueError(f"{name} is not for volumes, got {settings[name]}")
    asked = parse_augmentations(settings["augment"])
    refuse(asked, (*PLACES, *MIXES, "jpeg"), "volumes")
    depth, height, width = crop
    moved = volume_transform(
        (depth, height, width),
        foreground=settings["rare_crops"],
        flip=settings["flip"],
        intensity=settings["color"],
        ignore=classes.ignore,
        rotation=settings["rotation"],
        scale=settings["scale"],
    )
    return Compose([moved, *degradations_of(asked)])


def decoded(output: DenseLogits, classes: ClassTable, settings: Settings) -> tuple[LabelMap, ...]:
    """The class with the highest score at every voxel."""
    return tuple(LabelMap(labels) for labels in decode.semantic(output).labels.unbind())


def inferred(network: Network, sample: Sample, classes: ClassTable, settings: Settings) -> LabelMap:
    """The labels of a volume, in tiles where it is larger than one; finished slices are decoded at once.

    A volume that is smaller than the patches of the training is extended with zeros as these were.

    Raises:
        ValueError: if `tile` has not three sides, or the overlap is not a share of it.
    """
    tile, share = tuple(settings["tile"]), settings["overlap"]
    if len(tile) != 3:
        raise ValueError(f"tile must have a depth, a height and a width in voxels, got {tile}")
    if not 0 <= share < 1:
        raise ValueError(f"overlap must be a share of the tile, at least 0 and below 1, got {share}")
    network, tile = among_zeros(network, sample.image.shape[1:], tuple(settings["window"]), tile)
    overlap = tuple(int(share * side) for side in tile)
    slices = [
        decoded(DenseLogits(band, tuple(band.shape[2:])), classes, settings)[0].labels
        for band in bands(network, sample.image[None], tile, overlap, blend=settings["blend"])
    ]
    return semantic.finished(LabelMap(torch.cat(slices), sample.spacing), classes, settings)


def decoding_of(settings: Settings) -> Settings:
    """Tiles at least as large as the patches of the training, and volumes and values as they were there.

    Raises:
        ValueError: if `intensity` is none.
    """
    normaliser(settings["intensity"])
    crop = settings["crop"] or TILE
    tile = tuple(max(side, least) for side, least in zip(crop, TILE, strict=False))
    return {"tile": tile, "window": settings["crop"] or (0, 0, 0), "intensity": settings["intensity"]}


def reading(settings: Settings) -> volumes.ReadVolume:
    """How volumes are read: with the intensities that a network learnt from."""
    return volumes.ReadVolume(settings["intensity"])


# --- files ----------------------------------------------------------------------------------------


def write_volume(path: Path, label_map: LabelMap, classes: ClassTable, image: str) -> None:
    """Labels in the place of the image: with its affine, spacing and orientation.

    Raises:
        ValueError: if the image is not in a file of a volume.
    """
    if not image or not is_volume(Path(image)):
        raise ValueError(f"{path} takes its place in the patient from the file of its image: save as .npy")
    like = volume_files.read_volume(image)
    volume_files.write_volume(path, label_map.labels.cpu().numpy(), like)


def write_segments(path: Path, label_map: LabelMap, classes: ClassTable, image: str) -> None:
    """Labels as DICOM SEG over the series of the image; the first class is the background.

    Raises:
        ValueError: if the image is no DICOM series.
    """
    source = Path(image)
    if not image or not (is_series(source) or is_dicom(source)):
        raise ValueError(f"{path} takes its place from a DICOM series, and {image or 'the image'} is none")
    labels = label_map.labels.cpu().numpy()
    write_dicom_seg(path, np.where(labels == classes.ignore, 0, labels), classes.names[1:], source)


def read(path: Path, data: SegmentationData, target: LabelMap) -> LabelMap:
    """Predicted labels from a file of a volume, or .npy.

    Raises:
        ValueError: if the file cannot be read, has another size than its target, or holds a label outside the
            table.
    """
    try:
        plain = path.suffix.lower() == ".npy"
        voxels = np.load(path, allow_pickle=False) if plain else volume_files.read_volume(path).voxels
    except (OSError, EOFError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if tuple(voxels.shape) != tuple(target.labels.shape):
        given, wanted = (" x ".join(map(str, shape)) for shape in (voxels.shape, target.labels.shape))
        raise ValueError(f"{path} has {given} voxels, its target {wanted}")
    labels = torch.from_numpy(voxels.astype(np.int64))
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(data.classes):
        raise ValueError(f"{path} holds a label outside the table of {len(data.classes)} classes")
    return LabelMap(labels, target.spacing)


# --- planning -------------------------------------------------------------------------------------

_VOXELS = {"cpu": 48**3, "cuda": 128**3}  # of a patch as the network sees it, at two per step
_FEWEST_VOXELS = 32**3  # however short the time
_LEAST, _MULTIPLE = 16, 8  # of its sides: networks halve them three times or more


def ladder(data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """The networks to choose from, small to large."""
    return tuple(Rung(f"unet3d, width {width}", "unet3d", {"width": width}) for width in (8, 16, 32))


def patch(situation: Situation, chosen: Settings) -> Choice:
    """Size of the training patches."""
    most = _VOXELS.get(situation.machine.device, _VOXELS["cpu"])
    shape = "x".join(map(str, situation.data.size))
    reason = f"from the median volume {shape} down to {most} voxels as they are seen"
    return Choice({"crop": _patch(situation, chosen.get("reduce", 1), most)}, reason)


def smaller_volumes(situation: Situation, chosen: Settings) -> Choice | None:
    """Half the sides where time is short, with patches that see more of the volume."""
    probe, sides = situation.probe({**chosen, "rung": situation.ladder[0].name}), chosen.get("crop")
    if probe is None or sides is None or situation.left is None:
        return None
    if chosen.get("epochs") or chosen.get("steps") or chosen.get("reduce", 1) > 1:
        return None
    steps = rules.steps_in(situation, probe, chosen)
    if steps >= rules.STEPS or min(situation.data.size) < 2 * _LEAST:
        return None
    most = _VOXELS.get(situation.machine.device, _VOXELS["cpu"])
    reason = f"whole ones would leave {steps} steps of {situation.ladder[0].name}, {rules.STEPS} are wanted"
    return Choice({"reduce": 2, "crop": _patch(situation, 2, most)}, reason, "1/2 of the sides")


def smaller_patch(situation: Situation, chosen: Settings) -> Choice | None:
    """Smaller patches where time is short."""
    probe, sides = situation.probe(chosen), chosen.get("crop")
    if probe is None or sides is None or situation.left is None:
        return None
    if chosen.get("epochs") or chosen.get("steps"):
        return None
    steps = rules.steps_in(situation, probe, chosen)
    factor = chosen.get("reduce", 1)
    most = max(_FEWEST_VOXELS, math.prod(sides) // factor**3 * max(1, steps) // rules.STEPS)
    smaller = _patch(situation, factor, most)
    if steps >= rules.STEPS or math.prod(smaller) >= math.prod(sides):
        return None
    return Choice({"crop": smaller}, f"larger ones would leave {steps} steps, {rules.STEPS} are wanted")


def _patch(situation: Situation, factor: int, most: int) -> tuple[int, ...]:
    """Sides of a patch that holds at most so many voxels at 1/factor of them.

    From the median volume down; the axis largest beside it loses first, as in nnU-Net.
    """
    extent = situation.data.size
    multiple, least = factor * _MULTIPLE, factor * _LEAST
    sides = [max(least, -(-side // multiple) * multiple) for side in extent]
    while math.prod(sides) > most * factor**3 and max(sides) > least:
        axis = max(
            (i for i, side in enumerate(sides) if side > least),
            key=lambda i: (sides[i] / extent[i], sides[i]),
        )
        sides[axis] -= multiple
    return tuple(sides)


def two_per_step(situation: Situation, chosen: Settings) -> Choice:
    """Patches per step."""
    return Choice({"batch_size": 2}, "memory goes into the patch before the batch, as in nnU-Net")


def step_size(situation: Situation, chosen: Settings) -> Choice:
    """The highest learning rate."""
    return Choice({"lr": 2e-3}, "random weights")


def mirrors(situation: Situation, chosen: Settings) -> Choice:
    """Which mirrors classes and places allow."""
    data = situation.data
    if data.sides:
        return Choice({"flip": 0.0}, "class names speak of sides", "none")
    most = max(data.mirrored, data.sideways)
    facts = f"mirrored, structures lie elsewhere by {most:.3f} (an orientation from {UPRIGHT_LABELS})"
    if most >= UPRIGHT_LABELS:
        return Choice({"flip": 0.0}, facts, "none")
    return Choice({"flip": 0.5}, facts, "along each axis")


PLANNING = Planning(
    ladder,
    "3-D U-Net of width 8, 16, 32.",
    (
        rules.SPLIT,
        Rule(
            "patch",
            ("crop",),
            patch,
            "From the median volume down to 48^3 voxels on a CPU and 128^3 on a GPU, the axis that is "
            "largest beside the median volume first (nnU-Net's order), sides multiples of 8, at least 16.",
        ),
        rules.LOSS,
        Rule(
            "flips",
            ("flip",),
            mirrors,
            "Along each axis; none where class names speak of left and right, nor where mirrored structures "
            f"lie elsewhere: along some axis, the mean maps of half of the volumes are {UPRIGHT_LABELS} "
            "farther from the mirror images of those of the other half than from those themselves.",
        ),
        Rule("batch", ("batch_size",), two_per_step, "Two patches; a third of them hold a structure."),
        Rule("learning rate", ("lr",), step_size, "0.002."),
        Rule(
            "volume size",
            ("reduce", "crop"),
            smaller_volumes,
            "Where even the smallest rung makes fewer than 400 steps, volumes are seen with half their sides "
            "and patches hold as many of the larger voxels, as long as the median volume keeps 16 on each "
            "side.",
            probed=True,
        ),
        rules.MODEL,
        Rule(
            "smaller patch",
            ("crop",),
            smaller_patch,
            "Where even the smallest rung makes fewer than 400 steps, patches are made smaller in the same "
            "order until it does, not below 32^3 voxels.",
            probed=True,
        ),
        rules.RANGE_TEST,
        rules.VALIDATION,
        rules.LENGTH,
        rules.EMA,
        rules.WORKERS,
    ),
)

VOLUME = Task(
    name="volume",
    annotation=LabelMap,
    formats={**volume_sets(), "volumes": volumes},
    criterion=semantic.criterion,
    decode=decoded,
    metrics=VolumeMetrics,
    monitor="mean_dice",
    transform=transform,
    draw=draw.volume_overlay,
    errors=draw.volume_errors,
    writers={
        **dict.fromkeys(WRITTEN, Writer(write_volume)),
        ".dcm": Writer(write_segments),
        ".npy": Writer(semantic.write_npy),
    },
    read=read,
    reading=reading,
    suffixes=frozenset(SUFFIXES),
    find=volumes.find_volumes,
    suffix_like=prediction_suffix,
    infer=inferred,
    decoding={
        "tile": TILE,
        "window": (0, 0, 0),
        "overlap": 0.5,
        "blend": "gaussian",
        "min_component": 0,
        "intensity": "percentiles",
    },
    finish=semantic.finished,
    offers=("min_component",),
    decoding_of=decoding_of,
    scoring={"tolerance": 1.0},
    defaults={
        "crop": (64, 64, 64),
        "scale": (1.0, 1.0),
        "color": 0.2,
        "rare_crops": 1 / 3,
        "loss": "cross_entropy+dice",
        "batch_size": 2,
    },
    planning=PLANNING,
)
