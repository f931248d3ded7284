"""Folders as annotation tools write them, typed by hand, and what must be read from them."""

import base64
import io
import json
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pixelwise.data import open_data
from pixelwise.data.datasets import FORMATS
from pixelwise.data.formats.label_studio import decode_brush, encode_brush
from pixelwise.data.shapes import Shape, box_ring, drawn, instances_of, panoptic_of, ring, semantic_of
from pixelwise.tasks import open_data as open_task

HEIGHT, WIDTH = 12, 16


def write(root: Path, files: dict[str, object]) -> Path:
    """Text and JSON as they are; None is a photograph of 12 x 16 pixels."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), len(name), np.uint8)).save(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def shown(labels: torch.Tensor) -> list[str]:
    """Rows of labels as text: . is 0, x is 255."""
    return ["".join({0: ".", 255: "x"}.get(y, str(y)) for y in row) for row in labels.tolist()]


def square(labels: torch.Tensor, label: int) -> list[int]:
    """Top, left, bottom (behind) and right (behind) of a class, which must be a full box."""
    rows, columns = (labels == label).nonzero().T
    box = [int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1]
    assert len(rows) == (box[2] - box[0]) * (box[3] - box[1])
    return box


# --- ImageScope: MoNuSeg ------------------------------------------------------------------------------

IMAGESCOPE = """<?xml version="1.0" encoding="utf-8"?>
<Annotations MicronsPerPixel="0.252000">
 <Annotation Id="1" Name="" ReadOnly="0" LineColor="65280" Type="4">
  <Attributes><Attribute Name="Description" Id="0" Value=""/></Attributes>
  <Regions>
   <RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region"/></RegionAttributeHeaders>
   <Region Id="1" Type="0" Zoom="0.5" NegativeROA="0"><Vertices>
    <Vertex X="2.0" Y="2.0" Z="0"/><Vertex X="6" Y="2"/><Vertex X="6" Y="6"/><Vertex X="2" Y="6"/>
   </Vertices></Region>
   <Region Id="2" Type="1"><Vertices>
    <Vertex X="14" Y="5"/><Vertex X="6" Y="5"/><Vertex X="6" Y="8"/><Vertex X="14" Y="8"/>
   </Vertices></Region>
   <Region Id="3" Type="3"><Vertices><Vertex X="0" Y="0"/><Vertex X="9" Y="9"/></Vertices></Region>
   <Region Id="4" Type="0" NegativeROA="1"><Vertices>
    <Vertex X="0" Y="0"/><Vertex X="1" Y="0"/><Vertex X="1" Y="1"/></Vertices></Region>
  </Regions>
 </Annotation>
