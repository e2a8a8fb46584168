"""Fixtures of the drop-in's tests, and the module `twins` that they share; without PyTorch they skip themselves."""

import importlib.util
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("torch"):
    specification = importlib.util.spec_from_file_location("twins", Path(__file__).parent / "twins.py")
    sys.modules["twins"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(sys.modules["twins"])


@pytest.fixture(autouse=True)
def one_thread():
    """Sizes are small, and threads that wait for work by spinning slow down everything else."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def served(monkeypatch):
    """A list that grows by one whenever the kernels serve a call."""
    from cgru.torch import modules, steps

    calls = []

    def spy(module, name):
        function = getattr(module, name)

        def counted(*given):
            result = function(*given)
            if result is not None:
                calls.append(1)
            return result

        monkeypatch.setattr(module, name, counted)

    spy(modules, "_run_layers")
    spy(steps, "_advance")
    return calls


@pytest.fixture
def packs(monkeypatch):
    """A list that grows by one whenever a cell's weights are packed."""
    from cgru import recurrence

    calls = []
    prepare = recurrence.prepare
    monkeypatch.setattr(recurrence, "prepare", lambda *a, **k: calls.append(1) or prepare(*a, **k))
    return calls
