"""Maximum flow and alpha-expansion on grids, beside PyMaxflow (GPL, a peer here and nothing else).

python bench/classical_cuts.py [rounds]
"""

import sys

import numpy as np
from scipy.ndimage import gaussian_filter
from side_by_side import compare, peer

from pixelwise.algorithms.energy import GridEnergy
from pixelwise.algorithms.max_flow import max_flow
from pixelwise.algorithms.move_making import alpha_expansion


def main(rounds: int = 5) -> None:
    maxflow = peer("maxflow")
    random = np.random.default_rng(0)
    shape = (750, 1000)
    terminal = gaussian_filter(random.normal(size=shape), 3) * 8 + random.normal(size=shape)
    source, sink = np.maximum(terminal, 0), np.maximum(-terminal, 0)
    for strength in (0.2, 0.5, 1.5):

        def ours(strength: float = strength) -> float:
            return max_flow(source, sink, np.full((2, *shape), strength)).flow

        def theirs(strength: float = strength) -> float:
            graph = maxflow.Graph[float](source.size, 2 * source.size)
            ids = graph.add_grid_nodes(shape)
            graph.add_grid_edges(ids, strength, symmetric=True)
            graph.add_grid_tedges(ids, source, sink)
            return graph.maxflow()

        if maxflow:
            assert np.isclose(ours(), theirs(), rtol=1e-9), "the flows differ"
        compare(
            f"grid max-flow, 750 x 1000, 4 neighbours, strength {strength}, graph included",
            {"pixelwise": ours, "PyMaxflow": theirs if maxflow else None},
            target="at least 1.4x PyMaxflow",
            rounds=rounds,
        )

    k, shape = 21, (375, 500)
    noise = random.normal(size=(*shape, k))
    unary = gaussian_filter(random.normal(size=(*shape, k)), (8, 8, 0)) * 40 + noise
    energy = GridEnergy.potts(unary - unary.min(), strength=1.0)
    start = energy.unary.argmin(2)
    if maxflow:
        from maxflow.fastmin import aexpansion_grid

        fast, slow = (
            alpha_expansion(energy),
            aexpansion_grid(energy.unary, energy.distance, labels=start.copy()),
        )
        print(f"\nenergy {energy.of(fast.label_map.labels.numpy()):.6f}, PyMaxflow's {energy.of(slow):.6f}")
    compare(
        "alpha-expansion, 375 x 500, 21 labels, Potts",
        {
            "pixelwise": lambda: alpha_expansion(energy),
            "PyMaxflow": (lambda: aexpansion_grid(energy.unary, energy.distance, labels=start.copy()))
            if maxflow
            else None,
        },
        target="at least 1.2x PyMaxflow",
        rounds=rounds,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
