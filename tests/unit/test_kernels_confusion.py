"""The kernels that count and compare, beside their plain references."""

import tracemalloc

import numpy as np
import pytest
from numba import njit

from pixelwise.kernels import intrinsics
from pixelwise.kernels.boundaries.band import near_another_label
from pixelwise.kernels.pixels.confusion import add_pairs, count_pairs, encoded

TYPES = [np.uint8, np.int16, np.int32, np.int64]


def counted_plainly(target: np.ndarray, prediction: np.ndarray, k: int, ignore: int) -> np.ndarray:
    matrix = np.zeros((k, k), np.int64)
    valid = target != ignore
    np.add.at(matrix, (target[valid].astype(int), prediction[valid].astype(int)), 1)
    return matrix


def blobs(random: np.random.Generator, h: int, w: int, k: int, run: int) -> np.ndarray:
    """Labels with runs of about `run` pixels; 1 is noise."""
    small = random.integers(0, k, (h, w // run + 1))
    return np.repeat(small, run, axis=1)[:, :w]


@pytest.mark.parametrize("run", [1, 3, 17, 80, 5000])
@pytest.mark.parametrize("k", [1, 2, 19, 254, 255, 256, 300])
def test_pairs_are_counted_as_one_by_one(run: int, k: int) -> None:
    random = np.random.default_rng(run + k)
    for h, w in ((1, 1), (1, 64), (1, 65), (1, 66), (3, 129), (37, 413)):
        target, prediction = blobs(random, h, w, k, run), blobs(random, h, w, k, run)
        target[random.random((h, w)) < 0.02] = 1000
        expected = counted_plainly(target, prediction, k, 1000)
        np.testing.assert_array_equal(count_pairs(target, prediction, k, 1000), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("one", TYPES)
@pytest.mark.parametrize("other", TYPES)
def test_types_and_threads_change_nothing(one: type, other: type, threads: int) -> None:
    random = np.random.default_rng(0)
    target, prediction = blobs(random, 40, 1000, 19, 7), blobs(random, 40, 1000, 19, 5)
    target[:3] = 255 if one == np.uint8 else -1
    found = count_pairs(target.astype(one), prediction.astype(other), 19, int(target[0, 0]), threads)
    np.testing.assert_array_equal(found, counted_plainly(target, prediction, 19, int(target[0, 0])))


def test_any_layout_counts_the_same() -> None:
    random = np.random.default_rng(1)
    target, prediction = random.integers(0, 9, (2, 3, 90, 200)), random.integers(0, 9, (2, 3, 90, 200))
    views = [
        lambda x: x.transpose(3, 1, 0, 2),
        lambda x: x[:, ::2, ::-1, 5::3],
        lambda x: x[:1, 1:2].astype(np.uint8)[..., ::2],
        lambda x: x[0, 0, 0, 0:1].reshape(()),
        lambda x: np.asfortranarray(x),
    ]
    for view in views:
        expected = counted_plainly(view(target), view(prediction), 9, 3)
        np.testing.assert_array_equal(count_pairs(view(target), view(prediction), 9, 3), expected)
    # one map as it is, the other turned over and back in memory
    turned = np.asfortranarray(prediction.astype(np.int32))
    expected = counted_plainly(target, prediction, 9, 3)
    np.testing.assert_array_equal(count_pairs(target, turned, 9, 3), expected)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("k", [5, 254, 255])
def test_a_label_outside_the_table_is_noticed_wherever_it_is(dtype: type, k: int) -> None:
    wrong = k if k < 255 or dtype != np.uint8 else None
    for position in (0, 63, 64, 500, 999):
        for whose in (0, 1):
            maps = [np.zeros(1000, dtype), np.zeros(1000, dtype)]
            if wrong is not None:
                maps[whose][position] = wrong
                assert count_pairs(*maps, k, 300) is None
            if dtype != np.uint8:
                maps[whose][position] = -7
                assert count_pairs(*maps, k, 300) is None


def test_a_label_is_not_mistaken_for_what_its_lowest_byte_says() -> None:
    target, prediction = np.zeros(100, np.int64), np.zeros(100, np.int64)
    prediction[50] = 256
    assert count_pairs(target, prediction, 2, 255) is None
    target[50] = 255 + (1 << 40)
    assert count_pairs(target, np.zeros(100, np.int64), 2, 255) is None


def test_counts_beyond_2_to_the_31_and_2_to_the_53_stay_exact() -> None:
    for start in (2**31 - 10, 2**32 - 10, 2**53 - 10):
        counts = np.full((256, 256), start, np.int64)
        add_pairs(np.zeros(1000, np.uint8), np.ones(1000, np.uint8), counts)
        assert counts[0, 1] == start + 1000
        assert counts.sum(dtype=object) == start * 256**2 + 1000


def test_counting_takes_no_copy_of_the_maps() -> None:
    for dtype in (np.uint8, np.int64):
        for view in (lambda x: x, lambda x: x.T, lambda x: x[:, ::2]):
            target, prediction = np.zeros((1000, 3000), dtype), np.ones((1000, 3000), dtype)
            count_pairs(view(target), view(prediction), 19, 255)  # whatever compiling takes
            tracemalloc.start()
            count_pairs(view(target), view(prediction), 19, 255)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2_000_000  # of 6 to 48 MB


def test_codes_are_classes_the_ignored_and_the_wrong() -> None:
    labels = np.array([0, 4, 5, -1, 255, 256, 2**40])
    assert encoded(labels, 5, 255).tolist() == [0, 4, 6, 6, 5, 6, 6]
    assert encoded(labels, 5, 255).dtype == np.uint8
    assert encoded(labels, 256, 2**40).tolist() == [0, 4, 5, 257, 255, 257, 256]


# --- instructions of the machine -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_changes_are_where_neighbours_differ(dtype: type) -> None:
    changes = njit(lambda first, second, begin: intrinsics.changes(first, second, begin))
    random = np.random.default_rng(2)
    for spread in (1, 2, 9):
        first, second = (random.integers(0, spread, 200).astype(dtype) for _ in range(2))
        for begin in (0, 1, 70, 135):
            ends = (np.diff(first.astype(int)) != 0) | (np.diff(second.astype(int)) != 0)
            word = sum(1 << j for j in range(64) if ends[begin + j])
            assert changes(first, second, begin) == word


def test_bits_are_counted_and_the_lowest_found() -> None:
    count = njit(lambda word: intrinsics.count_bits(word))
    lowest = njit(lambda word: intrinsics.lowest_bit(word))
    random = np.random.default_rng(3)
    for word in [0, 1, 2**63, 2**64 - 1, *(int(x) for x in random.integers(1, 2**63, 20))]:
        assert count(np.uint64(word)) == word.bit_count()
        assert lowest(np.uint64(word)) == (word & -word).bit_length() - 1 if word else 64


def test_a_product_and_a_sum_are_rounded_once() -> None:
    multiply_add = njit(lambda a, b, c: intrinsics.multiply_add(a, b, c))
    random = np.random.default_rng(4)
    for a, b, c in random.standard_normal((200, 3)).astype(np.float32):
        exact = np.float64(a) * np.float64(b) + np.float64(c)  # the product of two float32 is exact
        assert multiply_add(a, b, c) == np.float32(exact)
    tiny = np.float32(2.0**-13)
    assert multiply_add(1 + tiny, 1 - tiny, np.float32(-1)) == -(2.0**-26)  # twice rounded it would be 0


def test_bits_spell_a_number() -> None:
    from_bits = njit(lambda bits: intrinsics.from_bits(bits))
    for number in (0.0, 1.0, -2.5, 1e-40):
        assert from_bits(np.float32(number).view(np.int32)) == np.float32(number)


# --- the band along boundaries -----------------------------------------------------------------------


def near_plainly(labels: np.ndarray, radius: float) -> np.ndarray:
    rows, columns = np.indices(labels.shape).reshape(2, -1)
    square = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    other = labels.reshape(-1)[:, None] != labels.reshape(-1)
    return (other & (square <= radius**2)).any(1).reshape(labels.shape)


@pytest.mark.parametrize("radius", [1, 1.5, 2, 3, 7.9, 1000])
def test_the_band_holds_pixels_near_another_label(radius: float) -> None:
    random = np.random.default_rng(5)
    for h, w, spread in ((1, 1, 1), (1, 20, 2), (20, 1, 3), (17, 23, 1), (17, 23, 2), (17, 23, 9)):
        labels = np.repeat(np.repeat(random.integers(0, spread, (h, w)), 3, 0), 4, 1)[:h, :w]
        for turned in (labels, labels.astype(np.uint8)[::-1], labels.T):
            np.testing.assert_array_equal(near_another_label(turned, radius), near_plainly(turned, radius))


def test_the_band_does_not_depend_on_the_strips_it_is_found_in() -> None:
    labels = np.zeros((200, 9), np.int64)
    labels[63:65, 4] = 1
    labels[130] = 2
    for radius in (1, 5, 90):
        np.testing.assert_array_equal(near_another_label(labels, radius), near_plainly(labels, radius))
