"""From an image, in whatever form it comes, to an annotation."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_map

from .. import decode, export
from ..checkpoint import Checkpoint
from ..data.formats.image import MAX_PIXELS, Source, to_tensor
from ..data.intensity import PERCENTILES
from ..export.labels import PixelLabels
from ..tasks import Task, get_task
from ..tiling import Blend, Block, Network, Size, at, blocks, grid, scores_of_any_size, with_repeated_border
from ..types import (
    Annotation,
    Boxes,
    BuiltBy,
    ClassMasks,
    ClassTable,
    DenseLogits,
    DenseModel,
    LabelMap,
    MaskSet,
    Model,
    PromptableModel,
    PromptMasks,
    Prompts,
    Sample,
    Tracked,
    TrackingModel,
    TrackState,
)
from . import streaming
from .embedded import EmbeddedImage, fingerprint, read_embedded
from .fusion import fused
from .joining import as_boxes, as_masks, objects_in_tiles
from .location_prior import read_prior, with_prior
from .memory import available_memory, bytes_per_pixel, enough_memory, fitting_tile
from .parallel import images_at_once, in_parallel
from .prediction import Prediction
from .streaming import ALIGN, Keep, TilePlan, assembled, in_crops
from .tta import View, averaged, found_in_views, in_view, views_of
from .writing import output_format, plan, summary, write_predictions

S = TypeVar("S", bound=Source)
Precision = Literal["32", "bf16", "16"]
Refine = Callable[[Float[Tensor, "b k H W"], Float[Tensor, "b c H W"]], Float[Tensor, "b k H W"]]

_CHOOSING = threading.Lock()  # of forms: two measurements at once would disturb each other
_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
_LONGEST_TILE = 2**16  # pixels
_BAND = 1 << 22  # numbers of a band of rows that is decoded at once (16 MiB)
_SURE = 1 << 20  # pixels up to which nobody asks whether the image fits into memory


class Predictor:
    """Images of any kind and size -> predictions.

    The model is put into eval mode once, here, and stays in it; several threads may share a predictor.

    Args:
        model: a checkpoint's path, a run directory, a loaded checkpoint, a model, or the path of a file that
            `pixelwise export` wrote (.onnx, .pt2 or .xml).
        classes: what the labels mean; needed beside a bare model and an ONNX file of another program only,
            and not by a model that takes prompts.
        task: name of the task; None for that of the checkpoint, or the first that the model serves.
        device: "cpu", "cuda", "cuda:1", ...; "auto" leaves a given model where it is and takes a loaded
            checkpoint to a GPU if there is one.
        precision: "32", or "bf16" or "16" for mixed precision.
        tile: height and width of tiles in pixels (of volumes depth, height and width); None for the whole
            image at once. "auto" takes the whole image where that fits into half of the free memory, going by
            a measurement on a small image, and else the largest tiles that do; of volumes, the task's tiles.
        overlap: pixels that neighbouring tiles share. Objects that a border cuts are joined (see
            `predict.joining`).
        blend: how tiles that overlap are joined: "gaussian" and "constant" average their scores; with "crop"
            each pixel is that of the tile whose border is farther away, which is exactly the prediction of
            the whole image where half the overlap covers the radius of the receptive field.
        flip: whether to average over the image and its mirror image; None for what was chosen for the
            weights on validation images.
        scales: factors of the image's size to average over.
        views: further views of the image: "mirror", "mirrors" (also upside down), "turns" (by quarters),
            "all" (eight), or some `tta.View`; each with its mirror image if `flip`, and at every scale.
            Scores of pixels are averaged; boxes, instances, panoptic maps and key points are fused
            (`predict.fusion`).
        refine: what to do with the probabilities "b k H W" of images "b c H W", such as
            `pixelwise.algorithms.DenseCrf()`: gives probabilities again. It sees whole images, also with
            `tile`, so the probabilities of all classes must fit into memory. None for what was chosen for
            the weights.
        decoding: settings of the task's decoding that differ from those of the checkpoint, such as
            `{"thresholds": 0.4}` for several classes per pixel.
        plain: whether to leave out what was chosen for the weights on validation images (mirror images,
            thresholds, smallest component, CRF, location prior).
        optimize: whether to use the fastest form of the network on this machine, as `pixelwise optimize`
            chose it for the size of the first image; where it chose none, forms are measured on that image,
            which takes minutes, once. A function is called with a sentence before they are measured.
        max_pixels: largest height times width of an image file.

    Raises:
        ValueError: if there is no such checkpoint or device, or an argument does not fit.

    >>> import pixelwise as pw
    >>> model = pw.build("pspnet", 2, encoder="tiny")
    >>> predict = Predictor(model, pw.ClassTable.of("sky", "road"))
    >>> predict(torch.rand(3, 50, 70)).label_map.labels.shape
    torch.Size([50, 70])
    """

    def __init__(
        self,
        model: Model | Checkpoint | str | os.PathLike[str],
        classes: ClassTable | None = None,
        *,
        task: str | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "32",
        tile: Size | Literal["auto"] | None = "auto",
        overlap: int = 64,
        blend: Blend = "gaussian",
        flip: bool | None = None,
        scales: Sequence[float] = (1.0,),
        views: str | Sequence[View] | None = None,
        refine: Refine | None = None,
        decoding: Mapping[str, Any] | None = None,
        plain: bool = False,
        optimize: bool | Callable[[str], object] = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        self.origin = os.fspath(model) if isinstance(model, str | os.PathLike) else ""
        if isinstance(model, str | os.PathLike):
            model = export.load(model, classes)
        own: Mapping[str, Any] = {}
        if isinstance(model, Checkpoint):
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            if task in (None, model.task):
                task, own = model.task, model.decoding
            classes, model = classes or model.classes, model.model
        if classes is None and isinstance(model, PromptableModel):
            classes = ClassTable.of("object")
        if classes is None:
            raise ValueError("a bare model needs a class table: Predictor(model, classes)")
        self.task = task_of(model, task, classes)
        tiled = self.task.infer is not None and "tile" in self.task.decoding and tile not in (None, "auto")
        in_tiles = {"tile": tile} if tiled else {}
        if plain:
            own = {name: value for name, value in own.items() if name not in self.task.chosen}
        self.decoding = self.task.decoding_with({**own, **in_tiles, **(decoding or {})})
        self.model, self.classes, self.precision = model.eval(), classes, precision
        self.device = _place(model, device)
        self.tile, self.overlap, self.refine, self.max_pixels = tile, overlap, refine, max_pixels
        self.blend: Blend = blend
        if blend not in get_args(Blend):
            raise ValueError(f"blend must be one of {', '.join(get_args(Blend))}, got {blend!r:.40}")
        self._scores_pixels = issubclass(model.output, DenseLogits) and self.task.infer is None
        self._prior = read_prior(self.decoding.get("location_prior"), len(classes))
        if self._prior is not None and not self._scores_pixels:
            raise ValueError(
                f"location_prior is for scores of pixels, this model gives {model.output.__name__}"
            )
        if flip is None:
            flip = self._scores_pixels and bool(self.decoding.get("flip", False))
        if self._scores_pixels and refine is None and self.decoding.get("crf", False):
            from ..algorithms.dense_crf import DenseCrf

            self.refine = DenseCrf(threads=torch.get_num_threads())
        self.flip, self.scales = flip, tuple(scales)
        if isinstance(tile, tuple | list):
            # How tiles of volumes overlap is a setting of their decoding.
            flat = self._scores_pixels or self._joins_tiles
            _check_tile(tile, *((overlap, (2,)) if flat else (0, (2, 3))))
        # of `in_ways`, by mirror images, CRF and what place tells
        self._others: dict[tuple[bool, bool, bool], Predictor] = {}
        self._given_views = views
        self.views = views_of(views, flip, scales)
        if isinstance(model, PromptableModel) and self.views != (View(),):
            raise ValueError("views are for images without prompts")
        if not self._scores_pixels:
            self._refuse_pixelwise_options()
        self._tell = optimize if callable(optimize) else _silent
        if optimize:
            self._check_optimize()
        # The form of the network that computes, and its name; none before it is chosen.
        self._fast: Model | None = None if optimize else self.model
        self.form = "" if optimize else export.EAGER
        self.network: Network = self._score_dense
        if self.views != (View(),):
            self.network = averaged(self._score_dense, self.views, classes.exclusive, classes.flip_pairs)

    def __repr__(self) -> str:
        names = self.classes.names
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        views = f", flip={self.flip}" * self.flip + f", scales={self.scales}" * (self.scales != (1.0,))
        views += f", views={len(self.views)}" * (self.views != views_of(None, self.flip, self.scales))
        refined = "" if self.refine is None else f", refine={self.refine!r:.60}"
        return (
            f"Predictor({type(self.model).__name__}, {len(names)} classes: {shown:.200};\n"
            f"    device={self.device}, precision={self.precision}, tile={self.tile}{views}{refined})"
        )

    @overload
    def __call__(self, source: Source, *, probabilities: bool = False) -> Prediction: ...

    @overload
    def __call__(
        self, source: list[S] | tuple[S, ...], *, probabilities: bool = False
    ) -> list[Prediction]: ...

    def __call__(
        self, source: Source | list[S] | tuple[S, ...], *, probabilities: bool = False
    ) -> Prediction | list[Prediction]:
        """Segment an image, or each of a list.

        Args:
            source: path of an image file; PIL image; array "H W" or "H W c" of uint8 or uint16 over their
                whole range, bool, or floats in [0, 1]; tensor "c H W" likewise; or a list of those. Grey
                and RGBA are made RGB for a model that takes RGB; files and PIL images are turned as their
                EXIF orientation says.
            probabilities: whether to keep the probability of every class.

        Raises:
            ValueError: if the source cannot be read, has other channels than the model takes, or is smaller
                than the minimum of a model that does not score pixels; names the file.
        """
        if isinstance(source, list | tuple):
            return [self._one(item, f"image {i}", probabilities) for i, item in enumerate(source)]
        return self._one(source, "image", probabilities)

    def annotations(self, samples: Sequence[Sample]) -> tuple[Annotation, ...]:
        """Segment images of one size: one annotation each, on the device of the model.

        Args:
            samples: images in [0, 1]; what a task needs of the target (boxes for keypoints) is taken from
                there.

        Raises:
            ValueError: if they do not fit into memory.
        """
        images = torch.stack([sample.image for sample in samples])
        if self._scores_pixels:
            return self._dense_annotations(images)
        with enough_memory(tuple(images.shape[2:]), None), torch.no_grad():
            if self._joins_tiles:
                return tuple(self._of_tiles(image[None]) for image in images)
            if self.task.infer is None and self.views == (View(),):
                decoded = self.task.decode(self._score(images), self.classes, self.decoding)
                return tuple(self._finished(one) for one in decoded)
            if self.task.infer is None:
                return tuple(self._finished(self.find_objects(image[None])) for image in images)
            network: Any = self.network if issubclass(self.model.output, DenseLogits) else self._score
            if isinstance(self.model, PromptableModel):
                # It is asked again and again about an image that it has looked at once.
                network = self.model
            with self._autocast():
                return tuple(
                    self.task.infer(network, sample, self.classes, self.decoding) for sample in samples
                )

    @property
    def _joins_tiles(self) -> bool:
        """Whether tiles are decoded one by one, and what was found is joined, not scores."""
        joined = self.task.annotation in (MaskSet, Boxes, LabelMap, ClassMasks) and self.task.infer is None
        return joined and not self._scores_pixels and isinstance(self.tile, tuple | list)

    def _of_tiles(self, image: Float[Tensor, "1 c H W"]) -> Annotation:
        """What is found in an image tile by tile."""
        assert isinstance(self.tile, tuple | list)
        size = (image.shape[-2], image.shape[-1])
        axes = grid(size, tuple(self.tile), self.overlap, "crop", ALIGN)
        if self.task.annotation not in (MaskSet, Boxes):
            return assembled(
                in_crops(self.find_objects, lambda place: image[at(place)], axes, self.each), size
            )
        found = objects_in_tiles(self.find_objects, lambda place: image[at(place)], axes, self.each)
        return as_masks(found, size) if self.task.annotation is MaskSet else as_boxes(found)

    @property
    def at_once(self) -> int:
        """How many images, or tiles, are predicted at the same time: see `predict.parallel`."""
        if self._fast is None or isinstance(self.model, PromptableModel):
            return 1
        return images_at_once(self._fast, self.device)

    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """`work` of every image or tile, in order, `at_once` at the same time."""
        return in_parallel(work, items, self.at_once)

    def find_objects(self, image: Float[Tensor, "1 c H W"]) -> Any:
        """What is found in all views of an image, on the CPU."""
        found = (
            self.task.decode(self._score(view.seen(image)), self.classes, self.decoding)[0].to("cpu")
            for view in self.views
        )
        size = (image.shape[-2], image.shape[-1])
        if self.views == (View(),):
            return next(found)
        annotations = found_in_views(found, self.views, size, self.classes.skeleton)
        return fused(annotations[0], annotations, self.classes)

    def labels(self, images: Float[Tensor, "b c H W"]) -> LabelMap:
        """Segment a batch by a model with one class per pixel: labels "b H W" on the device of the model.

        Args:
            images: values in [0, 1].

        Raises:
            ValueError: if the task is another, or the images do not fit into memory.
        """
        maps = self.annotations([Sample(image, None, "") for image in images])
        if not all(isinstance(one, LabelMap) for one in maps):
            raise ValueError(
                f"labels are for one class per pixel, this predictor is for the task {self.task.name}"
            )
        return LabelMap(torch.stack([one.labels for one in maps if isinstance(one, LabelMap)]))

    def probabilities(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b k H W"]:
        """Probability of every class at every pixel, on the device of the model.

        Args:
            images: values in [0, 1].

        Raises:
            ValueError: if they do not fit into memory, or the model does not score every pixel.
        """
        if not self._scores_pixels:
            raise ValueError(f"the task {self.task.name} has no probabilities of pixels")
        tile = self._tile_for(images)
        self._choose_form(images, tile)
        with enough_memory((images.shape[-2], images.shape[-1]), tile):
            with torch.no_grad():
                found: Tensor | None = None
                for block in self._blocks(images, tile):
                    part = self.probable(block.output)[at(block.inside)]
                    if part.shape[2:] == images.shape[2:]:
                        found = part
                        break
                    if found is None:
                        found = part.new_empty(*part.shape[:2], *images.shape[2:])
                    found[at(block.place)] = part
            assert found is not None
            return found if self.refine is None else self.refine(found, images)

    def probable(self, output: DenseLogits) -> Float[Tensor, "b k *_"]:
        """Probability of every class, from the scores of a part of an image."""
        if self.classes.exclusive:
            return decode.probabilities(output)
        return output.logits.float().sigmoid()

    def _dense_annotations(self, images: Float[Tensor, "b c H W"]) -> tuple[Annotation, ...]:
        """Decoded in bands from top to bottom where the images are predicted in tiles."""
        if self.refine is not None:
            return tuple(self._finished(one) for one in self._of_probabilities(self.probabilities(images)))
        tile = self._tile_for(images)
        self._choose_form(images, tile)
        size = (images.shape[-2], images.shape[-1])
        with enough_memory(size, tile):
            # Plain tensors: those made in inference mode could not be changed or used in autograd.
            with torch.no_grad():
                if tile is None and self.views == (View(),):
                    block = next(iter(self._blocks(images, None)))
                    whole = self.task.decode(block.output, self.classes, self.decoding)
                    return tuple(self._finished(one) for one in whole)
                return tuple(
                    self._finished(
                        assembled(self._decoded(self._blocks(image[None], tile), self.decoding), size)
                    )
                    for image in images
                )

    def _of_probabilities(
        self, found: Float[Tensor, "b k H W"], decoding: Mapping[str, Any] | None = None
    ) -> tuple[Annotation, ...]:
        """Annotations before they are finished; scores are made in bands of rows, not for the whole image."""
        settings = self.decoding if decoding is None else decoding
        height, width = found.shape[2:]
        step = max(1, _BAND // (found.shape[1] * width))

        def in_bands(image: Float[Tensor, "1 k H W"]) -> Iterator[Block]:
            for top in range(0, height, step):
                rows = image[:, :, top : top + step]
                logits = rows.log() if self.classes.exclusive else rows.logit()
                size = rows.shape[2], width
                inside = slice(0, size[0]), slice(0, width)
                yield Block((slice(top, top + size[0]), inside[1]), DenseLogits(logits, size), inside)

        return tuple(
            assembled(self._decoded(in_bands(image), settings), (height, width)) for image in found.split(1)
        )

    def _decoded(
        self, found: Iterable[Block], settings: Mapping[str, Any]
    ) -> Iterator[tuple[tuple[slice, ...], Annotation, tuple[slice, ...]]]:
        """The annotations of blocks of one image."""
        for block in found:
            yield block.place, self.task.decode(block.output, self.classes, settings)[0], block.inside

    def decode_block(self, output: DenseLogits) -> Annotation:
        """The annotation of a part of one image."""
        return self.task.decode(output, self.classes, self.decoding)[0]

    def _choose_form(self, images: Float[Tensor, "b c H W"], tile: Size | None) -> None:
        """With `optimize`, before the first image: the form of the network for its size."""
        with _CHOOSING:
            if self._fast is not None:
                return
            height, width = tile or images.shape[-2:]
            part = with_repeated_border(images[:1, :, :height, :width], self.model.minimum_size)[0]
            found = Checkpoint(self.model, self.classes, BuiltBy("", {}), {}, self.task.name)
            size = (part.shape[1], part.shape[2])
            chosen = export.recalled(found, size)
            if chosen is None:
                self._tell(
                    f"no form of the network was chosen before for images of {size[0]} x {size[1]}: forms "
                    "are measured now, which takes minutes, once"
                )
                chosen = export.optimize(found, [part])
            self._fast, self.form = chosen.model, chosen.form

    def _finished(self, annotation: Annotation) -> Annotation:
        """What is left to do once an image is whole."""
        if self.task.finish is None:
            return annotation
        return self.task.finish(annotation, self.classes, self.decoding)

    def in_ways(self, sample: Sample, settings: Sequence[Mapping[str, Any]]) -> list[Annotation]:
        """Segment an image under several settings of decoding; the network runs once for those that share it.

        Args:
            sample: an image in [0, 1].
            settings: of decoding, each in place of this predictor's own.

        Raises:
            ValueError: as `annotations`.
        """
        found: list[Annotation] = []
        known: dict[tuple[bool, bool, bool], Any] = {}
        for changes in settings:
            decoding = self.task.decoding_with({**self.decoding, **changes})
            prior = decoding.get("location_prior") is not None
            views = bool(decoding.get("flip", False)), bool(decoding.get("crf", False)), prior
            if views not in known:
                known[views] = self._before_finishing(sample, views, changes)
            made = known[views]
            if self._scores_pixels:
                made = self._of_probabilities(made, decoding)[0]
            found.append(made if self.task.finish is None else self.task.finish(made, self.classes, decoding))
        return found

    def _before_finishing(
        self, sample: Sample, views: tuple[bool, bool, bool], changes: Mapping[str, Any]
    ) -> Any:
        """Probabilities, or an annotation from which no small component was removed yet."""
        if views not in self._others:
            whole = {"min_component": 0} if "min_component" in self.decoding else {}
            self._others[views] = Predictor(
                self.model,
                self.classes,
                task=self.task.name,
                precision=self.precision,
                tile=self.tile,
                overlap=self.overlap,
                scales=self.scales,
                views=self._given_views,
                blend=self.blend,
                decoding={**self.decoding, **changes, **whole},
            )
        other = self._others[views]
        if self._scores_pixels:
            return other.probabilities(sample.image[None])
        return other.annotations([sample])[0]

    @overload
    def embed(self, source: Source) -> EmbeddedImage: ...

    @overload
    def embed(self, source: list[S] | tuple[S, ...]) -> list[EmbeddedImage]: ...

    def embed(self, source: Source | list[S] | tuple[S, ...]) -> EmbeddedImage | list[EmbeddedImage]:
        """Look at an image once, for any number of prompts; or at each of a list, in one pass.

        Raises:
            ValueError: if the model takes no prompts, or as `__call__`.
        """
        several = isinstance(source, list | tuple)
        model, sources = self._promptable(), source if isinstance(source, list | tuple) else [source]
        read = [self._read(one, f"image {i}" if several else "image")[:2] for i, one in enumerate(sources)]
        largest = tuple(max([image.shape[axis] for image, _ in read], default=1) for axis in (1, 2))
        with enough_memory((largest[0], largest[1]), None), torch.no_grad(), self._autocast():
            seen = model.embed_all([image.to(self.device) for image, _ in read]) if read else ()
        found = [
            EmbeddedImage(image, name, _in_float32(one), self._fingerprint)
            for (image, name), one in zip(read, seen, strict=True)
        ]
        return found if several else found[0]

    @property
    def intensity(self) -> str:
        """Which values of files become 0 and 1, as in the training; see `data.intensity.bounds_of`."""
        return str(self.decoding.get("intensity", PERCENTILES))

    def read_image(self, source: Source) -> tuple[Float[Tensor, "c H W"], str]:
        """An image as the model takes it, in [0, 1], and its name.

        Raises:
            ValueError: as `__call__`.
        """
        return self._read(source, "image")[:2]

    def load_embedded(self, path: str | os.PathLike[str]) -> EmbeddedImage:
        """What `EmbeddedImage.save` wrote of an image that this network has looked at before.

        Raises:
            ValueError: if the model takes no prompts, or the file is missing, damaged, or made by a network
                with other weights.
        """
        self._promptable()
        return read_embedded(path, self._fingerprint, self.device)

    def masks(self, embedded: EmbeddedImage, prompts: Prompts) -> Prediction:
        """What the prompts point at in an image that was embedded by this predictor.

        Raises:
            ValueError: as `candidates`.
        """
        output = self.candidates(embedded, prompts)
        annotation = self.task.decode(output, self.classes, self.decoding)[0]
        return Prediction(annotation.to("cpu"), self.task, self.classes, embedded.image, embedded.name)

    def candidates(self, embedded: EmbeddedImage, prompts: Prompts) -> PromptMasks:
        """Every mask that the model offers for each prompt, with the IoU that it expects.

        Its scores may be given back as `Prompts.masks`, to correct a mask by further points.

        Raises:
            ValueError: if the model takes no prompts, no image was embedded, a point lies outside of the
                image, or a box has no area.
        """
        model = self._promptable()
        if not isinstance(embedded, EmbeddedImage):
            raise ValueError(
                "prompts come after an image: predictor.masks(predictor.embed(image), prompts), got "
                f"{type(embedded).__name__} in place of an embedded image"
            )
        prompts.check(embedded.embedding.size)
        with torch.no_grad(), self._autocast():
            found: PromptMasks = _in_float32(model.masks(embedded.embedding, prompts.to(self.device)))
        return replace(found, prompts=prompts)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._promptable())

    def track(
        self,
        state: TrackState,
        frame: int,
        embedded: EmbeddedImage,
        prompts: Mapping[int, Prompts] | None = None,
        *,
        reverse: bool = False,
        fill_holes: int = 0,
    ) -> tuple[TrackState, Tracked]:
        """Follow objects to one more frame of a video; `track_video` does so for all frames.

        Args:
            state: after the frames before, `TrackState((height, width))` at first. It is not changed.
            frame: number of the frame.
            embedded: the frame, by `embed`.
            prompts: one prompt for each object that is new or to be corrected there, by the object's number,
                1 or more. Masks alone are taken as they are.
            reverse: whether the video is followed backwards.
            fill_holes: see `track_video`.

        Returns:
            The state after this frame, and the objects there.

        Raises:
            ValueError: if the model follows nothing through a video, there is nothing to follow, or a prompt
                does not fit.
        """
        model = self.model
        if not isinstance(model, TrackingModel):
            raise ValueError(f"{type(model).__name__} does not follow objects through a video, SAM 2 does")
        moved = {}
        for number, prompt in (prompts or {}).items():
            if number < 1:
                raise ValueError(f"objects have numbers from 1 on, got {number}")
            prompt.check(embedded.embedding.size)
            moved[number] = prompt.to(self.device)
        with torch.no_grad(), self._autocast():
            return model.step(state, frame, embedded.embedding, moved, reverse=reverse, fill_holes=fill_holes)

    def _promptable(self) -> PromptableModel:
        if not isinstance(self.model, PromptableModel):
            raise ValueError(f"{type(self.model).__name__} takes no prompts: call the predictor itself")
        return self.model

    def folder(
        self,
        source: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        suffix: str | None = None,
        overlay: bool = False,
        overwrite: bool = False,
        progress: bool = True,
    ) -> list[Path]:
        """Segment every image in a folder and its sub-folders, which `out` gets as well.

        An image that cannot be used does not stop the others. No file is lost: see `overwrite`.

        Args:
            source: folder of images.
            out: folder to write to.
            suffix: how predictions are saved, such as ".npy"; None for the first that the task knows.
            overlay: whether to write `name_overlay.png` as well.
            overwrite: whether predictions that were written to `out` before may be replaced; other files, and
                those that were changed since, never are.
            progress: whether to show a progress bar.

        Returns:
            The files written.

        Raises:
            ValueError: at once if there is no such folder, no image in it, two images would be written to
                one file, a file would be lost, or nothing can be written; at the end if some images could not
                be used, with their names.
        """
        source, out = Path(source), Path(out)
        if not source.is_dir():
            raise ValueError(f"there is no folder {source}")
        own = suffix or output_format(self.task, None)[0]
        jobs = plan([source], out, own, self.task, self.model.in_channels)
        written = write_predictions(self, jobs, out, overlay=overlay, overwrite=overwrite, progress=progress)
        if written.problems:
            raise ValueError(summary(written.problems, len(jobs), out))
        return sorted([*written.predictions, *written.overlays])

    def plan(
        self, source: Any, *, keep: Keep = "labels", batch_size: int = 1, tile: Size | None = None
    ) -> TilePlan:
        """What `stream` will take: tiles, memory, time and disk, by a measurement on one tile.

        Arguments and errors are those of `stream`.
        """
        with self._stream(source, keep, batch_size, tile) as described:
            return streaming.planned(described)

    def stream(
        self,
        source: Any,
        out: Any,
        *,
        keep: Keep = "labels",
        batch_size: int = 1,
        tile: Size | None = None,
        resume: bool = True,
        overwrite: bool = False,
        progress: bool = False,
    ) -> Any:
        """Predict an image or a volume of any size in tiles, file to file: never all of it is in memory.

        Files are written beside their name until they are whole. A call that was killed is continued by the
        same call. What needs the whole image is left out: CRF and smallest component (`plan` says so). Of
        instances the map of their ids is written, 1 for the surest, and a table of them as .json beside it;
        those that a border cuts are joined, and nothing is continued. A .geojson file holds their polygons.

        Args:
            source: path of a .npy, .zarr, TIFF, GeoTIFF or .vrt file or of a slide, of which only the needed
                rows are read, or of any other image; a `tiling.SlideSource`; an array, memory map or zarr
                array "H W", "H W c" or "c H W" (of volumes with D before H). Values as in `__call__`; volumes
                that are not in [0, 1] are scaled by percentiles of some of their slices.
            out: path of a .tif (tiled, with a palette, and the place on the Earth of the source), .npy,
                .zarr or .png file; of a .geojson file for polygons, in the coordinates of the map that a
                GeoTIFF lies on, or in pixels of the finest level of a slide; or an array to fill.
            keep: "labels" (of several classes per pixel their masks, "k H W"), "confidence" (255 times the
                probability of the class) or "probabilities" (255 times those of all classes, "k H W").
            batch_size: tiles that the network gets at once.
            tile: side lengths; None for this predictor's, or squares of 512 to 1024 pixels, by the memory
                that the network takes (of volumes 96 x 96 x 96).
            resume: whether rows that an earlier call finished are kept.
            overwrite: whether an existing file may be replaced; never the source.
            progress: whether to show a progress bar.

        Returns:
            `out`.

        Raises:
            ValueError: if the model does not score every pixel, the source cannot be read or does not fit the
                model, or the result cannot be written.
        """
        if isinstance(out, str | os.PathLike):
            same = isinstance(source, str | os.PathLike) and os.path.abspath(source) == os.path.abspath(out)
            if same or (os.path.lexists(out) and not overwrite):
                raise ValueError(f"{out} exists already: overwrite=True replaces it, never the source")
        with self._stream(source, keep, batch_size, tile) as described:
            if described.of_objects:
                return streaming.run_objects(described, out, overwrite=overwrite, progress=progress)
            return streaming.run(described, out, resume=resume, progress=progress)

    @contextmanager
    def _stream(
        self, source: Any, keep: Keep, batch_size: int, tile: Size | None
    ) -> Iterator[streaming.Stream]:
        """One image to be predicted in tiles; a file that was opened for it is closed again."""
        of_objects = self.task.annotation is MaskSet and self.task.infer is None
        of_pixels = self.task.annotation in (LabelMap, ClassMasks)
        by_slices = self.task.infer is not None and "tile" not in self.decoding
        if not (of_objects or of_pixels) or by_slices or isinstance(self.model, PromptableModel):
            raise ValueError(
                f"scores of pixels and instances are predicted file to file, not the task {self.task.name}"
            )
        if self.refine is not None and "crf" not in self.decoding:
            raise ValueError("refine needs the whole image: it cannot be streamed")
        volume = self.task.infer is not None
        own = self.decoding["tile"] if volume else self.tile
        if tile is None and isinstance(own, tuple | list):
            tile = tuple(own)
        found = streaming.open_image(source, 3 if volume else 2, self.max_pixels)
        try:
            described = streaming.prepared(self, found, tile, keep, batch_size)
            if self._fast is None:
                self._choose_form(described.first(), None)
            yield described
        finally:
            if found is not source:
                found.close()

    def _one(self, source: Source, name: str, probabilities: bool) -> Prediction:
        if isinstance(self.model, PromptableModel):
            raise ValueError("this model answers prompts: predictor.masks(predictor.embed(image), prompts)")
        image, name, spacing = self._read(source, name)
        try:
            found = self.probabilities(image[None])[0].cpu() if probabilities else None
            if found is not None:
                annotation = self._finished(self._of_probabilities(found[None])[0])
            else:
                annotation = self.annotations([Sample(image, None, name, spacing)])[0]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return Prediction(annotation.to("cpu"), self.task, self.classes, image, name, found)

    def _read(
        self, source: Source, name: str
    ) -> tuple[Float[Tensor, "c *grid"], str, tuple[float, ...] | None]:
        """The image with the channels that the model takes, its name, and the size of a pixel where known."""
        channels = self.model.in_channels
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            if path.is_dir() and (self.task.find is None or self.task.find(path, channels) != [path]):
                raise ValueError(f"{source} is a folder: use predictor.folder(source, out)")
            if self.task.reading is not None:
                image, spacing = self.task.reading(self.decoding)(path, channels)
                return image, str(path), spacing
            image = to_tensor(source, channels, max_pixels=self.max_pixels, intensity=self.intensity)
            return image, str(path), None
        if isinstance(source, Image.Image):
            name = str(getattr(source, "filename", "")) or name
        if isinstance(source, Tensor) and self.task.reading is not None:
            return source.detach().float().cpu(), name, None
        try:
            return to_tensor(source, channels, intensity=self.intensity), name, None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _tile_for(self, images: Float[Tensor, "b c H W"]) -> Size | None:
        """The tile to predict these images with, None for the whole images."""
        if self.tile != "auto":
            return self.tile
        b, _, height, width = images.shape
        if b * height * width <= _SURE:
            return None
        available, per_pixel = available_memory(self.device), b * self.bytes_per_pixel
        tile = fitting_tile((height, width), per_pixel, b * len(self.classes), available)
        if tile is None:
            return None
        return fitting_tile(tile, self.at_once * per_pixel, b * len(self.classes), available) or tile

    @cached_property
    def bytes_per_pixel(self) -> float:
        """Peak memory of the network over the pixels of an image: see `predict.memory`."""
        return bytes_per_pixel(self.network, self.model.in_channels, self.model.minimum_size, self.device)

    def _score(self, images: Float[Tensor, "b c *grid"]) -> Any:
        """The model on its device, in its precision; what it says comes back in float32."""
        with self._autocast():
            network = self.model if self._fast is None else self._fast
            return _in_float32(network(images.to(self.device)))

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision in _AUTOCAST:
            return torch.autocast(self.device.type, _AUTOCAST[self.precision])
        return nullcontext()

    def _score_dense(self, images: Float[Tensor, "b c H W"]) -> DenseLogits:
        if images.ndim == 4 and self.device.type == "cpu" and isinstance(self._fast, DenseModel):
            # Pixel by pixel in memory: most convolutions of torch are faster so. Other runtimes want planes.
            images = images.contiguous(memory_format=torch.channels_last)
        return scores_of_any_size(self._score, images, self.model.minimum_size)

    def placed(self, block: Block, size: Size) -> Block:
        """A block of an image of `size` with what is known of each class by its place, if it is to count."""
        return block if self._prior is None else with_prior(block, self._prior, size)

    def _blocks(self, images: Float[Tensor, "b c H W"], tile: Size | None) -> Iterator[Block]:
        """The scores of the images: all at once, or in tiles."""
        size = (images.shape[-2], images.shape[-1])
        return (self.placed(block, size) for block in self._blocks_of_network(images, tile))

    def _blocks_of_network(self, images: Float[Tensor, "b c H W"], tile: Size | None) -> Iterator[Block]:
        """The scores as the network gives them."""
        size = (images.shape[-2], images.shape[-1])
        if tile is None:
            if self.views == (View(),):
                everywhere = (slice(0, size[0]), slice(0, size[1]))
                yield Block(everywhere, self.network(images.to(self.device)), everywhere)
                return
            images = images.to(self.device)
            pairs = self.classes.flip_pairs
            outputs = [in_view(self._score_dense, view, pairs)(images) for view in self.views]
            for first, scores in decode.mean_in_rows(outputs, self.classes.exclusive):
                height = scores.shape[2]
                place = (slice(first, first + height), slice(0, size[1]))
                inside = (slice(0, height), slice(0, size[1]))
                yield Block(place, DenseLogits(scores, (height, size[1])), inside)
            return
        axes = grid(size, tile, self.overlap, self.blend, ALIGN)
        yield from blocks(self.network, lambda place: images[at(place)], axes, self.blend, each=self.each)

    def _check_optimize(self) -> None:
        """Refuse to optimize what has no forms to choose among."""
        if not self._scores_pixels:
            raise ValueError(
                f"optimize is for networks that score every pixel of an image, not for the task "
                f"{self.task.name} with {type(self.model).__name__}"
            )
        if next(self.model.parameters(), None) is None:
            raise ValueError("optimize is for weights and runs: an exported file has its form already")
        if self.device.type != "cpu":
            raise ValueError(
                f"optimize is for the CPU, and the network is on {self.device}: choose device cpu"
            )
        if self.precision != "32":
            raise ValueError(f"optimize chooses the precision itself: leave out precision {self.precision}")

    def _refuse_pixelwise_options(self) -> None:
        """Refuse what is for scores of every pixel only."""
        crops = self.task.infer is not None and not issubclass(self.model.output, DenseLogits)
        labels = issubclass(self.model.output, PixelLabels)  # of which no mean is taken
        given = {
            "tile": self.tile not in (None, "auto")
            and "tile" not in self.task.decoding
            and not self._joins_tiles,
            "flip": (crops or labels) and self.flip,
            "scales": (labels or self.task.infer is not None) and self.scales != (1.0,),
            "views": (crops or labels) and self.views != (View(),),
            "refine": self.refine is not None,
        }
        if wrong := [name for name, is_given in given.items() if is_given]:
            if labels:
                raise ValueError(
                    f"{wrong[0]} needs scores of pixels, and this file gives labels: "
                    "export it without --labels"
                )
            raise ValueError(
                f"{wrong[0]} is for models that score every pixel of an image, not for the task "
                f"{self.task.name}"
            )


def _silent(sentence: str) -> None:
    pass


def _in_float32(output: Any) -> Any:
    """The output with its scores in float32."""
    if isinstance(output, DenseLogits) and output.coarse.dtype == torch.float32 and not output.aux:
        return output  # walking through its fields takes as long as decoding a tile
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, output)


def task_of(model: Model, name: str | None, classes: ClassTable) -> Task:
    """The task called `name`, or the first of the model's that fits the classes.

    Raises:
        ValueError: if the model does not serve it, or has another number of classes than the table, or the
            table does not suit the task.
    """
    if name is None:
        several = [one for one in model.tasks if get_task(one).annotation is ClassMasks]
        name = several[0] if several and not classes.exclusive else model.tasks[0]
    task = get_task(name)
    if name not in model.tasks:
        raise ValueError(f"the model serves {', '.join(model.tasks)}, not {name}")
    if model.num_classes not in (None, len(classes)):
        raise ValueError(f"the model has {model.num_classes} classes, the class table {len(classes)}")
    if task.annotation is ClassMasks and classes.exclusive:
        raise ValueError(f"the task {name} needs a class table with exclusive=False")
    if task.annotation is LabelMap and not classes.exclusive:
        raise ValueError(
            f"the task {name} needs exclusive classes (one per pixel), this table has exclusive=False"
        )
    task.check(classes)
    return task


def _check_tile(tile: Size, overlap: int, axes: tuple[int, ...]) -> None:
    if len(tile) not in axes or not all(1 <= side <= _LONGEST_TILE for side in tile):
        raise ValueError(f"a tile has a height and a width of 1 to {_LONGEST_TILE} pixels, got {tile}")
    if not 0 <= overlap < min(tile):
        raise ValueError(f"the overlap must be at least 0 and smaller than the tile {tile}, got {overlap}")


def _place(model: Model, device: str | torch.device) -> torch.device:
    """Move the model to `device` ("auto": leave it) and tell where it is."""
    if device != "auto":
        try:
            model.to(torch.device(device))
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}"
            ) from error
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
