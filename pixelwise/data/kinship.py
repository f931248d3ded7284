"""Which images belong together, so that none is scored by a model that has seen its like.

Slices of one specimen, frames of one video and copies of one image are no independent samples: a part that is
cut at random across them promises more than is kept. Two things tell them: small versions of the images, and
their names in order. Neighbours by name that are much more alike than images in random order make a sequence
(a permutation test on the size of the effect).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..wording import counted
from .dataset import SegmentationData

_COARSE, _FINE = 16, 64  # sides of the small versions
_COPY = 0.98  # correlation from which two images count as copies, at both sizes
_AHEAD = 0.1  # by how much neighbours must be more alike than in the luckiest random order
_ORDERS = 200  # random orders
_MOST = 300  # images that are looked at on each side of a warning
_PARTS = {"train", "training", "val", "valid", "validation", "test", "images", "imgs", "all"}


@dataclass(frozen=True)
class Kinship:
    """How the images of a data set belong together.

    Attributes:
        order: the images in the order of their names, numbers as numbers.
        specimens: what names each image shares with others: its folder and its name before the last number.
        copies: pairs of images that are nearly the same.
        alike: mean correlation of the small versions of neighbours by name; nan below two images.
        by_chance: the highest such mean in many random orders.
    """

    order: tuple[int, ...]
    specimens: tuple[str, ...]
    copies: tuple[tuple[int, int], ...]
    alike: float
    by_chance: float

    @property
    def is_sequence(self) -> bool:
        """Whether neighbours by name are much more alike than others."""
        return self.alike > self.by_chance + _AHEAD


def kinship(data: SegmentationData, *, seed: int = 0) -> Kinship:
    """Look at every image of a data set.

    Args:
        data: its images are read, not its annotations.
        seed: of the random orders.

    Raises:
        ValueError: if an image cannot be read.
    """
    specimens = tuple(specimen_of(pair.id) for pair in data.pairs)
    order = tuple(sorted(range(len(data)), key=lambda i: _place(data.pairs[i].id)))
    small = [_small(data, i) for i in range(len(data))]
    if len(small) < 2:
        return Kinship(order, specimens, (), float("nan"), float("nan"))
    coarse, fine = (torch.stack([versions[at] for versions in small]) for at in (0, 1))
    likeness = coarse @ coarse.T
    near = (likeness > _COPY).triu(1).nonzero().tolist()
    copies = tuple((i, j) for i, j in near if float(fine[i] @ fine[j]) > _COPY)
    numbers = random.Random(seed)
    shuffled = [numbers.sample(order, len(order)) for _ in range(_ORDERS)]
    by_chance = max(_between_neighbours(likeness, one) for one in shuffled)
    return Kinship(order, specimens, copies, _between_neighbours(likeness, order), by_chance)


def specimen_of(id: str) -> str:
    """The folders of an image, parts left out, and its name before the last number.

    >>> specimen_of("images/train/patient7_slice012.png"), specimen_of("patient3/05.png")
    ('patient7_slice', 'patient3/')
    """
    path = PurePosixPath(id)
    folders = [part for part in path.parent.parts if part.lower() not in _PARTS]
    stem = path.name.partition(".")[0]
    found = re.fullmatch(r"(.*?)\d+\D*", stem)
    return "/".join([*folders, found.group(1) if found else stem])


def groups_of(found: Kinship, *, at_least: int) -> tuple[int, ...]:
    """A group number for each image, such that images of different groups may be on different sides.

    Copies are in one group. In a sequence, images of one specimen are, where there are `at_least` specimens;
    else the sequence is cut into as many blocks.

    Args:
        found: what `kinship` tells.
        at_least: how many groups are needed.

    >>> found = Kinship((0, 1, 2, 3), ("a", "a", "b", "b"), (), 0.9, 0.2)
    >>> groups_of(found, at_least=2), groups_of(found, at_least=4)
    ((0, 0, 1, 1), (0, 1, 2, 3))
    """
    count = len(found.order)
    if not found.is_sequence:
        numbers = list(range(count))
    elif len(set(found.specimens)) >= at_least:
        known = {name: number for number, name in enumerate(dict.fromkeys(found.specimens))}
        numbers = [known[name] for name in found.specimens]
    else:
        numbers = [0] * count
        for place, i in enumerate(found.order):
            numbers[i] = place * at_least // count
    for i, j in found.copies:
        kept, given_up = numbers[i], numbers[j]
        numbers = [kept if number == given_up else number for number in numbers]
    return tuple(numbers)


def too_close(train: SegmentationData, held: SegmentationData, part: str = "validation") -> list[str]:
    """What speaks against scores of `held` by a model that learnt from `train`: a sentence for each finding.

    Of more than 300 images, each part is looked at in steps, beside the neighbours by name.

    Args:
        train: learnt from.
        held: scored.
        part: what the sentences call it.

    Raises:
        ValueError: if an image cannot be read.
    """
    held = _thinned(held)
    both = train.joined(held)
    order = sorted(range(len(both)), key=lambda i: _place(both.pairs[i].id))
    first = len(train)
    beside = {
        before if before < first else after
        for before, after in pairwise(order)
        if (before < first) != (after < first)
    }
    step = -(-first // _MOST)
    kept = sorted({*range(0, first, step), *beside})
    both = train.take(kept).joined(held)
    found, first = kinship(both), len(kept)
    sentences = []
    copies = {max(pair): min(pair) for pair in found.copies if min(pair) < first <= max(pair)}
    if copies:
        one, other = next(iter(copies.items()))
        sentences.append(
            f"{len(copies)} of {counted(len(held), f'{part} image')} nearly equal training images, such as "
            f"{both.pairs[one].id} the image {both.pairs[other].id}: their score says nothing "
            "about new images"
        )
    shared = set(found.specimens[:first]) & set(found.specimens[first:])
    if found.is_sequence and shared:
        neighbours = {
            i
            for before, after in pairwise(found.order)
            for i, other in ((before, after), (after, before))
            if other < first <= i and found.specimens[i] == found.specimens[other]
        }
        sentences.append(
            f"training and {part} images come from one sequence or specimen: neighbours by name are alike "
            f"(correlation {found.alike:.2f}, in random order at most {found.by_chance:.2f}), and "
            f"{len(neighbours)} of {counted(len(held), f'{part} image')} stand beside a training image; "
            "expect less of another specimen"
        )
    return sentences


def fold_numbers(data: SegmentationData, folds: int, seed: int) -> tuple[int, ...]:
    """The fold 1, 2, ... of each image: those that belong together are in one.

    Args:
        data: its images are read.
        folds: how many.
        seed: of the choice which groups are together.

    Raises:
        ValueError: if there are too few images, or one cannot be read.
    """
    return folds_of(groups_of(kinship(data), at_least=folds), folds, seed=seed)


def folds_of(groups: Sequence[int], folds: int, *, seed: int) -> tuple[int, ...]:
    """The fold 1, 2, ... of each image: whole groups, folds of nearly one size.

    Raises:
        ValueError: if there are fewer groups than folds, or fewer than two folds.

    >>> folds_of([0, 0, 1, 2, 3], 2, seed=0).count(1) in (2, 3)
    True
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    sizes: dict[int, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    if len(sizes) < folds:
        raise ValueError(
            f"{counted(len(groups), 'image')} in {counted(len(sizes), 'group')} of images that belong "
            f"together cannot make {folds} folds"
        )
    names = sorted(sizes)
    random.Random(seed).shuffle(names)
    filled, place = [0] * folds, {}
    for group in sorted(names, key=lambda name: -sizes[name]):
        smallest = filled.index(min(filled))
        place[group] = smallest + 1
        filled[smallest] += sizes[group]
    return tuple(place[group] for group in groups)


def _small(data: SegmentationData, index: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """A coarse and a fine version of an image, with mean 0 and length 1; constant ones are 0."""
    image, _ = data.image(index)
    grey = image.float().mean(0)[None, None]
    if grey.ndim == 5:  # of volumes, the mean over the depth
        grey = grey.mean(2)
    coarse, fine = (F.adaptive_avg_pool2d(grey, (side, side)).flatten().double() for side in (_COARSE, _FINE))
    return _standard(coarse), _standard(fine)


def _standard(values: Tensor) -> Tensor:
    centred = values - values.mean()
    return centred / centred.norm() if float(centred.norm()) > 1e-9 else torch.zeros_like(centred)


def _between_neighbours(likeness: Float[Tensor, "n n"], order: Sequence[int]) -> float:
    places = torch.tensor(order)
    return float(likeness[places[:-1], places[1:]].mean())


def _place(id: str) -> tuple[str, list[tuple[int, str]], str]:
    """A key that sorts names with their numbers as numbers, frames of one specimen together."""
    parts = re.findall(r"\d+|\D+", PurePosixPath(id).name)
    return (
        specimen_of(id),
        [(int(part), "") if part.isdecimal() else (-1, part) for part in parts],
        id,
    )


def _thinned(data: SegmentationData) -> SegmentationData:
    step = -(-len(data) // _MOST)
    return data.take(range(0, len(data), step)) if step > 1 else data
