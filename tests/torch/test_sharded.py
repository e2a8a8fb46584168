"""Weights that are sharded over two processes, gathered for a call and freed after it."""

import warnings

import children
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

SCRIPT = """
import copy, os, sys, warnings
warnings.simplefilter("ignore")  # of PyTorch
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
import cgru.torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(5, 16, 2, bidirectional=True)
        self.cell = torch.nn.GRUCell(32, 16)
        self.stepped = torch.nn.GRU(16, 16)
        self.out = torch.nn.Linear(16, 3)

    def forward(self, x):
        y, h = self.gru(x)
        state = self.cell(y[-1])
        for _ in range(6):
            state = self.cell(y[-1], state)
        step, _ = self.stepped(state[None])
        for _ in range(6):
            step, _ = self.stepped(state[None], step)
        return self.out(step)


def shard(net, way, mesh):
    if way == "fully_shard":
        for module in (net.gru, net.cell, net.stepped, net):
            fully_shard(module, mesh=mesh)
        return net
    options = {"use_orig_params": way == "original", "device_id": torch.device("cpu")}
    for name in ("gru", "cell", "stepped"):
        setattr(net, name, FullyShardedDataParallel(getattr(net, name), **options))
    return FullyShardedDataParallel(net, **options)


def train(net, rank):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    found = []
    for step in range(4):
        torch.manual_seed(10 * step + rank)
        x = torch.randn(9, 4, 5)
        with torch.no_grad():
            found.append(net.eval()(x))
        loss = net.train()(x).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    return found


def worker(rank, path, way):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    theirs = Net()
    ours = cgru.torch.replace_gru(copy.deepcopy(theirs))
    found = [train(shard(net, way, mesh), rank) for net in (theirs, ours)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    assert found[0][-1] < found[0][1]
    dist.destroy_process_group()
    os._exit(0)  # FSDP keeps gloo's threads, which may abort the interpreter's end (PyTorch's issue 190489)


if __name__ == "__main__":
    torch.multiprocessing.spawn(worker, (sys.argv[1], sys.argv[2]), nprocs=2)
    print("same")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
@pytest.mark.parametrize("way", ["flat", "original", "fully_shard"])
def test_training_with_sharded_weights(tmp_path, way):
    script = tmp_path / "sharded.py"
    script.write_text(SCRIPT)
    done = children.python(script, str(tmp_path / "meeting"), way)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr[-3000:]
