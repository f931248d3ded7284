"""LitServe around the network of `bench/serve.py`, one image at a time; its requests carry base64.

    python bench/serve_litserve.py CHECKPOINT PORT

A module of its own, because LitServe's processes import the class by its name.
"""

import base64
import io
import sys
from pathlib import Path

import litserve
import numpy as np
import torch
from PIL import Image

from pixelwise.checkpoint import load


class Api(litserve.LitAPI):
    """JPEG in, label PNG out."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def setup(self, device: str) -> None:
        """Load the weights."""
        found = load(self.checkpoint)
        self.model = found.model
        self.palette = [part for color in found.classes.colors for part in color]

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        """Pixels of the JPEG."""
        picture = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 255

    def predict(self, x: torch.Tensor) -> np.ndarray:
        """The largest score."""
        with torch.no_grad():
            labels: np.ndarray = self.model(x).logits.argmax(1)[0].numpy()
        return labels.astype(np.uint8)

    def encode_response(self, output: np.ndarray) -> dict[str, str]:
        """A PNG with a palette."""
        mask, file = Image.fromarray(output), io.BytesIO()
        mask.putpalette(self.palette)
        mask.save(file, "PNG")
        return {"mask": base64.b64encode(file.getvalue()).decode()}


def main() -> None:
    server = litserve.LitServer(Api(Path(sys.argv[1])), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
