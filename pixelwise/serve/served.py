"""A model behind a server: how requests are run, what is remembered of images, how large batches are."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from ..data.formats.image import to_tensor
from ..data.intensity import PERCENTILES
from ..files import sha256_of
from ..predict import Prediction, Predictor
from ..predict.parallel import PIXELS_TOGETHER, in_parallel
from ..rle import run_lengths
from ..types import (
    Annotation,
    Boxes,
    ClassMasks,
    DenseLogits,
    Keypoints,
    LabelMap,
    MaskSet,
    PanopticMap,
    PromptableModel,
    Prompts,
    Sample,
)
from .images import Pixels, decode_geotiff, decode_pixels
from .limits import Limits
from .model_thread import Job, ModelThread
from .outputs import OUTPUTS, Options, Output, usual_output
from .problems import Problem

SCORES, AREAS = ("thresholds", "threshold", "min_score"), ("min_component",)  # settings of decoding
BATCHES = (1, 2, 4, 8, 16)
_ENOUGH = 1.05  # a batch is taken if its time per image is at most so many times that of the best
_VARIANTS = 8  # predictors with other settings that are kept


@dataclass(frozen=True)
class Embedded:
    """An image that a promptable model has looked at.

    Attributes:
        id: SHA-256 of the file that was sent.
        image: what the model keeps.
        height: of the image in pixels.
        width: of the image in pixels.
        bytes: what it takes in memory.
    """

    id: str
    image: Any
    height: int
    width: int
    bytes: int


class Embeddings:
    """The images that were used last, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self.hits, self.misses = 0, 0
        self._kept: OrderedDict[str, Embedded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, id: str) -> Embedded | None:
        """The embedding of an image; None where it is gone."""
        with self._lock:
            found = self._kept.get(id)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(id)
            return found

    def put(self, embedded: Embedded) -> None:
        """Keep one, and forget those that were used longest ago where there is no room."""
        with self._lock:
            self._forget(embedded.id)
            self._kept[embedded.id] = embedded
            self.bytes += embedded.bytes
            while self.bytes > self.most_bytes and len(self._kept) > 1:
                self._forget(next(iter(self._kept)))

    def remove(self, id: str) -> bool:
        """Forget an image; whether it was there."""
        with self._lock:
            return self._forget(id)

    def _forget(self, id: str) -> bool:
        found = self._kept.pop(id, None)
        if found is None:
            return False
        self.bytes -= found.bytes
        return True


