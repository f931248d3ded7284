"""All methods for a grid energy under one name."""

from collections.abc import Callable
from difflib import get_close_matches

from .belief_propagation import belief_propagation, tree_reweighted
from .energy import GridEnergy
from .grid_mean_field import grid_mean_field
from .icm import iterated_conditional_modes
from .move_making import alpha_beta_swap, alpha_expansion, minimum_cut
from .sampling import gibbs, metropolis_hastings, simulated_annealing
from .segmentation import Segmentation

SOLVERS: dict[str, Callable[..., Segmentation]] = {
    "minimum_cut": minimum_cut,
    "alpha_expansion": alpha_expansion,
    "alpha_beta_swap": alpha_beta_swap,
    "icm": iterated_conditional_modes,
    "belief_propagation": belief_propagation,
    "tree_reweighted": tree_reweighted,
    "mean_field": grid_mean_field,
    "metropolis_hastings": metropolis_hastings,
    "gibbs": gibbs,
    "simulated_annealing": simulated_annealing,
}


def solve(energy: GridEnergy, method: str = "alpha_expansion") -> Segmentation:
    """A labelling of low energy, by the method of that name with its usual settings.

    Args:
        energy: to make small.
        method: a key of `SOLVERS`; the function there takes further settings.

    Raises:
        ValueError: on an unknown method, or an energy that the method cannot handle.

    >>> import numpy as np
    >>> energy = GridEnergy.potts(np.array([[[0.0, 2.0], [1.0, 0.9], [0.0, 2.0]]]), strength=0.5)
    >>> solve(energy, "icm").label_map.labels.tolist(), solve(energy, "tree_reweighted").bounds[-1]
    ([[0, 0, 0]], 1.0)
    """
    if method not in SOLVERS:
        close = get_close_matches(method, SOLVERS, 1)
        hint = f", did you mean {close[0]}?" if close else f"; there are {', '.join(SOLVERS)}"
        raise ValueError(f"no method is called {method!r}{hint}")
    return SOLVERS[method](energy)