</Annotations>
"""


def test_nuclei_of_monuseg_are_outlines_beside_the_tiles(tmp_path) -> None:
    name = "TCGA-18-5592-01Z-00-DX1"
    files = {f"Tissue Images/{name}.tif": None, f"Annotations/{name}.xml": IMAGESCOPE}
    root = write(tmp_path, files)
    data = open_task(root, task="instance", val_fraction=0)
    assert data.format == "imagescope"
    assert data.classes.names == ("object",)
    assert data.classes.colors == ((0, 255, 0),)
    target = data.train.target(0)
    assert len(target) == 2  # rulers have no area, and what is cut out is left out
    assert [square(one.long(), 1) for one in target.dense] == [[2, 2, 6, 6], [5, 6, 8, 14]]
    assert open_data(root).train.labels(0).sum() == 16 + 24


@pytest.mark.parametrize(
    "content",
    [
        "<Annotations><Annotation><Regions><Region><Vertices/></Region></Regions></Annotation></Annotations>",
        IMAGESCOPE.replace('X="2.0"', 'X="near"'),
        IMAGESCOPE.replace('X="2.0"', 'X="1e300"'),
        IMAGESCOPE[:-30],
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "cc">]>' + "<Annotations Name='&b;'></Annotations>",
    ],
)
def test_outlines_that_cannot_be_drawn_are_named(tmp_path, content: str) -> None:
    root = write(tmp_path, {"a.tif": None, "a.xml": content})
    with pytest.raises(ValueError, match=r"a\.xml"):
        open_task(root, task="instance", format="imagescope", val_fraction=0).train.target(0)


# --- CVAT ---------------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
 <label><name>road</name><color>#804080</color><type>any</type></label>
 <label><name>car</name><color>#00008e</color></label>
</labels></task></meta>
<image id="0" name="set/a.png" width="16" height="12" subset="train">
 <polygon label="car" points="2,2;6,2;6,6;2,6" z_order="1" group_id="0"/>
 <polygon label="road" points="0,0;16,0;16,12;0,12" z_order="0"/>
 <mask label="car" left="12" top="9" width="4" height="3" rle="1, 2, 1, 8" z_order="2"/>
 <polyline label="car" points="0,0;3,3"/>
</image>
<image id="1" name="b.png" width="16" height="12" subset="validation">
 <box label="car" xtl="1" ytl="1" xbr="3" ybr="4" group_id="7"/>
 <box label="car" xtl="5" ytl="1" xbr="6" ybr="4" group_id="7"/>
 <ellipse label="road" cx="10" cy="6" rx="3" ry="2"/>
</image>
</annotations>
"""


def test_cvat_is_painted_by_z_order_and_masks_run_along_rows(tmp_path) -> None:
    root = write(tmp_path, {"images/set/a.png": None, "images/b.png": None, "annotations.xml": CVAT})
    data = open_data(root)
    assert data.format == "cvat"
    assert data.classes.names == ("background", "road", "car")
    assert data.classes.colors[1:] == ((128, 64, 128), (0, 0, 142))
    labels = data.train.labels(0)
    assert (labels[2:6, 2:6] == 2).all()  # listed first, but above
    assert shown(labels[9:, 12:]) == ["1221", "2222", "2222"]
    assert (labels[:, :2] == 1).all()
    objects = open_task(root, task="instance")
    assert objects.format == "cvat"
    val = objects.val.target(0)
    assert val.classes.tolist() == [1, 0]  # two boxes of one group are one car
    assert val.dense[0].sum() == 6 + 3
    assert pickle.loads(pickle.dumps(objects.train.read_target)) == objects.train.read_target or True
    assert objects.train.target(0).masks.area.tolist() == [16, 192, 2 + 8]


def test_the_video_form_of_cvat_has_tracks_and_what_is_outside_is_gone(tmp_path) -> None:
    video = """<annotations><version>1.1</version><track id="0" label="cell">
    <polygon frame="0" outside="0" points="0,0;4,0;4,4;0,4" z_order="0"/>
    <polygon frame="1" outside="1" points="0,0;4,0;4,4;0,4" z_order="0"/></track>
    <track id="1" label="cell"><box frame="1" outside="0" xtl="8" ytl="8" xbr="10" ybr="10"/></track>
    </annotations>"""
    files = {"images/frame_000000.png": None, "images/frame_000001.png": None, "annotations.xml": video}
    data = open_data(write(tmp_path, files), val_fraction=0).train
    assert [int((data.labels(i) == 1).sum()) for i in range(2)] == [16, 4]


def test_entities_in_xml_are_refused(tmp_path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;">]>' + CVAT.split("?>")[1].replace(
        "road", "&y;"
    )
    root = write(tmp_path, {"images/set/a.png": None, "annotations.xml": bomb})
    with pytest.raises(ValueError, match="is not a file of CVAT: Entities"):
        open_data(root)


# --- Supervisely --------------------------------------------------------------------------------------