class Served:
    """A model that answers requests.

    Args:
        name: by which clients call it.
        predictor: what predicts.
        sha256: of its weights.
        thread: runs it; several models may share one.
        limits: of the server.
        run: its run directory, where it has one.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        sha256: str,
        thread: ModelThread,
        limits: Limits,
        run: Path | None = None,
    ) -> None:
        self.name, self.predictor, self.sha256, self.run = name, predictor, sha256, run
        self.thread, self.limits = thread, limits
        self.embeddings = Embeddings(limits.embeddings)
        self.batch, self.ready = 1, False
        self._variants: OrderedDict[tuple[tuple[str, Any], ...], Predictor] = OrderedDict()
        self._embedding: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    @property
    def promptable(self) -> bool:
        """Whether it answers prompts instead of whole images."""
        return isinstance(self.predictor.model, PromptableModel)

    @property
    def batched(self) -> bool:
        """Whether images of one size may be predicted together: where pixels have scores."""
        return issubclass(self.predictor.model.output, DenseLogits)

    @property
    def outputs(self) -> list[str]:
        """The outputs that it can answer with."""
        kind = self.predictor.task.annotation
        names = [] if self.promptable else ["annotation", "coco", "overlay"]
        if issubclass(kind, LabelMap | MaskSet | PanopticMap) and not self.promptable:
            names += ["labels", "raw"]
        if issubclass(kind, LabelMap | ClassMasks) and not self.promptable:
            names += ["probabilities", "confidence", "annotation_probabilities"]
        if not issubclass(kind, Boxes | Keypoints) and not self.promptable:
            names += ["geojson", "hf"]
        return sorted(names)

    @property
    def usual_output(self) -> str:
        """The output where a request asks for none."""
        return usual_output(self.predictor.task.annotation)

    def described(self) -> dict[str, Any]:
        """What clients are told of it."""
        model, classes = self.predictor.model, self.predictor.classes
        named = zip(classes.category_ids, classes.names, classes.colors, strict=True)
        return {
            "name": self.name,
            "task": self.predictor.task.name,
            "classes": [
                {"id": number, "label": label, "name": name, "color": list(color)}
                for label, (number, name, color) in enumerate(named)
            ],
            "class_table": asdict(classes),
            "channels": model.in_channels,
            "intensity": self.predictor.intensity,
            "minimum_size": model.minimum_size,
            "takes_prompts": self.promptable,
            "outputs": self.outputs,
            "usual_output": None if self.promptable else self.usual_output,
            "sha256": self.sha256,
            "device": str(self.predictor.device),
            "batch": self.batch,
            "ready": self.ready,
        }

    def warm_up(self, size: int) -> None:
        """Run batches of several sizes; keep the smallest that is nearly as fast per image as the best."""
        model = self.predictor.model
        side = max(size, model.minimum_size)
        image = torch.rand(model.in_channels, side, side)
        if self.promptable:
            embedded = self.predictor.embed(image)
            self.predictor.masks(embedded, Prompts.at([(side / 2, side / 2)]))
        else:
            self.batch = self._best_batch(image) if self.batched else 1
        self.ready = True

    def _best_batch(self, image: torch.Tensor) -> int:
        sample, seconds = Sample(image, None, "warm-up"), {}
        _annotations(self.predictor, [sample])  # the first time compiles and allocates
        for count in BATCHES:
            rounds = []
            for _ in range(2):
                began = time.monotonic()
                _annotations(self.predictor, [sample] * count)
                rounds.append((time.monotonic() - began) / count)
            seconds[count] = min(rounds)
            if seconds[count] > 1.2 * min(seconds.values()):
                break  # it only gets worse
        best = min(seconds.values())
        return min(count for count, taken in seconds.items() if taken <= _ENOUGH * best)

    # --- whole images -------------------------------------------------------------------------------

    def decoded(self, body: bytes, most_pixels: int, unit: bool = False) -> Pixels:
        """An image file or array as this model takes it.

        Args:
            body: of a request.
            most_pixels: that are taken.
            unit: whether its values are in [0, 1] as the model wants them.

        Raises:
            Problem: if it cannot be read.
        """
        intensity = PERCENTILES if unit else self.predictor.intensity
        raster = decode_geotiff(body, most_pixels, self.predictor.model.in_channels, intensity)
        return decode_pixels(body, most_pixels) if raster is None else raster

    def predict(self, image: Pixels, output: str | Output, options: Options) -> Job:
        """A job whose result is what the output's `encode` takes."""
        chosen = OUTPUTS[output] if isinstance(output, str) else output
        settings = tuple(sorted((k, v) for k, v in options.items() if k in ("threshold", "min_area", "flip")))
        shape: tuple[Any, ...]
        if isinstance(image, Image.Image):
            shape = (image.height, image.width, image.mode)
        else:
            shape = (*image.shape[:2], image.shape[2:], image.dtype)
        alone = chosen.probabilities or not self.batched

        def run(images: Sequence[Pixels]) -> list[Any]:
            predictor = self._variant(settings)
            intensity = PERCENTILES if options.get("unit") else predictor.intensity
            found = self._predictions(images, predictor, intensity, probabilities=chosen.probabilities)
            return [chosen.read(one, options) for one in found]

        return Job(
            key=None
            if alone
            else (self.name, shape, output, settings, options.get("instances"), options.get("unit")),
            work=image,
            run=run,
            pixels=shape[0] * shape[1],
            deadline=time.monotonic() + self.limits.seconds,
        )

    def _predictions(
        self, images: Sequence[Pixels], predictor: Predictor, intensity: str, *, probabilities: bool
    ) -> list[Prediction]:
        try:
            channels = predictor.model.in_channels
            tensors = [_tensor(image, channels, intensity) for image in images]
            if probabilities:
                sure = [predictor(tensor, probabilities=True) for tensor in tensors]
                return [
                    replace(one, annotation=_of_known_pixels(one.annotation, image, one.classes.ignore))
                    for one, image in zip(sure, images, strict=True)
                ]
            found = _annotations(predictor, [Sample(one, None, "image") for one in tensors])
        except ValueError as error:
            small = "at least" in str(error) and "pixels" in str(error)
            kind = "image-too-small" if small else "unusable-image"
            raise Problem(kind, str(error)) from error
        task, classes = predictor.task, predictor.classes
        return [
            Prediction(_of_known_pixels(one.to("cpu"), image, classes.ignore), task, classes, tensor, "")
            for one, image, tensor in zip(found, images, tensors, strict=True)
        ]

    def _variant(self, settings: tuple[tuple[str, Any], ...]) -> Predictor:
        """The predictor with these settings of a request."""
        if not settings:
            return self.predictor
        if settings not in self._variants:
            given = dict(settings)
            decoding: dict[str, Any] = {}
            for name, names in (("threshold", SCORES), ("min_area", AREAS)):
                if name in given:
                    known = [one for one in names if one in self.predictor.decoding]
                    if known == ["threshold"] and len(self.predictor.classes) != 2:
                        known = []  # it is for scores of two classes
                    if not known:
                        raise Problem("bad-parameter", f"this model has no setting {name}")
                    decoding[known[0]] = given[name]
            try:
                self._variants[settings] = self._with(decoding, flip=given.get("flip"))
            except ValueError as error:
                raise Problem("bad-parameter", str(error)) from error
            if len(self._variants) > _VARIANTS:
                self._variants.popitem(last=False)
        return self._variants[settings]

    def _with(self, decoding: Mapping[str, Any], **options: Any) -> Predictor:
        """The predictor with other settings of decoding, and with options of `Predictor`."""
        return Predictor(
            self.predictor.model,
            self.predictor.classes,
            task=self.predictor.task.name,
            device=self.predictor.device,
            decoding={**self.predictor.decoding, **decoding},
            **options,
        )

    # --- prompts ------------------------------------------------------------------------------------

    def embed(self, id: str, image: Image.Image) -> "Future[Any]":
        """Look at an image; asked twice at once, it is done once."""
        with self._lock:
            known = self._embedding.get(id)
            if known is not None:
                return known
            job = Job(
                key=None,
                work=(id, image),
                run=lambda works: [self._embed(*work) for work in works],
                pixels=image.height * image.width,
                deadline=time.monotonic() + self.limits.seconds,
            )
            future = self.thread.submit(job)
            self._embedding[id] = future
        future.add_done_callback(lambda _: self._embedding.pop(id, None))
        return future

    def _embed(self, id: str, image: Image.Image) -> Embedded:
        try:
            found = self.predictor.embed(image)
        except ValueError as error:
            raise Problem("unusable-image", str(error)) from error
        tensors = [x for x in torch.utils._pytree.tree_leaves(found.embedding) if isinstance(x, torch.Tensor)]
        size = sum(x.numel() * x.element_size() for x in [found.image, *tensors])
        embedded = Embedded(id, found, image.height, image.width, size)
        self.embeddings.put(embedded)
        return embedded

    def segment(self, embedded: Embedded, prompts: Prompts, *, every: bool) -> Job:
        """A job whose result is a list of run lengths with scores."""

        def run(works: Sequence[Prompts]) -> list[Any]:
            predictor = self.every_candidate if every else self.predictor
            found = [predictor.masks(embedded.image, work).annotation for work in works]
            answers = []
            for one in found:
                assert isinstance(one, MaskSet)
                rles = run_lengths(one).to_coco()
                answers.append(list(zip(rles, one.scores.tolist(), strict=True)))
            return answers

        deadline = time.monotonic() + self.limits.seconds
        return Job(key=None, work=prompts, run=run, pixels=0, deadline=deadline)

    @cached_property
    def every_candidate(self) -> Predictor:
        """Gives every candidate of a prompt, not only the best one."""
        return self._with({"all": True})


