"""Objects that people draw: each with its own mask, kept in one COCO file, so that they may overlap."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer

from ..data import LabelEncoding, SegmentationData
from ..data.formats.coco import instances, read_coco, write_coco
from ..data.formats.yolo import write_yolo_classes, write_yolo_labels
from ..files import written_in
from ..predict import Prediction
from ..rle import RleMasks, run_lengths
from ..tasks import task_for
from ..types import ClassTable, MaskSet
from .collection import Collection, first_line
from .outputs import OUTPUTS, Answer
from .problems import Problem

FILE = "instances.json"
MOST_OBJECTS = 10_000  # of an image


class ObjectCollection(Collection):
    """Numbered images whose objects are drawn.

    Args:
        data: the images, with or without the objects of the data set.
        encoding: the classes of the objects.
        save_to: folder for the COCO file, held by this process alone; None saves nothing.
        scores: as for `Collection`.

    Raises:
        ValueError: if the file was written here and cannot be read, or is of other classes.
    """

    def __init__(
        self,
        data: SegmentationData,
        encoding: LabelEncoding,
        save_to: Path | None = None,
        scores: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    ) -> None:
        super().__init__(data, encoding, None, scores)
        self.save_to = save_to
        self._drawn: dict[str, MaskSet] = {}
        if save_to is not None and (path := save_to / FILE).exists() and written_in(save_to)(path):
            self._drawn = _read(path, self.classes)

    def described(self, column: str | None) -> dict[str, object]:
        """As of `Collection`; says that its labels are objects."""
        return {**super().described(column), "objects": True}

    def _state(self, number: int) -> str:
        pair = self.data.pairs[number]
        return "saved" if pair.id in self._drawn else "none" if pair.mask is None else "given"

    def saved(self) -> list[tuple[int, str]]:
        """Number and name of each image whose objects were saved here."""
        return [(i, pair.id) for i, pair in enumerate(self.data.pairs) if pair.id in self._drawn]

    def labels(self, number: int, *, given: bool = False) -> Integer[np.ndarray, "H W"]:
        """There are none: objects may overlap.

        Raises:
            Problem: always.
        """
        raise Problem("no-labels", "this server has objects instead of labels: see /v1/images/N/objects")

    def save(self, number: int, labels: Integer[np.ndarray, "H W"]) -> str:
        """Labels are not saved here.

        Raises:
            Problem: always.
        """
        raise Problem("bad-parameter", "this server saves objects: PUT them to /v1/images/N/objects")

    def objects(self, number: int, *, given: bool = False) -> MaskSet:
        """The objects that were saved, or those that came with the data.

        Args:
            number: of the image.
            given: leaves what was saved aside.

        Raises:
            Problem: if there are none, or their file cannot be read.
        """
        pair = self._pair(number)
        if not given and pair.id in self._drawn:
            return self._drawn[pair.id]
        try:
            target = self.data.target(number) if pair.mask is not None else None
        except (ValueError, OSError) as error:
            raise Problem("no-labels", f"the objects of {pair.id}: {first_line(error)}") from error
        if not isinstance(target, MaskSet):
            raise Problem("no-labels", f"{pair.id} has no objects")
        return target

    def save_objects(self, number: int, found: MaskSet) -> str:
        """Write the file with the objects of an image, whole or not at all; gives its name.

        Raises:
            Problem: if nothing is saved here, the objects are of another size, the file is not one that was
                saved here, or it cannot be written.
        """
        pair = self._pair(number)
        if self.save_to is None:
            raise Problem("read-only", "this server saves no objects: start it with --save-to FOLDER")
        self.check_size(number, found.size, "objects")
        with self._lock:
            together = {**self._drawn, pair.id: found}
            self.write(
                self.save_to / FILE,
                lambda temporary: write_coco(temporary, list(together.items()), self.classes),
            )
            self._drawn = together
        return FILE


def _read(path: Path, classes: ClassTable) -> dict[str, MaskSet]:
    file = read_coco(path)
    label_of = {number: label for label, number in enumerate(classes.category_ids)}
    if file.categories != tuple(zip(classes.category_ids, classes.names, strict=True)):
        raise ValueError(f"{path} was saved with other classes: choose another folder for --save-to")
    return {image.file_name: instances(image, label_of) for image in file.images}


def objects_told(found: MaskSet) -> dict[str, Any]:
    """Objects as JSON knows them."""
    height, width = found.size
    masks, crowds = run_lengths(found).to_coco(), found.is_crowd.tolist()
    rows = zip(found.classes.tolist(), masks, crowds, strict=True)
    told = [{"label": label, "rle": rle, "crowd": crowd} for label, rle, crowd in rows]
    return {"height": height, "width": width, "objects": told}


def objects_in(content: Mapping[str, Any], classes: ClassTable, most_pixels: int) -> MaskSet:
    """Objects of what `objects_told` gives.

    Raises:
        Problem: if it is anything else, or an object is empty or of no class.
    """
    size = (content.get("height"), content.get("width"))
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size)
    if not whole or size[0] * size[1] > most_pixels:  # type: ignore[operator]
        raise Problem("bad-parameter", "height and width must be the size of the image in pixels")
    given = content.get("objects")
    if not isinstance(given, list) or len(given) > MOST_OBJECTS:
        raise Problem("bad-parameter", f"objects must be a list of at most {MOST_OBJECTS}")
    for one in given:
        label = one.get("label") if isinstance(one, dict) else None
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(classes):
            raise Problem("bad-parameter", f"every object needs a label below {len(classes)}")
        if not isinstance(one.get("crowd", False), bool) or not isinstance(one.get("rle"), dict):
            raise Problem("bad-parameter", "every object needs an rle, and crowd must be true or false")
    try:
        masks = RleMasks.from_coco([one["rle"] for one in given], size)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError) as error:
        raise Problem("bad-parameter", f"the run lengths are none of COCO: {first_line(error)}") from error
    if len(masks) and not masks.area.all():
        raise Problem("bad-parameter", "an object has no pixels")
    labels = torch.tensor([one["label"] for one in given], dtype=torch.int64)
    crowds = torch.tensor([one.get("crowd", False) for one in given], dtype=torch.bool)
    return MaskSet.of(masks, labels, is_crowd=crowds)


def write_objects(found: MaskSet, classes: ClassTable, output: str, name: str) -> Answer:
    """The objects of an image in the format of another tool.

    Args:
        found: the objects.
        classes: of them.
        output: "coco", "geojson" or "yolo".
        name: of the image file.

    Raises:
        Problem: on another format.
    """
    if output in ("coco", "geojson"):
        image = torch.zeros(3, 1, 1).expand(3, *found.size)
        prediction = Prediction(found, task_for(MaskSet), classes, image, name)
        return OUTPUTS[output].encode(OUTPUTS[output].read(prediction, {"name": name}))
    if output != "yolo":
        raise Problem("bad-parameter", f"output must be coco, geojson or yolo, got {output[:40]!r}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "labels.txt"
        write_yolo_labels(path, found)
        return Answer(path.read_bytes(), "text/plain", {})


def all_objects(collection: ObjectCollection, output: str, most_bytes: int) -> Answer:
    """The objects of all images that were saved.

    Args:
        collection: the images.
        output: "coco" (one file), or "yolo" (a zip archive of one file per image, with the classes).
        most_bytes: of the answer.

    Raises:
        Problem: on another format, if nothing was saved, or there is more than that.
    """
    if output not in ("coco", "yolo"):
        raise Problem("bad-parameter", f"objects are written as coco or yolo, got {output[:40]!r}")
    saved = collection.saved()
    if not saved:
        raise Problem("no-labels", "no objects were saved yet")
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        if output == "coco":
            named = [(name, collection.objects(number)) for number, name in saved]
            write_coco(path, named, collection.classes)
            content, kind = path.read_bytes(), "application/json"
        else:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for number, name in saved:
                    write_yolo_labels(path, collection.objects(number))
                    stem = PurePosixPath(name).with_suffix("").as_posix()
                    archive.writestr(f"labels/{stem}.txt", path.read_bytes())
                table = Path(folder) / "data.yaml"
                write_yolo_classes(table, collection.classes, {"train": "images", "val": "images"})
                archive.write(table, table.name)
            content, kind = file.getvalue(), "application/zip"
    if len(content) > most_bytes:
        raise Problem("response-too-large", f"these are more than {most_bytes} bytes: take the folder")
    return Answer(content, kind, {})