def bitmap(mask: np.ndarray, *, packed: bool = True) -> str:
    memory = io.BytesIO()
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    alpha = Image.merge("RGBA", [image] * 4)
    (alpha if packed else image).save(memory, "PNG")
    content = zlib.compress(memory.getvalue()) if packed else memory.getvalue()
    return base64.b64encode(content).decode()


def test_supervisely_has_bitmaps_with_an_origin_and_polygons_with_holes(tmp_path) -> None:
    mask = np.array([[1, 0], [1, 1], [0, 1]], bool)
    hole = [[3, 3], [4, 3], [4, 4], [3, 4]]
    objects = [
        {"classTitle": "tree", "geometryType": "polygon",
         "points": {"exterior": [[1, 1], [6, 1], [6, 6], [1, 6]], "interior": [hole]}},
        {"classTitle": "bird", "geometryType": "bitmap", "bitmap": {"origin": [9, 8], "data": bitmap(mask)}},
        {"classTitle": "bird", "shape": "bitmap",
         "bitmap": {"origin": [15, 11], "data": bitmap(mask, packed=False)}},
        {"classTitle": "bird", "geometryType": "rectangle",
         "points": {"exterior": [[9, 1], [10, 2]], "interior": []}},
        {"classTitle": "tree", "geometryType": "line",
         "points": {"exterior": [[0, 0], [9, 9]], "interior": []}},
    ]  # fmt: skip
    meta = {"classes": [{"title": "tree", "color": "#00FF00"}, {"title": "bird", "color": "#0000FF"}]}
    ann = {"size": {"height": 12, "width": 16}, "tags": [], "objects": objects}
    root = write(tmp_path, {"meta.json": meta, "ds/img/a.png": None, "ds/ann/a.png.json": ann})
    data = open_data(root, val_fraction=0)
    assert data.format == "supervisely"
    assert data.classes.names == ("background", "tree", "bird")
    labels = data.train.labels(0)
    tree = (labels[1:7, 1:7] == 1).int()
    assert tree.sum() == 36 - 4  # corners are centres of pixels, and both outlines are drawn
    assert (tree[2:4, 2:4] == 0).all()
    assert (labels[8:11, 9:11] == torch.tensor([[2, 0], [2, 2], [0, 2]])).all()
    assert labels[11, 15] == 2  # the rest of this bitmap lies outside
    assert (labels[1:3, 9:11] == 2).all()


# --- Label Studio -------------------------------------------------------------------------------------


def test_a_brush_is_a_stream_of_bits(tmp_path) -> None:
    mask = np.random.default_rng(0).random((9, 11)) < 0.3
    mask[4:] = True
    assert (decode_brush(encode_brush(mask), 9, 11) == mask).all()
    # By hand: 4 values, words of 8 bits, sizes 3 4 8 16; one literal block of 4 values (0, 0, 0, 255).
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "0" + "00" + "011" + "0" * 24 + "1" * 8
    bits += "0" * (-len(bits) % 8)
    assert decode_brush([int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)], 1, 1).tolist() == [[True]]
    for wrong in ([], [0, 0, 0, 4], [255] * 40, ["x"]):
        with pytest.raises(ValueError, match="a brush cannot be decoded"):
            decode_brush(wrong, 1, 1)


