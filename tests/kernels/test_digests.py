"""The same bits in every build that fuses multiplications with additions, on every machine (digests.py)."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import cgru
from cgru import kernels

SCRIPT = Path(__file__).with_name("digests.py")
COMMITTED = json.loads(SCRIPT.with_suffix(".json").read_text())


@pytest.mark.skipif(cgru.get_backend() != "native", reason="BLAS has an order of its own")
@pytest.mark.parametrize("isa", kernels.available)
def test_outputs_and_gradients(isa):
    environment = {**os.environ, "CGRU_ISA": isa}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(cgru.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    ((kind, found),) = json.loads(child.stdout).items()
    assert kind == ("fused" if isa != "baseline" or platform.machine() in ("aarch64", "arm64") else "separate")
    assert found == COMMITTED[kind]
