"""Training of one GRU layer against every peer that is installed: forward and backward with the gradients of x and of
all weights, over the grid of sizes. The ratio is as in inference.py.

    python benchmarks/training.py --reset before --json benchmarks/results/training.json
"""

import sys

import inference

GRID = (
    (1, 100, 64, 128), (8, 100, 64, 128), (32, 100, 64, 128), (32, 100, 256, 256), (64, 50, 256, 512),
    (64, 50, 512, 1024), (128, 30, 39, 64), (32, 29, 12, 64), (256, 20, 1, 32),
)  # fmt: skip
QUICK = ((32, 29, 12, 64),)
PEERS = ("numpy", "torch", "jax", "keras")

if __name__ == "__main__":
    sys.exit(inference.main(__doc__, "training", GRID, QUICK, PEERS))