def _tensor(image: Pixels, channels: int, intensity: str) -> Float[torch.Tensor, "c H W"]:
    """An image as the model takes it; a masked one is so already."""
    if isinstance(image, np.ma.MaskedArray):
        return torch.from_numpy(np.ascontiguousarray(image.data.transpose(2, 0, 1)))
    return to_tensor(image, channels, intensity=intensity)


def _of_known_pixels(annotation: Annotation, image: Pixels, ignore: int) -> Annotation:
    """Labels with the ignore label where a masked image knows no value."""
    if not isinstance(annotation, LabelMap) or not isinstance(image, np.ma.MaskedArray):
        return annotation
    unknown = torch.from_numpy(np.ma.getmaskarray(image)[..., 0].copy())
    return LabelMap(torch.where(unknown, ignore, annotation.labels))


def _annotations(predictor: Predictor, samples: Sequence[Sample]) -> list[Annotation]:
    """Segment images of one size; on a CPU each core has its part of them, unless they are large."""
    small = sum(sample.image[0].numel() for sample in samples) <= PIXELS_TOGETHER
    count = min(predictor.at_once, len(samples)) if small else 1
    size = -(-len(samples) // count)
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [one for found in in_parallel(predictor.annotations, parts, count) for one in found]


def load_served(path: str, thread: ModelThread, limits: Limits, **options: Any) -> Served:
    """A model of a checkpoint, a run directory or an exported file.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    place = Path(path)
    predictor = Predictor(path, **options)
    if predictor.task.reading is not None:
        raise ValueError(f"{path} is for the task {predictor.task.name}: only flat images are served")
    file = place / "best.safetensors" if place.is_dir() else place
    name = place.resolve().name if place.is_dir() else place.stem
    return Served(name, predictor, sha256_of(file), thread, limits, place if place.is_dir() else None)
