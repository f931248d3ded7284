"""Objects of one image on another: pixels, masks and what is hidden belong together."""

import pytest
import torch

from pixelwise.data import copy_paste
from pixelwise.data.dataset import Augmented, Mixing
from pixelwise.types import LabelMap, MaskSet, Sample


def squares(
    value: float, places: list[tuple[int, int]], size: tuple[int, int] = (40, 50), side: int = 10
) -> Sample:
    """Squares of a grey value on black, each an object of its own class."""
    masks = torch.zeros(len(places), *size, dtype=torch.bool)
    for mask, (top, left) in zip(masks, places, strict=True):
        mask[top : top + side, left : left + side] = True
    image = masks.any(0).float()[None].repeat(3, 1, 1) * value
    return Sample(image, MaskSet.of(masks, torch.arange(len(places))), "squares")


@pytest.mark.parametrize("seed", range(8))
def test_what_is_pasted_hides_what_lies_below(seed: int) -> None:
    torch.manual_seed(seed)
    below, above = squares(0.5, [(0, 0), (20, 20)]), squares(1.0, [(5, 5), (20, 20), (0, 35)])
    found = copy_paste(below, above)
    assert isinstance(found.target, MaskSet)
    masks = found.target.dense
    assert (masks.sum(0) <= 1).all()
    assert masks.flatten(1).any(1).all()
    for mask, label in zip(masks, found.target.classes, strict=True):
        values = found.image[0][mask]
        assert values.unique().tolist() in ([0.5], [1.0])
        if values[0] == 1.0:
            assert mask.equal(above.target.dense[label])
    assert found.image[0][~masks.any(0)].unique().tolist() == [0.0]


def test_a_hidden_object_is_gone_and_crowds_are_not_pasted() -> None:
    below, above = squares(0.5, [(20, 20)]), squares(1.0, [(20, 20)])
    counts = set()
    for seed in range(10):
        torch.manual_seed(seed)
        counts.add((len(copy_paste(below, above).target), float(copy_paste(below, above).image.max())))
        crowd = MaskSet.of(above.target.masks, above.target.classes, is_crowd=torch.tensor([True]))
        assert copy_paste(below, Sample(above.image, crowd, "crowd")) is below
    assert {count for count, _ in counts} == {1}
    assert {value for _, value in counts} == {0.5, 1.0}


@pytest.mark.parametrize("size", [(30, 70), (60, 30), (12, 12)])
def test_images_of_another_size_are_cut(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    found = copy_paste(squares(0.5, [(0, 0)]), squares(1.0, [(2, 2)] * 6, size))
    assert found.image.shape == (3, 40, 50)
    assert found.target.size == (40, 50)


def test_other_annotations_are_refused() -> None:
    with pytest.raises(ValueError, match="needs masks of instances, x has LabelMap"):
        copy_paste(Sample(torch.zeros(3, 8, 8), LabelMap(torch.zeros(8, 8).long()), "x"), squares(1, []))


def test_mixing_depends_on_seed_epoch_and_index_alone() -> None:
    data = [squares(0.1 * number, [(number, number)]) for number in range(1, 8)]
    mixings = [Mixing(copy_paste, 0.5)]
    mixed = Augmented(data, lambda sample: sample, seed=3, mixings=mixings)  # type: ignore[arg-type]
    first = [mixed[index] for index in range(len(data))]
    again = [mixed[index] for index in reversed(range(len(data)))][::-1]
    assert all(a.image.equal(b.image) for a, b in zip(first, again, strict=True))
    changed = [not a.image.equal(b.image) for a, b in zip(first, data, strict=True)]
    assert 0 < sum(changed) < len(data)
    mixed.epoch = 1
    assert any(not a.image.equal(mixed[i].image) for i, a in enumerate(first))
