"""Dense CRF against pydensecrf and SimpleCRF: 500x375, 21 classes, 10 iterations, two kernels."""

import numpy as np
from side_by_side import compare, peer
from skimage.data import astronaut
from skimage.transform import resize

from pixelwise.algorithms.dense_crf import mean_field_marginals
from pixelwise.algorithms.dense_crf_energy import SMOOTHNESS, PairwiseKernel, in_steps

HEIGHT, WIDTH, CLASSES, ITERATIONS = 375, 500, 21, 10


def photo() -> np.ndarray:
    """A photograph, uint8."""
    return (255 * resize(astronaut(), (HEIGHT, WIDTH), anti_aliasing=True)).astype(np.uint8)


def classifier() -> np.ndarray:
    """Probabilities "k H W" as of an uncertain classifier: blocks of one class, with noise."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, (HEIGHT // 25, WIDTH // 25)).repeat(25, 0).repeat(25, 1)
    scores = random.normal(size=(CLASSES, HEIGHT, WIDTH)) + 3 * (labels == np.arange(CLASSES)[:, None, None])
    odds = np.exp(scores)
    return (odds / odds.sum(0)).astype(np.float32)


def main(rounds: int = 7) -> None:
    pydensecrf, simple = peer("pydensecrf.densecrf"), peer("denseCRF")
    image, probabilities = photo(), classifier()
    unary = np.ascontiguousarray(-np.log(probabilities))
    by_pixel = np.ascontiguousarray(probabilities.transpose(1, 2, 0))

    for color in (13.0, 3.0):
        kernels = (SMOOTHNESS, PairwiseKernel(weight=10.0, position=80.0, color=color))

        def ours(threads: int = 1, kernels: tuple[PairwiseKernel, ...] = kernels) -> np.ndarray:
            steps = in_steps(image, axes=2)
            terms = [kernel.term(steps) for kernel in kernels]
            found = mean_field_marginals(unary, terms, iterations=ITERATIONS, threads=threads)
            return found.marginals

        def theirs(color: float = color) -> np.ndarray:
            crf = pydensecrf.DenseCRF2D(WIDTH, HEIGHT, CLASSES)
            crf.setUnaryEnergy(unary.reshape(CLASSES, -1))
            crf.addPairwiseGaussian(sxy=3, compat=3)
            crf.addPairwiseBilateral(sxy=80, srgb=color, rgbim=image, compat=10)
            return np.asarray(crf.inference(ITERATIONS))

        def simplest(color: float = color) -> np.ndarray:
            return simple.densecrf(image, by_pixel, (10.0, 80.0, color, 3.0, 3.0, float(ITERATIONS)))

        if pydensecrf is not None:
            official = theirs().reshape(unary.shape)
            assert np.abs(official - ours()).max() < 1e-4
            assert (official.argmax(0) == ours(2).argmax(0)).mean() > 0.999
        one_thread = color == 13.0
        compare(
            f"Dense CRF, {WIDTH}x{HEIGHT}x{CLASSES}, {ITERATIONS} iterations, colour {color:g}",
            {
                "pixelwise": ours,
                "pixelwise, 2 threads": lambda ours=ours: ours(2),
                "pydensecrf": theirs if pydensecrf else None,
                "SimpleCRF (labels only)": simplest if simple else None,
            },
            target=f"pydensecrf at least {2.2 if one_thread else 1.5} times the time of one thread, "
            f"{4.4 if one_thread else 3.0} times that of two",
            rounds=rounds,
        )


if __name__ == "__main__":
    main()
