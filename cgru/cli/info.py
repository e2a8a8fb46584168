"""`cgru info` says what runs here."""

from __future__ import annotations

import importlib.util
import os
import platform

import numpy as np
import scipy

import cgru
from cgru import kernels


def run() -> bool:
    """Print versions, instruction sets, backend, BLAS and threads; return True."""
    blas, threads = _blas()
    print(f"cgru      {cgru.__version__}")
    print(f"Python    {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"NumPy     {np.__version__}")
    print(f"SciPy     {scipy.__version__}")
    neon = " by NEON" if platform.machine().lower() in ("aarch64", "arm64") else ""
    print(f"kernels   {kernels.isa}{neon} (this CPU can run: {', '.join(kernels.available)})")
    print(f"int8      {'with' if kernels.tune()['dots'] else 'without'} the CPU's instructions for weights of 8 bits")
    print(f"backend   {cgru.get_backend()} (there are: {', '.join(kernels.BACKENDS)})")
    print(f"BLAS      {blas}")
    print(f"threads   kernels {cgru.get_num_threads()}, {threads}; usable CPUs: {_usable_cpus()}")
    return True


def _blas() -> tuple[str, str]:
    """Return (name, version and configuration of SciPy's BLAS; its threads), as text."""
    built = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    blas = " ".join(str(built[key]) for key in ("name", "version") if built.get(key))
    configuration = built.get("openblas configuration", "")
    blas += f" ({configuration})" if configuration not in ("", "unknown") else ""
    if importlib.util.find_spec("threadpoolctl") is None:
        return blas, "of BLAS unknown (threadpoolctl is not installed)"
    import threadpoolctl

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    scipys = [pool for pool in pools if "scipy" in pool["filepath"].lower()] or pools
    if not scipys:
        return blas, "of BLAS unknown"
    pool = scipys[0]
    architecture = f", {pool['architecture']} kernels" if pool.get("architecture") else ""
    return f"{blas}{architecture}", f"BLAS {pool['num_threads']}"


def _usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
