"""Files beside the data that tell its parts, where folders tell none.

- Lists `train.txt`, `val.txt`, `test.txt`: one name per line.
- Tables `train.csv`, ... with a column that names the images, or one table (`split.csv`) with such a column
  and another of the words train, val, test. The delimiter is a comma, a semicolon or a tab.
- JSON: `{"train": [names], "val": [names]}`, `{name: "train"}`, or a list of rows with a name and a part.

A file that is called like one of these but cannot be read so is a remark.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from ...wording import brief, some_of
from ..dataset import Pair
from ..formats.class_file import NAMES as CLASS_FILES
from .layout import Layout, name_in, read_names, split_of

_TELLING = re.compile(r"train|val|test|split|fold|partition|subset|dataset", re.IGNORECASE)
_LARGEST = 1 << 26  # bytes
Named = dict[str, list[str]]


def by_files(root: Path, layout: Layout) -> Layout:
    """The layout with the parts that files in `root` tell, where folders tell none."""
    if set(layout.pairs) != {"all"}:
        return layout
    pairs, candidates = layout.pairs["all"], _candidates(root)
    if not candidates:
        return layout
    known = _names_of(pairs)
    used: dict[Path, Named] = {}
    remarks = list(layout.remarks)
    kind = ""
    for path in candidates:
        named = _READERS[path.suffix.lower()](path, known)
        if (
            named
            and kind in ("", path.suffix)
            and not any(set(named) & set(other) for other in used.values())
        ):
            used[path], kind = named, path.suffix
        elif named:
            remarks.append(f"{path} is not used: {some_of(list(used))} tells the parts")
        elif _TELLING.search(path.stem):
            remarks.append(
                f"{path} may tell the parts, but it names no image of the data in a way that is understood: "
                "expected a column of names and a column of train, val or test, or lists train.txt, val.txt"
            )
    if not used:
        return replace(layout, remarks=tuple(remarks))
    problems = list(layout.problems)
    parts: dict[str, tuple[Pair, ...]] = {}
    for path, named in used.items():
        for part, names in named.items():
            found: dict[int, None] = {}
            for name in names:
                place = known.get(name_in(known, name) or "")
                if place is None:
                    problems.append(
                        f"{path} names {brief(name)[1:-1]}, but there is no such image with a mask"
                    )
                elif place < 0:
                    problems.append(f"{path} names {brief(name)[1:-1]}, but several images are called so")
                else:
                    found[place] = None
            parts[part] = tuple(pairs[i] for i in found)
    chosen = {pair.id for some in parts.values() for pair in some}
    if left := [pair.id for pair in pairs if pair.id not in chosen]:
        files = some_of([path.name for path in used])
        remarks.append(f"{len(left)} images are not named in {files} and left out: {some_of(left)}")
    return replace(
        layout,
        pairs={part: some for part, some in parts.items() if some},
        problems=tuple(problems),
        remarks=tuple(remarks),
    )


def _names_of(pairs: Iterable[Pair]) -> dict[str, int]:
    """Where each image stands, by its path, its name and that of its mask; -1 where several have one name."""
    known: dict[str, int] = {}
    for i, pair in enumerate(pairs):
        mask = pair.mask.name if pair.mask else pair.id
        for name in {pair.id, pair.image.name, pair.image.stem, mask, Path(mask).stem}:
            known[name] = i if known.get(name, i) == i else -1
    return known


def _candidates(root: Path) -> list[Path]:
    """Files that may tell the parts: lists, then tables, then JSON."""
    return [
        path
        for suffix in _READERS
        for path in sorted(root.glob(f"*{suffix}"))
        if path.name not in CLASS_FILES
        and not path.name.startswith((".", "_"))
        and path.is_file()
        and path.stat().st_size <= _LARGEST
    ]


def _from_list(path: Path, known: Mapping[str, int]) -> Named | None:
    part = split_of(path.stem)
    return {part: names} if part and (names := read_names(path, known)) else None


def _from_table(path: Path, known: Mapping[str, int]) -> Named | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        return _from_rows(list(csv.reader(StringIO(text, newline=""), delimiter=delimiter)), path, known)
    except (OSError, ValueError, csv.Error):
        return None


def _from_json(path: Path, known: Mapping[str, int]) -> Named | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, MemoryError):
        return None
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0]
    if isinstance(content, list):
        return _from_rows([_texts(row) for row in content], path, known)
    if not isinstance(content, dict):
        return None
    lists = {
        str(split_of(key)): rows for key, rows in content.items() if split_of(key) and isinstance(rows, list)
    }
    if lists:
        named = {part: _column(_rows(rows), known) for part, rows in lists.items()}
        return {part: names for part, names in named.items() if names} or None
    return _from_rows([[name, part] for name, part in content.items() if isinstance(part, str)], path, known)


def _rows(entries: list[Any]) -> list[list[str]]:
    return [_texts(entry) for entry in entries]


def _texts(entry: Any) -> list[str]:
    """The texts of a row, whichever form it has."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    return [value if isinstance(value, str) else "" for value in values]


def _from_rows(rows: list[list[str]], path: Path, known: Mapping[str, int]) -> Named | None:
    """Parts from a table: the name of the file tells the part, or a column does."""
    rows = [row for row in rows if any(row)]
    if rows and not any(name_in(known, cell) for cell in rows[0]):
        rows = rows[1:]  # the header
    if not (names := _column(rows, known)):
        return None
    if part := split_of(path.stem):
        return {part: names}
    words = [next((word for cell in row if (word := split_of(cell.strip()))), None) for row in rows]
    if None in words:
        return None
    named: Named = {}
    for name, word in zip(names, words, strict=True):
        named.setdefault(str(word), []).append(name)
    return named


def _column(rows: list[list[str]], known: Mapping[str, int]) -> list[str] | None:
    """The column that names most images, if at least half of its cells do."""
    best: list[str] | None = None
    most = 0
    for cells in ([cell.strip() for cell in column] for column in zip(*rows, strict=False)):
        names = [name for cell in cells if (name := name_in(known, cell)) is not None]
        if len(set(names)) > most and 2 * len(names) >= len(cells):
            best, most = cells, len(set(names))
    return best


_READERS: dict[str, Callable[[Path, Mapping[str, int]], Named | None]] = {
    ".txt": _from_list,
    ".csv": _from_table,
    ".tsv": _from_table,
    ".json": _from_json,
}