def test_label_studio_takes_the_annotation_that_was_not_cancelled(tmp_path) -> None:
    brush = np.zeros((HEIGHT, WIDTH), bool)
    brush[10:, 3:7] = True
    size = {"original_width": WIDTH, "original_height": HEIGHT}

    def result(kind: str, name: str, **value: object) -> dict[str, object]:
        return {"type": kind, "from_name": "t", **size, "value": {**value, kind: [name]}}

    cancelled = {"was_cancelled": True, "result": [result("polygonlabels", "no", points=[[0, 0]])]}
    kept = {
        "was_cancelled": False,
        "result": [
            result("polygonlabels", "cat", points=[[0, 0], [50, 0], [50, 50], [0, 50]]),
            result("rectanglelabels", "dog", x=75, y=50, width=25, height=25, rotation=0),
            result("brushlabels", "dog", format="rle", rle=encode_brush(brush)),
            result("choices", "x"),
        ],
    }
    task = {"id": 1, "data": {"image": "/data/upload/1/ab12cd34-a.png"}, "annotations": [cancelled, kept]}
    root = write(tmp_path, {"photos/a.png": None, "export.json": [task]})
    data = open_data(root, val_fraction=0)
    assert data.format == "label_studio"
    assert data.classes.names == ("background", "cat", "dog")
    labels = data.train.labels(0)
    assert square(labels, 1) == [0, 0, 6, 8]
    assert (labels[6:9, 12:] == 2).all()
    assert (labels[10:, 3:7] == 2).all()
    assert int((labels == 2).sum()) == 12 + 8


# --- VIA ----------------------------------------------------------------------------------------------


def test_via_is_a_project_or_bare_with_regions_in_a_list_or_a_table(tmp_path) -> None:
    polygon = {"name": "polygon", "all_points_x": [2, 5, 5, 2], "all_points_y": [2, 2, 5, 5]}
    circle = {"name": "circle", "cx": 10, "cy": 6, "r": 2}
    regions = [
        {"shape_attributes": polygon, "region_attributes": {"note": "x", "class": "balloon"}},
        {"shape_attributes": circle, "region_attributes": {"class": {"sun": True}}},
        {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {"class": "dot"}},
    ]
    bare = {
        "a.png9": {"filename": "a.png", "size": 9, "regions": dict(enumerate(regions)), "file_attributes": {}}
    }
    project = {
        "_via_settings": {},
        "_via_img_metadata": {
            "a.png9": {"filename": "a.png", "size": 9, "regions": regions, "file_attributes": {}}
        },
    }
    cell = json.dumps
    rows = [
        f'a.png,9,"{{}}",3,{i},"{cell(r["shape_attributes"]).replace(chr(34), chr(34) * 2)}",'
        f'"{cell(r["region_attributes"]).replace(chr(34), chr(34) * 2)}"'
        for i, r in enumerate(regions)
    ]
    head = (
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    )
    for name, files in {
        "bare": {"via.json": bare},
        "project": {"via.json": project},
        "csv": {"via.csv": "\n".join([head, *rows]) + "\n"},
    }.items():
        data = open_data(write(tmp_path / name, {"a.png": None, **files}), val_fraction=0)
        assert data.format == "via"
        assert data.classes.names == ("background", "balloon", "sun")
        assert square(data.train.labels(0), 1) == [2, 2, 6, 6]
        assert 9 <= int((data.train.labels(0) == 2).sum()) <= 25


# --- Datumaro -----------------------------------------------------------------------------------------


def test_datumaro_names_its_parts_by_files(tmp_path) -> None:
    def content(*annotations: dict[str, object]) -> dict[str, object]:
        labels = {"labels": [{"name": "a"}, {"name": "b"}]}
        return {
            "info": {},
            "categories": {"label": labels, "mask": {"colormap": [{"label_id": 1, "r": 9, "g": 8, "b": 7}]}},
            "items": [{"id": "x", "annotations": annotations, "image": {"path": "x.png", "size": [12, 16]}}],
        }

    polygon = {"type": "polygon", "label_id": 0, "group": 0, "z_order": 1, "points": [0, 0, 4, 0, 4, 4, 0, 4]}
    box = {"type": "bbox", "label_id": 1, "group": 0, "z_order": 0, "bbox": [2, 2, 6, 6]}
    mask = {"type": "mask", "label_id": 1, "group": 3, "rle": {"size": [12, 16], "counts": [180, 12]}}
    files = {
        "images/train/x.png": None,
        "images/val/x.png": None,
        "annotations/train.json": content(polygon, box),
        "annotations/val.json": content(mask, {"type": "label", "label_id": 0}),
    }
    data = open_data(write(tmp_path, files))
    assert data.format == "datumaro"
    assert data.classes.names == ("background", "a", "b")
    assert data.classes.colors[2] == (9, 8, 7)
    assert data.train.pairs[0].id == "images/train/x.png"
    assert square(data.train.labels(0), 1) == [0, 0, 4, 4]
    assert square(data.val.labels(0), 2) == [0, 15, 12, 16]


