"""What the processes of the tests of engines run: python engines.py TASK FOLDER [ENGINE].

Every rank writes its results to FOLDER/rank.npz.
"""

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

import cgru
import cgru.distributed


def beside(name):
    """The module of this folder called `name`."""
    specification = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


ranks = beside("ranks")


def engine(name, folder):
    """all_reduce of this process. Ranks of gloo meet in a file: a port that was free may be taken when they come."""
    if name == "mpi":
        return cgru.distributed.mpi()
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=int(os.environ["RANK"]), world_size=2,
        timeout=timedelta(seconds=ranks.PATIENCE),
    )  # fmt: skip
    return cgru.distributed.gloo()


def train(all_reduce=None):
    """The model of the tests, trained with everything: ragged, weighted, dropped out, stopped on a plateau."""
    x, y = ranks.data(23)
    model = ranks.model()
    callbacks = [
        cgru.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.02),
        cgru.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=0.05),
    ]
    model.fit(
        x, y, batch_size=5, epochs=12, verbose=0, sample_weight=np.linspace(0.1, 2, 23), callbacks=callbacks,
        validation_data=ranks.data(7, seed=1), all_reduce=all_reduce,
    )  # fmt: skip
    return model


def save(folder, rank, model):
    history = {f"history {name}": values for name, values in model.history.history.items()}
    np.savez(Path(folder, f"{rank}.npz"), *model.get_weights(), **history)


def fit(folder, all_reduce):
    save(folder, all_reduce.rank, train(all_reduce))


def killed(folder, all_reduce):
    """Rank 1 is killed in the midst of training."""

    class Kill(cgru.callbacks.Callback):
        def on_batch_end(self, batch, logs):
            if self.training.rank == 1 and self.training.epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    x, y = ranks.data(23)
    ranks.model().fit(x, y, batch_size=5, epochs=1000, verbose=0, callbacks=[Kill()], all_reduce=all_reduce)


def fails(folder, all_reduce):
    """Rank 1 has a number that is not finite; both end by an exception."""
    x, y = ranks.data(23)
    x[22][0, 0] = np.nan if all_reduce.rank == 1 else 0
    try:
        ranks.model().fit(x, y, batch_size=23, epochs=3, shuffle=False, verbose=0, all_reduce=all_reduce)
    except Exception as error:
        Path(folder, f"{all_reduce.rank}.txt").write_text(f"{type(error).__name__}: {error}")


def ddp(folder, all_reduce):
    """PyTorch's DistributedDataParallel around cgru.torch.GRU: each rank has half of the rows."""
    from torch.nn.parallel import DistributedDataParallel

    net = DistributedDataParallel(network())
    torch_train(net, slice(all_reduce.rank, None, all_reduce.size))
    weights = [p.detach().numpy() for p in net.module.parameters()]
    np.savez(Path(folder, f"{all_reduce.rank}.npz"), *weights)


def network():
    """A drop-in GRU with a layer behind it, the same in every process."""
    import torch

    import cgru.torch

    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = cgru.torch.GRU(3, 6, num_layers=2, batch_first=True, dtype=torch.float64)
            self.out = torch.nn.Linear(6, 2, dtype=torch.float64)

        def forward(self, x):
            return self.out(self.gru(x)[1][-1])

    return Net()


def torch_train(net, rows):
    import torch

    x = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 5, 3)))[rows]
    y = torch.arange(8)[rows] % 2
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def main():
    task, folder, name = sys.argv[1:4]
    hangs = 1.1 * ranks.PATIENCE  # seconds: nothing outlives the test
    threading.Thread(target=lambda: (time.sleep(hangs), os._exit(97)), daemon=True).start()
    globals()[task](folder, engine(name, folder))
    if name == "gloo":
        import torch.distributed as dist

        dist.destroy_process_group()
    if task == "ddp":
        # DistributedDataParallel, around whichever module, keeps gloo's threads beyond destroy_process_group; one that
        # lets go of a tensor while the interpreter ends aborts the process (PyTorch's issue 190489).
        os._exit(0)


if __name__ == "__main__":
    main()
