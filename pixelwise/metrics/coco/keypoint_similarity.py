"""Object keypoint similarity (OKS), the IoU of keypoints (COCO keypoint challenge; cocoapi's cocoeval.py)."""

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)  # fmt: skip
"""How far people put COCO's 17 keypoints apart, nose to right ankle, as a fraction of the person's scale."""

PAIRS_AT_ONCE = 1 << 16  # bounds the memory


def keypoint_similarity(
    prediction: Shaped[np.ndarray, "n j 2"],
    target: Shaped[np.ndarray, "m j 2"],
    visible: Shaped[np.ndarray, "m j"],
    area: Shaped[np.ndarray, " m"],
    boxes: Shaped[np.ndarray, "m 4"],
    sigmas: tuple[float, ...] = COCO_SIGMAS,
) -> Float64[np.ndarray, "n m"]:
    """OKS of every prediction with every target.

    With d the distance of a keypoint in pixels and s^2 the area of the target,

        OKS = mean over the visible keypoints of exp(-d^2 / (2 s^2 (2 sigma)^2)).

    A target without a visible keypoint is compared by its box: d is then the distance of each predicted
    keypoint to the box, made wider and higher by its own size on every side.

    Args:
        prediction: (x, y) of each keypoint in pixels.
        target: (x, y) of each keypoint in pixels.
        visible: above 0 where a target's keypoint is labelled (COCO's v).
        area: of each target in pixels.
        boxes: x, y, width, height of each target in pixels.
        sigmas: one per keypoint.

    Raises:
        ValueError: if the number of keypoints is not that of the sigmas.

    >>> person = np.array([[[10.0, 10.0], [20.0, 10.0]]])
    >>> seen, area, boxes = np.array([[2, 2]]), np.array([400.0]), np.array([[5.0, 5.0, 20.0, 20.0]])
    >>> keypoint_similarity(person + [1.0, 0.0], person, seen, area, boxes, (0.05, 0.05)).round(4)
    array([[0.8825]])
    """
    if not prediction.shape[1] == target.shape[1] == len(sigmas):
        raise ValueError(
            f"prediction, target and sigmas must have one number of keypoints, got {prediction.shape[1]}, "
            f"{target.shape[1]} and {len(sigmas)}"
        )
    n, m = len(prediction), len(target)
    rows, columns = np.repeat(np.arange(n), m), np.tile(np.arange(m), n)
    pairs = similarity_of_pairs(
        prediction.astype(np.float64),
        target.astype(np.float64),
        visible > 0,
        area.astype(np.float64),
        boxes.astype(np.float64),
        np.array(sigmas),
        rows,
        columns,
    )
    return pairs.reshape(n, m)


def similarity_of_pairs(
    prediction: Float64[np.ndarray, "n j 2"],
    target: Float64[np.ndarray, "m j 2"],
    visible: Bool[np.ndarray, "m j"],
    area: Float64[np.ndarray, " m"],
    boxes: Float64[np.ndarray, "m 4"],
    sigmas: Float64[np.ndarray, " j"],
    rows: Int64[np.ndarray, " p"],
    columns: Int64[np.ndarray, " p"],
) -> Float64[np.ndarray, " p"]:
    """OKS of the pairs (prediction[row], target[column]); see `keypoint_similarity`.

    Sums run over the visible keypoints alone, in their order, so that every bit is COCO's: NumPy adds the
    terms of a longer row in another order.
    """
    similarity = np.empty(len(rows))
    seen = visible.sum(1)
    order = np.argsort(~visible, axis=1, kind="stable")  # the visible keypoints first
    for count in np.unique(seen[columns]):
        alike = np.flatnonzero(seen[columns] == count)
        for chosen in np.array_split(alike, len(alike) // PAIRS_AT_ONCE + 1):
            row, column = rows[chosen], columns[chosen]
            if count:
                near = order[column, :count]
                offset = prediction[row[:, None], near] - target[column[:, None], near]  # p count 2
                spread = (sigmas[near] * 2) ** 2
            else:
                offset = _beyond(prediction[row], boxes[column])
                spread = (sigmas[None] * 2) ** 2
            squared = offset[..., 0] ** 2 + offset[..., 1] ** 2
            error = squared / spread / (area[column, None] + np.spacing(1)) / 2
            similarity[chosen] = np.exp(-error).sum(1) / error.shape[1]
    return similarity


def _beyond(
    points: Float64[np.ndarray, "p j 2"], boxes: Float64[np.ndarray, "p 4"]
) -> Float64[np.ndarray, "p j 2"]:
    """How far points lie outside their box enlarged to three times its size."""
    low = (boxes[:, :2] - boxes[:, 2:])[:, None]
    high = (boxes[:, :2] + boxes[:, 2:] * 2)[:, None]
    return np.maximum(0, low - points) + np.maximum(0, points - high)
