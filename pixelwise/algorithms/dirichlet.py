"""Non-parametric Bayesian clustering: a Dirichlet-process mixture finds the number of clusters itself."""

import math
import warnings

import numpy as np
from jaxtyping import Float64, Int64

from .images import ColorSpace, Image, colors_of, with_position
from .segmentation import Progress, Segmentation

# Clusters that the sampler has room for.
_MOST = 200


def dirichlet_gibbs(
    image: Image,
    *,
    space: ColorSpace = "lab",
    position_weight: float = 0.0,
    concentration: float = 1.0,
    spread: float = 0.25,
    sweeps: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """Sample clusters of pixels from the posterior of the mixture (collapsed Gibbs, Neal 2000, Algorithm 3).

    The number of clusters is not given: before any data a new one opens with a probability proportional to
    `concentration`. Means and covariances are integrated out under a normal-inverse-Wishart prior at the mean
    of the image: kappa = 0.01, nu = d + 2, and an expected covariance of a cluster that is diagonal with
    `spread` times the standard deviations of the image. The result is the most probable labelling visited;
    the trace is the log of the joint probability of labels and pixels after each sweep.

    Args:
        image: any number of channels for the space "rgb".
        space: see `colors_of`.
        position_weight: above 0 clusters in XYRGB, see `kmeans`.
        concentration: alpha, above 0.
        spread: of a cluster over that of the image, above 0.
        sweeps: over all pixels.
        seed: of the random numbers.
        progress: called after each sweep.

    Raises:
        ValueError: on an image or colour space that `colors_of` refuses, or a number out of range.
    """
    from ..kernels.classical.dirichlet import dirichlet_sweep

    points = _points(image, space, position_weight, concentration)
    if sweeps < 1 or not 0 < spread < np.inf:
        raise ValueError(f"sweeps must be at least 1 and spread above 0, got {sweeps} and {spread}")
    height, width, d = points.shape
    flat = np.ascontiguousarray(points.reshape(-1, d) - points.mean((0, 1)))
    center, strength, freedom = np.zeros(d), 0.01, d + 2.0
    deviation = flat.std(0)
    # E[covariance] = Psi / (nu - d - 1); what does not vary at all gets the width of a grey level.
    scale = np.where(deviation > 1e-9, spread * deviation, 1.0) ** 2
    random = np.random.default_rng(seed)
    labels = np.full(len(flat), -1, dtype=np.int64)
    best, trace = (-np.inf, labels), list[float]()
    for sweep in range(sweeps):
        dirichlet_sweep(
            flat, random.permutation(len(flat)), random.random(len(flat)), concentration,
            center, strength, freedom, scale, labels, _MOST,
        )  # fmt: skip
        trace.append(log_joint(flat, labels, concentration, center, strength, freedom, scale))
        if trace[-1] > best[0]:
            best = trace[-1], labels.copy()
        if progress is not None:
            progress(sweep + 1, sweeps)
    return Segmentation.of(best[1].reshape(height, width), trace, "log probability")


def dirichlet_variational(
    image: Image,
    *,
    space: ColorSpace = "lab",
    position_weight: float = 0.0,
    concentration: float = 1.0,
    max_components: int = 20,
    max_steps: int = 200,
    seed: int = 0,
) -> Segmentation:
    """Fit the same mixture by truncated variational inference (Blei and Jordan, 2006): scikit-learn's.

    Stick-breaking weights, at most `max_components` of them; those that no pixel prefers vanish. The fit
    takes at most 20,000 pixels drawn evenly, all are labelled. The trace is the lower bound on the evidence,
    per step.

    Arguments and errors are those of `dirichlet_gibbs` where they have the same name.

    Args:
        image: see there.
        space: see there.
        position_weight: see there.
        concentration: see there.
        max_components: where the sticks are cut off.
        max_steps: of the fit.
        seed: of the random numbers.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture

    points = _points(image, space, position_weight, concentration)
    if max_components < 1 or max_steps < 1:
        raise ValueError(
            f"max_components and max_steps must be at least 1, got {max_components} and {max_steps}"
        )
    height, width, d = points.shape
    flat = points.reshape(-1, d)
    random = np.random.default_rng(seed)
    part = flat if len(flat) <= 20_000 else flat[random.choice(len(flat), 20_000, replace=False)]
    # Few different colours cannot fill many clusters, and a covariance needs two points.
    clusters = min(max_components, len(np.unique(part, axis=0)))
    if clusters < 2 or len(part) < 2:
        return Segmentation.of(np.zeros((height, width), np.int64), (), "evidence bound")
    model = BayesianGaussianMixture(
        n_components=clusters,
        weight_concentration_prior_type="dirichlet_process",
        weight_concentration_prior=concentration,
        max_iter=max_steps,
        reg_covar=1e-3 * max(1e-6, float(flat.var(0).mean())),
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result tells it
        model.fit(part)
    labels = np.unique(model.predict(flat), return_inverse=True)[1].reshape(height, width)
    return Segmentation.of(labels, model.lower_bounds_, "evidence bound", bool(model.converged_))


def log_joint(
    points: Float64[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    concentration: float,
    center: Float64[np.ndarray, " d"],
    strength: float,
    freedom: float,
    scale: Float64[np.ndarray, " d"],
) -> float:
    """Log p(labels, points): Chinese restaurant process times each cluster's marginal likelihood.

    Murphy 2007, equation 266, for the likelihood; the prior is that of
    `pixelwise.kernels.classical.dirichlet`.
    """
    n, d = points.shape
    total = math.lgamma(concentration) - math.lgamma(concentration + n)
    for label in range(int(labels.max()) + 1):
        members = points[labels == label]
        m = len(members)
        kappa, nu = strength + m, freedom + m
        mean = (strength * center + members.sum(0)) / kappa
        psi = (
            np.diag(scale)
            + members.T @ members
            + strength * np.outer(center, center)
            - kappa * np.outer(mean, mean)
        )
        total += math.log(concentration) + math.lgamma(m)
        total += _log_gamma(nu / 2, d) - _log_gamma(freedom / 2, d)
        total += freedom / 2 * float(np.log(scale).sum()) - nu / 2 * float(np.linalg.slogdet(psi)[1])
        total += d / 2 * (math.log(strength / kappa) - m * math.log(math.pi))
    return total


def _log_gamma(x: float, d: int) -> float:
    """The logarithm of the d-variate gamma function."""
    return d * (d - 1) / 4 * math.log(math.pi) + sum(math.lgamma(x - i / 2) for i in range(d))


def _points(
    image: Image, space: ColorSpace, position_weight: float, concentration: float
) -> Float64[np.ndarray, "H W d"]:
    colors = colors_of(image, space)
    if not 0 < concentration < np.inf:
        raise ValueError(f"the concentration must be above 0, got {concentration}")
    if not 0 <= position_weight < np.inf:
        raise ValueError(f"the position_weight must be at least 0, got {position_weight}")
    return with_position(colors, position_weight) if position_weight else colors