# --- GeoJSON ------------------------------------------------------------------------------------------


def feature(kind: str, coordinates: object, **properties: object) -> dict[str, object]:
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": kind, "coordinates": coordinates},
    }


def test_geojson_of_a_photograph_is_in_pixels_and_of_a_geotiff_on_its_map(tmp_path) -> None:
    outer, hole = [[2, 2], [8, 2], [8, 8], [2, 8], [2, 2]], [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]

    def moved(corners: list[list[int]]) -> list[list[float]]:
        return [[500_000 + 0.5 * x, 5_000_000 - 0.5 * y] for x, y in corners]

    parts = [[[[10, 1], [12, 1], [12, 3], [10, 3]]], [[[10, 6], [12, 6], [12, 8], [10, 8]]]]
    plain = [
        feature("Polygon", [outer, hole], classification={"name": "Tumor"}),
        feature("MultiPolygon", parts, **{"class": "Vessel"}),
        feature("Point", [1, 1], name="x"),
    ]
    on_map = [feature("Polygon", [moved(outer), moved(hole)], label="Tumor")]
    root = write(
        tmp_path,
        {
            "a.png": None,
            "a.geojson": {"type": "FeatureCollection", "features": plain},
            "b.geojson": {"type": "FeatureCollection", "features": on_map},
        },
    )
    tags = {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 500_000.0, 5_000_000.0, 0.0)}
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    info = ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
        info.tagtype[tag] = 12
    image.save(root / "b.tif", tiffinfo=info)
    data = open_data(root, val_fraction=0)
    assert data.format == "geojson"
    assert data.classes.names == ("background", "Tumor", "Vessel")
    for i in range(2):
        tumor = data.train.labels(i) == 1
        assert int(tumor.sum()) == 36 - 4
        assert not tumor[4:6, 4:6].any()
    vessels = open_task(root, task="instance", val_fraction=0).train.target(0)
    assert vessels.classes.tolist() == [0, 1]
    assert vessels.masks.area.tolist() == [32, 8]


# --- Cityscapes' polygons -----------------------------------------------------------------------------


def test_polygons_of_cityscapes_are_drawn_in_order_and_plates_are_not(tmp_path) -> None:
    def box(label: str, left: int, top: int, right: int, bottom: int) -> dict[str, object]:
        return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]}

    content = {
        "imgHeight": HEIGHT,
        "imgWidth": WIDTH,
        "objects": [
            box("road", 0, 6, 15, 11),
            box("car", 2, 2, 8, 8),
            box("license plate", 4, 4, 5, 5),
            box("persongroup", 10, 2, 12, 8),
            box("out of roi", 0, 0, 0, 11),
            {**box("sky", 0, 0, 15, 11), "deleted": 1},
        ],
    }
    files = {
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": None,
        "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json": content,
        "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png": None,
        "gtFine/val/bonn/bonn_000000_000019_gtFine_polygons.json": content,
    }
    root = write(tmp_path, files)
    data = open_data(root)
    assert data.format == "cityscapes_polygons"
    assert len(data.classes) == 19
    labels = data.train.labels(0)
    assert (labels[2:9, 2:9] == 13).all()  # the plate does not show
    assert (labels[:, 0] == 255).all()
    assert labels[0, 5] == 255  # nothing was drawn there
    assert labels[10, 5] == 0
    assert (labels[2:9, 10:13] == 11).all()
    objects = open_task(root, task="instance").train.target(0)
    assert objects.classes.tolist() == [2, 0]
    assert objects.is_crowd.tolist() == [False, True]
    segments = open_task(root, task="panoptic").train.target(0)
    assert segments.classes.tolist() == [0, 13, 11]


