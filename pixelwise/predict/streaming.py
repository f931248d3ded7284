"""Images of any size, from a file to a file: memory is that of a row of tiles, whatever the image.

source --rows--> tiles --network--> decoded blocks --finished rows--> sink
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ..data.formats.geojson_regions import place_of, write_geojson_of_rows, write_geojson_regions
from ..data.formats.image import IMAGE_SUFFIXES, MAX_PIXELS, opened, to_tensor
from ..data.formats.raster import has_rasterio, in_limits, is_geotiff, limits, needs_raster
from ..data.intensity import bounds_of, limits_of_bands, scaled
from ..files import atomic_write, make_folder
from ..kernels.images.values import fill_units
from ..tiling import (
    WINDOWED,
    ArraySink,
    ArraySource,
    Blend,
    Block,
    Each,
    FileSink,
    Interval,
    Maps,
    Network,
    PixelSource,
    Size,
    among_zeros,
    at,
    blocks,
    grid,
    open_source,
    read_tiles,
)
from ..types import Annotation, ClassMasks, DenseLogits, LabelMap, MaskSet, voc_palette
from ..wording import counted
from .joining import Part, as_masks, objects_in_tiles, painted
from .memory import live_bytes

ALIGN = 32  # tiles start at multiples of it: output strides divide it
_SIDES, _TILE_3D = (1024, 768, 512), (96, 96, 96)  # of tiles, where none are asked for
_ROOM = 1 << 27  # bytes of tensors of the tiles that are predicted at the same time
_SLICES, _VOXELS = 32, 1 << 17  # of a volume by which its values are scaled, and voxels of each
_BAND = 1 << 24  # pixels of a map of ids that are painted at once
_OVERHEAD = 1.1  # time of all that is not the network, over that of the network
_VOID = voc_palette(256)[255]  # of pixels without a class, as in PASCAL VOC
Keep = Literal["labels", "confidence", "probabilities"]


@dataclass(frozen=True)
class TilePlan:
    """What a prediction in tiles will take.

    Attributes:
        size: of the image along each axis in pixels.
        tile: of a tile.
        overlap: pixels that neighbours share.
        blend: how overlapping tiles are joined.
        tiles: how many there are.
        seconds: of one tile, measured, times their number and a tenth more.
        memory: bytes beside the model and the program: tiles, rows of the source and of the result.
        disk: bytes of the result before it is compressed.
        left_out: settings that need the whole image at once and are not applied.
    """

    size: tuple[int, ...]
    tile: Size
    overlap: int
    blend: Blend
    tiles: int
    seconds: float
    memory: int
    disk: int
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One sentence, and one more for what is left out.

        >>> str(TilePlan((9000, 12000), (512, 512), 64, "gaussian", 567, 80.0, 250_000_000, 108_000_000))
        '9000 x 12000 pixels in 567 tiles of 512 x 512: about 1.3 min, 250 MB of memory, 108 MB of disk.'
        """
        shown = (" x ".join(map(str, size)) for size in (self.size, self.tile))
        told = (
            f"{next(shown)} {'pixels' if len(self.size) == 2 else 'voxels'} in "
            f"{counted(self.tiles, 'tile')} of {next(shown)}: about {_duration(self.seconds)}, "
            f"{self.memory / 1e6:.0f} MB of memory, {self.disk / 1e6:.0f} MB of disk."
        )
        if self.left_out:
            told += f" Left out, since it needs the whole image: {', '.join(self.left_out)}."
        return told


