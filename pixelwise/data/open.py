"""From a folder to its parts: which layout it has, which classes, which images belong to which part."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..types import ClassTable
from ..wording import brief
from .classes import encoding_from_masks
from .dataset import DataSplits, SegmentationData, divided
from .datasets import FORMATS, Finder, Layout, Tree, export_of
from .formats.class_file import find_class_file, read_label_encoding
from .label_encoding import MASK_RULES, LabelEncoding, MaskRule

_TEST, _MANY = 0.15, 100  # share of a test part that is cut, and from how many images on it is
_LOOKED_AT = 20  # folders in one without a layout
_log = logging.getLogger(__name__)


def open_data(
    root: str | os.PathLike[str],
    *,
    format: str = "auto",
    classes: ClassTable | str | os.PathLike[str] | None = None,
    val_fraction: float = 0.2,
    test_fraction: float | None = None,
    seed: int = 0,
    channels: int = 3,
    mask_rule: MaskRule = "exact",
    formats: Mapping[str, Finder] = FORMATS,
) -> DataSplits:
    """Open a folder of images and annotations, of one class per pixel unless `formats` says otherwise.

    Args:
        root: the folder; for COCO also the json file.
        format: "pairs", "voc", "camvid", "cityscapes", "coco", or "auto" to look at the folder.
        classes: the task, or a file that holds it (see `read_label_encoding`). Without it: `classes.csv` or
            the like in the folder, the classes of the layout, or those found in the masks (see
            `encoding_from_masks`).
        val_fraction: share of the training images that become the validation part where the data name none.
        test_fraction: share of the images that become the test part, on which nothing is to be chosen, where
            the data name neither a validation nor a test part; None for 0.15 of 100 images or more, else 0.
        seed: of these choices.
        channels: of the images; volumes have those of their files.
        mask_rule: "exact": the values of masks are classes. "above-127" and "above-0": brighter pixels are
            foreground, all others background; for JPEG masks, smooth edges and instance maps. Of a colour,
            also one of a palette, the brightest channel counts. "first-channel": the first channel of a mask
            in colours holds the classes, and others number objects.
        formats: the layouts to choose from; each task has its own.

    Raises:
        ValueError: if there is no such folder, nothing in it that can be understood, or no class table; and
            on an annotation file that contradicts itself.
    """
    return open_reporting(
        root,
        format=format,
        classes=classes,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        channels=channels,
        mask_rule=mask_rule,
        formats=formats,
    )


def open_reporting(
    root: str | os.PathLike[str],
    *,
    format: str = "auto",
    classes: ClassTable | str | os.PathLike[str] | None = None,
    val_fraction: float = 0.2,
    test_fraction: float | None = None,
    seed: int = 0,
    channels: int = 3,
    mask_rule: MaskRule = "exact",
    formats: Mapping[str, Finder] = FORMATS,
    on_error: Callable[[Path, ValueError], None] | None = None,
) -> DataSplits:
    """Like `open_data`, but what is wrong with single files is told to `on_error` and does not end it.

    Nothing is logged then: what the layout remarks is in the result.

    Raises:
        ValueError: as `open_data`.
    """
    root = Path(root)
    if mask_rule not in MASK_RULES:
        raise ValueError(f"mask_rule must be one of {', '.join(MASK_RULES)}, got {brief(mask_rule)}")
    name = format_of(root, formats) if format == "auto" else format
    if name not in formats:
        raise ValueError(f"format must be auto, {_known(formats)}, got {brief(name)}")
    _check_exists(root)
    layout = formats[name].find(root, _given(root, classes))
    if layout.problems and on_error is None:
        more = len(layout.problems) - 1
        others = f" (and {more} more problems: `pixelwise check` lists them)" if more else ""
        raise ValueError(layout.problems[0] + others)
    encoding = layout.encoding or _given(root, classes)
    if mask_rule != "exact":
        if layout.read_target is not None:
            raise ValueError(f"the mask rule {mask_rule} is for mask files, {root} is of the layout {name}")
    channel = 0 if mask_rule == "first-channel" else None
    if mask_rule in ("above-127", "above-0"):
        encoding = LabelEncoding.by_rule(mask_rule, encoding.classes if encoding else None)
    if encoding is None:
        pairs = [pair for part in layout.pairs.values() for pair in part]
        masks = [pair.mask for pair in pairs if pair.mask]
        encoding = encoding_from_masks(masks, on_error, channel=channel)
    if channel is not None:
        encoding = replace(encoding, channel=channel)
    if layout.unpaired and on_error is None:
        _log.warning(
            "%s: %d files have no partner and are left out, such as %s",
            root,
            len(layout.unpaired),
            layout.unpaired[0],
        )
    for remark in layout.remarks if on_error is None else ():
        _log.warning("%s", remark)
    return _split(layout, encoding, name, root, (val_fraction, test_fraction), seed, channels)


def format_of(root: Path, formats: Mapping[str, Finder] = FORMATS) -> str:
    """The layout of a folder, out of `formats`.

    Raises:
        ValueError: if there is no such folder, it is empty, or it has no known layout.
    """
    _check_exists(root)
    if root.is_dir() and not any(root.iterdir()):
        raise ValueError(f"the data folder {root} is empty")
    for name, layout in formats.items():
        if layout.matches(root):
            if isinstance(layout, Tree):
                _refuse_two(root, name, formats)
            return name
    if root.is_file() and "coco" in formats:
        return "coco"  # it says what is wrong with the file
    if (export := export_of(root)) is not None:
        raise ValueError(
            f"{root} looks like {export.name}, but has no layout that this task reads: {export.advice}"
        )
    if root.is_dir() and (inside := _readable_inside(root, formats)) is not None:
        raise ValueError(f"{root} has no layout that is known, but {inside} in it has one: open that folder")
    plain = [name for name, layout in formats.items() if not isinstance(layout, Tree)]
    if "pairs" in formats or len(plain) == 1:
        return "pairs" if "pairs" in formats else plain[0]  # it says what it misses
    raise ValueError(f"{root} has none of the layouts {_known(formats)}")


def _readable_inside(root: Path, formats: Mapping[str, Finder]) -> Path | None:
    """The first folder in a folder that has a layout."""
    with os.scandir(root) as entries:
        folders = sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
    readable = (one for one in folders[:_LOOKED_AT] if any(f.matches(one) for f in formats.values()))
    return next(readable, None)


def _refuse_two(root: Path, name: str, formats: Mapping[str, Finder]) -> None:
    """Ask where a folder could be two data sets."""
    others = [
        other
        for other, layout in formats.items()
        if other != name and isinstance(layout, Tree) and layout.matches(root)
    ]
    if others:
        raise ValueError(
            f"{root} could be {name} or {' or '.join(others)}, which look alike: say which "
            f"(--format {name}), or --format pairs if it is neither"
        )


def _known(formats: Mapping[str, Finder]) -> str:
    """The names of layouts; those of data sets have a list of their own."""
    plain = ", ".join(name for name, layout in formats.items() if not isinstance(layout, Tree))
    some = any(isinstance(layout, Tree) for layout in formats.values())
    return f"{plain} or one of `pixelwise datasets`" if some else plain


def _check_exists(root: Path) -> None:
    if not root.exists():
        raise ValueError(f"there is no data folder {root}")
    if root.is_file() and root.suffix.lower() != ".json":
        raise ValueError(f"expected a data folder or a COCO json file, got the file {root}")


def _given(root: Path, classes: ClassTable | str | os.PathLike[str] | None) -> LabelEncoding | None:
    """The class table that the caller or the folder gives."""
    if isinstance(classes, ClassTable):
        return LabelEncoding.of(classes)
    if classes is not None:
        return read_label_encoding(classes)
    file = find_class_file(root) if root.is_dir() else None
    return read_label_encoding(file) if file else None


def _split(
    layout: Layout,
    encoding: LabelEncoding,
    name: str,
    root: Path,
    fractions: tuple[float, float | None],
    seed: int,
    channels: int,
) -> DataSplits:
    val_fraction, test_fraction = fractions
    remarks = layout.remarks
    alone = len(layout.pairs) == 1 and sum(len(some) for some in layout.pairs.values()) == 1
    if layout.tiles is not None and alone:
        layout = replace(layout, pairs={part: layout.tiles(some) for part, some in layout.pairs.items()})
        remarks += (f"{root} holds one file: neighbouring tiles of it are in different parts",)
    parts = {
        part: SegmentationData(
            pairs,
            encoding.classes,
            read_target=layout.read_target or layout.read_masks(encoding),
            read_image=layout.read_image,
            channels=layout.channels or channels,
            name=name,
        )
        for part, pairs in layout.pairs.items()
    }
    nothing = SegmentationData((), encoding.classes, channels=channels)
    train = parts.get("train") or parts.get("all") or nothing
    val, test, made, made_test = parts.get("val"), parts.get("test"), False, False
    if val is None and test is None:
        share = test_fraction if test_fraction is not None else _TEST if len(train) >= _MANY else 0.0
        if share > 0:
            train, test = divided(train, share, seed + 1)
            made_test = True
    if val is None:
        train, val = divided(train, val_fraction, seed)
        made = len(val) > 0
    if layout.tiles is not None and not alone:
        train, val = (part.with_pairs(layout.tiles(part.pairs)) for part in (train, val))
        test = None if test is None else test.with_pairs(layout.tiles(test.pairs))
    return DataSplits(
        train,
        val,
        test,
        encoding.classes,
        name,
        root,
        encoding,
        layout.unpaired,
        made,
        layout.problems,
        remarks,
        made_test,
    )
