"""A model behind a server where a `Predictor` is wanted: folders of images, movies, every form of file."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.formats.image import MAX_PIXELS
from ..predict import Prediction
from ..types import Annotation, DenseLogits, Sample
from .client import Client
from .served import AREAS, SCORES
from .wire import annotation_of, unpacked


@dataclass(frozen=True)
class RemoteModel:
    """What is known of a network that runs elsewhere.

    Attributes:
        output: `DenseLogits` where it scores pixels.
        in_channels: of its images.
    """

    output: type
    in_channels: int


class ServedPredictor:
    """Predicts with a model of a server: the same annotations and files as a `Predictor`.

    Args:
        client: of the server.
        at_once: images that are sent at the same time.
        options: of every request: `threshold`, `min_area`, `flip`.

    Raises:
        ValueError: if the model takes prompts.
    """

    def __init__(self, client: Client, *, at_once: int = 4, **options: Any) -> None:
        told = client.model
        if told["takes_prompts"]:
            raise ValueError(f"the model {told['name']} answers prompts: use Client.embed and Client.segment")
        self.client, self.at_once, self.options = client, at_once, options
        self.task, self.classes = client.task, client.classes
        self.max_pixels, self.intensity = MAX_PIXELS, client.intensity
        dense = "probabilities" in told["outputs"]
        self.model = RemoteModel(DenseLogits if dense else object, told["channels"])
        self.device = torch.device("cpu")

    def annotations(self, samples: Sequence[Sample]) -> tuple[Annotation, ...]:
        """What the model finds in images; those whose id is the path of their file are sent as that file.

        Raises:
            ValueError: with the sentence of the server.
        """
        contents = [self._content(sample) for sample in samples]
        with ThreadPoolExecutor(self.at_once, "asking") as threads:
            answers = list(
                threads.map(lambda one: self.client.ask(one[0], unit=one[1], **self.options), contents)
            )
        return tuple(annotation_of(unpacked(answer)) for answer in answers)

    def __call__(self, source: Any, *, probabilities: bool = False) -> Prediction:
        """The prediction of one image; see `Client.predict`.

        Raises:
            ValueError: with the sentence of the server.
        """
        return self.client.predict(source, probabilities=probabilities, **self.options)

    def _content(self, sample: Sample) -> tuple[bytes, bool]:
        path = Path(sample.id)
        return self.client.content(path if path.suffix and path.is_file() else sample.image, sample.image)


def options_of_decoding(decoding: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of decoding as options of a request.

    Raises:
        ValueError: on a setting that no request has.
    """
    options: dict[str, Any] = {}
    for name, value in decoding.items():
        if name not in (*SCORES, *AREAS):
            known = ", ".join((*SCORES, *AREAS))
            raise ValueError(f"with --server, --decoding takes one of {known}, got {name!r:.80}")
        options["threshold" if name in SCORES else "min_area"] = value
    return options
