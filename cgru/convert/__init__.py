"""Weights of other frameworks, in and out: one file for each convention, each with `from_` and `to_` functions.

Arrays under the framework's names are all that a converter needs; the framework itself is imported by the functions
that take or return its objects, and by those alone.
"""

import importlib
from typing import Any

# Of each file, the names that are public; a file is imported when one of them is asked for.
_PUBLIC = {
    "arrays": ("PartialConversionWarning",),
    "cntk": ("from_cntk", "to_cntk"),
    "cudnn": ("from_cudnn", "to_cudnn"),
    "equinox": ("from_equinox", "to_equinox"),
    "flax_linen": ("from_flax_linen", "to_flax_linen"),
    "flax_nnx": ("from_flax_nnx", "to_flax_nnx"),
    "haiku": ("from_haiku", "from_sonnet", "to_haiku", "to_sonnet"),
    "keras": ("from_keras",),
    "keras_export": ("to_keras", "to_keras_model"),
    "keras_layers": ("from_keras_dense", "from_keras_embedding"),
    "madmom": ("from_madmom", "to_madmom"),
    "ncnn": ("from_ncnn", "to_ncnn"),
    "onednn": ("from_onednn", "to_onednn"),
    "onnx": ("from_onnx",),
    "onnx_export": ("to_onnx", "to_onnx_arrays"),
    "openvino": ("from_openvino", "to_openvino"),
    "published": ("from_published", "to_published"),
    "rnnoise": ("from_rnnoise", "to_rnnoise"),
    "tf1": ("from_tf1", "to_tf1"),
    "tflite": ("from_tflite", "to_tflite"),
    "torch": ("from_torch", "to_torch", "to_torch_module"),
    "torch_layers": ("from_torch_embedding", "from_torch_linear"),
}
_FILES = {name: file for file, names in _PUBLIC.items() for name in names}

__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
