"""A client of the server: the same predictions as in the server's process."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.formats.image import to_tensor
from ..predict import Prediction
from ..rle import RleMasks
from ..tasks import get_task
from ..types import ClassTable, LabelMap, MaskSet


class Client:
    """Speaks to `pixelwise serve`.

    Args:
        url: such as http://127.0.0.1:8000.
        model: name of a model; None for the server's first.
        token: that the server wants.
        timeout: seconds.

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
        self._errors = httpx.HTTPError
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self.url = url
        try:
            models = {one["name"]: one for one in self._json("GET", "/v1/models")["models"]}
            name = next(iter(models)) if model is None else model
            if name not in models:
                raise ValueError(f"{url} has no model {name!r}: it has {', '.join(models)}")
        except ValueError:
            self._http.close()
            raise
        self.model: dict[str, Any] = models[name]
        classes = self.model["classes"]
        self.classes = ClassTable(
            tuple(one["name"] for one in classes),
            tuple((r, g, b) for r, g, b in (one["color"] for one in classes)),
            ids=tuple(one["id"] for one in classes),
        )

    def __enter__(self) -> "Client":
        """For `with`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection."""
        self._http.close()

    def predict(self, source: str | os.PathLike[str] | Image.Image, **options: Any) -> Prediction:
        """What the model finds in an image.

        Args:
            source: path of an image file, or a PIL image.
            options: `threshold`, `min_area`, `flip`.

        Raises:
            ValueError: with the sentence of the server, or if the image cannot be read.
        """
        content, name = _content(source)
        path = f"/v1/models/{self.model['name']}/predict"
        kind = "labels" if self.model["usual_output"] == "labels" else "coco"
        asked = {"output": "raw" if kind == "labels" else "coco", **options}
        answer = self._send("POST", path, params=asked, content=content)
        image = to_tensor(Image.open(io.BytesIO(content)), self.model["channels"])
        task = get_task(self.model["task"])
        if kind == "labels":
            height, width = map(int, answer.headers["x-shape"].split(","))
            dtype = np.dtype("u1" if answer.headers["x-type"] == "uint8" else "<u2")
            array = np.frombuffer(answer.content, dtype).reshape(height, width).astype(np.int64)
            return Prediction(LabelMap(torch.from_numpy(array)), task, self.classes, image, name)
        entries = json.loads(answer.content)["annotations"]
        label_of = {number: label for label, number in enumerate(self.classes.category_ids)}
        size = (image.shape[-2], image.shape[-1])
        masks = RleMasks.from_coco([one["segmentation"] for one in entries], size)
        labels = torch.tensor([label_of[one["category_id"]] for one in entries], dtype=torch.int64)
        scores = torch.tensor([one["score"] for one in entries], dtype=torch.float32)
        return Prediction(MaskSet.of(masks, labels, scores), task, self.classes, image, name)

    def embed(self, source: str | os.PathLike[str] | Image.Image) -> str:
        """Let a promptable model look at an image; gives the name of the image for `segment`.

        Raises:
            ValueError: as `predict`.
        """
        content, _ = _content(source)
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
        try:
            answer = self._http.request(method, path, **request)
        except self._errors as error:
            raise ValueError(f"{self.url} does not answer: {error}") from error
        if answer.status_code >= 400:
            try:
                said = json.loads(answer.content)["detail"]
            except (ValueError, KeyError, TypeError):
                said = f"status {answer.status_code}"
            raise ValueError(f"{self.url}: {said}")
        return answer


def _content(source: str | os.PathLike[str] | Image.Image) -> tuple[bytes, str]:
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        source.save(file, "PNG", compress_level=1)
        return file.getvalue(), str(getattr(source, "filename", ""))
    try:
        return Path(source).read_bytes(), str(source)
    except OSError as error:
        raise ValueError(f"cannot read {source}: {error.strerror}") from error
