"""ImageScope (Aperio): an XML file of outlines for each slide or tile, `a.xml` for `a.tif`, as in MoNuSeg.

Points are pixels of the full resolution, from the corner of the image. The class of an outline is the name of
its layer (`Annotation`), or "object" where it has none. Outlines of the kind "negative", which cut something
out there, are left out; boxes and ellipses are stored by the corners of their boxes; rulers and arrows have
no area.
"""

from pathlib import Path
from xml.etree.ElementTree import Element

from ...types import Color
from ..shapes import Described, Export, Picture, Ring, Shape, box_ring, ellipse_ring, ring
from .xml_file import root_of

_NAMELESS = "object"
_OUTLINE, _BOX, _ELLIPSE = "0", "1", "2"  # the kinds of regions that have an area


def read_imagescope(path: Path) -> Export:
    """What a file says of its image.

    Raises:
        ValueError: if it is missing or no such file; also if it holds entities, which could fill the memory.
    """
    with root_of(path, "Annotations", "ImageScope") as root:
        found: list[tuple[str, Element]] = []
        colors: dict[str, Color | None] = {}
        for layer in root.iter("Annotation"):
            regions = [one for one in layer.iter("Region") if _has_area(one)]
            if regions:
                name = (layer.get("Name") or "").strip() or _NAMELESS
                colors[name] = _color(layer.get("LineColor"))
                found += [(name, region) for region in regions]
        return Export((Described(path, path.stem, found),), colors)


def _has_area(region: Element) -> bool:
    return region.get("Type", _OUTLINE) in (_OUTLINE, _BOX, _ELLIPSE) and region.get("NegativeROA") != "1"


def _color(code: str | None) -> Color | None:
    """The colour of a layer: one number, blue in its highest byte."""
    if code is None or not code.isdecimal() or int(code) >= 1 << 24:
        return None
    number = int(code)
    return number & 255, number >> 8 & 255, number >> 16


def imagescope_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on an outline that cannot be drawn.
    """
    return [Shape(name, (_outline(region),)) for name, region in described.content]


def _outline(region: Element) -> Ring:
    points = [(float(one.get("X", "")), float(one.get("Y", ""))) for one in region.iter("Vertex")]
    kind = region.get("Type", _OUTLINE)
    if kind == _OUTLINE or not points:
        return ring(points)
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*points, strict=True))
    if kind == _BOX:
        return box_ring(left, top, right, bottom)
    return ellipse_ring((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)
