"""How much a server takes at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body: bytes of a request.
        pixels: height times width of an image, known before it is decoded.
        prompts: points and boxes of one request.
        waiting: images that wait for a model.
        waiting_pixels: pixels of those images together, which wait as one byte per channel.
        seconds: how long a request may wait and run.
        embeddings: bytes of the embeddings that are kept.
        response: bytes of an answer.
    """

    body: int = 32 * 2**20
    pixels: int = 64_000_000
    prompts: int = 64
    waiting: int = 64
    waiting_pixels: int = 256_000_000
    seconds: float = 30.0
    embeddings: int = 2**30
    response: int = 512 * 2**20
