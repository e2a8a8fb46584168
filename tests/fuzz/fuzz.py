"""Coverage-guided fuzzing of what reads files of any origin: an answer comes, or a ValueError or OSError, soon and in
little memory.

    pip install atheris h5py onnx && python tests/fuzz/fuzz.py [TARGET [options of libFuzzer]]

TARGET is one of `TARGETS`, which are printed without one; `-max_total_time=60` ends it after a minute. What it finds
becomes a file `crash-...` in the current folder; the same command with that file's name runs it again.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
import pickle
import pkgutil
import random
import sys
import tempfile
import time
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


def saved(*models, **options):
    for model in models:
        cgru.save(model, PATH, **options)
        yield PATH.read_bytes()


def trained():
    """A model in the middle of training."""
    model = cgru.Sequential(
        [cgru.Embedding(5, 2), cgru.GRU(3, dropout=0.1), cgru.Dense(2, activation="softmax")], seed=0
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.ones((4, 3), int), [0, 1, 0, 1], verbose=0)
    return model


def quantized():
    for kind in ("float16", "bfloat16", "int8"):
        yield cgru.quantize(GRU, kind)
        yield cgru.quantize(MODEL, kind)


def read_safetensors(data):
    PATH.write_bytes(data)
    try:
        model = cgru.load(PATH)
        if not isinstance(model, (cgru.Dropout, cgru.Seq2Seq)):  # what is taken can be used
            model(np.ones((1, 2), int) if getattr(model, "layers", None) else np.ones((1, 2, model.input_size)))
    except (ValueError, OSError):
        pass
    read_tensors(data)


def tensors_of_others():
    """A tensor of each type; and the first bytes of files that are something else."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1, "I64": 8, "F8_E4M3": 1, "U32": 4}
    table, end = {}, 0
    for name, size in sizes.items():
        table[f"weight.{name}"] = {"dtype": name, "shape": [2, 3], "data_offsets": [end, end + 6 * size]}
        end += 6 * size
    for header in (table, table | {"__metadata__": {"format": "pt"}}):
        text = json.dumps(header).encode()
        yield len(text).to_bytes(8, "little") + text + bytes(end)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr("archive/data.pkl", pickle.dumps({"weight": [1.0, 2.0]}))
    yield from (buffer.getvalue(), pickle.dumps({"weight": [1.0, 2.0]}))


def read_tensors(data):
    PATH.write_bytes(data)
    try:
        tensors = cgru.files.load_tensors(PATH)
    except (ValueError, OSError):
        return
    for name in tensors:
        try:
            np.sum(tensors[name])
        except ValueError:
            pass


STREAMS = cgru.Streams(cgru.Sequential([cgru.Conv1D(3, 2, padding="causal"), cgru.GRU(3, num_layers=2)], seed=0))
STREAMS.feed({"a": np.ones((3, 2)), "b": np.ones((1, 2))})


def snapshots():
    buffer = io.BytesIO()
    np.savez(buffer, **STREAMS.snapshot())
    yield buffer.getvalue()


def read_snapshot(data):
    try:
        found = dict(np.load(io.BytesIO(data), allow_pickle=False))
    except Exception:  # what is no archive of arrays is NumPy's own business
        return
    try:
        STREAMS.restore(found)
    except (ValueError, TypeError):
        return
    STREAMS.feed({key: np.ones((1, 2)) for key in list(STREAMS)[:3]})


def with_members(data, size, seed):
    """A mutation of one member of an archive, with its sum put right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        name = random.Random(seed).choice(sorted(members))
    except Exception:
        return atheris.Mutate(data, size)
    members[name] = atheris.Mutate(members[name], max(len(members[name]), 64) * 2)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    return buffer.getvalue()[:size]


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


def legacy(config):
    """A whole model as Keras 2 wrote it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = np.bytes_(config), "2.15.0"
        group = file.create_group("model_weights/gru")
        file["model_weights"].attrs["layer_names"] = [b"gru"]
        names = []
        for name, shape in (("kernel", (2, 9)), ("recurrent_kernel", (3, 9)), ("bias", (2, 9))):
            group[f"gru/{name}:0"] = np.zeros(shape)
            names.append(f"gru/{name}:0".encode())
        group.attrs["weight_names"] = names
    return buffer.getvalue()


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


