"""A drop-in for torch.nn.GRU and GRUCell on the CPU: the same modules, parameters and results, computed by cgru's
kernels.

`replace_gru` changes a model in place and `restore_gru` changes it back; `freeze` keeps packed weights between calls.
"""

import numpy as np

try:
    import torch
except ModuleNotFoundError:
    raise ImportError('torch is not installed: pip install "cgru[torch]"', name="torch") from None
if np.lib.NumpyVersion(np.__version__) < "2.1.0":
    raise ImportError(
        f'cgru.torch: expected NumPy 2.1 or later, got {np.__version__}: pip install "cgru[torch]"', name="numpy"
    )
del np, torch

from cgru.torch.modules import GRU, GRUCell  # noqa: E402
from cgru.torch.replacing import freeze, replace_gru, restore_gru, unfreeze  # noqa: E402

__all__ = ["GRU", "GRUCell", "freeze", "replace_gru", "restore_gru", "unfreeze"]
