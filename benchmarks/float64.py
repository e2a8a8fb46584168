"""float64: one layer at 32,100,64,128, inference and training, against the peers that have doubles.

The rest is as in stacked.py.

    python benchmarks/float64.py --peers torch --json benchmarks/results/float64.json
"""

import sys

import stacked

PEERS = ("numpy", "torch", "jax", "keras")

if __name__ == "__main__":
    sys.exit(stacked.main(__doc__, PEERS, dtype="float64"))
