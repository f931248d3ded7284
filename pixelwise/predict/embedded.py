"""What a promptable network keeps of an image, and the file in which it waits for prompts."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import atomic_write
from ..types import Embedding, PromptableModel

FORMAT = "pixelwise-embedding-1"
_KEY = "pixelwise"  # of the metadata


@dataclass(frozen=True)
class EmbeddedImage:
    """An image that a promptable model has looked at; see `Predictor.embed`.

    Attributes:
        image: as the model saw it, in [0, 1].
        name: path of the image where it has one.
        embedding: what the model keeps of it, on the device of the model.
        network: tells the network that made it; see `fingerprint`.
    """

    image: Float[Tensor, "c H W"]
    name: str
    embedding: Embedding
    network: str

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a safetensors file that `Predictor.load_embedded` reads; the image is kept in 256 levels.

        Raises:
            ValueError: if the name ends in something else, the file exists already, or it cannot be written.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"an embedding is kept in a file that ends in .safetensors, got {path.name!r}")
        if os.path.lexists(path) and not overwrite:
            raise ValueError(f"{path} exists already: save(..., overwrite=True) replaces it")
        maps = self.embedding.maps
        tensors = {f"map{i}": map.detach().cpu().contiguous() for i, map in enumerate(maps)}
        tensors["image"] = (self.image.cpu() * 255).round().to(torch.uint8).contiguous()
        about = {
            "format": FORMAT,
            "name": self.name,
            "maps": len(maps),
            "size": self.embedding.size,
            "network": self.network,
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, {_KEY: json.dumps(about)})
        return path


def read_embedded(path: str | os.PathLike[str], network: str, device: torch.device) -> EmbeddedImage:
    """Read what `EmbeddedImage.save` wrote.

    Args:
        path: of the file.
        network: fingerprint of the network that is going to be asked.
        device: where the embedding shall be.

    Raises:
        ValueError: if there is no such file, it is damaged or another kind of file, or another network made
            it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r:.40}, not {FORMAT}")
            maps = tuple(file.get_tensor(f"map{i}").to(device) for i in range(about["maps"]))
            image = file.get_tensor("image").float() / 255
            height, width = about["size"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no embedding of an image: {error}") from error
    if about["network"] != network:
        raise ValueError(f"{path} was made by a network with other weights: embed the image again")
    return EmbeddedImage(image, str(about["name"]), Embedding(maps, (int(height), int(width))), network)


def fingerprint(model: PromptableModel) -> str:
    """Tells networks apart: from names and shapes of all weights, and sums of each."""
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().double().sum().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
