"""GeoJSON of predictions: outlines as polygons with holes, for programs that draw."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import atomic_write
from ...rle import Polygon, run_lengths
from ...types import ClassTable, MaskSet
from .geojson import Affine, affine_of
from .raster import crs_name, is_geotiff


def write_geojson_regions(path: Path, regions: MaskSet, classes: ClassTable, image: str) -> None:
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

    Raises:
        ValueError: if the file cannot be written.
    """
    masks = run_lengths(regions)
    affine, system = None, None
    if image and is_geotiff(image):
        affine, system = affine_of(Path(image)), crs_name(Path(image))
    features = []
    columns = masks.polygons(), regions.classes.tolist(), regions.scores.tolist(), masks.area.tolist()
    for polygons, label, score, area in zip(*columns, strict=True):
        if not polygons or label >= len(classes):
            continue
        told = {"class": classes.names[label], "label": label, "score": score, "area": area}
        features.append(geojson_feature(polygons, told, affine))
    height, width = regions.size
    content: dict[str, Any] = {
        "type": "FeatureCollection",
        "image": Path(image).name,
        "height": height,
        "width": width,
        "features": features,
    }
    if system is not None:
        content["crs"] = {"type": "name", "properties": {"name": system}}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content))


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
