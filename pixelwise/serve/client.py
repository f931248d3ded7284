"""A client of the server: the same predictions as in the server's process."""

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checkpoint import read_classes
from ..data.formats.image import Source, is_raster, to_tensor
from ..data.intensity import PERCENTILES
from ..predict import Prediction
from ..rle import RleMasks
from ..tasks import get_task
from .wire import annotation_of, unpacked

# Files that travel as they are, where the model takes the channels that Pillow gives; others as their pixels.
_SENT = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff".split())
_MODES = (1, 3, 4)
_TRIES = 3


class Client:
    """Speaks to `pixelwise serve`. Several threads may share a client.

    A server that has no room says when to come back, and is asked again then.

    Args:
        url: such as http://127.0.0.1:8000.
        model: name of a model; None for the server's first.
        token: that the server wants.
        timeout: seconds for an answer.

    Raises:
        ValueError: if httpx is missing, the server does not answer, or has no such model.
    """

    def __init__(
        self, url: str, *, model: str | None = None, token: str | None = None, timeout: float = 60.0
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ValueError("the client needs the extra: pip install 'pixelwise[serve]'") from error
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._errors = (httpx.HTTPError, httpx.InvalidURL)
        self._broken = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        except self._errors as error:
            raise ValueError(f"{url!r:.200} is no address of a server: {error}") from error
        self.url, self.timeout = url, timeout
        try:
            models = {one["name"]: one for one in self._json("GET", "/v1/models")["models"]}
            name = next(iter(models)) if model is None else model
            if name not in models:
                raise ValueError(f"{url} has no model {name!r:.80}: it has {', '.join(models)}")
            self.model: dict[str, Any] = models[name]
            if "class_table" not in self.model:
                raise ValueError(f"{name!r:.80} answers clicks on the page and predicts no classes")
            self.task, self.classes = get_task(self.model["task"]), read_classes(self.model["class_table"])
        except (KeyError, TypeError) as error:
            self._http.close()
            raise ValueError(f"{url} does not answer as `pixelwise serve` does: {error!r:.200}") from error
        except ValueError:
            self._http.close()
            raise

    def __enter__(self) -> "Client":
        """For `with`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def predict(self, source: Source, *, probabilities: bool = False, **options: Any) -> Prediction:
        """What the model finds in an image.

        Args:
            source: path of an image file, PIL image, array or tensor, as `Predictor` takes them.
            probabilities: whether to ask for the probability of every class, which come with half precision.
            options: `threshold`, `min_area`, `flip`.

        Raises:
            ValueError: with the sentence of the server, or if the image cannot be read.
        """
        image = self._read(source)
        name = str(source) if isinstance(source, str | os.PathLike) else ""
        if isinstance(source, Image.Image):
            name = str(getattr(source, "filename", ""))
        content, unit = self.content(source, image)
        arrays = unpacked(self.ask(content, unit=unit, probabilities=probabilities, **options))
        return self.prediction(arrays, image, name)

    def prediction(self, arrays: dict[str, np.ndarray], image: Tensor, name: str) -> Prediction:
        """A prediction from the arrays of an answer, for the image "c H W" that was asked about."""
        found = arrays.pop("probabilities", None)
        scores = None if found is None else torch.from_numpy(found).float()
        return Prediction(annotation_of(arrays), self.task, self.classes, image, name, scores)

    @property
    def intensity(self) -> str:
        """Which values of files become 0 and 1; see `data.intensity.bounds_of`."""
        return str(self.model.get("intensity", PERCENTILES))

    def _read(self, source: Source) -> Tensor:
        """Values in [0, 1], as the server has them."""
        return to_tensor(source, self.model["channels"], intensity=self.intensity)

    def content(self, source: Source, image: Tensor) -> tuple[bytes, bool]:
        """What is sent of an image: its file where the server reads it as here, else its pixels, exactly.

        Returns:
            The bytes, and whether they hold values that are 0 to 1 already.

        Raises:
            ValueError: if the file cannot be read.
        """
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            sent = path.suffix.lower() in _SENT and not is_raster(path, self.intensity)
            if sent and self.model["channels"] in _MODES:
                try:
                    return path.read_bytes(), False
                except OSError as error:
                    raise ValueError(f"cannot read {path}: {error.strerror}") from error
        return _as_file(image), True

    def ask(
        self, content: bytes, *, unit: bool = False, probabilities: bool = False, **options: Any
    ) -> bytes:
        """The bytes of an answer; see `wire`.

        Args:
            content: of `content`, as `unit` is.
            unit: whether the values are 0 to 1 already.
            probabilities: as in `predict`.
            options: as in `predict`.

        Raises:
            ValueError: with the sentence of the server.
        """
        output = "annotation_probabilities" if probabilities else "annotation"
        path = f"/v1/models/{self.model['name']}/predict"
        if unit and self.intensity != PERCENTILES:
            options["unit"] = True
        answer = self._send("POST", path, params={"output": output, **options}, content=content)
        return bytes(answer.content)

    def embed(self, source: Source) -> str:
        """Let a promptable model look at an image; gives the name of the image for `segment`.

        Raises:
            ValueError: as `predict`.
        """
        content, _ = self.content(source, self._read(source))
        answer = self._send("POST", f"/v1/models/{self.model['name']}/images", content=content)
        return str(json.loads(answer.content)["image"])

    def segment(self, image: str, **prompt: Any) -> RleMasks:
        """The masks of an object in an image that was embedded.

        Args:
            image: what `embed` gave.
            prompt: `points` [[x, y], ...], `labels` [1, 0, ...], `box` [x0, y0, x1, y1], `multimask`.

        Raises:
            ValueError: as `predict`.
        """
        path = f"/v1/models/{self.model['name']}/images/{image}/segment"
        answer = self._send("POST", path, json=prompt)
        return RleMasks.from_coco([one["rle"] for one in json.loads(answer.content)["masks"]])

    def _json(self, method: str, path: str) -> Any:
        return json.loads(self._send(method, path).content)

    def _send(self, method: str, path: str, **request: Any) -> Any:
        """The answer; asked again where the server has no room yet, or a connection broke on the way.

        Every request may be sent twice: none changes more than what the server remembers of an image.
        """
        deadline, broken = time.monotonic() + self.timeout, 0
        while True:
            try:
                answer = self._http.request(method, path, **request)
            except self._broken as error:
                broken += 1
                if broken == _TRIES:
                    raise ValueError(f"{self.url} broke the connection: {error}") from error
                continue
            except self._errors as error:
                raise ValueError(f"{self.url} does not answer: {error}") from error
            wait = answer.headers.get("retry-after", "")
            if answer.status_code != 503 or not wait.isdecimal() or time.monotonic() + int(wait) > deadline:
                break
            time.sleep(int(wait))
        if answer.status_code >= 400:
            try:
                said = json.loads(answer.content)["detail"]
            except (ValueError, KeyError, TypeError):
                said = f"status {answer.status_code}"
            raise ValueError(f"{self.url}: {said}")
        return answer


def _as_file(image: Tensor) -> bytes:
    """Pixels "c H W" in [0, 1] as a file that gives exactly them: PNG where 8 bits are enough, else NumPy."""
    pixels = image.numpy().transpose(1, 2, 0)
    levels = np.rint(pixels * 255).astype(np.uint8)
    file = io.BytesIO()
    if np.array_equal(levels.astype(np.float32) / np.float32(255), pixels):
        if pixels.shape[2] in _MODES:
            Image.fromarray(levels[..., 0] if pixels.shape[2] == 1 else levels).save(
                file, "PNG", compress_level=1
            )
        else:
            np.save(file, levels)
    else:
        np.save(file, np.ascontiguousarray(pixels))
    return file.getvalue()
