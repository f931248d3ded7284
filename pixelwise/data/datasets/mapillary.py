"""Mapillary Vistas: `training/images/a.jpg`, `training/v1.2/labels/a.png` and `config_v1.2.json`.

The versions have folders of their own (`v1.2`, `v2.0`), the first ones none, with `config.json`. Masks hold
the place of the class in the config, which also says which classes are evaluated; the others are ignored.
The test part has no masks.
"""

from pathlib import Path

from ...types import ClassTable
from ..dataset import Pair
from ..formats.json_file import read_json
from ..label_encoding import LabelEncoding
from .layout import Layout, image_files

_VERSIONS = {"v1.2": "config_v1.2.json", "": "config.json", "v2.0": "config_v2.0.json"}
_PARTS = {"train": "training", "val": "validation"}


def matches(root: Path) -> bool:
    """Whether there are `training/images`, labels of a version and its config."""
    return (root / "training" / "images").is_dir() and _version(root) is not None


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images and their masks; see `Layout`.

    Raises:
        ValueError: if the folder does not have this layout, or the config cannot be understood.
    """
    version = _version(root)
    if version is None:
        raise ValueError(
            f"{root} has no Mapillary layout: expected training/images/, training/v1.2/labels/ and "
            "config_v1.2.json"
        )
    pairs: dict[str, tuple[Pair, ...]] = {}
    unpaired: list[Path] = []
    for part, folder in _PARTS.items():
        home = root / folder / "images"
        found = []
        for image in image_files(home, deep=False) if home.is_dir() else []:
            mask = root / folder / version / "labels" / f"{image.stem}.png"
            if mask.is_file():
                found.append(Pair(image, mask, image.relative_to(root).as_posix()))
            else:
                unpaired.append(image)
        if found:
            pairs[part] = tuple(found)
    if not pairs:
        raise ValueError(f"{root} holds no image with a mask in training/{version or '.'}/labels")
    own = encoding or encoding_of(root / _VERSIONS[version])
    return Layout(pairs, own, unpaired=tuple(unpaired))


def _version(root: Path) -> str | None:
    """The folder of the first version whose masks and config are there."""
    return next(
        (
            version
            for version, config in _VERSIONS.items()
            if (root / "training" / version / "labels").is_dir() and (root / config).is_file()
        ),
        None,
    )


def encoding_of(config: Path) -> LabelEncoding:
    """What the values of the masks mean.

    Raises:
        ValueError: if the file tells no classes.
    """
    told = read_json(config)
    try:
        rows = [
            (str(row.get("readable") or row["name"]), tuple(map(int, row["color"])), bool(row["evaluate"]))
            for row in told["labels"]
        ]
        things = [bool(row.get("instances")) for row in told["labels"] if row["evaluate"]]
        colors = tuple((r, g, b) for _, (r, g, b), counts in rows if counts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{config} tells no classes as Mapillary's config does: {error!r:.80}") from error
    names = tuple(name for name, _, counts in rows if counts)
    if not names:
        raise ValueError(f"{config} has no class that is evaluated")
    table = ClassTable(_apart(names), colors, things=tuple(i for i, thing in enumerate(things) if thing))
    values = tuple(value for value, (_, _, counts) in enumerate(rows) if counts)
    ignored = tuple(value for value, (_, _, counts) in enumerate(rows) if not counts)
    return LabelEncoding(table, values, ignored)


def _apart(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of which some are the same, with numbers behind the later ones."""
    return tuple(
        name if name not in names[:place] else f"{name} {names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    )