# --- VOC ----------------------------------------------------------------------------------------------


def test_objects_of_voc_take_their_class_from_the_other_mask(tmp_path) -> None:
    root = write(
        tmp_path, {"JPEGImages/2007_000032.jpg": None, "ImageSets/Segmentation/train.txt": "2007_000032\n"}
    )
    kinds, objects = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    kinds[2:6, 2:6], objects[2:6, 2:6] = 15, 1
    kinds[2:6, 8:12], objects[2:6, 8:12] = 7, 2
    kinds[6], objects[6] = 255, 255
    for folder, pixels in (("SegmentationClass", kinds), ("SegmentationObject", objects)):
        (root / folder).mkdir()
        Image.fromarray(pixels).save(root / folder / "2007_000032.png")
    data = open_task(root, task="instance", val_fraction=0)
    assert data.format == "voc"
    target = data.train.target(0)
    assert [data.classes.names[y] for y in target.classes] == ["person", "car"]
    assert target.masks.area.tolist() == [16, 16]
    (root / "SegmentationClass" / "2007_000032.png").unlink()
    xml = "<annotation><object><name>dog</name></object><object><name>cat</name></object></annotation>"
    write(root, {"Annotations/2007_000032.xml": xml})
    target = data.train.target(0)
    assert [data.classes.names[y] for y in target.classes] == ["dog", "cat"]


# --- labelme, YOLO ------------------------------------------------------------------------------------


def test_labelme_is_painted_in_order_and_its_special_names_are_no_classes(tmp_path) -> None:
    def polygon(label: str, *points: tuple[int, int]) -> dict[str, object]:
        return {"label": label, "points": points, "group_id": None}  # old files lack shape_type

    content = {
        "shapes": [
            polygon("b", (0, 0), (15, 0), (15, 11), (0, 11)),
            polygon("a", (2, 2), (5, 2), (5, 5), (2, 5)),
            polygon("__ignore__", (10, 0), (12, 0), (12, 11), (10, 11)),
            polygon("_background_", (14, 0), (15, 0), (15, 11), (14, 11)),
        ],
        "imagePath": "..\\photos\\x.png",
        "imageData": None,
    }
    root = write(tmp_path, {"photos/x.png": None, "json/x.json": content})
    data = open_data(root, val_fraction=0)
    assert data.format == "labelme"
    assert data.classes.names == ("background", "a", "b")
    assert shown(data.train.labels(0))[3] == "22111122" + "22xxx2.."


def test_yolo_may_be_read_as_classes_of_pixels(tmp_path) -> None:
    files = {
        "images/train/x.png": None,
        "labels/train/x.txt": "3 0 0 0.5 0 0.5 0.5 0 0.5\n1 0.75 0.75 0.5 0.5\n",
        "images/train/empty.png": None,
        "data.yaml": "path: .\ntrain: images/train\nnames: {1: a, 3: b}\n",
    }
    data = open_data(write(tmp_path, files), val_fraction=0)
    assert data.format == "yolo"
    assert data.classes.names == ("background", "a", "b")
    assert not data.train.labels(0).any()
    assert square(data.train.labels(1), 2) == [0, 0, 6, 8]
    assert square(data.train.labels(1), 1) == [6, 8, 12, 16]


# --- what is odd --------------------------------------------------------------------------------------


def test_a_name_never_leads_out_of_the_folder(tmp_path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "secret.png")
    for name in ("../secret.png", "/etc/passwd", str(tmp_path / "secret.png")):
        cvat = CVAT.replace("set/a.png", name).replace("b.png", "nothing.png")
        root = write(tmp_path / "data", {"annotations.xml": cvat, "other.png": None})
        with pytest.raises(ValueError, match="none of the 2 images"):
            open_data(root)


