"""GeoJSON of predictions: outlines as polygons with holes, for programs that draw."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from ...files import atomic_write
from ...rle import Polygon, run_lengths
from ...rle.banded import BandedOutlines
from ...types import ClassTable, MaskSet
from .geojson import Affine, affine_of, affine_of_tags
from .raster import GEO_KEYS, crs_name, crs_of_keys, is_geotiff

Rings = Iterable[Int64[np.ndarray, "_ 2"]]  # an outline and its holes
Region = tuple[Mapping[str, Any], int, Iterable[Rings]]  # properties, number of polygons, polygons


class Place(NamedTuple):
    """Where an image lies.

    Attributes:
        affine: from pixels to the coordinates of a map; None for the pixels themselves.
        system: name of the reference system of the map, where it is known.
        size: height and width that the file tells; None for those of the map of labels.
    """

    affine: Affine | None = None
    system: str | None = None
    size: tuple[int, int] | None = None


def place_of(source: Any) -> Place:
    """Where a `tiling.PixelSource` lies: on a map, on the finest level of a slide, or nowhere.

    Raises:
        ValueError: if its tags contradict themselves.
    """
    tags = {tag[0]: tag[3] for tag in source.geography}
    if tags:
        return Place(affine_of_tags(tags, source.name), crs_of_keys(tags.get(GEO_KEYS, ())))
    finest = getattr(source, "finest", source.size)
    if tuple(finest) == tuple(source.size):
        return Place()
    down, across = (of / by for of, by in zip(finest, source.size, strict=True))
    return Place(np.array([[across, 0.0, 0.0], [0.0, down, 0.0]]), None, tuple(finest))


def write_geojson_regions(
    path: Path, regions: MaskSet, classes: ClassTable, image: str, place: Place | None = None
) -> None:
    """A feature for each region, with its class, label, score and area in pixels.

    Coordinates are pixels: x to the right, y down, (0, 0) is the upper left corner of the image; of a
    GeoTIFF they are those of its map, and the member `crs` names the reference system. Corners lie at the
    corners of pixels, so that the regions can be drawn again without a difference. Regions without a pixel,
    and pixels without a class, are left out.

    Args:
        path: of the file.
        regions: such as the instances, or the pixels of each class.
        classes: names of the labels.
        image: path of the image, kept as the member `image`.
        place: where the image lies; None for what the file of the image says.

    Raises:
        ValueError: if the file cannot be written.
    """
    masks = run_lengths(regions)
    if place is None:
        on_map = bool(image) and is_geotiff(image)
        place = Place(affine_of(Path(image)), crs_name(Path(image))) if on_map else Place()
    columns = range(len(masks)), regions.classes.tolist(), regions.scores.tolist(), masks.area.tolist()

    def features() -> Iterator[Region]:
        for number, label, score, area in zip(*columns, strict=True):
            if area and label < len(classes):
                polygons = masks[number].polygons()[0]
                rings = [(one.outer, *one.holes) for one in polygons]
                yield _told(classes, label, score, area), len(rings), rings

    with atomic_write(path) as temporary:
        _write(temporary, features(), image, regions.size, place)


def write_geojson_of_rows(
    path: Path,
    maps: Iterable[tuple[int, Iterable[np.ndarray]]],
    size: tuple[int, int],
    classes: ClassTable,
    image: str,
    place: Place,
) -> None:
    """The file that `write_geojson_regions` writes of the pixels of each class, from maps on a disk.

    Objects that bands cut are joined: the polygons are those of the whole map. In memory are a band and the
    outlines that go on below it; finished ones wait in a temporary file beside `path`.

    Args:
        path: of the file, written in place.
        maps: of each map its label, and its rows from top to bottom in bands: whether (1) pixels belong to
            it; of one map with the labels of all, -1.
        size: height and width in pixels.
        classes: names of the labels.
        image: path of the image.
        place: where it lies.

    Raises:
        OSError: if there is no room.
    """

    def features() -> Iterator[Region]:
        for own, bands in maps:
            one = own >= 0
            known = 1 if one else len(classes)
            wanted = (np.where(rows == 1, 0, -1) if one else _without_others(rows, known) for rows in bands)
            with BandedOutlines(wanted, path.parent) as outlines:
                for label in range(known):
                    if area := outlines.areas.get(label, 0):
                        told = _told(classes, own if one else label, 1.0, area)
                        yield told, outlines.count(label), outlines.polygons(label)

    _write(path, features(), image, size, place)


def _without_others(rows: np.ndarray, known: int) -> np.ndarray:
    """Labels, -1 for those without a class."""
    return np.where(rows < known, rows.astype(np.int32), -1)


def _told(classes: ClassTable, label: int, score: float, area: int) -> dict[str, Any]:
    return {"class": classes.names[label], "label": label, "score": score, "area": area}


def _write(path: Path, features: Iterable[Region], image: str, size: tuple[int, int], place: Place) -> None:
    """One ring after the other: what is written may be larger than the memory."""
    height, width = place.size or size
    content: dict[str, Any] = {
        "type": "FeatureCollection",
        "image": Path(image).name,
        "height": height,
        "width": width,
        "features": None,
    }
    if place.system is not None:
        content["crs"] = {"type": "name", "properties": {"name": place.system}}
    before, _, behind = json.dumps(content).rpartition("null")
    with path.open("w", encoding="utf-8") as file:
        file.write(before + "[")
        for number, (told, count, polygons) in enumerate(features):
            kind = "Polygon" if count == 1 else "MultiPolygon"
            geometry = {"type": kind, "coordinates": None}
            feature = json.dumps({"type": "Feature", "properties": told, "geometry": geometry})
            begin, _, end = feature.rpartition("null")
            file.write(", " * (number > 0) + begin + "[" * (count > 1))
            for i, rings in enumerate(polygons):
                file.write(", " * (i > 0) + "[")
                for j, ring in enumerate(rings):
                    file.write(", " * (j > 0) + json.dumps(_closed(ring, place.affine)))
                file.write("]")
            file.write("]" * (count > 1) + end)
        file.write("]" + behind)


def geojson_feature(
    polygons: Sequence[Polygon], properties: Mapping[str, Any], affine: Affine | None = None
) -> dict[str, Any]:
    """A region as GeoJSON: one polygon, or several parts; at the places that `affine` gives to pixels."""
    parts = [[_closed(ring, affine) for ring in (one.outer, *one.holes)] for one in polygons]
    geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": parts}
    if len(parts) == 1:
        geometry = {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "Feature", "properties": dict(properties), "geometry": geometry}


def _closed(ring: Any, affine: Affine | None) -> list[list[float]]:
    placed = ring if affine is None else ring @ affine[:, :2].T + affine[:, 2]
    corners: list[list[float]] = placed.tolist()
    return [*corners, corners[0]]
