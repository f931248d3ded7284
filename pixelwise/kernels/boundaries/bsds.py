"""One-to-one correspondence of two boundary maps: as many pairs as can be, then at the least cost.

It is an assignment problem with few edges; solved by shortest augmenting paths (Jonker and Volgenant,
Computing 1987), of which each stays among the pixels around its root.
"""

import numpy as np
from jaxtyping import Bool, Int32, Int64

from ..compiling import kernel

_FAR = np.int64(1) << 30


def match_boundaries(
    one: Bool[np.ndarray, "h w"], other: Bool[np.ndarray, "h w"], max_distance: float
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Which pixels of each map correspond to one of the other.

    A pair costs its distance, rounded to a hundredth of a pixel, and a pixel without a partner a hundred
    times the largest distance, as in the BSDS benchmark.

    Args:
        one: a boundary map.
        other: a boundary map of the same size.
        max_distance: the farthest that partners may be apart, in pixels.

    Returns:
        For each map its pixels that have a partner.

    Raises:
        ValueError: if the sizes differ or the distance is negative.

    >>> one, other = np.zeros((2, 3, 6), bool)
    >>> one[1, [0, 4]] = other[1, [1, 2, 5]] = True
    >>> [matched[1].nonzero()[0].tolist() for matched in match_boundaries(one, other, 1.5)]
    [[0, 4], [1, 5]]
    """
    if one.shape != other.shape:
        raise ValueError(f"both boundary maps must have one size, got {one.shape} and {other.shape}")
    if not max_distance >= 0:
        raise ValueError(f"a distance of at least 0 is expected, got {max_distance}")
    if np.count_nonzero(one) > np.count_nonzero(other):  # fewer searches
        second, first = match_boundaries(other, one, max_distance)
        return first, second
    reach = int(max_distance)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    near = y * y + x * x <= max_distance * max_distance
    cost = np.rint(100 * np.sqrt(y * y + x * x))
    offsets = np.stack([y, x, cost], 1)[near].astype(np.int64)
    outlier = int(np.ceil(100 * max_distance * 100))
    return _correspond(np.ascontiguousarray(one), np.ascontiguousarray(other), offsets, max(outlier, 1))


@kernel
def _correspond(
    one: Bool[np.ndarray, "h w"],
    other: Bool[np.ndarray, "h w"],
    offsets: Int64[np.ndarray, "n 3"],
    outlier: int,
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The pairs within reach as a sparse matrix, and its assignment as two maps."""
    height, width = one.shape
    column_at = np.full((height, width), -1, np.int32)
    columns = 0
    for y in range(height):
        for x in range(width):
            if other[y, x]:
                column_at[y, x] = columns
                columns += 1
    rows = np.count_nonzero(one)
    first = np.zeros(rows + 1, np.int64)
    partner, cost = np.empty(rows * len(offsets), np.int32), np.empty(rows * len(offsets), np.int32)
    row, edge = 0, 0
    for y in range(height):
        for x in range(width):
            if not one[y, x]:
                continue
            for down, right, length in offsets:
                if 0 <= y + down < height and 0 <= x + right < width and other[y + down, x + right]:
                    partner[edge], cost[edge] = column_at[y + down, x + right], length
                    edge += 1
            row += 1
            first[row] = edge
    column_of, row_of = _assign(first, partner, cost, outlier, columns)
    matched, matched_other = np.zeros(one.shape, np.bool_), np.zeros(one.shape, np.bool_)
    row = 0
    for y in range(height):
        for x in range(width):
            if one[y, x]:
                matched[y, x] = column_of[row] >= 0
                row += 1
            if other[y, x]:
                matched_other[y, x] = row_of[column_at[y, x]] >= 0
    return matched, matched_other


@kernel
def _assign(
    first: Int64[np.ndarray, " n_plus_1"],
    partner: Int32[np.ndarray, " edges"],
    cost: Int32[np.ndarray, " edges"],
    outlier: int,
    columns: int,
) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " m"]]:
    """Column of each row and row of each column, -1 without one, at the least sum of costs and outliers."""
    rows = len(first) - 1
    column_of, row_of = np.full(rows, -1, np.int32), np.full(columns, -1, np.int32)
    paid = np.zeros(rows, np.int64)  # cost of each row's edge
    price = np.zeros(columns, np.int64)  # dual variables: never above 0, and 0 while a column is free
    for row in range(rows):
        best = -1
        for edge in range(first[row], first[row + 1]):
            if best < 0 or cost[edge] < cost[best]:
                best = edge
        if best >= 0 and row_of[partner[best]] < 0:
            column_of[row], row_of[partner[best]], paid[row] = partner[best], row, cost[best]
    distance, settled = np.full(columns, _FAR), np.zeros(columns, np.bool_)
    came_from, step = np.empty(columns, np.int32), np.empty(columns, np.int64)
    touched, done = np.empty(columns, np.int32), np.empty(columns, np.int32)
    heap = np.empty(len(partner) + 1, np.int64)
    for root in range(rows):
        if column_of[root] >= 0 or first[root] == first[root + 1]:
            continue
        row, slack, size, num_touched, num_done = root, np.int64(0), 0, 0, 0
        end_row, end_distance, end_column = root, np.int64(outlier), -1
        while True:
            if slack + outlier < end_distance:  # this row could do without
                end_row, end_distance = row, slack + outlier
            for edge in range(first[row], first[row + 1]):
                column = partner[edge]
                there = slack + cost[edge] - price[column]
                if there < min(distance[column], end_distance):
                    if distance[column] == _FAR:
                        touched[num_touched] = column
                        num_touched += 1
                    distance[column], came_from[column], step[column] = there, row, cost[edge]
                    size = _push(heap, size, (there << 32) | column)
            column = -1
            while size and column < 0:
                key = heap[0]
                size = _pop(heap, size)
                if not settled[key & 0xFFFFFFFF]:
                    column = key & 0xFFFFFFFF
            if column < 0 or distance[column] >= end_distance:
                break
            settled[column] = True
            if row_of[column] < 0:
                end_column, end_distance = column, distance[column]
                break
            done[num_done] = column
            num_done += 1
            row = row_of[column]
            slack = distance[column] - (paid[row] - price[column])
        for k in range(num_done):
            price[done[k]] += distance[done[k]] - end_distance
        if end_column < 0 and end_row != root:
            end_column = column_of[end_row]
            column_of[end_row] = -1
        while end_column >= 0:
            row = came_from[end_column]
            before = column_of[row]
            column_of[row], row_of[end_column], paid[row] = end_column, row, step[end_column]
            end_column = before if row != root else -1
        for k in range(num_touched):
            distance[touched[k]], settled[touched[k]] = _FAR, False
    return column_of, row_of


@kernel
def _push(heap: Int64[np.ndarray, " n"], size: int, key: int) -> int:
    """Add a key to a binary heap; returns its new size."""
    at = size
    while at and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key
    return size + 1


@kernel
def _pop(heap: Int64[np.ndarray, " n"], size: int) -> int:
    """Drop the least key of a binary heap; returns its new size."""
    size -= 1
    key, at = heap[size], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key
    return size
