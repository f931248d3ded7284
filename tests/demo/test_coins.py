"""The embedded sample: outlines that fit the photograph, parts that do not touch."""

import numpy as np
import torch
from PIL import Image
from skimage import measure

from pixelwise.data import check_data, open_data
from pixelwise.data.coins import CLASSES, PARTS, coins, write_coins


def test_every_coin_is_one_region_of_its_own() -> None:
    instances = coins().instances.numpy()
    assert set(np.unique(instances)) == set(range(25))
    assert measure.label(instances > 0, connectivity=2).max() == 24
    for region in measure.regionprops(instances):
        assert 900 < region.area < 3500
        assert region.solidity > 0.97
        assert region.eccentricity < 0.6


def test_the_outlines_follow_the_edges_of_the_photograph() -> None:
    # Within two pixels inside an outline lies metal, two to three pixels outside lies cloth, which is darker.
    sample = coins()
    image = sample.image.numpy().astype(float)
    everything = sample.instances.numpy() > 0
    from scipy import ndimage

    for coin in range(1, 25):
        mask = sample.instances.numpy() == coin
        inner = mask & ~ndimage.binary_erosion(mask, iterations=2)
        outer = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask) & ~everything
        assert image[inner].mean() > image[outer].mean() + 18, coin


def test_the_outlines_are_better_where_they_are_than_moved_or_resized() -> None:
    sample = coins()
    image = sample.image.numpy().astype(float)
    mask = sample.instances.numpy() > 0
    from scipy import ndimage

    def contrast(mask: np.ndarray) -> float:
        """Mean brightness of the ring just inside less that just outside."""
        inside = mask & ~ndimage.binary_erosion(mask)
        outside = ndimage.binary_dilation(mask) & ~mask
        return float(image[inside].mean() - image[outside].mean())

    here = contrast(mask)
    for dy, dx in ((0, 2), (0, -2), (2, 0), (-2, 0)):
        assert contrast(np.roll(mask, (dy, dx), (0, 1))) < here
    assert contrast(ndimage.binary_dilation(mask, iterations=2)) < here
    assert contrast(ndimage.binary_erosion(mask, iterations=2)) < here


def test_the_parts_cover_the_picture_once_and_cut_no_coin() -> None:
    instances = coins().instances
    rows = sorted(row for part in PARTS.values() for span in part for row in range(*span))
    assert rows == list(range(instances.shape[0]))
    seen: set[int] = set()
    for spans in PARTS.values():
        for first, stop in spans:
            inside = set(instances[first:stop].unique().tolist()) - {0}
            assert len(inside) == 6
            assert not inside & seen
            seen |= inside
    assert len(seen) == 24


def test_the_written_folder_holds_the_picture_and_its_labels(tmp_path) -> None:
    sample, folder = coins(), write_coins(tmp_path / "coins")
    for part, spans in PARTS.items():
        covered = torch.zeros_like(sample.labels)
        paths = sorted((folder / "images" / part).iterdir())
        assert [path.name for path in paths] == sorted(
            path.name for path in (folder / "masks" / part).iterdir()
        )
        for path in paths:
            top, left = int(path.stem[3:6]), int(path.stem[-3:])
            with Image.open(path) as image, Image.open(folder / "masks" / part / path.name) as mask:
                window = slice(top, top + image.height), slice(left, left + image.width)
                assert torch.equal(torch.from_numpy(np.array(image)), sample.image[window])
                assert torch.equal(torch.from_numpy(np.array(mask)).long(), sample.labels[window])
                assert mask.mode == "P"
                assert tuple(mask.getpalette()[3:6]) == CLASSES.colors[1]
            covered[window] += 1
        rows = torch.zeros(len(covered), dtype=torch.bool)
        for first, stop in spans:
            rows[first:stop] = True
        assert torch.equal(covered > 0, rows[:, None].expand_as(covered))
        assert part == "train" or covered.max() == 1


def test_the_written_folder_is_a_data_set_without_problems(tmp_path) -> None:
    folder = write_coins(tmp_path)
    report = check_data(folder)
    assert report.problems == ()
    data = open_data(folder)
    assert (data.classes, data.format) == (CLASSES, "pairs")
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [50, 3, 3]
    sample = data.train[0]
    assert torch.equal(sample.image[0], coins().image[:84, :96] / 255)
