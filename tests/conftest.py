"""Settings and fixtures of all tests."""

import collections
import importlib.util
import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest


def _share(name):
    """Let tests of every room `import name`, a module of this folder. The folder itself stays off sys.path: with a room
    called torch on it, `import torch` would find that where PyTorch is not installed."""
    specification = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


checks = _share("checks")
_share("children")
_share("examples")

# The same examples in every run, unless a seed is asked for; however long each takes, because machines differ.
SEED = int(os.environ.get("CGRU_TEST_SEED", "0"))
hypothesis.settings.register_profile(
    "cgru", checks.examples(100), deadline=None, derandomize=SEED == 0, database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
hypothesis.settings.load_profile("cgru")

# Of each test's parameters, one in so many: where each takes long, as on an emulated machine.
EVERY = int(os.environ.get("CGRU_TEST_EVERY", "1"))


def pytest_collection_modifyitems(config, items):
    seen, chosen, others = collections.Counter(), [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (others if seen[test] % EVERY else chosen).append(item)
        seen[test] += 1
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


@pytest.fixture
def rng():
    """A random generator, new for each test. CGRU_TEST_SEED=N chooses its seed: every test should pass with any."""
    return np.random.default_rng(SEED)


@pytest.fixture
def limits():
    """`kernels.tune`, with everything as it was afterwards."""
    from cgru import kernels

    before, threads = kernels.tune(), kernels.get_num_threads()
    yield kernels.tune
    kernels.tune(**before)
    kernels.set_num_threads(threads)


@pytest.fixture
def native():
    """The kernels' own products, of all threads, whatever backend the tests are run with: that of BLAS has blocks of
    another size, and promises no bits. A test may ask for it within."""
    import cgru

    before = cgru.get_backend()
    cgru.set_backend("native")
    yield
    cgru.set_backend(before)


@pytest.fixture
def outlines(monkeypatch):
    """The pieces of each pass that was computed again."""
    from cgru import recomputing

    found, backward = [], recomputing._backward

    def spy(dy, dh, tape, *others):
        found.append(len(tape.states))
        return backward(dy, dh, tape, *others)

    monkeypatch.setattr(recomputing, "_backward", spy)
    return found


@pytest.fixture(autouse=True)
def leaves_no_settings_behind():
    """A test that leaves limits, the backend or the build changed makes others fail, far from it and only in some
    order, or lets all later ones test another build than that which is named."""
    if "cgru" not in sys.modules:
        yield
        return
    import cgru
    from cgru import kernels

    before, backend, errors = kernels.tune(), cgru.get_backend(), np.geterr()
    yield
    after, left = kernels.tune(), cgru.get_backend()
    assert np.geterr() == errors, "the test left NumPy with other reactions to errors of floating-point numbers"
    assert kernels.calls.fuses() == kernels.fuses, f"the test left the process with another build than {kernels.isa}"
    kernels.tune(**before)
    cgru.set_backend(backend)
    assert (after, left) == (before, backend), "the test left settings of the kernels changed"