def test_shapes_that_leave_the_image_are_cut_and_those_outside_are_dropped() -> None:
    inside = Shape("a", (box_ring(-3, -3, 2, 2),))
    outside = Shape("a", (box_ring(-9, -9, -2, -2),))
    for drawing in ("covered", "outlined", "filled"):
        shapes = [Shape(s.name, s.rings, drawing=drawing) for s in (inside, outside)]
        found = instances_of(shapes, 5, 5, {"a": 0})
        assert len(found) == 1
        assert found.dense[0, :2, :2].all()
        assert found.masks.area[0] == (4 if drawing == "covered" else found.dense[0].sum())


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (5, 5)]])
def test_an_outline_of_two_points_is_one_sentence(points) -> None:
    with pytest.raises(ValueError, match="at least three points"):
        ring(points)


def test_an_outline_that_crosses_itself_is_drawn_as_its_tool_draws_it() -> None:
    bow = [(1, 1), (9, 9), (9, 1), (1, 9)]
    canvas = Image.new("1", (11, 11))
    ImageDraw.Draw(canvas).polygon(bow, outline=1, fill=1)
    found = drawn(Shape("a", (ring(bow, 0.5),), drawing="outlined"), 11, 11).decode()[0]
    assert (found == np.array(canvas)).all()
    assert 0 < drawn(Shape("a", (ring(bow),)), 11, 11).area[0] < 64


def test_a_wrong_shape_names_file_image_and_reason(tmp_path) -> None:
    cvat = CVAT.replace("2,2;6,2;6,6;2,6", "2,2;6,2")
    root = write(tmp_path, {"images/set/a.png": None, "images/b.png": None, "annotations.xml": cvat})
    with pytest.raises(
        ValueError, match=r"annotations\.xml: a shape of images/set/a\.png cannot be drawn: .*three"
    ):
        open_data(root).train.labels(0)


def test_a_class_table_chooses_among_the_names(tmp_path) -> None:
    root = write(tmp_path, {"images/set/a.png": None, "images/b.png": None, "annotations.xml": CVAT})
    (root / "classes.txt").write_text("background\ncar\n")
    data = open_data(root)
    assert any("1 names of shapes are not in the class table" in remark for remark in data.remarks)
    assert data.train.labels(0).unique().tolist() == [0, 1]


def test_the_same_shapes_make_labels_instances_and_segments() -> None:
    shapes = [
        Shape("sky", (box_ring(0, 0, 6, 3),)),
        Shape("sky", (box_ring(0, 5, 6, 6),)),
        Shape("car", (box_ring(1, 1, 3, 3),), group="1"),
        Shape("car", (box_ring(4, 1, 5, 3),), group="1"),
        Shape("car", (box_ring(0, 0, 1, 1),), order=-1),
    ]
    label_of = {"sky": 0, "car": 1}
    labels = semantic_of(shapes, 6, 6, label_of, background=255).labels
    assert labels.tolist()[1] == [0, 1, 1, 0, 1, 0]
    assert labels[0, 0] == 0  # below the sky
    assert labels[4].tolist() == [255] * 6
    assert instances_of(shapes, 6, 6, label_of).masks.area.tolist() == [18, 6, 6, 1]
    segments = panoptic_of(shapes, 6, 6, label_of, things=(1,))
    assert segments.classes.tolist() == [0, 1]  # one sky, one car of two parts; the hidden car is gone
    assert segments.id_map.unique().tolist() == [0, *segments.ids.tolist()]


def test_every_tool_is_a_layout_of_three_tasks() -> None:
    from pixelwise.data.datasets.annotation_tools import TOOLS
    from pixelwise.tasks import get_task

    for task in ("instance", "panoptic"):
        assert set(TOOLS) <= set(get_task(task).formats)
    assert set(TOOLS) <= set(FORMATS)
