"""Images of a folder, for what needs some of them: measuring ranges, comparing forms of a model."""

import os
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from .image import IMAGE_SUFFIXES, read_image


def images_in(
    folder: str | os.PathLike[str], channels: int = 3, *, most: int = 64
) -> list[Float[Tensor, "c _ _"]]:
    """Images in a folder and its sub-folders, in order of their paths, evenly spread if there are more.

    Args:
        folder: of images.
        channels: of each.
        most: how many are read.

    Raises:
        ValueError: if there is no such folder or no image in it, or one cannot be read; names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"there is no image in the folder {folder}")
    step = max(1.0, len(paths) / most)
    return [read_image(paths[int(i * step)], channels) for i in range(min(most, len(paths)))]
