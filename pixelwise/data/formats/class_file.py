"""Class tables in files: csv (name,r,g,b,id,flip,thing), json, toml, lists of names; with colours or not."""

import csv
import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ...files import atomic_write
from ...types import ClassTable, Color, voc_palette
from ...wording import brief
from ..label_encoding import LabelEncoding

NAMES = (
    *("classes.csv", "classes.json", "classes.toml", "class_dict.csv", "classes.txt", "codes.txt"),
    *("label_colors.txt", "labelmap.txt"),
)
_COLOR = ("r", "g", "b")
_ALL, _YES = "*", ("1", "true", "yes", "True")
_COLOR_AND_NAME = re.compile(r"(?P<r>\d+)\s+(?P<g>\d+)\s+(?P<b>\d+)\s+(?P<name>\S.*)")
_LABELMAP = re.compile(r"(?P<name>[^:]+):(?P<r>\d+),(?P<g>\d+),(?P<b>\d+):")
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

    - `.csv`: a header with `name` and, if wanted, `r`, `g`, `b`, `id` (the value in masks; without it the
      number of the row), `flip` (the name of the class that takes its place in the mirrored image: left and
      right arm) and `thing` (1 for a countable class). Rows with one name are one class with several values
      or colours. A row with the name `ignore` is no class: its id and colour mark pixels that do not count;
      the id `*` stands for all that no row names.
    - `.json`: the fields of `ClassTable`; only `names` must be there. `ids` may give the values in masks,
      one or a list for each class, `colors` likewise; `flip_pairs` are pairs of names; `others_ignored`:
      true ignores all that is not named.
    - `.toml`: the same fields, such as `names = ["background", "road"]`.
    - `.txt`: one name per line; or `r g b name`, as CamVid and CVAT write `label_colors.txt`; or
      `name:r,g,b:parts:actions`, as CVAT writes `labelmap.txt`. There the classes are numbered 0, 1, ...

    Without colours a table gets those of PASCAL VOC. Without an `ignore` the value 255 is ignored.

    Raises:
        ValueError: if the file is missing or is not a class table.
    """
    path = Path(path)
    readers = {".csv": _from_csv, ".json": _from_json, ".toml": _from_toml, ".txt": _from_txt}
    if path.suffix.lower() not in readers:
        raise ValueError(f"a class table is a .csv, .json, .toml or .txt file, got {path}")
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


def write_classes_file(path: str | os.PathLike[str], classes: ClassTable | LabelEncoding) -> Path:
    """Write a class table as .csv (names, colours, values, sides, things) or .json (everything).

    Args:
        path: of the file.
        classes: a table, whose labels are the values in masks; or what values and colours of masks mean.

    Raises:
        ValueError: on another suffix, on a table that a csv cannot hold, or if the file cannot be written.
    """
    path = Path(path)
    encoding = classes if isinstance(classes, LabelEncoding) else None
    table = classes.classes if isinstance(classes, LabelEncoding) else classes
    if path.suffix.lower() == ".json":
        text = json.dumps(asdict(table) if encoding is None else _to_json(encoding), indent=2) + "\n"
    elif path.suffix.lower() == ".csv":
        if not table.exclusive:
            raise ValueError(f"a csv cannot say what the classes in {path} are: write them as .json")
        if any(name.strip() != name or _is_ignore(name) for name in table.names):
            raise ValueError(f"a csv cannot hold one of the names in {path}: write them as .json")
        text = _to_csv(LabelEncoding.of(table) if encoding is None else encoding)
    else:
        raise ValueError(f"a class table is written as .csv or .json, got {path}")
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


def _to_csv(encoding: LabelEncoding) -> str:
    classes = encoding.classes
    partner = dict([*classes.flip_pairs, *((b, a) for a, b in classes.flip_pairs)])
    further = ["flip"] * bool(partner) + ["thing"] * bool(classes.things)
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *_COLOR, "id", *further])
    for label, name in enumerate(classes.names):
        more = {
            "flip": classes.names[partner[label]] if label in partner else "",
            "thing": int(label in classes.things),
        }
        for color, value in zip_longest(*_meanings(encoding, label), fillvalue=""):
            writer.writerow([name, *(color or ("", "", "")), value, *(more[word] for word in further)])
    others: list[int | str] = ["*"] if encoding.others_ignored else []
    for color, value in zip_longest(encoding.ignored_colors, [*encoding.ignored, *others], fillvalue=""):
        writer.writerow(["ignore", *(color or ("", "", "")), value, *("" for _ in further)])
    return out.getvalue()


def _meanings(encoding: LabelEncoding, label: int) -> tuple[list[Color], list[int]]:
    """All colours and all values of a class."""
    colors = [encoding.classes.colors[label], *(c for c, at in encoding.further_colors if at == label)]
    return colors, [encoding.values[label], *(value for value, at in encoding.further if at == label)]


def _to_json(encoding: LabelEncoding) -> dict[str, Any]:
    classes = encoding.classes
    both = [_meanings(encoding, label) for label in range(len(classes))]
    pairs = [[classes.names[a], classes.names[b]] for a, b in classes.flip_pairs]
    return {
        "names": classes.names,
        "colors": [colors[0] if len(colors) == 1 else colors for colors, _ in both],
        "ids": [values[0] if len(values) == 1 else values for _, values in both],
        "ignore": encoding.ignored[0] if len(encoding.ignored) == 1 else list(encoding.ignored),
        "ignored_colors": encoding.ignored_colors,
        "others_ignored": encoding.others_ignored,
        "exclusive": classes.exclusive,
        "things": classes.things,
        "flip_pairs": pairs,
    }


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
    classes = list(dict.fromkeys(row["name"] for row in named))
    colored = {row["name"] for row in named if _color_of(row)}
    if colored and len(colored) != len(classes):
        raise ValueError("some classes have a colour and some have none")
    ids = [_whole(row["id"], "id") for row in named if row.get("id")]
    if ids and len(ids) != len(named) and not colored:
        raise ValueError("some classes have an id and some have none")
    values: dict[str, list[int]] = {name: [] for name in classes}
    colors: dict[str, list[Color]] = {name: [] for name in classes}
    for row in named:
        known = len(values[row["name"]]), len(colors[row["name"]])
        if (color := _color_of(row)) and color not in colors[row["name"]]:
            colors[row["name"]].append(color)
        if row.get("id") and (value := _whole(row["id"], "id")) not in values[row["name"]]:
            values[row["name"]].append(value)
        if (len(values[row["name"]]), len(colors[row["name"]])) == known and (ids or colored or known[0]):
            raise ValueError(f"class names must differ, got {brief(row['name'])} twice")
    if len(classes) < len(named) and not ids and not colored:
        raise ValueError("class names must differ, or their rows must have several ids or colours")
    if ids and not all(values.values()):
        raise ValueError("some classes have an id and some have none")
    sides = {(row["name"], row["flip"]) for row in named if row.get("flip")}
    return _coding(
        names=classes,
        colors=list(colors.values()) if colored else None,
        ids=list(values.values()) if ids else None,
        ignored=[_whole(r["id"], "id") for r in ignored if r.get("id") and r["id"] != _ALL],
        ignored_colors=[color for row in ignored if (color := _color_of(row))],
        others_ignored=any(row.get("id") == _ALL for row in ignored),
        things=tuple(
            label
            for label, name in enumerate(classes)
            if any(row.get("thing", "") in _YES for row in named if row["name"] == name)
        ),
        sides=sorted({(min(pair), max(pair)) for pair in sides}),
    )


def _from_json(text: str) -> LabelEncoding:
    return _from_fields(json.loads(text))


def _from_toml(text: str) -> LabelEncoding:
    return _from_fields(tomllib.loads(text))


def _from_fields(fields: Any) -> LabelEncoding:
    if isinstance(fields, list):
        fields = {"names": fields}
    if not isinstance(fields, dict) or not isinstance(fields.get("names"), list):
        raise ValueError("expected a list of `names`")
    names = [str(name) for name in fields["names"]]
    ignored = fields.get("ignore", [])
    pairs = [tuple(pair) for pair in fields.get("flip_pairs", ())]
    if not all(len(pair) == 2 for pair in pairs):
        raise ValueError(f"flip_pairs must be pairs of names, got {brief(pairs)}")
    return _coding(
        names=names,
        colors=[_colors(entry) for entry in fields.get("colors", [])] or None,
        ids=[_values(entry) for entry in fields.get("ids", [])] or None,
        ignored=[_whole(x, "ignore") for x in (ignored if isinstance(ignored, list) else [ignored])],
        ignored_colors=[_three(color) for color in fields.get("ignored_colors", ())],
        others_ignored=bool(fields.get("others_ignored", False)),
        exclusive=bool(fields.get("exclusive", True)),
        things=tuple(_whole(thing, "things") for thing in fields.get("things", ())),
        sides=[(_name(a, names), _name(b, names)) for a, b in pairs],
    )


def _values(entry: Any) -> list[int]:
    entries = entry if isinstance(entry, list) else [entry]
    if not entries:
        raise ValueError("a class needs at least one of the ids, got an empty list")
    return [_whole(value, "ids") for value in entries]


def _colors(entry: Any) -> list[Color]:
    several = isinstance(entry, list) and bool(entry) and isinstance(entry[0], list)
    return [_three(color) for color in entry] if several else [_three(entry)]


def _name(entry: Any, names: list[str]) -> str:
    """The name of a class that is given by its name or its label."""
    return names[entry] if isinstance(entry, int) and 0 <= entry < len(names) else str(entry)


def _from_txt(text: str) -> LabelEncoding:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for pattern in (_COLOR_AND_NAME, _LABELMAP):
        found = [pattern.match(line) for line in lines]
        if lines and all(found):
            matches = [one.groupdict() for one in found if one]
            colors = [[_three([one["r"], one["g"], one["b"]])] for one in matches]
            return _coding([one["name"].strip() for one in matches], colors)
    return _coding(names=lines)


def _coding(
    names: list[str],
    colors: list[list[Color]] | None = None,
    ids: list[list[int]] | None = None,
    ignored: list[int] | None = None,
    ignored_colors: list[Color] | None = None,
    *,
    others_ignored: bool = False,
    exclusive: bool = True,
    things: tuple[int, ...] = (),
    sides: Sequence[tuple[str, str]] = (),
) -> LabelEncoding:
    """The encoding; of several colours or ids of a class the first is its own."""
    if len(names) > _MOST:
        raise ValueError(f"it has {len(names)} classes, expected at most {_MOST}")
    values = ids or [[label] for label in range(len(names))]
    if not ignored and not any(255 in some for some in values):
        ignored = [255]
    # A mask may use a small number for what is ignored; among labels it then needs one that is no class.
    label = next((value for value in ignored or () if not 0 <= value < len(names)), None)
    if label is None:
        label = 255 if len(names) <= 255 else 65535
    if unknown := [name for pair in sides for name in pair if name not in names]:
        raise ValueError(f"a class is mirrored to {brief(unknown[0])}, which is none of the names")
    palette = tuple(some[0] for some in colors) if colors else voc_palette(len(names))
    pairs = tuple((names.index(a), names.index(b)) for a, b in sides)
    classes = ClassTable(tuple(names), palette, label, exclusive=exclusive, things=things, flip_pairs=pairs)
    return LabelEncoding(
        classes,
        tuple(some[0] for some in values),
        tuple(dict.fromkeys(ignored or ())),
        tuple(ignored_colors or ()),
        further=tuple((value, at) for at, some in enumerate(values) for value in some[1:]),
        further_colors=tuple((color, at) for at, some in enumerate(colors or ()) for color in some[1:]),
        others_ignored=others_ignored,
    )


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
