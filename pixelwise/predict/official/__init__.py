"""The official scores of data sets that are known by name, beside those of the task.

Which data set has which is a column of the table (`Row.official`). One that lacks what it needs says so.
"""

from collections.abc import Callable, Iterator, Mapping

from ...data import SegmentationData
from ...data.datasets import row_of
from ...types import Annotation, ClassMasks, ClassTable, LabelMap, MaskSet, Sample
from .eyes import RetinaLesions, Vessels
from .kind import Official as Official, Sure as Sure
from .membranes import Membranes
from .objects import Nuclei, TouchingNuclei
from .sequences import Sequences
from .single import Lesions, PerImage, Salient
from .streets import StreetObjects, Streets
from .tumours import Tumours

_OFFICIAL: Mapping[tuple[str, type[Annotation]], Callable[[ClassTable], Official]] = {
    ("cityscapes", LabelMap): Streets,
    ("cityscapes", MaskSet): StreetObjects,
    ("davis", LabelMap): Sequences,
    ("saliency", LabelMap): Salient,
    ("per image", LabelMap): PerImage,
    ("isic", LabelMap): Lesions,
    ("dsb", MaskSet): Nuclei,
    ("monuseg", MaskSet): TouchingNuclei,
    ("brats", LabelMap): Tumours,
    ("vessels", LabelMap): Vessels,
    ("idrid", ClassMasks): RetinaLesions,
    ("isbi2012", LabelMap): Membranes,
}
OFFICIAL = frozenset(name for name, _ in _OFFICIAL)


def official_scores(data: SegmentationData, annotation: type[Annotation]) -> tuple[str, Official] | None:
    """Title and official scores of the data set that the images are of; None for another one.

    Args:
        data: the annotated images.
        annotation: of the task.
    """
    row = row_of(data.name)
    if row is None:
        return None
    make = _OFFICIAL.get((row.official, annotation))
    return None if make is None else (f"{row.title}: official scores", make(data.classes))


def watched(
    pairs: Iterator[tuple[Sample, Annotation]], official: Official, data: SegmentationData, sure: Sure
) -> Iterator[tuple[Sample, Annotation]]:
    """The same samples and predictions, counted on their way."""
    for index, (sample, prediction) in enumerate(pairs):
        found = prediction.to("cpu")
        official.update(data.pairs[index], sample, found, lambda i=index, s=sample: sure(i, s))  # type: ignore[misc]
        yield sample, prediction
