"""Slices of volumes as training images of networks for two axes."""

from torch.utils.data import Dataset

from ..types import LabelMap, Sample
from .cache import CachedImages, CachedTargets, cached
from .dataset import SegmentationData

AXES = ("depth", "height", "width")


class VolumeSlices(Dataset[Sample]):
    """Every slice of every volume, with its labels.

    Volumes are decoded once into a file of this process (see `data.cache`), of which a sample reads no more
    than its slice; volumes that are kept already are left where they are.

    Args:
        data: the volumes, each with labels.
        axis: name of the axis of the file across which slices are cut, one of `AXES`.

    Raises:
        ValueError: if there is no such axis, or a file is damaged.
    """

    def __init__(self, data: SegmentationData, axis: str) -> None:
        self.axis = axis_of(axis)
        kept = data if isinstance(data.read_image, CachedImages) else cached(data, "disk")
        assert isinstance(kept.read_image, CachedImages)
        assert isinstance(kept.read_target, CachedTargets)
        self.images, self.targets = kept.read_image, kept.read_target
        self.places = [
            (pair, number) for pair in kept.pairs for number in range(self.images.shape(pair)[1 + self.axis])
        ]

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """One slice: image "c h w", labels "h w", and the size of its pixels."""
        pair, number = self.places[index]
        image, spacing = self.images.across(pair, 1 + self.axis, number)
        labels = self.targets.across(pair, self.axis, number)
        if spacing is not None:
            spacing = tuple(side for place, side in enumerate(spacing) if place != self.axis)
        return Sample(image, LabelMap(labels, spacing), f"{pair.id}#{number}", spacing)


def axis_of(name: str) -> int:
    """The number of an axis, without the channels.

    Raises:
        ValueError: if there is none of that name.

    >>> axis_of("height")
    1
    """
    if name not in AXES:
        raise ValueError(f"slices are cut across {', '.join(AXES)}, got {name!r:.40}")
    return AXES.index(name)
