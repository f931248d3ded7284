"""All benches of the classical methods, in one process.

python bench/classical.py [rounds]
"""

import sys

import classical_clustering
import classical_cuts
import classical_dense_crf


def main(rounds: int = 5) -> None:
    for section in (classical_cuts, classical_dense_crf, classical_clustering):
        section.main(rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
