"""Images that people walk through on the page: their labels, their scores, and where labels are saved."""

import csv
import io
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Integer
from PIL import Image

from ..data import LabelEncoding, SegmentationData
from ..data.dataset import Pair
from ..data.formats import read_mask, write_classes_file
from ..data.formats.image import read_image
from ..files import atomic_write, check_targets, make_folder, record_as, written_in
from ..types import LabelMap
from ..wording import brief
from .images import FORMATS, palette_png, png
from .problems import Problem

_SHOWN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp"}  # by browsers
_ORIENTATION = 0x0112  # EXIF tag


class Collection:
    """Numbered images. No client ever names a path.

    Args:
        data: the images, with or without annotations.
        encoding: how classes are written into the files that are saved.
        save_to: folder for corrected labels, held by this process alone; None saves nothing.
        scores: of evaluations by name: the scores of each image by its id.

    Raises:
        ValueError: if two images would be saved under one name, or a name leaves the folder.
    """

    def __init__(
        self,
        data: SegmentationData,
        encoding: LabelEncoding,
        save_to: Path | None = None,
        scores: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    ) -> None:
        self.data, self.encoding, self.save_to = data, encoding, save_to
        self.classes = encoding.classes
        self.scores = dict(scores or {})
        self.ignored = encoding.ignored[0] if encoding.ignored else encoding.classes.ignore
        self._lock = threading.Lock()
        self._targets = [_target(pair) for pair in data.pairs] if save_to is not None else []
        names = {"": ""}
        for pair, target in zip(data.pairs, self._targets, strict=bool(self._targets)):
            if target.as_posix() in names:
                both = f"{names[target.as_posix()]} and {pair.id}"
                raise ValueError(f"the labels of {both} would both be saved as {target}: rename one")
            names[target.as_posix()] = pair.id
        self._saved: dict[int, bool] = {}  # of the files that are there: whether they were saved here
        if save_to is not None:
            ours = written_in(save_to)
            there = [(i, save_to / t) for i, t in enumerate(self._targets) if (save_to / t).exists()]
            self._saved = {number: ours(path) for number, path in there}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data)

    def described(self, column: str | None) -> dict[str, object]:
        """What the page lists: classes, and each image with its state and its scores.

        Args:
            column: of the evaluations; None for the first.

        Raises:
            Problem: if there is no such column.
        """
        columns = list(dict.fromkeys(c for of in self.scores.values() for row in of.values() for c in row))
        chosen = columns[0] if column is None and columns else column
        if chosen is not None and chosen not in columns:
            raise Problem("bad-parameter", f"there is no score {chosen[:40]!r}")
        named = zip(self.classes.names, self.classes.colors, self.encoding.values, strict=True)
        return {
            "classes": [
                {"label": i, "name": name, "color": list(color), "value": value}
                for i, (name, color, value) in enumerate(named)
            ],
            "ignore": self.classes.ignore,
            "ignore_value": self.ignored,
            "saves": self.save_to is not None,
            "columns": columns,
            "column": chosen,
            "evaluations": list(self.scores),
            "images": [
                {
                    "number": number,
                    "name": pair.id,
                    "state": self._state(number),
                    "scores": [of.get(pair.id, {}).get(chosen or "") for of in self.scores.values()],
                }
                for number, pair in enumerate(self.data.pairs)
            ],
        }

    def _state(self, number: int) -> str:
        if number in self._saved:
            return "saved" if self._saved[number] else "other"
        return "none" if self.data.pairs[number].mask is None else "given"

    def _pair(self, number: int) -> Pair:
        if not 0 <= number < len(self):
            raise Problem("no-such-image", f"there are {len(self)} images, numbered from 0")
        return self.data.pairs[number]

    # --- reading ------------------------------------------------------------------------------------

    def picture(self, number: int) -> tuple[bytes, str]:
        """An image file that browsers show, and its type.

        Raises:
            Problem: if there is no such image, or it cannot be read any more.
        """
        path = self._pair(number).image
        try:
            with Image.open(path, formats=FORMATS) as image:
                kind = _SHOWN.get(image.format or "")
                if kind is not None and image.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
                    return path.read_bytes(), kind
        except (OSError, Image.DecompressionBombError):
            pass  # what it is shows below
        try:
            pixels = read_image(path, 3)
        except (ValueError, OSError) as error:
            raise Problem("no-such-image", f"{path.name} cannot be read: {first_line(error)}") from error
        array = (pixels.permute(1, 2, 0) * 255).round().byte().numpy()
        return png(Image.fromarray(array)), "image/png"

    def size(self, number: int) -> tuple[int, int]:
        """Height and width of an image as it is shown.

        Raises:
            Problem: as `picture`.
        """
        body, _ = self.picture(number)
        try:
            with Image.open(io.BytesIO(body), formats=FORMATS) as image:
                turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
                return (image.width, image.height) if turned else (image.height, image.width)
        except OSError as error:  # a PNG that is cut short tells its orientation at its end
            name = self._pair(number).image.name
            raise Problem("no-such-image", f"{name} cannot be read: {first_line(error)}") from error

    def labels(self, number: int, *, given: bool = False) -> Integer[np.ndarray, "H W"]:
        """The labels that were saved, or those that came with the data.

        Args:
            number: of the image.
            given: leaves what was saved aside.

        Raises:
            Problem: if there are none, or their file cannot be read.
        """
        pair = self._pair(number)
        try:
            if not given and self._saved.get(number):
                assert self.save_to is not None
                return read_mask(self.save_to / self._targets[number], self.encoding).numpy()
            if pair.mask is not None:
                target = self.data.target(number)
                if isinstance(target, LabelMap) and target.labels.ndim == 2:
                    return target.labels.numpy()
        except (ValueError, OSError) as error:
            raise Problem("no-labels", f"the labels of {pair.id}: {first_line(error)}") from error
        raise Problem("no-labels", f"{pair.id} has no labels of one class per pixel")

    def saved(self) -> list[tuple[int, str]]:
        """Number and name of each image whose labels were saved here."""
        return [(i, self.data.pairs[i].id) for i, ours in sorted(self._saved.items()) if ours]

    # --- saving -------------------------------------------------------------------------------------

    def save(self, number: int, labels: Integer[np.ndarray, "H W"]) -> str:
        """Write the labels of an image, whole or not at all; gives the name of the file in the folder.

        Raises:
            Problem: if nothing is saved here, the labels do not fit the image or the classes, the file is not
                one that was saved here, or it cannot be written.
        """
        self._pair(number)
        if self.save_to is None:
            raise Problem("read-only", "this server saves no labels: start it with --save-to FOLDER")
        self.check_size(number, (labels.shape[0], labels.shape[1]), "labels")
        content = self.file_of(labels)
        target = self.save_to / self._targets[number]
        with self._lock:
            self.write_classes(self.save_to)
            self.write(target, lambda temporary: temporary.write_bytes(content))
            self._saved[number] = True
        return self._targets[number].as_posix()

    def file_of(self, labels: Integer[np.ndarray, "H W"]) -> bytes:
        """Labels as a PNG with the values of the class file.

        Raises:
            Problem: on a label that is no class.
        """
        known = len(self.classes)
        wrong = labels[(labels >= known) & (labels != self.classes.ignore)]
        if wrong.size:
            raise Problem("bad-parameter", f"{int(wrong[0])} is no label: there are {known} classes")
        values = np.full(max(known, int(self.classes.ignore)) + 1, self.ignored, np.uint16)
        values[:known] = self.encoding.values
        colors = np.full((max(256, int(values.max()) + 1), 3), 224, np.uint8)
        colors[values[:known]] = self.classes.colors
        return palette_png(values[labels], colors)

    def check_size(self, number: int, given: tuple[int, int], what: str) -> None:
        """Refuse labels, or objects, of another height and width than their image.

        Raises:
            Problem: if they are, or as `picture`.
        """
        needed = self.size(number)
        if given != needed:
            told = f"{needed[1]} x {needed[0]} pixels, the {what} {given[1]} x {given[0]}"
            raise Problem("bad-parameter", f"{self._pair(number).id} has {told}")

    def write(self, target: Path, fill: Callable[[Path], object]) -> None:
        """Write a file into the folder for labels, whole or not at all, and note it as ours.

        Args:
            target: of the file.
            fill: writes to the path that it is given.

        Raises:
            Problem: if there is a file that was not saved here, or it cannot be written.
        """
        assert self.save_to is not None
        try:
            make_folder(target.parent)
            if not target.parent.resolve().is_relative_to(self.save_to.resolve()):
                raise Problem("not-ours", f"{target.parent.name} is a link out of the folder for labels")
            check_targets([target], self.save_to, overwrite=True)
        except ValueError as error:
            raise Problem("not-ours", first_line(error)) from error
        try:
            with atomic_write(target) as temporary:
                fill(temporary)
                record_as(target, temporary, self.save_to)
        except ValueError as error:
            raise Problem("cannot-save", first_line(error)) from error

    def write_classes(self, folder: Path) -> Path:
        """Write the class table into a folder, unless there is one.

        Raises:
            Problem: if it cannot be written.
        """
        plain = self.classes.exclusive and all(name.strip() == name for name in self.classes.names)
        path = folder / ("classes.csv" if plain else "classes.json")
        try:
            return path if path.exists() else write_classes_file(path, self.encoding)
        except ValueError as error:
            raise Problem("cannot-save", first_line(error)) from error