@dataclass(frozen=True)
class Stream:
    """One image that is to be predicted in tiles.

    Attributes:
        predictor: that predicts it.
        source: of its pixels.
        tile: of a tile.
        overlap: pixels that neighbours share along each axis.
        blend: how overlapping tiles are joined.
        axes: the tiles along each axis.
        keep: what is kept of each pixel.
        batch_size: tiles that the network gets at once.
        network: image -> scores of its pixels; None where the model gives no such scores.
    """

    predictor: Any
    source: Any
    tile: Size
    overlap: Size
    blend: Blend
    axes: list[list[Interval]]
    keep: Keep
    batch_size: int
    network: Network | None

    @property
    def of_objects(self) -> bool:
        """Whether objects are found, and not classes of pixels."""
        return self.predictor.task.annotation is MaskSet

    @property
    def planes(self) -> int:
        """Maps that the result has; 0 for one map without an axis for it."""
        several = self.keep == "probabilities" or self.predictor.task.annotation is ClassMasks
        return len(self.predictor.classes) if several and self.keep != "confidence" else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return (*((self.planes,) if self.planes else ()), *self.source.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the result: uint8, or uint16 for labels above 255; of ids of objects uint32."""
        if self.of_objects:
            return np.dtype(np.uint32)
        large = self.keep == "labels" and len(self.predictor.classes) > 256
        return np.dtype(np.uint16 if large else np.uint8)

    def made_from(self) -> dict[str, Any]:
        """What the result follows from: source, weights and settings; of arrays nobody can tell that."""
        predictor, source = self.predictor, self.source
        return {
            "source": _identity(source.name) or [os.getpid(), time.time_ns()],
            "shape": list(self.shape),
            "weights": [_digest(predictor.model), _identity(predictor.origin)],
            "decoding": repr(sorted(predictor.decoding.items())),
            "tiles": [list(self.tile), list(self.overlap), self.blend, self.keep],
            "views": [repr(predictor.views), predictor.precision],
        }

    def look(self, image: Float[Tensor, "b c *_"]) -> Any:
        """What is computed for tiles."""
        if self.network is None:
            return [self.predictor.find_objects(one[None]) for one in image]
        return self.network(image).logits

    def first(self) -> Float[Tensor, "1 c *_"]:
        """The first tile, as the network takes it."""
        return _Reader(self)(tuple(slice(axis[0].start, axis[0].stop) for axis in self.axes))

    def rows(self, finished: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Finished rows from top to bottom, from row `finished` on: the first row, and "planes rows *others".

        Tiles that touch earlier rows too are predicted again, so that the result is the same.
        """
        first = next(i for i, tile in enumerate(self.axes[0]) if _end(tile, self.blend) > finished)
        axes = [self.axes[0][first:], *self.axes[1:]]
        band: np.ndarray | None = None
        for place, part in self._parts(axes, finished):
            rows, *others = place
            if band is None:
                shape = (rows.stop - rows.start, *self.source.size[1:])
                band = np.empty((*part.shape[: part.ndim - len(shape)], *shape), self.dtype)
            band[at((slice(None), *others))] = part
            if all(where.stop == side for where, side in zip(others, self.source.size[1:], strict=True)):
                yield rows.start, band
                band = None

    def _parts(
        self, axes: list[list[Interval]], finished: int
    ) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """What is written of each block behind the finished rows."""
        reader = _Reader(self)
        if self.network is None:
            found = in_crops(self.predictor.find_objects, reader, axes, self.predictor.each)
            for place, annotation, inside in found:
                yield place, _pixels_of(annotation)[at(inside)]
            return
        predictor = self.predictor
        for block in blocks(self.network, reader, axes, self.blend, self.batch_size, predictor.each):
            if block.place[0].start >= finished:
                yield block.place, self._kept(predictor.placed(block, self.source.size))

    def _kept(self, block: Block) -> np.ndarray:
        """What is written of a block."""
        inside = at(block.inside)
        if self.keep == "labels":
            return _pixels_of(self.predictor.decode_block(block.output))[inside]
        probable = self.predictor.probable(block.output)[0][inside]
        if self.keep == "confidence":
            probable = probable.amax(0)
        return np.asarray(probable.mul(255).round_().byte().cpu().numpy())


def in_crops(
    find: Callable[[Tensor], Annotation],
    read: Callable[[tuple[slice, ...]], Tensor],
    axes: Sequence[Sequence[Interval]],
    each: Each = map,
) -> Iterator[tuple[tuple[slice, ...], Annotation, tuple[slice, ...]]]:
    """What is found in each tile, for networks without scores of pixels: its place, and what of it counts."""
    for tile, found in zip(product(*axes), each(find, read_tiles(read, axes)), strict=True):
        yield (
            tuple(slice(*interval.own) for interval in tile),
            found,
            tuple(slice(i.own[0] - i.start, i.own[1] - i.start) for i in tile),
        )


def _pixels_of(annotation: Annotation) -> np.ndarray:
    """Labels, or masks of classes."""
    assert isinstance(annotation, LabelMap | ClassMasks)
    found = annotation.labels if isinstance(annotation, LabelMap) else annotation.masks
    return np.asarray(found.cpu().numpy())


class _Reader:
    """Tiles of a source as the network takes them; the rows of one row of tiles are held."""

    def __init__(self, stream: Stream) -> None:
        self.source, self.channels = stream.source, int(stream.predictor.model.in_channels)
        self.span, self.pieces = (0, 0), list[np.ndarray]()
        intensity = stream.predictor.intensity
        volume, path = len(stream.source.size) == 3, Path(self.source.name)
        self.window = _window(stream.source, intensity) if volume else None
        self.limits = None
        if not volume and is_geotiff(path) and (needs_raster(path) or (scaled(intensity) and has_rasterio())):
            self.limits = limits(path, self.source.dtype, intensity)
        elif not volume and scaled(intensity):
            self.limits = limits_of_bands(intensity, _some(stream.source).T)
        few = stream.source.dtype == np.uint8 and stream.source.channels == self.channels
        self.in_bytes = few and not volume and self.limits is None

    def __call__(self, place: tuple[slice, ...]) -> Float[Tensor, "1 c *_"]:
        span = place[0].start, place[0].stop
        if self.span != span:
            # The rows that both have are kept: reading may mean decoding.
            start, stop = span
            if self.span[0] <= start < self.span[1] <= stop:
                self.pieces = [self._last(self.span[1] - start), self._rows(self.span[1], stop)]
            else:
                self.pieces = [self._rows(start, stop)]
            self.span = span
        if self.in_bytes:
            image = self._of_bytes(place[1])
        else:
            parts = [piece[(slice(None), *place[1:])] for piece in self.pieces]
            # `concatenate` copies: the array of the caller stays as it is.
            image = self._image(np.concatenate(parts)).movedim(0, -1)
        # The channels are last while the axis of the batch is put in front, so that its stride is that of a
        # whole image: without it torch does not take one image of pixels for channels-last memory.
        return image[None].movedim(-1, 1)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the source, one value after the other in memory."""
        return np.ascontiguousarray(self.source.read(start, stop))

    def _last(self, count: int) -> np.ndarray:
        """A copy of the last rows that are held."""
        newest = self.pieces[-1] if len(self.pieces[-1]) >= count else np.concatenate(self.pieces)
        return newest[len(newest) - count :].copy()

    def _of_bytes(self, columns: slice) -> Float[Tensor, "H W c"]:
        """Values in [0, 1] of bytes, in one pass."""
        c = self.channels
        image = np.empty((self.span[1] - self.span[0], columns.stop - columns.start, c), np.float32)
        top = 0
        for piece in self.pieces:
            rows = piece.reshape(len(piece), -1)[:, c * columns.start : c * columns.stop]
            fill_units(rows, image.reshape(len(image), -1)[top : top + len(rows)])
            top += len(rows)
        return torch.from_numpy(image)

    def _image(self, pixels: np.ndarray) -> Float[Tensor, "c *_"]:
        """Values in [0, 1]; their order in memory is that of the source."""
        if pixels.ndim == 3:
            try:
                if self.limits is not None:
                    pixels = in_limits(pixels, *self.limits)
                return to_tensor(pixels, self.channels)
            except ValueError as error:
                raise ValueError(f"{self.source.name or 'the image'}: {error}") from error
        values = np.moveaxis(pixels, -1, 0).astype(np.float32)
        if self.window is not None:
            low, high = self.window
            values = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
        return torch.from_numpy(values)


def _window(source: Any, intensity: str) -> tuple[float, float] | None:
    """The values of a volume that become 0 and 1, by some of its slices, as `data.intensity` has them.

    None where values lie in [0, 1] already.
    """
    if intensity.startswith(("window:", "range:")):
        return bounds_of(intensity)(np.zeros(1))
    values = _some(source).ravel()
    if source.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return None
    return bounds_of(intensity)(values)


def _some(source: Any) -> Float32[np.ndarray, "n c"]:
    """Some of the values of a source: all of a small one."""
    length, across = source.size[0], math.prod(source.size[1:])
    taken = max(_SLICES, _VOXELS // across)
    slices = [source.read(i, i + 1) for i in range(0, length, max(1, length // taken))]
    step = max(1, across // _VOXELS)
    parts = [one.reshape(-1, one.shape[-1])[::step] for one in slices]
    return np.concatenate(parts).astype(np.float32)


def open_image(source: Any, axes: int, max_pixels: int = MAX_PIXELS) -> Any:
    """A `PixelSource` of whatever was given: a path, an array, or a source already.

    Files of which no part can be read, such as PNG and JPEG, are held in memory with their 8 or 16 bits.

    Raises:
        ValueError: if it cannot be read or has too many pixels.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        windowed = path.suffix.lower() in WINDOWED or path.is_dir()
        if windowed or path.suffix.lower() not in IMAGE_SUFFIXES or not path.exists():
            found = open_source(path, axes)
        else:
            with opened(path, max_pixels) as image:
                plain = image if image.mode in ("L", "RGB", "RGBA", "I;16") else image.convert("RGB")
                found = ArraySource(np.asarray(plain), axes, str(path))
    elif isinstance(source, PixelSource):
        found = source
    else:
        found = ArraySource(source, axes)
    if math.prod(found.size) > max_pixels:
        found.close()
        shown = " x ".join(map(str, found.size))
        raise ValueError(
            f"{found.name or 'the image'} has {shown} pixels, more than the limit of {max_pixels:,} "
            "(--max-pixels, max_pixels=)"
        )
    return found


def prepared(predictor: Any, source: Any, tile: Size | None, keep: Keep, batch_size: int) -> Stream:
    """A stream, after everything was checked that can be.

    Raises:
        ValueError: if the model does not score every pixel, the image is too small for it or has other
            channels, or an option does not fit.
    """
    if keep not in get_args(Keep):
        raise ValueError(f"keep must be one of {', '.join(get_args(Keep))}, got {keep!r:.40}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    axes = len(source.size)
    model = predictor.model
    name = source.name or "the image"
    scores_pixels = issubclass(model.output, DenseLogits)
    if not scores_pixels and min(source.size) < model.minimum_size:
        shown = " x ".join(map(str, source.size))
        raise ValueError(f"{name}: this model needs {model.minimum_size} pixels a side, got {shown}")
    given, wanted = source.channels, int(model.in_channels)
    if given != wanted and not (wanted == 3 and given in (1, 2, 4)):
        raise ValueError(f"{name}: the model takes images of {wanted} channels, got {given}")
    tile = tile or (
        _TILE_3D if axes == 3 else _even(source.size, _side(predictor, batch_size), predictor.overlap)
    )
    tile = tuple(max(side, model.minimum_size) for side in tile)
    overlap, blend, align = (predictor.overlap,) * axes, predictor.blend, ALIGN
    if not scores_pixels:
        blend = "crop"
        if keep != "labels":
            raise ValueError(f"keep is for models that score every pixel, got {keep!r:.40}")
    network = predictor.network if scores_pixels else None
    if axes == 3:  # of volumes, how tiles overlap is a setting of their decoding
        if network is not None:
            network, tile = among_zeros(network, source.size, tuple(predictor.decoding["window"]), tile)
        overlap = tuple(int(predictor.decoding["overlap"] * side) for side in tile)
        blend, align = predictor.decoding["blend"], ALIGN // 2
    axes_of_tiles = grid(source.size, tile, overlap, blend, align)
    return Stream(predictor, source, tile, overlap, blend, axes_of_tiles, keep, batch_size, network)


def _side(predictor: Any, batch_size: int) -> int:
    """Of tiles: the larger they are, the less of them is computed twice, and the more memory they take.

    It follows from the network and not from the memory that is free, so that a prediction is continued with
    the same tiles. Of networks that torch does not compute, nobody knows how much memory they take.
    """
    known = next(predictor.model.parameters(), None) is not None
    if not known or not issubclass(predictor.model.output, DenseLogits):
        return _SIDES[-1]
    at_once = predictor.at_once * batch_size * predictor.bytes_per_pixel
    return next((side for side in _SIDES if at_once * side**2 <= _ROOM), _SIDES[-1])


def _even(size: Sequence[int], side: int, overlap: int) -> Size:
    """Tiles no larger than needed for their number, so that the last ones do not lie on those before.

    >>> _even((6000, 1024, 300), 1024, 64)
    (928, 1024, 1024)
    """
    if overlap >= side:
        return (side,) * len(size)
    counts = [max(1, math.ceil((length - overlap) / (side - overlap))) for length in size]
    steps = [math.ceil((length - overlap) / count) for length, count in zip(size, counts, strict=True)]
    return tuple(
        side if count == 1 else min(side, math.ceil(step / ALIGN) * ALIGN + overlap)
        for step, count in zip(steps, counts, strict=True)
    )


def planned(stream: Stream) -> TilePlan:
    """Tiles, memory and time of a stream, by a measurement on one tile."""
    predictor, source = stream.predictor, stream.source
    sides = tuple(axis[0].stop - axis[0].start for axis in stream.axes)
    image = torch.zeros(stream.batch_size, predictor.model.in_channels, *sides)
    image = image.contiguous(memory_format=torch.channels_last) if len(sides) == 2 else image
    with torch.no_grad():
        peak = live_bytes(lambda: stream.look(image)) * predictor.at_once
        began = time.perf_counter()
        for _ in predictor.each(stream.look, [image] * predictor.at_once):
            pass
        seconds = (time.perf_counter() - began) / (stream.batch_size * predictor.at_once)
    tiles = math.prod(len(axis) for axis in stream.axes)
    others = math.prod(source.size[1:])
    pixel = source.dtype.itemsize * source.channels
    rows = sides[0] * others * (2 * pixel + max(1, stream.planes) * stream.dtype.itemsize)
    shared = 0
    if stream.blend != "crop":
        k = len(predictor.classes)
        shared = 4 * k * (min(stream.overlap[0], sides[0]) * others + 2 * math.prod(sides))
    left_out = [name for name in ("min_component", "crf") if predictor.decoding.get(name)]
    return TilePlan(
        tuple(source.size),
        sides,
        stream.overlap[0],
        stream.blend,
        tiles,
        _OVERHEAD * tiles * seconds,
        peak + rows + shared,
        math.prod(stream.shape) * stream.dtype.itemsize,
        tuple(left_out),
    )


def run_objects(stream: Stream, out: Any, *, overwrite: bool, progress: bool = False) -> Any:
    """Find the objects of an image tile by tile; write the map of their ids and a table, or polygons.

    What is held is a row of tiles and the masks of all objects within their boxes.

    Raises:
        ValueError: if the result cannot be written, or the source cannot be read.
    """
    size = stream.source.size
    if is_geojson(out):
        make_folder(Path(out).parent)  # before anything is computed
        image = stream.source.name
        regions = as_masks(_found(stream, progress), size)
        write_geojson_regions(Path(out), regions, stream.predictor.classes, image, place_of(stream.source))
        return out
    table = Path(out).with_suffix(".json") if isinstance(out, str | os.PathLike) else None
    if table is not None and table.exists() and not overwrite:
        raise ValueError(f"{table} exists already: overwrite=True replaces it")
    if table is None:
        sink: Any = ArraySink(out, size, 2)
    else:
        made_from = {"process": [os.getpid(), time.time_ns()]}
        sink = FileSink(out, size, 2, stream.dtype, made_from, (), stream.source.geography)
    try:
        parts = _found(stream, progress)
        step = max(1, _BAND // size[1])
        for start in range(0, size[0], step):
            sink.write(start, painted(parts, start, min(start + step, size[0]), size[1]))
        if table is not None:
            names = stream.predictor.classes.names
            objects = [
                {
                    "id": number,
                    "class": names[part.label],
                    "score": round(part.score, 4),
                    "bbox": [round(side, 2) for side in part.box],
                    "area": int(part.mask.sum()),
                }
                for number, part in enumerate(parts, 1)
            ]
            with atomic_write(table) as temporary:
                temporary.write_text(json.dumps({"size": list(size), "objects": objects}))
        sink.finish()
    finally:
        sink.close()
    return out


def _found(stream: Stream, progress: bool) -> list[Part]:
    """The objects of an image, best first."""
    predictor, reader = stream.predictor, _Reader(stream)
    read = _counted(reader, math.prod(len(axis) for axis in stream.axes)) if progress else reader
    with torch.no_grad():
        return objects_in_tiles(predictor.find_objects, read, stream.axes, predictor.each)


def is_geojson(out: Any) -> bool:
    """Whether polygons are asked for."""
    return isinstance(out, str | os.PathLike) and Path(out).suffix.lower() == ".geojson"


def _writing_polygons(stream: Stream) -> Callable[[Path, Maps], None]:
    """How rows of labels, or of the masks of classes, become polygons.

    Raises:
        ValueError: if the result has no labels, or the tags of the source contradict themselves.
    """
    if stream.keep != "labels":
        raise ValueError(f"polygons lie around the pixels of classes: keep must be labels, got {stream.keep}")
    source, place = stream.source, place_of(stream.source)
    size, classes = (int(source.size[0]), int(source.size[1])), stream.predictor.classes

    def write(path: Path, maps: Maps) -> None:
        labelled = enumerate(maps) if stream.planes else ((-1, rows) for rows in maps)
        write_geojson_of_rows(path, labelled, size, classes, source.name, place)

    return write


def _counted(
    read: Callable[[tuple[slice, ...]], Tensor], tiles: int
) -> Callable[[tuple[slice, ...]], Tensor]:
    """`read`, with a bar of tiles."""
    ticks = iter(track(range(tiles), "tiles", console=Console(stderr=True)))

    def counted_read(place: tuple[slice, ...]) -> Tensor:
        next(ticks, None)
        return read(place)

    return counted_read


def run(stream: Stream, out: Any, *, resume: bool = True, progress: bool = False) -> Any:
    """Predict and write; gives the path, or the array.

    Raises:
        ValueError: if the result cannot be written, or the source cannot be read.
    """
    axes = len(stream.source.size)
    if isinstance(out, str | os.PathLike):
        colors = [*stream.predictor.classes.colors, *[_VOID] * (256 - len(stream.predictor.classes))]
        labels = stream.keep == "labels" and not stream.planes
        sink: Any = FileSink(
            out,
            stream.shape,
            axes,
            stream.dtype,
            {**stream.made_from(), **({} if resume else {"process": [os.getpid(), time.time_ns()]})},
            colors[:256] if labels else (),
            _with_nodata(stream),
            _writing_polygons(stream) if is_geojson(out) else None,
        )
    else:
        sink = ArraySink(out, stream.shape, axes)
    try:
        if sink.finished < stream.source.size[0]:
            # Rows are written, which waits for the disk, while the network looks at the next ones.
            with torch.no_grad(), ThreadPoolExecutor(1) as writing:
                written: Future[None] | None = None
                for start, band in _watched(stream, sink.finished, progress):
                    known = _of_known_pixels(stream, start, band)
                    if written is not None:
                        written.result()
                    written = writing.submit(sink.write, start, known)
                assert written is not None
                written.result()
        sink.finish()
    finally:
        sink.close()
    return out


def _of_known_pixels(stream: Stream, start: int, band: np.ndarray) -> np.ndarray:
    """Rows of labels with the ignore label where the source knows no value."""
    nodata = getattr(stream.source, "nodata", None)
    if nodata is None or stream.keep != "labels" or stream.planes:
        return band
    values = stream.source.read(start, start + len(band))
    unknown = np.isnan(values) if np.isnan(nodata) else values == nodata
    return np.where(unknown.all(-1), band.dtype.type(stream.predictor.classes.ignore), band)


def _with_nodata(stream: Stream) -> list[tuple[Any, ...]]:
    """The tags of a result: its place on the Earth, and which label means that nothing is known."""
    tags = list(stream.source.geography)
    if getattr(stream.source, "nodata", None) is not None and stream.keep == "labels" and not stream.planes:
        tags.append((42113, "s", 0, str(stream.predictor.classes.ignore), True))
    return tags


def assembled(
    found: Iterable[tuple[tuple[slice, ...], Annotation, tuple[slice, ...]]], size: Sequence[int]
) -> Annotation:
    """The dense annotation of a whole image from parts of it: place, annotation, and what of it counts."""
    labels = masks = probabilities = None
    for place, part, within in found:
        inside = at(within)
        if isinstance(part, LabelMap):
            labels = part.labels.new_empty(*size) if labels is None else labels
            labels[at(place)] = part.labels[inside]
            continue
        assert isinstance(part, ClassMasks)
        if masks is None:
            masks = part.masks.new_empty(len(part.masks), *size)
            if part.probabilities is not None:
                probabilities = part.probabilities.new_empty(masks.shape)
        masks[at(place)] = part.masks[inside]
        if probabilities is not None and part.probabilities is not None:
            probabilities[at(place)] = part.probabilities[inside]
    if labels is not None:
        return LabelMap(labels)
    assert masks is not None
    return ClassMasks(masks, probabilities)


def _watched(stream: Stream, finished: int, progress: bool) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of a stream, with a bar of rows of tiles."""
    left = sum(_end(tile, stream.blend) > finished for tile in stream.axes[0])
    console = Console(stderr=True)
    yield from track(
        stream.rows(finished), "rows of tiles", total=left, console=console, disable=not progress
    )


def _end(tile: Interval, blend: Blend) -> int:
    """Behind the last row that a tile has a part in."""
    return tile.own[1] if blend == "crop" else tile.stop


def _identity(path: str) -> list[Any] | None:
    """What tells a file from another of its name, or from itself as it was; None where there is none."""
    if not path or not os.path.exists(path):
        return None
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def _digest(model: nn.Module) -> str:
    """Of the weights, or of the kind of model where it has none."""
    found = hashlib.blake2b(type(model).__name__.encode(), digest_size=16)
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
