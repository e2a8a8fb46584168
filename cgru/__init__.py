"""The GRU for everybody who has a CPU and a NumPy array."""

import importlib
from typing import TYPE_CHECKING

try:
    from cgru import convert, datasets, files
    from cgru._version import __version__
    from cgru.backends import backend, get_backend, set_backend
    from cgru.files import load, save
    from cgru.layers import (
        GRU,
        AttentionPooling,
        Conv1D,
        Dense,
        Dropout,
        Embedding,
        GlobalAveragePooling1D,
        GlobalMaxPooling1D,
        LayerNormalization,
        Masking,
    )
    from cgru.models import Seq2Seq, Sequential
    from cgru.streams import Streams
    from cgru.threads import get_num_threads, limit_threads, set_num_threads
except (ImportError, AttributeError, TypeError) as error:
    from cgru.installation import explain

    if not (sentence := explain(error)):
        raise
    raise ImportError(sentence) from None

__all__ = [
    "GRU",
    "AttentionPooling",
    "Conv1D",
    "Dense",
    "Dropout",
    "Embedding",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "LayerNormalization",
    "Masking",
    "Seq2Seq",
    "Sequential",
    "Streams",
    "__version__",
    "backend",
    "convert",
    "datasets",
    "files",
    "from_keras",
    "from_onnx",
    "from_torch",
    "get_backend",
    "get_num_threads",
    "limit_threads",
    "load",
    "quantize",
    "save",
    "set_backend",
    "set_num_threads",
]

if TYPE_CHECKING:  # those above have imported the modules
    from cgru import backends as backends
    from cgru import callbacks as callbacks
    from cgru import constraints as constraints
    from cgru import distributed as distributed
    from cgru import initializers as initializers
    from cgru import interpret as interpret
    from cgru import layers as layers
    from cgru import losses as losses
    from cgru import metrics as metrics
    from cgru import models as models
    from cgru import optimizers as optimizers
    from cgru import plot as plot
    from cgru import quantized as quantized
    from cgru import regularizers as regularizers
    from cgru import schedules as schedules
    from cgru import sequences as sequences
    from cgru import threads as threads
    from cgru import typing as typing
    from cgru.convert import from_keras, from_onnx, from_torch
    from cgru.quantized import quantize
else:

    def __getattr__(name):
        # What few programs need is imported when it is asked for.
        if name in ("from_keras", "from_onnx", "from_torch"):
            return getattr(convert, name)
        if name == "quantize":
            return importlib.import_module("cgru.quantized").quantize
        if name in ("distributed", "interpret", "plot", "quantized"):
            return importlib.import_module(f"cgru.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
