"""GeoJSON: a file of polygons beside each image, `a.geojson` for `a.tif`.

Of a GeoTIFF the coordinates are those of its map, and the tags of the file say where pixels lie; of other
images they are pixels from the corner of the image, with y downwards, as QuPath writes them. The first ring
of a polygon is its outline, others are holes; the parts of a MultiPolygon are one instance. The class is
the property `class`, `label`, `name`, `type`, `category`, or QuPath's `classification`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ...files import atomic_write
from ...rle import RleMasks
from ...types import Color
from ..shapes import Described, Export, Picture, Ring, Shape, ring
from .json_file import read_json

_CLASS = ("class", "label", "classification", "name", "type", "category", "Class", "Label")
_NAMELESS = "region"
_SCALE, _TIEPOINT, _TRANSFORM = 33550, 33922, 34264  # tags of GeoTIFF
Affine = Float64[np.ndarray, "2 3"]
_PIXELS: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def read_geojson(paths: Sequence[Path], root: Path) -> Export:
    """What files say of their images.

    Raises:
        ValueError: if one is missing or no such file.
    """
    images = []
    colors: dict[str, Color | None] = {}
    for path in paths:
        try:
            content = read_json(path)
            features = content["features"] if content["type"] == "FeatureCollection" else [content]
            kept = [
                one for one in features if (one["geometry"] or {}).get("type") in ("Polygon", "MultiPolygon")
            ]
            colors |= dict.fromkeys((_class(feature) for feature in kept), None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a file of GeoJSON: {type(error).__name__} {error}") from error
        images.append(Described(path, path.relative_to(root).with_suffix("").as_posix(), kept))
    return Export(tuple(images), colors)


def _class(feature: Any) -> str:
    properties = feature.get("properties") or {}
    value = next((properties[key] for key in _CLASS if properties.get(key) not in (None, "")), _NAMELESS)
    return str(value.get("name", _NAMELESS) if isinstance(value, dict) else value)


def geojson_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on a polygon that cannot be drawn, or an image whose place on the map is unknown.
    """
    affine = affine_of(picture.path)
    inverse = np.linalg.inv(np.vstack([affine, [0.0, 0.0, 1.0]]))[:2]
    shapes = []
    for number, feature in enumerate(described.content):
        geometry, properties = feature["geometry"], feature.get("properties") or {}
        several = geometry["type"] == "MultiPolygon"
        for rings in geometry["coordinates"] if several else [geometry["coordinates"]]:
            group = properties.get("group", number) if several or "group" in properties else None
            shapes.append(
                Shape(
                    _class(feature),
                    tuple(_pixels(corners, inverse) for corners in rings),
                    group=None if group is None else str(group),
                    crowd=bool(properties.get("iscrowd")),
                )
            )
    return shapes


def _pixels(corners: Any, inverse: Affine) -> Ring:
    """A ring in pixels; GeoJSON repeats its first corner at the end."""
    points = np.array([(float(point[0]), float(point[1])) for point in corners], np.float64).reshape(-1, 2)
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    return ring(points @ inverse[:, :2].T + inverse[:, 2])


def affine_of(path: Path) -> Affine:
    """From pixels (corner of the image at 0, 0) to the map of a GeoTIFF; the identity for other images.

    Raises:
        ValueError: if the tags of the file contradict themselves.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        return _PIXELS
    import tifffile  # Pillow knows no files of other bands or types than pictures have

    try:
        with tifffile.TiffFile(path) as file:
            found = file.pages.first.tags
            tags = {code: found[code].value for code in (_SCALE, _TIEPOINT, _TRANSFORM) if code in found}
    except Exception as error:  # damaged files make it raise what it likes
        raise ValueError(f"cannot read {path}: {error or type(error).__name__}") from error
    return affine_of_tags(tags, str(path))


def affine_of_tags(tags: Mapping[int, Any], name: str) -> Affine:
    """From pixels to the map that the tags of a GeoTIFF tell, by their numbers; the identity for none.

    Raises:
        ValueError: if they contradict themselves.
    """
    scale, tie, matrix = (tags.get(code) for code in (_SCALE, _TIEPOINT, _TRANSFORM))
    if matrix is not None and len(matrix) == 16:
        affine = np.array(matrix, np.float64).reshape(4, 4)[:2][:, [0, 1, 3]]
    elif scale is not None and tie is not None and len(scale) >= 2 and len(tie) >= 6:
        (sx, sy), (i, j, _, x, y) = scale[:2], tie[:5]
        affine = np.array([[sx, 0.0, x - sx * i], [0.0, -sy, y + sy * j]], np.float64)
    else:
        return _PIXELS
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:, :2])) < 1e-30:
        raise ValueError(f"the tags of {name} place no pixel on a map")
    return affine


def write_geojson(path: Path, shapes: Sequence[Shape], picture: Picture) -> Mapping[str, int]:
    """Write the shapes of an image as a FeatureCollection; run lengths become outlines with holes.

    Args:
        path: of the file.
        shapes: of the image.
        picture: the image, whose GeoTIFF tags say where it lies.

    Returns:
        How often the format could not say something, by sentence: nothing.
    """
    affine = affine_of(picture.path)
    features = []
    for shape in shapes:
        parts = [shape.rings] if shape.mask is None else _outlines(shape.mask)
        if not parts:
            continue
        coordinates = [[_closed(corners, affine) for corners in rings] for rings in parts]
        properties: dict[str, Any] = {"class": shape.name}
        if shape.group is not None:
            properties["group"] = shape.group
        if shape.crowd:
            properties["iscrowd"] = 1
        kind, where = ("Polygon", coordinates[0]) if len(parts) == 1 else ("MultiPolygon", coordinates)
        geometry = {"type": kind, "coordinates": where}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    with atomic_write(path) as temporary:
        content = {"type": "FeatureCollection", "features": features}
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return {}


def _outlines(mask: RleMasks) -> list[tuple[Ring, ...]]:
    return [
        tuple(corners.astype(np.float64) for corners in (polygon.outer, *polygon.holes))
        for polygon in mask.polygons()[0]
    ]


def _closed(corners: Ring, affine: Affine) -> list[list[float]]:
    placed = corners @ affine[:, :2].T + affine[:, 2]
    return [*placed.tolist(), placed[0].tolist()]
