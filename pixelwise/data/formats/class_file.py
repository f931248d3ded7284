"""Class tables in files: csv (name,r,g,b,id), json, or a plain list of names."""

import csv
import json
import os
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from ...files import atomic_write
from ...types import ClassTable, Color, voc_palette
from ...wording import brief
from ..label_encoding import LabelEncoding

NAMES = ("classes.csv", "classes.json", "class_dict.csv", "classes.txt", "codes.txt")
_COLOR = ("r", "g", "b")
_MOST = 65_535  # with an ignore label they fit into 16 bits


def find_class_file(root: Path) -> Path | None:
    """The class table that lies in a data folder, if one does."""
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def read_classes_file(path: str | os.PathLike[str]) -> ClassTable:
    """The class table in a file; see `read_label_encoding` for the formats.

    Raises:
        ValueError: if the file is missing or is not a class table.
    """
    return read_label_encoding(path).classes


def read_label_encoding(path: str | os.PathLike[str]) -> LabelEncoding:
    """The class table in a file, and which values masks use for its classes.

    - `.csv`: a header with `name` and, if wanted, `r`, `g`, `b` and `id` (the value in masks; without it the
      number of the row). A row with the name `ignore` is no class: its id and colour mark pixels that do
      not count.
    - `.json`: the fields of `ClassTable`; only `names` must be there. `ids` may give the values in masks.
    - `.txt`: one name per line.

    Without colours a table gets those of PASCAL VOC. Without an `ignore` the value 255 is ignored.

    Raises:
        ValueError: if the file is missing or is not a class table.
    """
    path = Path(path)
    readers = {".csv": _from_csv, ".json": _from_json, ".txt": _from_txt}
    if path.suffix.lower() not in readers:
        raise ValueError(f"a class table is a .csv, .json or .txt file, got {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"there is no class table {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the class table {path}: {error}") from error
    try:
        return readers[path.suffix.lower()](text)
    except RecursionError as error:
        raise ValueError(f"{path} is not a class table: its brackets are nested too deeply") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, csv.Error) as error:
        raise ValueError(f"{path} is not a class table: {error}") from error


def write_classes_file(path: str | os.PathLike[str], classes: ClassTable) -> Path:
    """Write a class table as .csv (names, colours, ignore) or .json (everything).

    Raises:
        ValueError: on another suffix, on a table that a csv cannot hold, or if the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        text = json.dumps(asdict(classes), indent=2) + "\n"
    elif path.suffix.lower() == ".csv":
        if classes.things or not classes.exclusive:
            raise ValueError(f"a csv cannot say what the classes in {path} are: write them as .json")
        if any(name.strip() != name or _is_ignore(name) for name in classes.names):
            raise ValueError(f"a csv cannot hold one of the names in {path}: write them as .json")
        text = _to_csv(classes)
    else:
        raise ValueError(f"a class table is written as .csv or .json, got {path}")
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


def _to_csv(classes: ClassTable) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *_COLOR, "id"])
    for label, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
        writer.writerow([name, *color, label])
    writer.writerow(["ignore", "", "", "", classes.ignore])
    return out.getvalue()


def _from_csv(text: str) -> LabelEncoding:
    table = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True)
    rows = [
        {
            (key or "").strip().lower(): (value or "").strip()
            for key, value in row.items()
            if not isinstance(value, list)
        }
        for row in table
    ]
    if not rows or "name" not in rows[0]:
        raise ValueError("expected a header with `name` and one row per class")
    named = [row for row in rows if not _is_ignore(row["name"])]
    ignored = [row for row in rows if _is_ignore(row["name"])]
    colors = [color for row in named if (color := _color_of(row))]
    if colors and len(colors) != len(named):
        raise ValueError("some classes have a colour and some have none")
    ids = [_whole(row["id"], "id") for row in named if row.get("id")]
    if ids and len(ids) != len(named):
        raise ValueError("some classes have an id and some have none")
    return _coding(
        names=[row["name"] for row in named],
        colors=colors,
        ids=ids,
        ignored=[_whole(row["id"], "id") for row in ignored if row.get("id")],
        ignored_colors=[color for row in ignored if (color := _color_of(row))],
    )


def _from_json(text: str) -> LabelEncoding:
    fields: Any = json.loads(text)
    if isinstance(fields, list):
        fields = {"names": fields}
    if not isinstance(fields, dict) or not isinstance(fields.get("names"), list):
        raise ValueError("expected a list of `names`")
    return _coding(
        names=[str(name) for name in fields["names"]],
        colors=[_three(color) for color in fields.get("colors", [])],
        ids=[_whole(value, "ids") for value in fields.get("ids", [])],
        ignored=[_whole(fields["ignore"], "ignore")] if "ignore" in fields else [],
        exclusive=bool(fields.get("exclusive", True)),
        things=tuple(_whole(thing, "things") for thing in fields.get("things", ())),
    )


def _from_txt(text: str) -> LabelEncoding:
    return _coding(names=[line.strip() for line in text.splitlines() if line.strip()])


def _coding(
    names: list[str],
    colors: list[Color] | None = None,
    ids: list[int] | None = None,
    ignored: list[int] | None = None,
    ignored_colors: list[Color] | None = None,
    *,
    exclusive: bool = True,
    things: tuple[int, ...] = (),
) -> LabelEncoding:
    if len(names) > _MOST:
        raise ValueError(f"it has {len(names)} classes, expected at most {_MOST}")
    values = tuple(ids or range(len(names)))
    if not ignored and 255 not in values:
        ignored = [255]
    # A mask may use a small number for what is ignored; among labels it then needs one that is no class.
    label = next((value for value in ignored or () if not 0 <= value < len(names)), None)
    if label is None:
        label = 255 if len(names) <= 255 else 65535
    classes = ClassTable(
        tuple(names), tuple(colors or voc_palette(len(names))), label, exclusive=exclusive, things=things
    )
    return LabelEncoding(classes, values, tuple(ignored or ()), tuple(ignored_colors or ()))


def _color_of(row: dict[str, str]) -> Color | None:
    parts = [row.get(part, "") for part in _COLOR]
    return _three(parts) if any(parts) else None


def _three(parts: Any) -> Color:
    if not isinstance(parts, list | tuple) or len(parts) != 3:
        raise ValueError(f"a colour needs three numbers, got {brief(parts)}")
    r, g, b = (_whole(part, "a colour") for part in parts)
    return r, g, b


def _whole(value: Any, field: str) -> int:
    """A whole number, which may be written as 3, 3.0 or "3".

    Raises:
        ValueError: on anything else; names the field.
    """
    try:
        number = int(value)
        if isinstance(value, bool) or (isinstance(value, float) and value != number):
            raise ValueError
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{field} must be a whole number, got {brief(value)}") from error
    return number


def _is_ignore(name: str) -> bool:
    return name.strip().lower() == "ignore"
