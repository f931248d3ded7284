"""Merging of similar regions that touch: the step after any clustering that cuts an image too fine."""

import heapq

import numpy as np
from jaxtyping import Float64, Int64, Integer


def merge_regions(
    colors: Float64[np.ndarray, "H W c"],
    labels: Integer[np.ndarray, "H W"],
    *,
    threshold: float,
    min_size: int = 1,
) -> Int64[np.ndarray, "H W"]:
    """Merge the two most similar touching regions, again and again, until none is similar enough.

    Regions are the vertices of a graph, with an edge where two touch (4 neighbours), as long as their mean
    colours differ. The shortest edge is taken out first while it is shorter than `threshold`; then regions of
    fewer than `min_size` pixels join their most similar neighbour, the smallest first. A label with several
    parts that do not touch counts as one region.

    Args:
        colors: in a space where Euclidean distance means something, see `colors_of`.
        labels: any whole numbers.
        threshold: distance of mean colours; 0 merges none for its colour.
        min_size: in pixels.

    Returns:
        Labels from 0, in the order of reading.

    Raises:
        ValueError: if the sizes differ, or the threshold is negative.

    >>> colors = np.array([[[0.0], [1.0], [9.0]]])
    >>> merge_regions(colors, np.array([[5, 6, 7]]), threshold=2.0).tolist()
    [[0, 0, 1]]
    """
    if labels.shape != colors.shape[:2]:
        raise ValueError(f"colours of {colors.shape[:2]} pixels need as many labels, got {labels.shape}")
    if not threshold >= 0:
        raise ValueError(f"the threshold must be at least 0, got {threshold}")
    flat = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    regions = _Regions(colors, flat)
    regions.merge_similar(threshold)
    regions.merge_small(min_size)
    merged = regions.roots()[flat]
    first_seen = np.unique(merged, return_index=True, return_inverse=True)
    order = first_seen[1].argsort().argsort()
    renumbered: Int64[np.ndarray, "H W"] = order[first_seen[2]].reshape(labels.shape).astype(np.int64)
    return renumbered


class _Regions:
    """Sizes, colours and neighbours of regions while they merge."""

    def __init__(self, colors: Float64[np.ndarray, "H W c"], labels: Integer[np.ndarray, "H W"]) -> None:
        count = int(labels.max()) + 1
        flat = labels.ravel()
        self.sizes = np.bincount(flat, minlength=count).tolist()
        channels = [np.bincount(flat, colors[..., i].ravel(), count) for i in range(colors.shape[2])]
        self.sums = np.stack(channels, axis=1)
        self.means = self.sums / np.array(self.sizes)[:, None]
        self.parents = list(range(count))
        self.neighbours: list[set[int]] = [set() for _ in range(count)]
        temporary = (labels[:, :-1].ravel(), labels[:, 1:].ravel())
        below = (labels[:-1].ravel(), labels[1:].ravel())
        pairs = np.stack([np.concatenate(both) for both in zip(temporary, below, strict=True)])
        pairs = np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1)
        for a, b in pairs.T.tolist():
            self.neighbours[a].add(b)
            self.neighbours[b].add(a)

    def join(self, a: int, b: int) -> tuple[int, int]:
        """Make one region of two. Gives the name that it keeps and the one that is gone."""
        if len(self.neighbours[a]) < len(self.neighbours[b]):
            a, b = b, a  # moving few neighbours is less work
        self.parents[b] = a
        self.sizes[a] += self.sizes[b]
        self.sums[a] += self.sums[b]
        self.means[a] = self.sums[a] / self.sizes[a]
        for other in self.neighbours[b]:
            self.neighbours[other].discard(b)
            if other != a:
                self.neighbours[other].add(a)
                self.neighbours[a].add(other)
        self.neighbours[b] = set()
        return a, b

    def merge_similar(self, threshold: float) -> None:
        # The queue has the shortest edge of each region, not all edges: of a region that touches thousands,
        # all would have to go in anew after each join. An edge is out of date once either end has changed;
        # then the region looks again when the edge comes out, which is never too late, as an edge that got
        # shorter is also one of the region that changed, and that has looked at once.
        versions = [0] * len(self.sizes)
        queue: list[tuple[float, int, int, int, int]] = []

        def look(a: int) -> None:
            apart, b = self.nearest(a)
            if apart < threshold:
                heapq.heappush(queue, (apart, a, b, versions[a], versions[b]))

        for region in range(len(self.sizes)):
            look(region)
        while queue:
            _, a, b, version_a, version_b = heapq.heappop(queue)
            if versions[a] != version_a:
                continue
            if versions[b] == version_b:
                a, gone = self.join(a, b)
                versions[a] += 1
                versions[gone] = -1
            look(a)

    def nearest(self, a: int) -> tuple[float, int]:
        """The neighbour of the most similar colour, the first of equals, and the difference."""
        others = sorted(self.neighbours[a])
        if not others:
            return float("inf"), -1
        apart = self.means[others] - self.means[a]
        differences = np.sqrt((apart * apart).sum(1))
        i = int(differences.argmin())
        return float(differences[i]), others[i]

    def merge_small(self, min_size: int) -> None:
        queue = [(size, region) for region, size in enumerate(self.sizes) if size < min_size]
        queue = [(size, region) for size, region in queue if self.parents[region] == region]
        heapq.heapify(queue)
        while queue:
            size, region = heapq.heappop(queue)
            out_of_date = self.sizes[region] != size or self.parents[region] != region
            if out_of_date or not self.neighbours[region]:
                continue
            kept, _ = self.join(region, self.nearest(region)[1])
            if self.sizes[kept] < min_size:
                heapq.heappush(queue, (self.sizes[kept], kept))

    def roots(self) -> Int64[np.ndarray, " n"]:
        """The region that each has become part of."""
        found = np.array(self.parents, dtype=np.int64)
        while (found != found[found]).any():
            found = found[found]
        return found
