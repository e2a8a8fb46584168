"""Coverage-guided fuzzing of what reads files of any origin: an answer comes, or a ValueError or OSError, soon and in
little memory.

    pip install atheris onnx && python tests/fuzz/fuzz.py [TARGET [options of libFuzzer]]

TARGET is one of `TARGETS`, which are printed without one; `-max_total_time=60` ends it after a minute. What it finds
becomes a file `crash-...` in the current folder; the same command with that file's name runs it again.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
import pkgutil
import random
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import atheris
import h5py
import numpy as np

with atheris.instrument_imports(include=["cgru"]):
    import cgru

    for module in pkgutil.iter_modules(cgru.convert.__path__, "cgru.convert."):
        with contextlib.suppress(ImportError):  # of PyTorch
            importlib.import_module(module.name)  # they are imported when they are needed, which is too late

warnings.simplefilter("ignore")
LIMITS = ["-max_len=20000", "-timeout=30", "-rss_limit_mb=3000"]
FOLDER = Path(tempfile.mkdtemp())
PATH = FOLDER / "model"
rng = np.random.default_rng(0)
GRU = cgru.GRU(3, input_size=2, reset_after=True, num_layers=2, learn_initial_state=True, seed=0)
MODEL = cgru.Sequential([cgru.Embedding(5, 2), cgru.GRU(3), cgru.Dense(2, activation="softmax")], seed=0).build()


# -- our own files


def safetensors_seeds():
    small = [cgru.quantize(MODEL, kind) for kind in ("float16", "bfloat16", "int8")]
    for model in (GRU, MODEL, cgru.Dropout(0.5), *small):
        cgru.save(model, PATH)
        yield PATH.read_bytes()


def read_safetensors(data):
    PATH.write_bytes(data)
    for read in (cgru.load, lambda path: [np.sum(array) for array in cgru.files.load_tensors(path).values()]):
        try:
            read(PATH)
        except (ValueError, OSError):
            pass


def with_hash(data, size, seed):
    """A mutation of a file, of its header alone as a rule, whose hash is put right: else nothing gets beyond that."""
    length = int.from_bytes(data[:8], "little")
    text, tensors = data[8 : 8 + length], data[8 + length :]
    if random.Random(seed).random() < 0.2:
        return atheris.Mutate(data, size)
    text = atheris.Mutate(text, max(len(text), 64) * 2)
    try:
        header = json.loads(text)
        metadata = {name: value for name, value in header["__metadata__"].items() if name != "header_sha256"}
        sorted_ = json.dumps({**header, "__metadata__": metadata}, sort_keys=True, separators=(",", ":"))
        metadata["header_sha256"] = hashlib.sha256(sorted_.encode()).hexdigest()
        text = json.dumps({**header, "__metadata__": metadata}).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return (len(text).to_bytes(8, "little") + text + tensors)[:size]


# -- Keras


def weights_of_keras():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for i, shape in enumerate([(2, 9), (3, 9), (2, 9)]):
            file[f"layers/gru/cell/vars/{i}"] = rng.standard_normal(shape)
    return buffer.getvalue()


WEIGHTS = weights_of_keras()
LAYER = {"class_name": "GRU", "config": {
    "name": "gru", "units": 3, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True,
    "reset_after": True, "go_backwards": False}}  # fmt: skip
CONFIG = json.dumps({"class_name": "Sequential", "config": {"name": "model", "layers": [LAYER]}}).encode()


def archive(config, weights):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, data in ("metadata.json", b"{}"), ("config.json", config), ("model.weights.h5", weights):
            out.writestr(name, data)
    return buffer.getvalue()


def read_keras(data, suffix=".keras"):
    path = PATH.with_suffix(suffix)
    path.write_bytes(data)
    try:
        cgru.from_keras(path)
    except (ValueError, OSError):
        pass


# -- ONNX


def onnx_seeds():
    for model in (GRU, MODEL):
        yield cgru.convert.to_onnx(model).SerializeToString()


def read_onnx(data):
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # what is no ONNX file at all is onnx's own business
        return
    try:
        cgru.from_onnx(model)
    except (ValueError, OSError):
        pass
    except TypeError as error:  # of integers where weights belong
        if ": expected floating-point numbers, got " not in str(error):
            raise


# name: (function that reads bytes, seeds, what mutates them)
TARGETS = {
    "safetensors": (read_safetensors, safetensors_seeds, with_hash),
    "keras": (read_keras, lambda: [archive(CONFIG, WEIGHTS)], None),
    "keras_config": (lambda data: read_keras(archive(data, WEIGHTS)), lambda: [CONFIG], None),
    "keras_weights": (lambda data: read_keras(archive(CONFIG, data)), lambda: [WEIGHTS], None),
    "keras_h5": (lambda data: read_keras(data, ".h5"), lambda: [WEIGHTS], None),
    "onnx": (read_onnx, onnx_seeds, None),
}


def main():
    if len(sys.argv) < 2:
        print("\n".join(TARGETS))
        return
    read, seeds, mutate = TARGETS[sys.argv[1]]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(seeds()):
        read(seed)
        (corpus / str(i)).write_bytes(seed)
    files = [] if any(os.path.isfile(argument) for argument in sys.argv[2:]) else [str(corpus)]
    options = {"custom_mutator": mutate} if mutate else {}
    atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[2:], *files], read, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
