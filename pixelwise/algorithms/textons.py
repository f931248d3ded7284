"""Textons: the words of texture (Leung and Malik, IJCV 2001), with the filter bank of TextonBoost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from .images import Image, colors_of
from .kmeans import kmeans_of_points


def filter_bank(image: Image) -> Float64[np.ndarray, "H W 17"]:
    """The 17 filters of TextonBoost on CIE Lab (Shotton et al., IJCV 2009, Sec. 3.1.1).

    Gaussians of sigma 1, 2, 4 on L, a and b (9); derivatives of Gaussians of sigma 2 and 4 along x and y on L
    (4); Laplacians of Gaussians of sigma 1, 2, 4, 8 on L (4). Kernels reach 3 sigma; the image is mirrored.

    Raises:
        ValueError: if the image has not three channels.
    """
    from scipy.ndimage import gaussian_filter, gaussian_laplace

    lab = colors_of(image, "lab")
    light = lab[..., 0]
    mirrored = {"mode": "mirror", "truncate": 3.0}
    responses = [gaussian_filter(lab[..., i], s, **mirrored) for i in range(3) for s in (1, 2, 4)]
    responses += [gaussian_filter(light, s, order=(0, 1), **mirrored) for s in (2, 4)]
    responses += [gaussian_filter(light, s, order=(1, 0), **mirrored) for s in (2, 4)]
    responses += [gaussian_laplace(light, s, **mirrored) for s in (1, 2, 4, 8)]
    return np.stack(responses, axis=2)


@dataclass(frozen=True, eq=False)
class Textons:
    """A vocabulary of textures.

    Attributes:
        mean: of the filter responses.
        whitening: responses less the mean, times this, have unit covariance.
        centers: of the clusters, whitened.
    """

    mean: Float64[np.ndarray, "17"]
    whitening: Float64[np.ndarray, "17 17"]
    centers: Float64[np.ndarray, "k 17"]

    @classmethod
    def of(
        cls, images: Sequence[Image], num_textons: int = 100, *, max_pixels: int = 200_000, seed: int = 0
    ) -> "Textons":
        """Learn textons: k-means of whitened responses.

        Args:
            images: to learn from.
            num_textons: k (the paper takes 400).
            max_pixels: of all images together that k-means looks at, drawn evenly.
            seed: of the random numbers.

        Raises:
            ValueError: without images, or with fewer pixels than textons.
        """
        if not images:
            raise ValueError("textons are learnt from at least one image, got none")
        random = np.random.default_rng(seed)
        share = max(1, max_pixels // len(images))
        drawn = []
        for image in images:
            responses = filter_bank(image).reshape(-1, 17)
            few = len(responses) <= share
            drawn.append(responses if few else responses[random.choice(len(responses), share, replace=False)])
        responses = np.concatenate(drawn)
        mean = responses.mean(0)
        values, vectors = np.linalg.eigh(np.cov(responses.T, bias=True) if len(responses) > 1 else np.eye(17))
        whitening = vectors / np.sqrt(np.maximum(values, 1e-6))
        clusters = kmeans_of_points((responses - mean) @ whitening, num_textons, max_steps=30, seed=seed)
        return cls(mean, whitening, clusters.centers)

    def map(self, image: Image) -> Int64[np.ndarray, "H W"]:
        """The texton of every pixel."""
        from ..kernels.classical.kmeans import assign

        responses = (filter_bank(image) - self.mean) @ self.whitening
        planes = np.ascontiguousarray(responses.reshape(-1, 17).T, dtype=np.float32)
        labels = np.empty(planes.shape[1], np.int32)
        room = np.empty(self.centers.shape), np.empty(len(self.centers), np.int64)
        assign(planes, self.centers.astype(np.float32), labels, *room)
        return labels.reshape(responses.shape[:2]).astype(np.int64)
