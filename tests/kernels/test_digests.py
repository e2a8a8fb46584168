"""The same bits in every build that fuses multiplications with additions, on every machine (digests.py)."""

import json
import platform
from pathlib import Path

import children
import pytest

import cgru
from cgru import kernels

SCRIPT = Path(__file__).with_name("digests.py")
COMMITTED = json.loads(SCRIPT.with_suffix(".json").read_text())


@pytest.mark.skipif(cgru.get_backend() != "native", reason="BLAS has an order of its own")
@pytest.mark.parametrize("isa", kernels.available)
def test_outputs_and_gradients(isa):
    printed = children.printed(SCRIPT, env=children.environment(CGRU_ISA=isa))
    ((kind, found),) = json.loads(printed).items()
    assert kind == ("fused" if isa != "baseline" or platform.machine() in ("aarch64", "arm64") else "separate")
    assert found == COMMITTED[kind]