def _target(pair: Pair) -> Path:
    """Where the labels of an image go, inside the folder for labels.

    Raises:
        ValueError: if the name of the image leaves the folder.
    """
    name = PurePosixPath(pair.id)
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise ValueError(f"labels of {brief(pair.id)} cannot be saved: its name leaves the folder")
    return Path(name.with_suffix(".png"))


def first_line(error: Exception) -> str:
    """What an error says, short enough for an answer."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def images_in(folder: Path, files: Sequence[Path], classes: LabelEncoding) -> SegmentationData:
    """Images without annotations, whose ids are their paths inside a folder."""
    pairs = tuple(Pair(path, None, path.relative_to(folder).as_posix()) for path in files)
    return SegmentationData(pairs, classes.classes)


def read_scores(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """The scores of each image that `pixelwise evaluate --csv` wrote, by id.

    Raises:
        ValueError: if the file cannot be read or is no such table.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ValueError(f"cannot read the scores in {path}: {error.strerror}") from error
    except csv.Error as error:
        raise ValueError(f"{path} is no table of scores: {error}") from error
    if not rows or "id" not in rows[0]:
        raise ValueError(f"{path} is no table of scores as `pixelwise evaluate --csv` writes it")
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        try:
            numbers = {name: float(text) for name, text in row.items() if name != "id" and text}
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no table of scores: {first_line(error)}") from error
        found[row["id"]] = {name: x for name, x in numbers.items() if math.isfinite(x)}
    return found
