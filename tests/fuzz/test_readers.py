"""Every reader takes a file or refuses it with one ValueError, whatever lies in it.

Good files of every kind are written once, then damaged in their bytes or, where they are JSON, in their
values. The same seed gives the same files. No file may take more than 5 s of the processor, all together not
more than 2 GiB of memory.
"""

import base64
import io
import json
import pickle
import random
import resource
import signal
import struct
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image, features
from safetensors.torch import load_file, save
from scipy.io import savemat

from pixelwise import build, checkpoint
from pixelwise.data import open_data
from pixelwise.data.formats.class_file import read_label_encoding
from pixelwise.data.formats.coco import read_coco, semantic_labels
from pixelwise.data.formats.dicom_seg import read_seg
from pixelwise.data.formats.image import read_image
from pixelwise.data.formats.label_studio import encode_brush
from pixelwise.data.formats.mask import read_mask_pixels
from pixelwise.data.formats.raster import read_unit
from pixelwise.data.formats.volume import Volume
from pixelwise.data.formats.volume_files import read_volume, write_volume
from pixelwise.metrics import coco_evaluate
from pixelwise.training import Recipe
from pixelwise.types import ClassTable
from pixelwise.weights import read_state_dict
from tests.data.dicom_files import dicom_frames, dicom_seg

from .more_kinds import more_kinds

FILES, MANY_FILES = 300, 20_000
LONGEST = 5.0  # seconds of the processor for one file
MOST_MEMORY = 2 << 30  # bytes that all files together may add to the largest memory of this process
TABLE = ClassTable.of("sky", "car")
PILLOW = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".webp": "WEBP"}
if features.check("avif"):
    PILLOW[".avif"] = "AVIF"


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


