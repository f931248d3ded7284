"""Mean field of a fully connected CRF as a layer of a network, differentiable from end to end.

The iterations of `dense_crf` in torch: gradients reach the scores of the network before it, the weights of
the kernels, the compatibilities and, if wanted, the bandwidths of the kernels (Kraehenbuehl and Koltun,
"Parameter learning and convergent inference for dense random fields", ICML 2013, Sec. 4; CRF-RNN, Zheng et
al., ICCV 2015, Sec. 4). The gradient of a filtering is a filtering with the transposed kernel.

The lattice is torch's own (sorting, gathering, scattering) on a GPU, in float64 and where bandwidths learn;
in float32 on a CPU it is that of `pixelwise.kernels.classical.lattice`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..kernels.classical import lattice as compiled
from ..kernels.classical.lattice_filter import lattice_filter
from .dense_crf_energy import APPEARANCE, SMOOTHNESS, Normalization, PairwiseKernel

KernelWeights = Literal["scalar", "class", "matrix"]


@dataclass(frozen=True)
class TorchLattice:
    """A permutohedral lattice of tensors (see `pixelwise.kernels.classical.lattice.Lattice`).

    Attributes:
        vertices: the corners of the simplex around each point.
        weights: barycentric coordinates, differentiable with respect to the features.
        neighbours: of each vertex along each direction; m where there is none.
    """

    vertices: Int64[Tensor, "corners n"]
    weights: Float[Tensor, "corners n"]
    neighbours: Int64[Tensor, "corners 2 m"]


Lattice = TorchLattice | compiled.Lattice


def torch_lattice(features: Float[Tensor, "d n"], groups: int = 1) -> TorchLattice:
    """`build_lattice` in torch, on any device; vertices are numbered in the order of their keys.

    Args:
        features: coordinates in units of the kernel's standard deviation.
        groups: number of equal parts of the points that shall not see each other.

    Raises:
        ValueError: if a feature is not finite or too large.

    >>> torch_lattice(torch.zeros(2, 4)).weights[:, 0]
    tensor([1., 0., 0.])
    """
    d, n = features.shape
    corners = d + 1
    low, high = compiled.feature_bounds(features.detach().float().cpu().numpy())
    scales = compiled.elevation(d)
    keys_of = torch.from_numpy(compiled.key_multipliers(low, high, scales, groups).view("int64")).to(
        features.device
    )
    scaled = features * torch.from_numpy(scales).to(features)[:, None]
    # Elevated coordinate j: the sum of the scaled features from j on, less j times the one before.
    after = scaled.flip(0).cumsum(0).flip(0)
    after = torch.cat([after, torch.zeros_like(after[:1])])
    factors = torch.arange(1, corners, device=features.device).to(features)[:, None]
    elevated = torch.cat([after[:1], after[1:] - factors * scaled])  # d+1 n
    with torch.no_grad():
        nearest = (elevated / corners).round()
        rest = elevated - nearest * corners
        by_rest = rest.sort(dim=0, descending=True, stable=True).indices
        rank = torch.empty_like(by_rest).scatter_(0, by_rest, _rows(corners, n, features.device))
        rank += nearest.sum(0).long()
        moved = corners * ((rank < 0).long() - (rank > d).long())
        rank += moved
        origin = nearest.long() * corners + moved
        at_rank = torch.empty_like(rank).scatter_(0, rank, _rows(corners, n, features.device))
        coordinate_keys = keys_of[:d, None]
        key = (origin[:d] * coordinate_keys).sum(0)
        key += torch.arange(groups, device=key.device).repeat_interleave(n // groups) * keys_of[d]
        ones = keys_of[:d].sum()
        last_keys = torch.cat([keys_of[:d], keys_of.new_zeros(1)])
        # To the next corner: 1 more in every coordinate, d less in the next of the order.
        steps = ones - corners * last_keys[at_rank.flip(0)[:d]]
        keys = key + torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
        found, vertices = keys.unique(return_inverse=True)
        direction_steps = (ones - corners * last_keys)[:, None]
        wanted = torch.stack([found - direction_steps, found + direction_steps], 1)  # d+1 2 m
        place = torch.searchsorted(found, wanted).clamp_(max=len(found) - 1)
        neighbours = torch.where(found[place] == wanted, place, len(found))
    ordered = ((elevated - origin) / corners).gather(0, at_rank).flip(0)
    weights = torch.cat([ordered[:1] + (1 - ordered[-1:]), ordered[1:] - ordered[:-1]])
    return TorchLattice(vertices, weights, neighbours)


def _rows(corners: int, n: int, device: torch.device) -> Int64[Tensor, "corners n"]:
    return torch.arange(corners, device=device)[:, None].expand(corners, n)


def _gathered(
    lattice: TorchLattice, weights: Float[Tensor, "corners n"], values: Float[Tensor, "n k"], transposed: bool
) -> Float[Tensor, "m k"]:
    """What the vertices hold after splat and blur."""
    m = lattice.neighbours.shape[2]
    held = values.new_zeros(m + 1, values.shape[1])  # the last row stands for vertices that do not exist
    for vertices, share in zip(lattice.vertices, weights, strict=True):
        held.index_add_(0, vertices, share[:, None] * values)
    for before, behind in lattice.neighbours.flip(0) if transposed else lattice.neighbours:
        held[:m] += (held[before] + held[behind]) / 2
    return held[:m]


class _Filter(torch.autograd.Function):
    """sum_j k_ij value_j; its gradient for the values is the filter with the transposed kernel."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, lattice: Lattice) -> Tensor:
        ctx.save_for_backward(values, weights)
        ctx.lattice = lattice
        return _filtered(lattice, weights, values, transposed=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, weights = ctx.saved_tensors
        lattice: Lattice = ctx.lattice
        for_values = for_weights = None
        if ctx.needs_input_grad[0]:
            for_values = _filtered(lattice, weights, gradient, transposed=True)
        if ctx.needs_input_grad[1]:
            assert isinstance(lattice, TorchLattice)
            collected = _gathered(lattice, weights, values, False)
            returned = _gathered(lattice, weights, gradient, True)
            for_weights = torch.stack(
                [
                    (collected[vertices] * gradient + returned[vertices] * values).sum(1)
                    for vertices in lattice.vertices
                ]
            ) * _scale(len(weights))
        return for_values, for_weights, None


def _scale(corners: int) -> float:
    return 1 / (1 + 2.0 ** (1 - corners))


def _filtered(
    lattice: Lattice, weights: Float[Tensor, "..."], values: Float[Tensor, "n k"], *, transposed: bool
) -> Float[Tensor, "n k"]:
    if isinstance(lattice, compiled.Lattice):
        array = values.detach().contiguous().numpy()
        return torch.from_numpy(lattice_filter(lattice, array, transposed=transposed))
    held = _gathered(lattice, weights, values, transposed)
    result = torch.zeros_like(values)
    for vertices, share in zip(lattice.vertices, weights, strict=True):
        result += share[:, None] * held[vertices]
    return result * _scale(len(weights))


class GaussianFilter:
    """Normalised filtering with a Gaussian kernel over the features of points; differentiable.

    Args:
        features: coordinates in units of the kernel's standard deviation.
        groups: number of equal parts of the points that shall not see each other (images of a batch).
        normalization: see `PairwiseTerm`.

    Raises:
        ValueError: if a feature is not finite or too large.
    """

    def __init__(
        self, features: Float[Tensor, "d n"], groups: int = 1, normalization: Normalization = "symmetric"
    ) -> None:
        self.lattice: Lattice
        if features.device.type == "cpu" and features.dtype == torch.float32 and not features.requires_grad:
            self.lattice = compiled.build_lattice(features.contiguous().numpy(), groups)
            self.weights = torch.empty(0)  # its own are constant
        else:
            self.lattice = torch_lattice(features, groups)
            self.weights = self.lattice.weights
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        if normalization != "none":
            sums = self._filter(torch.ones_like(features[0])[:, None])
            if normalization == "symmetric":
                self.before = self.after = sums.rsqrt()
            elif normalization == "before":
                self.before = 1 / sums
            else:
                self.after = 1 / sums

    def __call__(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Any number of values per point, filtered."""
        if self.before is not None:
            values = values * self.before
        values = self._filter(values)
        return values if self.after is None else values * self.after

    def _filter(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        filtered: Tensor = _Filter.apply(values, self.weights, self.lattice)
        return filtered


def mean_field(
    scores: Float[Tensor, "n k"],
    filters: Sequence[GaussianFilter],
    weights: Sequence[Float[Tensor, "..."]],
    compatibility: Float[Tensor, "k k"],
    num_iterations: int,
) -> Float[Tensor, "n k"]:
    """Scores after mean field; their softmax are the marginals (CRF-RNN, Algorithm 1).

    Args:
        scores: negative unary energies.
        filters: one per kernel.
        weights: of the kernels; a number, one per class, or a matrix "k k" that is applied to the filtered
            marginals.
        compatibility: mu, what the label of the row costs beside the label of the column.
        num_iterations: updates of all points at once.
    """
    refined = scores
    for _ in range(num_iterations):
        marginals = refined.softmax(1)
        message = torch.zeros_like(scores)
        for gaussian, weight in zip(filters, weights, strict=True):
            filtered = gaussian(marginals)
            message = message + (filtered @ weight.T if weight.ndim == 2 else filtered * weight)
        refined = scores - message @ compatibility.T
    return refined


@torch.library.custom_op("pixelwise::dense_crf_layer", mutates_args=())
def _mean_field_operator(
    scores: Tensor,
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    compatibility: Tensor,
    groups: int,
    normalizations: str,
    num_iterations: int,
) -> Tensor:
    """`mean_field` as one operator of a graph: building a lattice depends on data, so it cannot be traced."""
    names: Any = normalizations.split()
    filters = [
        GaussianFilter(one, groups, normalization) for one, normalization in zip(features, names, strict=True)
    ]
    return mean_field(scores, filters, weights, compatibility, num_iterations)


@_mean_field_operator.register_fake
def _(scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores)


class DenseCrfLayer(nn.Module):
    """A fully connected CRF behind a network: scores and image in, refined scores out.

    At first it does what `dense_crf` does; then weights and compatibilities learn. In an exported program,
    and compiled without gradients, it is one operator, which a process knows that has imported this file.

    Args:
        num_classes: k.
        kernels: what the layer starts from; compatibilities of its own kernels are not taken.
        num_iterations: of mean field (CRF-RNN trains with 5 and tests with 10); an attribute, so that it can
            be changed.
        kernel_weights: what each kernel learns: one number ("scalar"), one per class ("class"), or a matrix
            that begins with the weight on its diagonal ("matrix", as the code of CRF-RNN).
        learn_bandwidths: whether the standard deviations of position and colour learn.

    Raises:
        ValueError: on an impossible number of classes or iterations, or unknown kernel weights.

    >>> layer = DenseCrfLayer(2, num_iterations=5)
    >>> scores = torch.randn(1, 2, 8, 8, requires_grad=True)
    >>> layer(scores, torch.rand(1, 3, 8, 8)).sum().backward()
    >>> layer.weights[0].grad.shape, scores.grad.shape
    (torch.Size([]), torch.Size([1, 2, 8, 8]))
    """

    def __init__(
        self,
        num_classes: int,
        kernels: tuple[PairwiseKernel, ...] = (SMOOTHNESS, APPEARANCE),
        *,
        num_iterations: int = 5,
        kernel_weights: KernelWeights = "scalar",
        learn_bandwidths: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1 or num_iterations < 0:
            raise ValueError(
                f"there must be at least 1 class and 0 iterations, got {num_classes} and {num_iterations}"
            )
        if kernel_weights not in get_args(KernelWeights):
            raise ValueError(
                f"kernel weights must be one of {', '.join(get_args(KernelWeights))}, got {kernel_weights!r}"
            )
        if any(kernel.compatibility is not None for kernel in kernels):
            raise ValueError(
                "the layer learns one compatibility for all kernels: give kernels without their own"
            )
        shape = {
            "scalar": torch.tensor(1.0),
            "class": torch.ones(num_classes),
            "matrix": torch.eye(num_classes),
        }
        self.kernels, self.num_iterations = kernels, num_iterations
        self.weights = nn.ParameterList(
            nn.Parameter(kernel.weight * shape[kernel_weights]) for kernel in kernels
        )
        self.compatibility = nn.Parameter(-torch.eye(num_classes))
        # Logarithms of factors of the standard deviations of position and colour.
        self.bandwidths = nn.ParameterList(
            nn.Parameter(torch.zeros(1 if kernel.color is None else 2), requires_grad=learn_bandwidths)
            for kernel in kernels
        )

    def forward(
        self,
        scores: Float[Tensor, "b k *grid"],
        image: Float[Tensor, "b c *grid"],
        *,
        num_iterations: int | None = None,
    ) -> Float[Tensor, "b k *grid"]:
        """Refined scores; their softmax are the marginals.

        Args:
            scores: logits of every class and pixel (negative unary energies).
            image: values in [0, 1], of the same size.
            num_iterations: of mean field; None for the layer's own number.

        Raises:
            ValueError: if the sizes differ, or the image is not finite.
        """
        b, k, *grid = scores.shape
        if k != len(self.compatibility):
            raise ValueError(f"the layer has {len(self.compatibility)} classes, the scores have {k}")
        if (image.shape[0], *image.shape[2:]) != (b, *grid):
            raise ValueError(
                f"scores {tuple(scores.shape)} need images of their size, got {tuple(image.shape)}"
            )
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        with torch.autocast(scores.device.type, enabled=False):
            image = image.detach().to(scores)
            features = [
                self._features(kernel, factors, image)
                for kernel, factors in zip(self.kernels, self.bandwidths, strict=True)
            ]
            rows = scores.flatten(2).transpose(1, 2).reshape(-1, k)  # b*n k
            weights = [weight.to(scores) for weight in self.weights]
            mu = self.compatibility.to(scores)
            steps = self.num_iterations if num_iterations is None else num_iterations
            normalizations = [kernel.normalization for kernel in self.kernels]
            compiling = torch.compiler.is_compiling() and not torch.is_grad_enabled()
            if compiling or torch.compiler.is_exporting():
                rows = _mean_field_operator(rows, features, weights, mu, b, " ".join(normalizations), steps)
            else:
                filters = [
                    GaussianFilter(one, b, normalization)
                    for one, normalization in zip(features, normalizations, strict=True)
                ]
                rows = mean_field(rows, filters, weights, mu, steps)
        return rows.reshape(b, -1, k).transpose(1, 2).reshape(scores.shape)

    def _features(
        self, kernel: PairwiseKernel, factors: Float[Tensor, " parts"], image: Float[Tensor, "b c *grid"]
    ) -> Float[Tensor, "d n"]:
        b, axes = image.shape[0], image.ndim - 2
        spread = kernel.position if isinstance(kernel.position, tuple) else (kernel.position,) * axes
        if len(spread) != axes:
            raise ValueError(f"{len(spread)} scales of position need as many axes, got {axes}")
        lines = [
            torch.arange(n, device=image.device, dtype=image.dtype) / one
            for n, one in zip(image.shape[2:], spread, strict=True)
        ]
        position = torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1])  # as `position_features`
        parts = [position[:, None].expand(-1, b, *position.shape[1:])]  # d b *grid
        if kernel.color is not None:
            scales = kernel.color if isinstance(kernel.color, tuple) else (kernel.color,) * image.shape[1]
            if len(scales) != image.shape[1]:
                raise ValueError(
                    f"{len(scales)} scales of colour need as many channels, got {image.shape[1]}"
                )
            steps = image.transpose(0, 1) * 255  # c b *grid
            parts.append(steps / torch.tensor(scales).to(image).reshape(-1, *[1] * (axes + 1)))
        if factors.requires_grad:
            parts = [part / factor.exp().to(image) for part, factor in zip(parts, factors, strict=True)]
        return torch.cat(parts).flatten(1)
