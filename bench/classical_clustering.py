"""k-means, mean shift, normalised cuts and GrabCut beside scikit-learn, OpenCV and scikit-image.

python bench/classical_clustering.py [rounds]
"""

import sys

import numpy as np
from side_by_side import compare, peer
from skimage import data, graph, segmentation
from skimage.transform import resize
from sklearn.cluster import KMeans, MeanShift, estimate_bandwidth

from pixelwise.algorithms import grabcut, mean_shift, mean_shift_filter, recursive_cut, region_affinity
from pixelwise.kernels.classical.kmeans import assign

HEIGHT, WIDTH = 375, 500


def photo(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A photograph, uint8."""
    return (255 * resize(data.astronaut(), (height, width), anti_aliasing=True)).astype(np.uint8)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


def bench_kmeans(rounds: int) -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    points = np.dstack([photo(), columns, rows]).reshape(-1, 5).astype(np.float32)
    planes = np.ascontiguousarray(points.T)
    for k in (20, 200, 1000):
        start = points[np.random.default_rng(0).choice(len(points), k, replace=False)]

        def ours(start: np.ndarray = start, k: int = k) -> float:
            """Ten steps of Lloyd, as `kmeans_of_points` takes them."""
            centers, labels = start.copy(), np.empty(len(points), np.int32)
            sums, counts = np.empty((k, 5)), np.empty(k, np.int64)
            for _ in range(10):
                assign(planes, centers, labels, sums, counts)
                there = counts > 0
                centers[there] = (sums[there] / counts[there, None]).astype(np.float32)
            return assign(planes, centers, labels, sums, counts)[0]

        def theirs(start: np.ndarray = start, k: int = k) -> float:
            return KMeans(k, init=start, n_init=1, max_iter=10, tol=0.0).fit(points).inertia_

        assert np.isclose(ours(), theirs(), rtol=1e-3), (ours(), theirs())
        compare(
            f"k-means in XYRGB, {WIDTH}x{HEIGHT}, 10 iterations and the last labels, K = {k}",
            {"pixelwise": ours, "scikit-learn": theirs},
            target="none; scikit-learn's would be taken where it is faster",
            rounds=rounds,
        )


def bench_mean_shift(rounds: int) -> None:
    small = photo(94, 125)
    rows, columns = np.mgrid[:94, :125]
    points = np.dstack([columns, rows, small]).reshape(-1, 5).astype(np.float64)
    bandwidth = estimate_bandwidth(points, quantile=0.05, n_samples=500, random_state=0)
    compare(
        f"mean shift to segments, 125x94 (scikit-learn: bin_seeding, bandwidth {bandwidth:.0f})",
        {
            "pixelwise, radius 8, colour 20": lambda: mean_shift(
                small, space="rgb", color_radius=20, threads=1
            ),
            "scikit-learn": lambda: MeanShift(bandwidth=bandwidth, bin_seeding=True).fit(points),
        },
        target="at least 10x scikit-learn",
        rounds=min(rounds, 3),
    )
    cv2 = peer("cv2")
    image = photo()
    if cv2:
        cv2.setNumThreads(1)
        fifty = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 50, 0.0)
    compare(
        f"mean shift filter, {WIDTH}x{HEIGHT}, radius 8, colour 20",
        {
            "pixelwise, up to 50 steps": lambda: mean_shift_filter(
                image, space="rgb", color_radius=20, threads=1
            ),
            "OpenCV, up to 5 steps (its default)": (
                lambda: cv2.pyrMeanShiftFiltering(image, 8, 20, maxLevel=0)
            )
            if cv2
            else None,
            "OpenCV, up to 50 steps": (
                lambda: cv2.pyrMeanShiftFiltering(image, 8, 20, maxLevel=0, termcrit=fifty)
            )
            if cv2
            else None,
        },
        rounds=rounds,
    )


def bench_normalized_cuts(rounds: int) -> None:
    image = data.coffee()[:HEIGHT, :WIDTH].copy()  # on the astronaut scikit-image's eigensolver gives up
    parts = segmentation.slic(image, 300, start_label=0)

    def ours() -> np.ndarray:
        # scikit-image's weights: exp(-d^2 / sigma) of mean colours, sigma = 255.
        return recursive_cut(region_affinity(image.astype(float), parts, 255**0.5), 0.001)[parts]

    def theirs() -> np.ndarray:
        regions = graph.rag_mean_color(image, parts, mode="similarity", sigma=255.0)
        return graph.cut_normalized(parts, regions, rng=0)

    ours_found, theirs_found = ours(), theirs()
    print(
        f"\nsegments {len(np.unique(ours_found))} and {len(np.unique(theirs_found))}, "
        f"{'the same' if same_partition(ours_found, theirs_found) else 'not all the same'}"
    )
    compare(
        f"normalised cuts of {parts.max() + 1} regions, {WIDTH}x{HEIGHT}, graph included",
        {"pixelwise": ours, "scikit-image": theirs},
        target="at least 3x scikit-image",
        rounds=rounds,
    )


def bench_grabcut(rounds: int) -> None:
    cv2 = peer("cv2")
    image, box = photo(), (8, 4, 460, HEIGHT)
    left, top, right, bottom = box
    bgr = np.ascontiguousarray(image[..., ::-1])

    def ours() -> np.ndarray:
        return grabcut(image, box=box, max_steps=5).label_map.labels.numpy()

    def theirs() -> np.ndarray:
        mask = np.zeros(image.shape[:2], np.uint8)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        cv2.grabCut(bgr, mask, (left, top, right - left, bottom - top), *models, 5, cv2.GC_INIT_WITH_RECT)
        return mask & 1

    if cv2:
        cv2.setNumThreads(1)
        print(f"\nsame side: {100 * (ours() == theirs()).mean():.1f} % of the pixels")
    compare(
        f"GrabCut from a box, {WIDTH}x{HEIGHT}, at most 5 steps",
        {"pixelwise": ours, "OpenCV": theirs if cv2 else None},
        rounds=min(rounds, 5),
    )


def main(rounds: int = 5) -> None:
    bench_kmeans(rounds)
    bench_mean_shift(rounds)
    bench_normalized_cuts(rounds)
    bench_grabcut(rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
