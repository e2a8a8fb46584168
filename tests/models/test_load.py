"""One model under load: benchmarks/load.py with few requests. The nightly run has all of them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "load.py"


@pytest.fixture(scope="module")
def load():
    if not SCRIPT.exists():
        pytest.skip("the benchmarks are in the checkout")
    spec = importlib.util.spec_from_file_location("load", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell what is in memory")
def test_eight_threads_get_the_bits_of_one_and_no_memory_grows(load):
    requests, grown = load.Requests(load.model_of(8), cases=4), []
    for _ in range(3):
        wrong, before, after, _ = load.load(requests, 8, 800)
        assert wrong == 0
        grown.append(after - before)
    assert min(grown) < load.GROWTH  # others in this process may take memory meanwhile; a leak is in every span


def test_it_would_see_other_bits(load):
    requests = load.Requests(load.model_of(8), cases=2)
    for kind in load.KINDS:
        assert not requests.wrong(kind, 1, "me")
        requests.known[1][kind][0] = np.nextafter(requests.known[1][kind][0], 2)
        assert requests.wrong(kind, 1, "me")
    assert len(requests.streams) == 0