POISON: list[Any] = [
    *(None, True, "", "x", "a" * 200_000, [], {}, [[]], [None], deep(50), [1, 2, 3], {"a": 1}),
    *(-1, -4, 0, 1, 3, 20.0, 0.5, 10**6, 10**9, 10**30, 1e300, float("inf"), float("nan"), -0.0),
    *("../../x", "x\0y", "1e999", "é", {"size": [10**30, 10**30], "counts": "11"}, [[1, 2, 3, 4]]),
]


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        good: contents, by suffix.
        read: the reader.
        weight: how many of these files there are, relative to other kinds.
    """

    good: dict[str, bytes]
    read: Callable[[Path], object]
    weight: int


def picture(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, pixels)
    else:
        Image.fromarray(pixels).save(file, PILLOW[suffix])
    return file.getvalue()


def mask(suffix: str) -> bytes:
    labels = np.random.default_rng(0).integers(0, 3, (9, 11), np.uint8)
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, labels)
    else:
        Image.fromarray(labels).save(file, PILLOW[suffix])
    return file.getvalue()


def coco_truth() -> dict[str, Any]:
    common: dict[str, Any] = {"image_id": 7, "category_id": 1, "bbox": [2.0, 2.0, 8.0, 8.0], "area": 64.0}
    polygon = [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0]]
    runs = {"size": [20, 20], "counts": [100, 20, 280]}
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "iscrowd": 0, "segmentation": polygon, **common},
            {"id": 2, "iscrowd": 1, "segmentation": runs, **common},
        ],
    }


def coco_results() -> list[dict[str, Any]]:
    return [{"score": 0.5, **annotation} for annotation in coco_truth()["annotations"]]


def coded(value: Any) -> bytes:
    return json.dumps(value).encode()


def of_table(fields: dict[str, Any]) -> bytes:
    return coded({"names": ["sky", "car"], "colors": [[0, 0, 0], [1, 2, 3]], **fields})


def checkpoint_file(folder: Path) -> bytes:
    model = build("unet", 2, encoder="tiny", width=4)
    checkpoint.save(model, folder / "good.safetensors", TABLE)
    return (folder / "good.safetensors").read_bytes()


def torch_file() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2, 3)}, file)
    return file.getvalue()


def read_annotations(path: Path) -> object:
    found = read_coco(path)
    return [semantic_labels(image, {1: 1}, 255) for image in found.images]


def read_split_list(path: Path) -> object:
    """A list file beside one image and mask."""
    root = path.parent / "listed"
    (root / "train.txt").write_bytes(path.read_bytes())
    return open_data(root, format="pairs")


SQUARE = [[1.0, 1.0], [6.0, 1.0], [6.0, 6.0], [1.0, 6.0]]


def tool_files() -> dict[str, dict[str, bytes]]:
    """A good file of each annotation tool, for the image a.png of 12 x 16 pixels, by suffix."""
    memory = io.BytesIO()
    Image.new("L", (4, 3), 255).save(memory, "PNG")
    window = base64.b64encode(memory.getvalue()).decode()
    flat = [x for point in SQUARE for x in point]
    brush = encode_brush(np.eye(12, 16) > 0)
    labels = {"labels": [{"name": "car"}]}
    size = {"original_width": 16, "original_height": 12}
    cvat = (
        b"<annotations><version>1.1</version><meta><task><labels><label><name>car</name>"
        b"<color>#ff0001</color></label></labels></task></meta>"
        b'<image id="0" name="a.png" width="16" height="12">'
        b'<polygon label="car" points="1,1;6,1;6,6;1,6" z_order="1"/>'
        b'<box label="car" xtl="1" ytl="1" xbr="5" ybr="5" rotation="20"/>'
        b'<mask label="car" left="2" top="2" width="3" height="2" rle="1, 4, 1"/>'
        b'<ellipse label="car" cx="5" cy="5" rx="3" ry="2"/></image></annotations>'
    )
    imagescope = (
        b'<Annotations><Annotation Id="1" Name="car" LineColor="255"><Regions>'
        b'<Region Type="0"><Vertices><Vertex X="1" Y="1"/><Vertex X="6" Y="1"/><Vertex X="6" Y="6"/>'
        b'</Vertices></Region><Region Type="2"><Vertices><Vertex X="2" Y="2"/><Vertex X="9" Y="8"/>'
        b"</Vertices></Region></Regions></Annotation></Annotations>"
    )
    return {
        "cvat": {".xml": cvat},
        "imagescope": {".xml": imagescope},
        "labelme": {
            ".json": coded(
                {
                    "imagePath": "a.png",
                    "shapes": [
                        {"label": "car", "points": SQUARE, "shape_type": "polygon", "group_id": 1},
                        {"label": "car", "points": SQUARE[:2], "shape_type": "circle"},
                        {"label": "car", "points": [[2, 2], [5, 4]], "shape_type": "mask", "mask": window},
                    ],
                }
            )
        },
        "supervisely": {
            ".json": coded(
                {
                    "objects": [
                        {
                            "classTitle": "car",
                            "geometryType": "polygon",
                            "points": {"exterior": SQUARE, "interior": [SQUARE]},
                        },
                        {
                            "classTitle": "car",
                            "geometryType": "bitmap",
                            "bitmap": {"origin": [2, 2], "data": window},
                        },
                    ]
                }
            )
        },
        "label_studio": {
            ".json": coded(
                [
                    {
                        "data": {"image": "/x/a.png"},
                        "annotations": [
                            {
                                "result": [
                                    {"value": {"points": SQUARE, "polygonlabels": ["car"]}},
                                    {
                                        "value": {
                                            "x": 1,
                                            "y": 1,
                                            "width": 50,
                                            "height": 50,
                                            "rotation": 9,
                                            "rectanglelabels": ["car"],
                                        }
                                    },
                                    {
                                        **size,
                                        "value": {"format": "rle", "rle": brush, "brushlabels": ["car"]},
                                    },
                                ]
                            }
                        ],
                    }
                ]
            )
        },
        "via": {
            ".json": coded(
                {
                    "a.png9": {
                        "filename": "a.png",
                        "file_attributes": {},
                        "regions": [
                            {
                                "shape_attributes": {
                                    "name": "polygon",
                                    "all_points_x": [1, 6, 6],
                                    "all_points_y": [1, 1, 6],
                                },
                                "region_attributes": {"class": "car"},
                            },
                            {
                                "shape_attributes": {"name": "circle", "cx": 5, "cy": 5, "r": 2},
                                "region_attributes": {},
                            },
                        ],
                    }
                }
            )
        },
        "datumaro": {
            ".json": coded(
                {
                    "categories": {"label": labels},
                    "items": [
                        {
                            "id": "a",
                            "annotations": [
                                {"type": "polygon", "label_id": 0, "points": flat},
                                {
                                    "type": "mask",
                                    "label_id": 0,
                                    "rle": {"size": [12, 16], "counts": [180, 12]},
                                },
                                {"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4]},
                            ],
                            "image": {"path": "a.png"},
                        }
                    ],
                }
            )
        },
        "geojson": {
            ".geojson": coded(
                {
                    "type": "FeatureCollection",
                    "features": [
                        {
                            "properties": {"class": "car"},
                            "geometry": {"type": "Polygon", "coordinates": [SQUARE, SQUARE]},
                        },
                        {"properties": {}, "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE]]}},
                    ],
                }
            )
        },
        "yolo": {".txt": b"0 0.1 0.1 0.5 0.1 0.5 0.5\n0 0.5 0.5 0.25 0.25\n"},
    }


def read_tool(name: str) -> Callable[[Path], object]:
    """The file beside one image, where the tool expects it."""

    def read(path: Path) -> object:
        root = path.parent / f"tool_{name}"
        place = {"supervisely": "ds/ann/a.png.json", "geojson": "a.geojson", "yolo": "labels/a.txt"}
        target = root / place.get(name, f"a{path.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        splits = open_data(root, format=name)
        return [part.target(i) for part in splits.parts().values() for i in range(len(part))]

    return read


def tool_folders(folder: Path) -> None:
    for name in tool_files():
        home = folder / f"tool_{name}" / {"supervisely": "ds/img", "yolo": "images"}.get(name, "")
        home.mkdir(parents=True)
        Image.new("RGB", (16, 12)).save(home / "a.png")
    (folder / "tool_yolo" / "data.yaml").write_text("train: images\nnames: [car]\n")


def volumes(folder: Path) -> dict[str, bytes]:
    """A good file of each format of volumes, and one slice of DICOM, by suffix."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    like = Volume(voxels, (3.0, 2.0, 1.0), np.diag([1.0, 2.0, 3.0, 1.0]), None)
    files = {
        suffix: write_volume(folder / f"good{suffix}", voxels, like).read_bytes()
        for suffix in (".nii.gz", ".nii", ".nrrd", ".mha", ".tiff")
    }
    head = b"NRRD0001\ntype: short\ndimension: 3\nsizes: 2 2 1\nencoding: ascii\n\n1 2 3 4\n"
    return {**files, ".nhdr": head, ".dcm": dicom_frames(folder / "good.dcm").read_bytes()}


