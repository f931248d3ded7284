"""The published sizes of SAM 2 (App. D.1), and one of any size."""

from typing import NamedTuple

from ...encoders.hiera import Hiera
from ...types import Paper
from .video_network import SAM2, Version

PAPER = Paper(
    title="SAM 2: Segment Anything in Images and Videos",
    authors="Ravi, Gabeur, Hu, Hu, Ryali, Ma, Khedr, Rädle, Rolland, Gustafson, Mintun, Pan, Alwala, Carion, "
    "Wu, Girshick, Dollár, Feichtenhofer",
    venue="ICLR",
    year=2025,
    url="https://arxiv.org/abs/2408.00714",
)


class Size(NamedTuple):
    """See the arguments of `Hiera`."""

    width: int
    heads: int
    depths: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]
    whole: tuple[int, int, int]
    background: int


SIZES = {
    "sam2_hiera_tiny": Size(96, 1, (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), 7),
    "sam2_hiera_small": Size(96, 1, (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), 7),
    "sam2_hiera_base_plus": Size(112, 2, (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), 14),
    "sam2_hiera_large": Size(144, 2, (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), 7),
}


def sam2(
    image_size: int = 256,
    encoder_width: int = 16,
    width: int = 64,
    memory_width: int = 16,
    version: Version = "2.1",
    in_channels: int = 3,
) -> SAM2:
    """SAM 2 of any width, on the smallest Hiera of four stages with one block each.

    Args:
        image_size: side in pixels of the square that the encoder sees, a multiple of 32.
        encoder_width: channels of the first stage of the encoder.
        width: channels of maps and tokens, a multiple of 32.
        memory_width: channels of memories, a divisor of `width` and a multiple of 4.
        version: "2.1" also tells how long ago a pointer was, and where a memory is of a hidden object.
        in_channels: of the image.

    Raises:
        ValueError: if a size is no such multiple.
    """
    if width % 32 or memory_width % 4 or width % memory_width:
        raise ValueError(
            "width must be a multiple of 32 and of memory_width, which must be one of 4, "
            f"got {width} and {memory_width}"
        )
    encoder = Hiera(encoder_width, 1, (1, 1, 1, 1), (8, 4, 4, 2), (2,), 7, in_channels=in_channels)
    return SAM2(encoder, image_size, width=width, memory_width=memory_width, version=version)


def sam2_hiera_tiny(image_size: int = 1024, version: Version = "2.1", in_channels: int = 3) -> SAM2:
    """39 M parameters; see `sam2` for the arguments."""
    return published("sam2_hiera_tiny", image_size, version, in_channels)


def sam2_hiera_small(image_size: int = 1024, version: Version = "2.1", in_channels: int = 3) -> SAM2:
    """46 M parameters; see `sam2` for the arguments."""
    return published("sam2_hiera_small", image_size, version, in_channels)


def sam2_hiera_base_plus(image_size: int = 1024, version: Version = "2.1", in_channels: int = 3) -> SAM2:
    """81 M parameters; see `sam2` for the arguments."""
    return published("sam2_hiera_base_plus", image_size, version, in_channels)


def sam2_hiera_large(image_size: int = 1024, version: Version = "2.1", in_channels: int = 3) -> SAM2:
    """224 M parameters; see `sam2` for the arguments."""
    return published("sam2_hiera_large", image_size, version, in_channels)


def published(name: str, image_size: int, version: Version, in_channels: int) -> SAM2:
    """One of `SIZES` by its name; see `sam2` for the arguments."""
    return SAM2(Hiera(*SIZES[name], in_channels=in_channels), image_size, version=version)
