"""Detections against ground truth, for all thresholds and area ranges at once (COCO's rules).

Detections and targets are sorted into groups: those of one image and, where classes count, of one class.
Group g holds the detections detection_start[g]:detection_start[g + 1], best score first, and the targets
target_start[g]:target_start[g + 1]. The similarities of its pairs lie from pair_start[g], one row per
detection.

A mask is a slice start:stop of run lengths down the columns: zeros, ones, zeros, ...
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt32

from ..compiling import kernel

WRONG, RIGHT, IGNORED = 0, 1, 2  # what became of a detection


@kernel
def box_similarity(
    first: int,
    last: int,
    detection_start: Int64[np.ndarray, " g1"],
    target_start: Int64[np.ndarray, " g1"],
    pair_start: Int64[np.ndarray, " g1"],
    detections: Float64[np.ndarray, "n 4"],
    targets: Float64[np.ndarray, "m 4"],
    is_crowd: Bool[np.ndarray, " m"],
    similarity: Float64[np.ndarray, " p"],
) -> None:
    """IoU of boxes (x, y, width, height) in the groups first:last; with a crowd, over the detection alone."""
    for group in range(first, last):
        pair = pair_start[group]
        for d in range(detection_start[group], detection_start[group + 1]):
            area = detections[d, 2] * detections[d, 3]
            for t in range(target_start[group], target_start[group + 1]):
                right = min(detections[d, 0] + detections[d, 2], targets[t, 0] + targets[t, 2])
                bottom = min(detections[d, 1] + detections[d, 3], targets[t, 1] + targets[t, 3])
                width = right - max(detections[d, 0], targets[t, 0])
                height = bottom - max(detections[d, 1], targets[t, 1])
                if width > 0 and height > 0:
                    common = width * height
                    union = area if is_crowd[t] else area + targets[t, 2] * targets[t, 3] - common
                    similarity[pair] = common / union
                else:
                    similarity[pair] = 0.0
                pair += 1


@kernel
def mask_extents(
    counts: UInt32[np.ndarray, " r"],
    runs: Int64[np.ndarray, "n 2"],
    height: Int64[np.ndarray, " n"],
    extents: Int64[np.ndarray, "n 5"],
) -> None:
    """First and last column, first and last row, area of each mask; the columns are -1 where it is empty."""
    for n in range(len(runs)):
        h = height[n]
        left = right = bottom = np.int64(-1)
        top, area, position = h, np.int64(0), np.int64(0)
        for run in range(runs[n, 0], runs[n, 1] - 1, 2):
            position += np.int64(counts[run])
            length = np.int64(counts[run + 1])
            if length == 0:
                continue
            column = position // h
            row = position - column * h
            if left < 0:
                left = column
            position += length
            area += length
            if row + length <= h:
                right = column
                top = min(top, row)
                bottom = max(bottom, row + length - 1)
            else:
                right = (position - 1) // h
                top, bottom = 0, h - 1
        extents[n, 0], extents[n, 1], extents[n, 2], extents[n, 3], extents[n, 4] = (
            left,
            right,
            top,
            bottom,
            area,
        )


@kernel
def common_pixels(
    counts: UInt32[np.ndarray, " r"],
    i: int,
    stop: int,
    others: UInt32[np.ndarray, " q"],
    j: int,
    other_stop: int,
) -> np.int64:
    """Number of pixels that two masks share."""
    shared = np.int64(0)
    if stop - i < 2 or other_stop - j < 2:
        return shared
    open1 = np.int64(counts[i])
    close1 = open1 + np.int64(counts[i + 1])
    open2 = np.int64(others[j])
    close2 = open2 + np.int64(others[j + 1])
    while True:
        first, last = max(open1, open2), min(close1, close2)
        if first < last:
            shared += last - first
        if close1 < close2:
            i += 2
            if i + 1 >= stop:
                return shared
            open1 = close1 + np.int64(counts[i])
            close1 = open1 + np.int64(counts[i + 1])
        else:
            j += 2
            if j + 1 >= other_stop:
                return shared
            open2 = close2 + np.int64(others[j])
            close2 = open2 + np.int64(others[j + 1])


@kernel
def mask_similarity(
    first: int,
    last: int,
    detection_start: Int64[np.ndarray, " g1"],
    target_start: Int64[np.ndarray, " g1"],
    pair_start: Int64[np.ndarray, " g1"],
    detection_counts: UInt32[np.ndarray, " r"],
    detection_runs: Int64[np.ndarray, "n 2"],
    detection_extents: Int64[np.ndarray, "n 5"],
    target_counts: UInt32[np.ndarray, " q"],
    target_runs: Int64[np.ndarray, "m 2"],
    target_extents: Int64[np.ndarray, "m 5"],
    is_crowd: Bool[np.ndarray, " m"],
    similarity: Float64[np.ndarray, " p"],
) -> None:
    """IoU of masks in the groups first:last; with a crowd, over the detection alone."""
    for group in range(first, last):
        pair = pair_start[group]
        for d in range(detection_start[group], detection_start[group + 1]):
            left, right = detection_extents[d, 0], detection_extents[d, 1]
            top, bottom = detection_extents[d, 2], detection_extents[d, 3]
            for t in range(target_start[group], target_start[group + 1]):
                shared = np.int64(0)
                if (
                    min(left, target_extents[t, 0]) >= 0
                    and max(left, target_extents[t, 0]) <= min(right, target_extents[t, 1])
                    and max(top, target_extents[t, 2]) <= min(bottom, target_extents[t, 3])
                ):
                    shared = common_pixels(
                        detection_counts,
                        detection_runs[d, 0],
                        detection_runs[d, 1],
                        target_counts,
                        target_runs[t, 0],
                        target_runs[t, 1],
                    )
                similarity[pair] = 0.0
                if shared > 0:
                    union = detection_extents[d, 4]
                    if not is_crowd[t]:
                        union += target_extents[t, 4] - shared
                    similarity[pair] = shared / union
                pair += 1


@kernel
def match(
    first: int,
    last: int,
    detection_start: Int64[np.ndarray, " g1"],
    target_start: Int64[np.ndarray, " g1"],
    pair_start: Int64[np.ndarray, " g1"],
    similarity: Float64[np.ndarray, " p"],
    is_crowd: Bool[np.ndarray, " m"],
    ignored: Bool[np.ndarray, "a m"],
    ignored_alone: Bool[np.ndarray, "a n"],
    thresholds: Float64[np.ndarray, " t"],
    outcome: UInt8[np.ndarray, "a t n"],
) -> None:
    """Give each detection of the groups first:last, best score first, the free target most similar to it.

    Targets that count come before those that are ignored (in a range of areas); among equally similar ones
    the last wins. A crowd takes any number of detections. A detection is RIGHT with a target that counts,
    IGNORED with one that does not, or without any where `ignored_alone` says so; otherwise WRONG.
    """
    largest = 0
    for group in range(first, last):
        largest = max(largest, target_start[group + 1] - target_start[group])
    order = np.empty(largest, np.int64)
    taken = np.empty(largest, np.bool_)
    for group in range(first, last):
        t0 = target_start[group]
        size = target_start[group + 1] - t0
        for a in range(len(ignored)):
            counting = 0
            for t in range(size):
                if not ignored[a, t0 + t]:
                    order[counting] = t
                    counting += 1
            filled = counting
            for t in range(size):
                if ignored[a, t0 + t]:
                    order[filled] = t
                    filled += 1
            for threshold in range(len(thresholds)):
                taken[:size] = False
                row = pair_start[group]
                for d in range(detection_start[group], detection_start[group + 1]):
                    best = min(thresholds[threshold], 1 - 1e-10)
                    found = -1
                    for place in range(size):
                        if found >= 0 and found < counting and place >= counting:
                            break
                        t = order[place]
                        if taken[t] and not is_crowd[t0 + t]:
                            continue
                        if similarity[row + t] >= best:
                            best = similarity[row + t]
                            found = place
                    row += size
                    if found >= 0:
                        taken[order[found]] = True
                        outcome[a, threshold, d] = RIGHT if found < counting else IGNORED
                    else:
                        outcome[a, threshold, d] = IGNORED if ignored_alone[a, d] else WRONG


@kernel
def accumulate(
    first: int,
    last: int,
    class_start: Int64[np.ndarray, " k1"],
    ranked: Int64[np.ndarray, " n"],
    rank: Int64[np.ndarray, " n"],
    score: Float64[np.ndarray, " n"],
    outcome: UInt8[np.ndarray, "a t n"],
    targets: Int64[np.ndarray, "a k"],
    recalls: Float64[np.ndarray, " r"],
    max_detections: Int64[np.ndarray, " m"],
    precision: Float64[np.ndarray, "t r k a m"],
    recall: Float64[np.ndarray, "t k a m"],
    scores: Float64[np.ndarray, "t r k a m"],
) -> None:
    """Precision and score at each recall, and the highest recall, of the classes first:last.

    `ranked` lists the detections of each class, best score first; `rank` is the place of a detection in its
    own group. Classes without a target keep what the arrays hold.
    """
    epsilon = np.spacing(1.0)
    for k in range(first, last):
        size = class_start[k + 1] - class_start[k]
        precisions, reached, seen = np.empty(size), np.empty(size), np.empty(size)
        for m in range(len(max_detections)):
            kept = np.empty(size, np.int64)
            total = 0
            for place in range(class_start[k], class_start[k + 1]):
                if rank[ranked[place]] < max_detections[m]:
                    kept[total] = ranked[place]
                    seen[total] = score[ranked[place]]
                    total += 1
            for a in range(len(targets)):
                if targets[a, k] == 0:
                    continue
                for t in range(outcome.shape[1]):
                    right, wrong = 0.0, 0.0
                    for place in range(total):
                        found = outcome[a, t, kept[place]]
                        right += found == RIGHT
                        wrong += found == WRONG
                        reached[place] = right / targets[a, k]
                        precisions[place] = right / (wrong + right + epsilon)
                    recall[t, k, a, m] = reached[total - 1] if total else 0.0
                    for place in range(total - 1, 0, -1):
                        precisions[place - 1] = max(precisions[place - 1], precisions[place])
                    place = 0
                    for r in range(len(recalls)):
                        while place < total and reached[place] < recalls[r]:
                            place += 1
                        precision[t, r, k, a, m] = precisions[place] if place < total else 0.0
                        scores[t, r, k, a, m] = seen[place] if place < total else 0.0