def segments(path: Path) -> bytes:
    """A DICOM SEG file."""
    return dicom_seg(path, np.arange(24).reshape(2, 3, 4) % 3, ("liver", "tumour")).read_bytes()


def raster(path: Path) -> bytes:
    """A GeoTIFF file of two bands with a nodata value."""
    values = np.random.default_rng(0).integers(-9, 99, (2, 7, 9)).astype(np.int16)
    about = {"driver": "GTiff", "count": 2, "height": 7, "width": 9, "dtype": "int16", "crs": "EPSG:32633"}
    transform = rasterio.Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5e6)
    with rasterio.open(path, "w", **about, transform=transform, nodata=-9, compress="deflate") as file:
        file.write(values)
    return path.read_bytes()


def matrix() -> bytes:
    file = io.BytesIO()
    savemat(file, {"S": np.arange(12).reshape(3, 4)})
    return file.getvalue()


def parts_of_people() -> bytes:
    part = np.zeros(1, [("part_name", object), ("mask", object)])
    part[0] = ("head", np.eye(3, dtype=np.uint8))
    thing = np.zeros(1, [("class", object), ("mask", object), ("parts", object)])
    thing[0] = ("person", np.ones((3, 3), np.uint8), part)
    file = io.BytesIO()
    savemat(file, {"anno": {"objects": thing}})
    return file.getvalue()


