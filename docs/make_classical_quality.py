"""Write docs/classical_quality.md: the regions of classical methods beside those that people drew.

    python docs/make_classical_quality.py FOLDER [images]

FOLDER holds BSDS500 (images/val/*.jpg, groundTruth/val/*.mat). Every method has one setting for all images,
none is tuned.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pixelwise.algorithms.by_name import segment_image
from pixelwise.metrics.bsds.boundaries import read_annotations
from pixelwise.metrics.bsds.regions import RegionCounts, region_counts


class Way(NamedTuple):
    """A method with settings; `shrink` is the factor by which its image is smaller."""

    title: str
    method: str
    options: Mapping[str, object] = {}
    shrink: int = 1


WAYS = (
    Way("k-means, 8 clusters", "kmeans", {"segments": 8}),
    Way("k-means, 8 clusters, merged at 12", "kmeans", {"segments": 8, "merge": 12.0, "min_size": 200}),
    Way("k-means in XYRGB, 8 clusters, 0.2", "kmeans", {"segments": 8, "position": 0.2}),
    Way("mini-batch k-means, 8 clusters", "mini_batch_kmeans", {"segments": 8}),
    Way("mean shift", "mean_shift", {}),
    Way("mean shift, merged at 10", "mean_shift", {"merge": 10.0, "min_size": 200}),
    Way("Dirichlet process, Gibbs, 5 sweeps", "dirichlet_gibbs", {"further": {"sweeps": 5}}, 3),
    Way("Dirichlet process, variational", "dirichlet_variational", {"segments": 10}, 3),
    Way("normalised cuts, Ncut < 0.1", "ncut"),
    Way("normalised cuts, 12 segments", "ncut", {"segments": 12}),
    Way("SLIC, 250 superpixels", "slic"),
    Way("SLIC, merged at 12", "slic", {"merge": 12.0, "min_size": 200}),
    Way("Felzenszwalb, scale 300", "felzenszwalb", {"further": {"scale": 300.0, "min_size": 200}}),
    Way("watershed, 100 minima", "watershed", {"segments": 100}),
    Way("watershed, merged at 12", "watershed", {"segments": 400, "merge": 12.0, "min_size": 200}),
    Way("Otsu, 3 levels", "otsu", {"segments": 3}),
    Way("random field, 6 clusters, alpha-expansion", "mrf", {"segments": 6}),
    Way("fully connected CRF, 6 clusters", "dense_crf", {"segments": 6}),
)


def labels_of(way: Way, image: np.ndarray) -> np.ndarray:
    """Labels of the size of the image."""
    if way.method == "":
        return np.zeros(image.shape[:2], np.int64)
    small = image[:: way.shrink, :: way.shrink]
    if way.shrink > 1:
        size = small.shape[1], small.shape[0]
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    labels = segment_image(small, way.method, **way.options).label_map.labels.numpy()
    rows = np.minimum(np.arange(image.shape[0]) * len(labels) // image.shape[0], len(labels) - 1)
    columns = np.arange(image.shape[1]) * labels.shape[1] // image.shape[1]
    return labels[rows][:, columns]


def row(title: str, counts: list[RegionCounts], segments: list[int], seconds: list[float]) -> str:
    """A line of the table."""
    covering = sum(float(c.covered[0]) for c in counts) / sum(c.size for c in counts)
    rand = np.mean([float(c.rand_index[0]) for c in counts])
    variation = np.mean([float(c.variation[0]) for c in counts])
    times = f"{np.median(seconds):.2f}" if seconds else ""
    return (
        f"| {title} | {covering:.3f} | {rand:.3f} | {variation:.2f} | {np.median(segments):.0f} | {times} |"
    )


def main() -> None:
    """Measure and write the table."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    paths = sorted((folder / "images" / "val").glob("*.jpg"))
    paths = paths[: int(sys.argv[2])] if len(sys.argv) > 2 else paths
    images = [np.asarray(Image.open(path)) for path in paths]
    drawn = [
        read_annotations(folder / "groundTruth" / "val" / f"{path.stem}.mat").segmentations for path in paths
    ]
    humans, regions = [], []
    for annotations in drawn:
        for a in range(len(annotations)):
            others = torch.cat([annotations[:a], annotations[a + 1 :]])
            humans.append(region_counts(annotations[a : a + 1], others))
            regions.append(len(annotations[a].unique()))
    lines = [row("*one person against the others*", humans, regions, [])]
    for way in (*WAYS, Way("*the whole image as one region*", "")):
        counts, segments, seconds = [], [], []
        labels_of(way, images[0][:60, :60])  # compiles
        for image, annotations in zip(images, drawn, strict=True):
            start = time.process_time()
            labels = torch.from_numpy(labels_of(way, image))
            seconds.append(time.process_time() - start)
            counts.append(region_counts(labels[None], annotations))
            segments.append(len(labels.unique()))
        lines.append(row(way.title, counts, segments, seconds if way.method else []))
        print(lines[-1], flush=True)
    (Path(__file__).parent / "classical_quality.md").write_text(
        f"""# Classical methods beside people

Made by `python docs/make_classical_quality.py FOLDER` on {len(images)} images of the validation part of
BSDS500 (Arbelaez et al., TPAMI 2011), each with the regions that several people drew. One setting per method
for all images, nothing tuned; labels are taken as they come, so a cluster of several parts is one segment.
The Dirichlet processes work on images of a third of the size.

Covering and probabilistic Rand index (PRI): 1 is best. Variation of information (VOI) in bits: 0 is best. All
are those of `pixelwise.metrics.bsds.regions` at one scale; segments and seconds (of processor time, one
thread) are medians.

| method | covering | PRI | VOI | segments | seconds |
|---|---|---|---|---|---|
"""
        + "\n".join(lines)
        + """

Superpixels are a first step: far too many segments (low covering, high VOI). Colour alone, without
neighbours, is not what people mean by a region either. Merging of what touches brings both to the level of
the methods that look at neighbours from the start.
"""
    )


if __name__ == "__main__":
    main()