# -- arrays under the names of a framework


def foreign():
    """(function, its argument) of each converter of plain arrays."""
    layers = [cgru.GRU(3, reset_after=after, num_layers=n) for after in (True, False) for n in (1, 2)]
    for layer in layers:
        layer.build(2)
    for name in sorted(vars(cgru.convert).get("__all__", [])):
        back = getattr(cgru.convert, name.replace("to_", "from_", 1), None) if name.startswith("to_") else None
        for layer in layers if back is not None and name != "to_torch_module" else ():
            try:
                given = getattr(cgru.convert, name)(layer)
                back(given)
            except (ValueError, TypeError, ImportError, AttributeError):
                continue
            yield back, given


FOREIGN = list(foreign())


def changed(value, data):
    """The argument with some of what is in it replaced."""
    if isinstance(value, dict):
        found = {name: changed(part, data) for name, part in value.items() if data.ConsumeIntInRange(0, 30)}
        if not data.ConsumeIntInRange(0, 20):
            found[data.ConsumeUnicodeNoSurrogates(12)] = found[data.PickValueInList(list(found))] if found else 1
        return found
    if isinstance(value, (list, tuple)):
        return type(value)([changed(part, data) for part in value])
    if data.ConsumeIntInRange(0, 9):
        return value
    shape = [data.ConsumeIntInRange(0, 7) for _ in range(data.ConsumeIntInRange(0, 4))]
    types = ["f4", "f8", "f2", ">f4", "i1", "i8", "?", "c8", "O", "U3", "M8[s]"]
    return data.PickValueInList(
        [np.ones(shape, data.PickValueInList(types[:-2])), np.zeros(shape, data.PickValueInList(types[-2:])), None, "x",
         -1, 2**40, np.nan, [], {}, b"", data.ConsumeInt(8), data.ConsumeUnicodeNoSurrogates(5), [[1.0], [2.0, 3.0]]]
    )  # fmt: skip


def read_arrays(data):
    data = atheris.FuzzedDataProvider(data)
    convert, given = data.PickValueInList(FOREIGN)
    try:
        convert(changed(given, data))
    except (ValueError, TypeError, OSError):
        pass


# name: (function that reads bytes, seeds, what mutates them)
TARGETS = {
    "safetensors": (read_safetensors, lambda: saved(GRU, MODEL, cgru.Dropout(0.5)), with_hash),
    "training": (read_safetensors, lambda: saved(trained(), training_state=True), with_hash),
    "quantized": (read_safetensors, lambda: saved(*quantized()), with_hash),
    "tensors": (read_tensors, tensors_of_others, None),
    "snapshot": (read_snapshot, snapshots, with_members),
    "keras": (read_keras, lambda: [archive(CONFIG, WEIGHTS)], None),
    "keras_config": (lambda data: read_keras(archive(data, WEIGHTS)), lambda: [CONFIG], None),
    "keras_weights": (lambda data: read_keras(archive(CONFIG, data)), lambda: [WEIGHTS], None),
    "keras_h5": (lambda data: read_keras(data, ".h5"), lambda: [WEIGHTS, legacy(CONFIG)], None),
    "keras_legacy": (lambda data: read_keras(legacy(data[:60000]), ".h5"), lambda: [CONFIG], None),
    "onnx": (read_onnx, onnx_seeds, None),
    "arrays": (read_arrays, lambda: [rng.bytes(200) for _ in range(20)], None),
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
    counts = [0, 0]

    def count(data):
        counts[0] += 1
        counts[1] += len(data)
        read(data)
        if counts[0] % 100 == 0:  # libFuzzer ends the process as it likes
            print(f"{counts[0]:,} calls, {counts[1]:,} bytes, {time.process_time():.0f} s", flush=True)

    atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[2:], *files], count, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