def deep_mask() -> bytes:
    pixels = struct.pack(">18H", *range(18))
    rows = b"".join(bytes([kind]) + pixels[:18] for kind in range(2))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of file that pixelwise reads."""
    truth, table = coded(coco_truth()), b"name,r,g,b,id\nsky,0,0,0,0\ncar,1,2,3,7\nignore,9,9,9,255\n"
    good = checkpoint_file(folder)
    suffixes = [*PILLOW, ".npy"]
    for part in ("images", "masks"):
        (folder / "listed" / part).mkdir(parents=True)
        for stem in "ab":
            content = picture(".png") if part == "images" else mask(".png")
            (folder / "listed" / part / f"{stem}.png").write_bytes(content)
    recipe = coded(Recipe(data="x").as_dict())
    arrays = pickle.dumps({"model": {"a": np.ones((2, 3), np.float32), "b": np.arange(3)}}, 2)
    tool_folders(folder)
    return {
        "image": Kind({suffix: picture(suffix) for suffix in suffixes}, read_image, 6),
        "mask": Kind(
            {suffix: mask(suffix) for suffix in (".png", ".tif", ".gif", ".npy")}, read_mask_pixels, 3
        ),
        "coco": Kind({".json": truth}, read_annotations, 3),
        "classes": Kind(
            {".csv": table, ".json": of_table({"ids": [0, 7]}), ".txt": b"sky\ncar\n"}, read_label_encoding, 3
        ),
        "recipe": Kind({".json": recipe}, Recipe.read, 2),
        "checkpoint": Kind({".safetensors": good}, checkpoint.load, 1),
        "weights": Kind(
            {
                ".safetensors": save(load_file(folder / "good.safetensors")),
                ".pth": torch_file(),
                ".pkl": arrays,
            },
            read_state_dict,
            2,
        ),
        "coco_evaluate truth": Kind({".json": truth}, lambda path: coco_evaluate(path, coco_results()), 3),
        "coco_evaluate results": Kind(
            {".json": coded(coco_results())}, lambda path: coco_evaluate(coco_truth(), path), 3
        ),
        "list": Kind({".txt": b"a\nb\n"}, read_split_list, 1),
        "matrix": Kind(
            {".mat": matrix(), ".txt": b"0 1 2\n2 1 0\n", ".png": deep_mask()}, read_mask_pixels, 2
        ),
        "people": Kind({".mat": parts_of_people()}, read_mask_pixels, 1),
        "volume": Kind(volumes(folder), read_volume, 4),
        "segments": Kind({".dcm": segments(folder / "segments.dcm")}, read_seg, 1),
        "raster": Kind({".tif": raster(folder / "raster.tif")}, lambda path: read_unit(path, 2), 2),
        "scaled picture": Kind(
            {suffix: picture(suffix) for suffix in (".tif", ".png")},
            lambda path: read_image(path, 3, intensity="percentiles:2,98"),
            1,
        ),
        **{name: Kind(good, read_tool(name), 2) for name, good in tool_files().items()},
        **{name: Kind(*kind) for name, kind in more_kinds().items()},
    }


def damaged(good: bytes, chance: random.Random) -> bytes:
    """A file with some of its bytes changed, lost, doubled or put elsewhere."""
    content = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, size = chance.randrange(len(content) + 1), chance.choice((1, 1, 4, 16, 200))
        way = chance.randrange(6)
        if way == 0:
            del content[at:]
        elif way == 1:
            del content[at : at + size]
        elif way == 2:
            content[at : at + size] = chance.randbytes(size)
        elif way == 3:
            content[at:at] = content[at : at + size]
        elif way == 4 and at < len(content):
            content[at] ^= 1 << chance.randrange(8)
        else:
            content[at : at + size] = chance.choice((b"\0", b"\xff")) * size
    return bytes(content)


def poisoned(value: Any, chance: random.Random) -> Any:
    """JSON with one of its values replaced, taken away or doubled."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.15:
        return chance.choice(POISON)
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place, way = chance.choice(places), chance.random()
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    if way < 0.1:
        del changed[place]
    elif way < 0.15 and isinstance(changed, list):
        changed.append(changed[place])
    else:
        changed[place] = poisoned(changed[place], chance)
    return changed


