"""GeoJSON of predictions: outlines as polygons with holes, for programs that draw."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import atomic_write
from ...rle import Polygon, run_lengths
from ...types import ClassTable, MaskSet


def write_geojson_regions(path: Path, regions: MaskSet, classes: ClassTable, image: str) -> None:
    """A feature for each region, with its class, label, score and area in pixels.

    Coordinates are pixels: x to the right, y down, (0, 0) is the upper left corner of the image. Corners lie
    at the corners of pixels, so that the regions can be drawn again without a difference. Regions without a
    pixel are left out.

    Args:
        path: of the file.
        regions: such as the instances, or the pixels of each class.
        classes: names of the labels.
        image: path of the image, kept as the member `image`.

    Raises:
        ValueError: if the file cannot be written.
    """
    masks = run_lengths(regions)
    features = []
    columns = masks.polygons(), regions.classes.tolist(), regions.scores.tolist(), masks.area.tolist()
    for polygons, label, score, area in zip(*columns, strict=True):
        if not polygons:
            continue
        told = {"class": classes.names[label], "label": label, "score": score, "area": area}
        features.append(geojson_feature(polygons, told))
    height, width = regions.size
    content = {
        "type": "FeatureCollection",
        "image": Path(image).name,
        "height": height,
        "width": width,
        "features": features,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content))


def geojson_feature(polygons: Sequence[Polygon], properties: Mapping[str, Any]) -> dict[str, Any]:
    """A region as GeoJSON: one polygon, or several parts."""
    parts = [[_closed(ring) for ring in (one.outer, *one.holes)] for one in polygons]
    geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": parts}
    if len(parts) == 1:
        geometry = {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "Feature", "properties": dict(properties), "geometry": geometry}


def _closed(ring: Any) -> list[list[int]]:
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]