def invented(kind: Kind, everything: dict[str, Kind], seed: int) -> tuple[str, bytes]:
    """Suffix and content of the file of a seed."""
    chance = random.Random(seed)
    suffix = chance.choice(list(kind.good))
    good = kind.good[suffix]
    if suffix == ".json" and chance.random() < 0.75:
        value = json.loads(good)
        for _ in range(chance.choice((1, 1, 2, 3))):
            value = poisoned(value, chance)
        return suffix, coded(value)
    if suffix == ".safetensors" and chance.random() < 0.4:
        return suffix, with_other_metadata(good, chance)
    if chance.random() < 0.05:
        other = chance.choice(list(everything.values()))
        return suffix, chance.choice([b"", chance.randbytes(300), *other.good.values()])
    if suffix in (".json", ".txt") and chance.random() < 0.1:
        return suffix, b"[" * 100_000 + b"]" * 100_000
    if suffix == ".csv" and chance.random() < 0.1:
        return suffix, good + b"a" * 200_000 + b",1e999,1000000000,,,\n"
    return suffix, damaged(good, chance)


def with_other_metadata(good: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header says something else of its content."""
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    if metadata:
        field = chance.choice(list(metadata))
        try:
            metadata[field] = json.dumps(poisoned(json.loads(metadata[field]), chance))
        except ValueError:  # a field that is plain text
            metadata[field] = str(chance.choice(POISON))
    else:
        header = poisoned(header, chance)
    text = coded(header)
    return len(text).to_bytes(8, "little") + text + good[8 + size :]


def place_of(error: BaseException) -> str:
    """Where in the package an error came up."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "pixelwise" in frame.filename]
    last = ours[-1]
    return f"{last.filename.rpartition('pixelwise/')[2]}:{last.lineno}"


def peak_memory() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class TooLong(BaseException):
    """A reader that took more than `LONGEST`; no reader may catch it."""


@contextmanager
def limited() -> Iterator[None]:
    """Ends what takes too long; counts time of the processor, which a busy machine does not change."""

    def stop(*_: object) -> None:
        raise TooLong(f"took more than {LONGEST:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(folder: Path, files: int, first: int = 0) -> None:
    """Read so many files; print what became of them, and fail on whatever is no ValueError."""
    every = kinds(folder)
    shares = [name for name, kind in every.items() for _ in range(kind.weight)]
    outcomes: Counter[tuple[str, str]] = Counter()
    failures: dict[tuple[str, str, str], int] = {}
    for kind in every.values():  # nothing is compiled any more where time is taken
        for suffix, content in kind.good.items():
            (folder / f"file{suffix}").write_bytes(content)
            kind.read(folder / f"file{suffix}")
    before = most = peak_memory()
    for seed in range(first, first + files):
        name = shares[seed % len(shares)]
        suffix, content = invented(every[name], every, seed)
        path = folder / f"file{suffix}"
        path.write_bytes(content)
        try:
            with limited():
                every[name].read(path)
            outcomes[name, "read"] += 1
        except ValueError as error:
            outcomes[name, "refused" if str(error) else "failed"] += 1
        except (Exception, TooLong) as error:  # collected, so that one run shows everything
            outcomes[name, "failed"] += 1
            failures.setdefault((name, place_of(error), repr(error)[:200]), seed)
        if (now := peak_memory()) > most + MOST_MEMORY / 10:
            print(f"{name}, seed {seed}: the peak of the memory rises by {(now - most) / 2**20:.0f} MB")
        most = max(most, now)
    for name in every:
        counts = ", ".join(f"{outcomes[name, what]} {what}" for what in ("read", "refused", "failed"))
        print(f"{name}: {counts}")
    grown = most - before
    print(f"{files} files, {grown / 2**20:.0f} MB")
    for (name, place, said), seed in failures.items():
        print(f"{name}, seed {seed}, {place}: {said}")
    assert not failures
    assert not any(outcomes[name, "failed"] for name in every)
    assert grown < MOST_MEMORY


# GDAL quotes a damaged tag, and rasterio cannot decode what it quotes; it says so, and goes on.
RASTERIO = "ignore:Exception ignored in. .rasterio._env.log_error:pytest.PytestUnraisableExceptionWarning"


@pytest.mark.filterwarnings(RASTERIO)
def test_three_hundred_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, FILES)


@pytest.mark.slow
@pytest.mark.filterwarnings(RASTERIO)
def test_twenty_thousand_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, MANY_FILES, first=FILES)
