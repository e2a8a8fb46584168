"""Files: what is saved comes back to the bit, the safetensors package reads and writes the same format, and whatever is
wrong with a file ends in a ValueError, soon and without large allocations."""

import contextlib
import hashlib
import json
import os
import pathlib
import pickle
import signal
import stat
import sys
import threading
import time
import tracemalloc

import checks
import children
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given

import cgru

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_gru(rng, **options):
    return checks.random_layer(rng, H, input_size=D, seed=3, **options)


def built(layer, size):
    layer.build(size)
    return layer


def make_sequential(rng):
    model = cgru.Sequential(
        [
            cgru.Embedding(11, D, seed=5),
            cgru.Dropout(0.25),
            random_gru(rng, bidirectional=True, return_sequences=True, reset_after=True, dtype="float64"),
            cgru.Dense(4, activation="softmax"),
        ],
        seed=2,
    )
    return model.build()


MODELS = {
    "GRU": random_gru,
    "GRU-float64-no-bias": lambda rng: random_gru(rng, dtype="float64", use_bias=False, reverse=True),
    "GRU-layers-learned": lambda rng: random_gru(
        rng, num_layers=3, bidirectional=True, merge_mode="mul", learn_initial_state=True, reset_after=True
    ),
    "GRU-activations": lambda rng: random_gru(
        rng, activation="relu", recurrent_activation="hard_sigmoid", time_major=True, stateful=True
    ),
    "GRU-normalised": lambda rng: random_gru(
        rng, num_layers=2, layer_norm=True, zoneout=0.1, dropout=0.2, recurrent_dropout=0.3, layer_dropout=0.4
    ),
    "Dense": lambda rng: built(cgru.Dense(5, activation="tanh", bias_initializer="uniform", seed=0), 3),
    "Embedding": lambda rng: built(cgru.Embedding(7, 3, dtype="float64", seed=0), 1),
    "Dropout": lambda rng: cgru.Dropout(0.5, seed=2**130),
    "Sequential": make_sequential,
    "Sequential-Dropout-first": lambda rng: cgru.Sequential([cgru.Dropout(0.1), cgru.Dense(3)], seed=0).build(5),
}


@pytest.fixture(params=MODELS)
def model(request, rng):
    return MODELS[request.param](rng)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def assert_same_model(actual, expected):
    assert type(actual) is type(expected)
    assert actual.get_config() == expected.get_config()
    pairs = [(actual, expected)]
    if isinstance(expected, cgru.Sequential):
        pairs = zip(actual.layers, expected.layers, strict=True)
    for ours, theirs in pairs:
        assert ours.built and ours.input_size == theirs.input_size
        assert list(ours.parameters) == list(theirs.parameters)
        if theirs.parameters:
            checks.assert_same_arrays(ours.parameters, theirs.parameters)


# -- files taken apart and put together, without the code under test


def parts_of(data):
    """(header, bytes of the tensors) of a file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def file_of(header, tensors=b"", rehash=True):
    """A file, with the hash of the header put right if there is one and `rehash`."""
    if rehash and "header_sha256" in header.get("__metadata__", ()):
        metadata = {name: text for name, text in header["__metadata__"].items() if name != "header_sha256"}
        text = json.dumps({**header, "__metadata__": metadata}, sort_keys=True, separators=(",", ":"))
        metadata["header_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        header = {**header, "__metadata__": metadata}
    return raw_file(json.dumps(header).encode(), tensors)


def raw_file(text, tensors=b"", length=None):
    return (len(text) if length is None else length).to_bytes(8, "little") + text + tensors


def saved(model, path):
    cgru.save(model, path)
    return path.read_bytes()


# -- what is saved comes back


def test_round_trip(model, path):
    cgru.save(model, path)
    again = cgru.load(path)
    assert_same_model(again, model)
    cgru.save(again, path.with_name("again"))
    assert path.with_name("again").read_bytes() == path.read_bytes()


def test_the_loaded_model_computes_the_same(rng, path):
    model = make_sequential(rng)
    ids = rng.integers(0, 11, (N, T))
    expected = model.predict(ids, lengths=checks.LENGTHS)
    cgru.save(model, path)
    again = cgru.load(path)
    checks.assert_same_arrays(again.predict(ids, lengths=checks.LENGTHS), expected)
    again.compile(loss="sparse_categorical_crossentropy")
    again.fit(ids, rng.integers(0, 4, (N, T)), verbose=0)
    assert not (again.parameters["3.kernel"] == model.parameters["3.kernel"]).all()


def test_a_loaded_layer_is_a_layer(rng, path):
    layer = random_gru(rng, return_state=True)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    expected = layer(x, h0)
    cgru.save(layer, path)
    again = cgru.load(path)
    checks.assert_same_arrays(again(x, h0), expected)
    checks.assert_same_arrays(pickle.loads(pickle.dumps(again))(x, h0), expected)
    with again.update() as parameters:
        parameters["bias"] += 1
    assert not (again(x, h0)[0] == expected[0]).any()
    with pytest.raises(ValueError, match="built for 2 input features"):
        again.build(D + 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_bit_pattern_comes_back(dtype, path, rng):
    layer = built(cgru.Dense(64, dtype=dtype, use_bias=False), 64)
    bits = rng.integers(0, 256, (64, 64 * layer.dtype.itemsize), np.uint8)  # NaN with payloads, subnormal numbers
    with layer.update() as parameters:
        parameters["kernel"].view(np.uint8)[:] = bits
    cgru.save(layer, path)
    assert cgru.load(path).parameters["kernel"].tobytes() == bits.tobytes()


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_paths(kind, tmp_path, monkeypatch):
    letter = "ä" if sys.getfilesystemencoding() == "utf-8" else "a"  # others may lack it
    path = kind(tmp_path / f"ein Modell {letter}.safetensors")
    cgru.save(cgru.Dropout(0.5), path)
    assert cgru.load(path).rate == 0.5
    monkeypatch.chdir(tmp_path)
    cgru.save(cgru.Dropout(0.75), kind("relative"))
    assert cgru.load(kind("relative")).rate == 0.75


# -- the format


def test_layout(path):
    layer = built(cgru.Dense(3), 5)
    data = saved(layer, path)
    header, tensors = parts_of(data)
    metadata = header.pop("__metadata__")
    assert header == {
        "bias": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "kernel": {"dtype": "F32", "shape": [5, 3], "data_offsets": [12, 72]},
    }
    assert tensors == b"".join(layer.parameters[name].astype("<f4").tobytes() for name in ("bias", "kernel"))
    assert (len(data) - len(tensors)) % 8 == 0
    assert metadata["format"] == "cgru" and metadata["format_version"] == "1"
    assert metadata["cgru_version"] == cgru.__version__ and metadata["class"] == "Dense"
    assert json.loads(metadata["config"]) == layer.get_config()
    assert metadata["sha256"] == hashlib.sha256(tensors).hexdigest()
    assert file_of(header | {"__metadata__": metadata}, tensors) == file_of(
        header | {"__metadata__": metadata}, tensors, rehash=False
    )


def test_the_safetensors_package_reads_ours(model, path):
    cgru.save(model, path)
    theirs = safetensors.numpy.load_file(path)
    assert theirs.keys() == model.parameters.keys()
    for name, array in model.parameters.items():
        checks.assert_same_arrays([theirs[name]], [array], name)
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["config"]) == model.get_config()


def test_we_read_what_the_safetensors_package_wrote_of_ours(model, path):
    """Its writer puts the tensors into the same order, so that both hashes stay true."""
    cgru.save(model, path)
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata=metadata)
    assert_same_model(cgru.load(path), model)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_tensors_of_others(rng, path, metadata):
    theirs = {
        "gru.weight_ih_l0": rng.standard_normal((3 * H, D)).astype("float32"),
        "step": np.array(7, "int64"),
        "empty": np.zeros((0, 5), "float64"),
        "half": rng.standard_normal((3, 2)).astype("float16"),
        "flags": np.array([True, False, True]),
        **{f"u{i}": rng.integers(0, 200, (i, 3)).astype(f"uint{i}") for i in (8, 16, 32, 64)},
        **{f"i{i}": rng.integers(-100, 100, (i, 3)).astype(f"int{i}") for i in (8, 16, 32, 64)},
    }
    safetensors.numpy.save_file(theirs, path, metadata=metadata)
    ours = cgru.files.load_tensors(path)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        checks.assert_same_arrays([ours[name]], [array], name)
        assert ours[name].dtype.isnative
    got = repr(metadata["format"]) if metadata else "none"
    with pytest.raises(ValueError, match=rf"expected the format 'cgru', .*got {got}\. .*load_tensors"):
        cgru.load(path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_state_dict_of_pytorch(rng, path, dtype):
    state_dict = {
        f"encoder.gru.{name}_l0": rng.standard_normal(shape).astype(dtype)
        for name, shape in (("weight_ih", (3 * H, D)), ("weight_hh", (3 * H, H)))
    }
    safetensors.numpy.save_file(state_dict | {"head.weight": np.ones((3, H), dtype)}, path, metadata={"format": "pt"})
    layer = cgru.from_torch(cgru.files.load_tensors(path), "encoder.gru")
    assert layer.dtype == ("float64" if dtype == "float64" else "float32")
    checks.assert_same_arrays(layer.parameters, cgru.from_torch(state_dict).parameters)


def test_bfloat16_widens(path):
    data = np.array([0x3F80, 0xC040, 0x7F80, 0x0001], "<u2")
    path.write_bytes(file_of({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}, data.tobytes()))
    w = cgru.files.load_tensors(path)["w"]
    checks.assert_same_arrays([w], [np.array([[1, -3], [np.inf, 2.0**-133]], "float32")])


# -- arguments


class MyDense(cgru.Dense):
    pass


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: 3, TypeError, "model: expected one of Dense, .* got int"),
        (lambda: built(MyDense(3), 2), TypeError, "subclasses cannot be saved.*got MyDense"),
        (lambda: cgru.Sequential([cgru.Dropout(0.5), built(MyDense(3), 2)]), TypeError, "got MyDense at index 1"),
        (lambda: cgru.Dense(3), RuntimeError, "no parameters yet"),
        (lambda: cgru.Sequential([cgru.GRU(3), cgru.Dense(2)]), RuntimeError, r"layer 0 \(GRU\) has no parameters yet"),
    ],
)
def test_what_cannot_be_saved(path, model, error, message):
    cgru.save(cgru.Dropout(0.5), path)
    with pytest.raises(error, match=message):
        cgru.save(model(), path)
    assert cgru.load(path).rate == 0.5 and os.listdir(path.parent) == [path.name]


def save_dropout(path):
    cgru.save(cgru.Dropout(0.5), path)


@pytest.mark.parametrize("function", [cgru.load, cgru.files.load_tensors, save_dropout])
@pytest.mark.parametrize(
    ("path", "error", "message"),
    [(3, TypeError, "path: expected a str or os.PathLike, got int"), (b"x", TypeError, "got bytes"),
     (None, TypeError, "got NoneType"), ("", ValueError, "path: expected the name of a file")],
)  # fmt: skip
def test_what_is_no_path(function, path, error, message):
    with pytest.raises(error, match=message):
        function(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        cgru.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        cgru.save(cgru.Dropout(0.5), tmp_path / "nowhere" / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        cgru.save(cgru.Dropout(0.5), tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


# -- saving is atomic


def test_an_error_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    cgru.save(cgru.Dropout(0.5), path)
    old = path.read_bytes()
    for name in ("fsync", "replace"):
        for error in (OSError("disk full"), KeyboardInterrupt()):
            with monkeypatch.context() as patch, pytest.raises(type(error)):
                patch.setattr(os, name, lambda *args, error=error: (_ for _ in ()).throw(error))
                cgru.save(cgru.Dropout(0.75), path)
            assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="kills a process with a signal")
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file(path, call):
    cgru.save(cgru.Dropout(0.5), path)
    code = f"""
import os, signal, sys, cgru
os.{call} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
cgru.save(cgru.Dropout(0.75), sys.argv[1])
"""
    done = children.python("-c", code, path)
    assert done.returncode == -signal.SIGKILL
    assert cgru.load(path).rate == 0.5
    cgru.save(cgru.Dropout(0.25), path)
    assert cgru.load(path).rate == 0.25


def test_the_bytes_are_on_the_disk_before_the_name_is(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, f=function, n=name: (calls.append(n), f(*args)))
    cgru.save(cgru.Dropout(0.5), path)
    assert calls[:2] == ["fsync", "replace"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_a_new_file(path, mask):
    old = os.umask(mask)
    try:
        cgru.save(cgru.Dropout(0.5), path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        assert os.umask(mask) == mask
    finally:
        os.umask(old)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_stays_a_link(path):
    target = path.with_name("folder")
    target.mkdir()
    path.symlink_to(target / "real")
    cgru.save(cgru.Dropout(0.5), path)
    assert path.is_symlink() and os.listdir(target) == ["real"]


def test_readers_see_whole_files(path):
    """While one thread saves again and again, the others load one of the two models."""
    models = [built(cgru.Dense(31, kernel_initializer="zeros", bias_initializer=b), 37) for b in ("zeros", "uniform")]
    cgru.save(models[0], path)
    done, errors = threading.Event(), []

    def read():
        while not done.is_set():
            try:
                assert cgru.load(path).parameters["kernel"].shape == (37, 31)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(100):
        cgru.save(models[i % 2], path)
    done.set()
    for thread in threads:
        thread.join()
    assert not errors


# -- altered and truncated files


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(path to write to, model, its bytes): with two tensors of equal shape, and letters and digits to change."""
    model = cgru.Sequential([cgru.GRU(3, seed=1), cgru.GRU(3, seed=2), cgru.Dropout(0.25)], seed=7).build(3)
    path = tmp_path_factory.mktemp("altered") / "model"
    return path, model, saved(model, path)


def loads_the_same_or_raises(path, model, data):
    path.write_bytes(data)
    try:
        again = cgru.load(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error)) < 1000
        return False
    assert_same_model(again, model)
    return True


@checks.examples(1000)
@given(data=st.data())
def test_one_altered_byte(small, data):
    path, model, original = small
    position = data.draw(st.integers(0, len(original) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != original[position]))
    loads_the_same_or_raises(path, model, original[:position] + bytes([value]) + original[position + 1 :])


def test_a_flipped_bit_anywhere(small):
    """Only a blank of the header may become another one."""
    path, model, original = small
    for position in range(len(original)):
        altered = bytearray(original)
        altered[position] ^= 1 << position % 8
        if loads_the_same_or_raises(path, model, bytes(altered)):
            assert original[position] in b" " and altered[position] in b" \t\n\r"


@checks.examples(300)
@given(data=st.data())
def test_altered_stretches(small, data):
    path, model, original = small
    begin = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(begin, min(len(original), begin + 64)))
    loads_the_same_or_raises(path, model, original[:begin] + data.draw(st.binary(max_size=64)) + original[end:])


def test_a_truncated_or_longer_file(small):
    path, model, original = small
    for length in range(0, len(original), 7):
        assert not loads_the_same_or_raises(path, model, original[:length])
    assert not loads_the_same_or_raises(path, model, original[:-1])
    assert not loads_the_same_or_raises(path, model, original + b"\0")
    assert loads_the_same_or_raises(path, model, original)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["__metadata__"].update(sha256="0" * 64), "the tensors were altered"),
        (lambda h: h["__metadata__"].pop("sha256"), "metadata: expected .*got none of sha256"),
        (lambda h: h["__metadata__"].pop("header_sha256"), "got none of header_sha256"),
        (lambda h: h["__metadata__"].update(format_version="3", cgru_version="9.1"), "got 3, written by cgru 9.1"),
    ],
)
def test_metadata_that_is_wrong(small, change, message):
    path, _, original = small
    header, tensors = parts_of(original)
    change(header)
    path.write_bytes(file_of(header, tensors))
    with pytest.raises(ValueError, match=message):
        cgru.load(path)


@pytest.mark.parametrize("size", ["[null, 3]", "[7, 3]", f"[{10**30}, 3]"])
@pytest.mark.parametrize("kind", [None, "float16", "int8"])
def test_ids_have_no_features_whatever_a_file_says(path, kind, size):
    model = cgru.Sequential([cgru.Embedding(5, 3), cgru.GRU(2)], seed=0).build()
    model = model if kind is None else cgru.quantize(model, kind)
    header, tensors = parts_of(saved(model, path))
    header["__metadata__"]["input_size"] = size
    path.write_bytes(file_of(header, tensors))
    again, ids = cgru.load(path), np.array([[1, 4]])
    assert np.array_equal(again(ids), model(ids)) and again.layers[0].input_size == 1


def test_two_tensors_that_changed_names(small):
    path, _, original = small
    header, tensors = parts_of(original)
    header["0.kernel"], header["1.kernel"] = header["1.kernel"], header["0.kernel"]
    path.write_bytes(file_of(header, tensors, rehash=False))
    with pytest.raises(ValueError, match="the header was altered"):
        cgru.load(path)


# -- hostile files: the hash of the header is right, so that nothing but the check in question stands in the way


@contextlib.contextmanager
def little_memory_and_time(size):
    """At most some seconds of processor time, and memory in proportion to the file's size."""
    tracemalloc.start()
    started = time.thread_time()
    try:
        yield
        elapsed = time.thread_time() - started
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 * size + 300_000, f"{peak} bytes"
    assert elapsed < 3 + size / 200_000, f"{elapsed} s"  # generous: tracing slows the parser down, machines differ


def refused(path, data, message, function=cgru.load):
    path.write_bytes(data)
    with little_memory_and_time(len(data)), pytest.raises(ValueError, match=message) as caught:
        function(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 1000


DEEP = 100_000
W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("function", [cgru.load, cgru.files.load_tensors])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got 0 bytes: truncated"),
        (b"1234567", "got 7 bytes: truncated"),
        ((2**60).to_bytes(8, "little") + b"{}", "a header of 1152921504606846976, got 10 bytes"),
        (b"\xff" * 16, "not a safetensors file$"),
        (pickle.dumps({"a": np.ones(30)}), "not a safetensors file; it looks like a pickle"),
        (raw_file(b""), "no valid JSON"),
        (raw_file(b"\xff\xfe{}"), "can't decode byte"),
        (raw_file(b"[]"), "header: expected a JSON object, got list"),
        (raw_file(b"3"), "header: expected a JSON object, got int"),
        (raw_file(b"{} {}"), "no valid JSON"),
        (raw_file(b'{"w":' + b"[" * DEEP + b"]" * DEEP + b"}"), "nested too deeply"),
        (raw_file(b'{"w":' + b'{"w":' * DEEP + b"1" + b"}" * DEEP + b"}"), "nested too deeply"),
        (raw_file(b'{"w":' + b"9" * 5000 + b"}"), "integers of at most 1000 digits, got one of 5000"),
        (raw_file(b'{"w":NaN}'), "finite numbers, got NaN"),
        (raw_file(b'{"w":-Infinity}'), "finite numbers, got -Infinity"),
        (raw_file(b'{"w":1e999}'), "finite numbers, got 1e999"),
        (raw_file(b'{"w":3}'), "w: expected an object of dtype, shape and data_offsets, got 3"),
        (raw_file(b'{"w":{"dtype":"F32","shape":[2]}}', b"8" * 8), "w: expected an object of dtype"),
        (raw_file(b'{"__metadata__":[]}'), "__metadata__: expected an object of texts"),
        (raw_file(b'{"__metadata__":{"format":1}}'), "__metadata__: expected an object of texts"),
        (file_of({"w": W | {"more": 1}}, b"8" * 8), "w: expected an object of dtype"),
        (file_of({"w": W | {"dtype": "F31"}}, b"8" * 8), "w: expected a dtype among .* got 'F31'"),
        (file_of({"w": W | {"dtype": ["F32"]}}, b"8" * 8), "w: expected a dtype among"),
        (file_of({"w": W | {"dtype": "float32"}}, b"8" * 8), "w: expected a dtype among"),
        (file_of({"w": W | {"shape": 2}}, b"8" * 8), "w: expected a shape"),
        (file_of({"w": W | {"shape": [2.0]}}, b"8" * 8), "w: expected a shape"),
        (file_of({"w": W | {"shape": [True, 2]}}, b"8" * 8), "w: expected a shape"),
        (file_of({"w": W | {"shape": ["2"]}}, b"8" * 8), "w: expected a shape"),
        (file_of({"w": W | {"shape": [-2]}}, b"8" * 8), "w: expected a shape"),
        (file_of({"w": W | {"shape": [-1, -2]}}, b"8" * 8), "w: expected a shape"),
        (file_of({"w": W | {"shape": [2] + [1] * 32}}, b"8" * 8), "a shape of at most 32 sizes"),
        (file_of({"w": W | {"shape": [2**62, 2**62]}}, b"8" * 8), "w: expected 8507059173.* bytes"),
        (file_of({"w": W | {"shape": [2**63]}}, b"8" * 8), "w: expected a shape"),
        (file_of({"w": W | {"shape": [2**62 + 2]}}, b"8" * 8), "w: expected 1844674407.* bytes"),  # 8 in 64 bits
        (file_of({"w": W | {"shape": [3]}}, b"8" * 8), "w: expected 12 bytes for shape .3. of F32, got 8"),
        (file_of({"w": W | {"data_offsets": [0]}}, b"8" * 8), "w: expected two data_offsets"),
        (file_of({"w": W | {"data_offsets": [8, 0]}}, b"8" * 8), "w: expected 8 bytes .* got -8"),
        (file_of({"w": W | {"data_offsets": [-8, 0]}}, b"8" * 8), "w: expected two data_offsets"),
        (file_of({"w": W | {"data_offsets": [0.0, 8.0]}}, b"8" * 8), "w: expected two data_offsets"),
        (file_of({"w": W | {"data_offsets": [2**60, 2**60 + 8]}}, b"8" * 8), "w: expected to begin at byte 0"),
        (file_of({"w": W}, b"8" * 7), "expected 8 bytes of tensors, got 7"),
        (file_of({"w": W}, b"8" * 9), "expected 8 bytes of tensors, got 9"),
        (file_of({"w": W | {"data_offsets": [1, 9]}}, b"8" * 9), "w: expected to begin at byte 0"),
        (file_of({"v": W, "w": W}, b"8" * 8), "w: expected to begin at byte 8, .*got 0"),
        (file_of({"v": W, "w": W | {"data_offsets": [4, 12]}}, b"8" * 12), "w: expected to begin at byte 8, .*got 4"),
        (file_of({"v": W, "w": W | {"data_offsets": [9, 17]}}, b"8" * 17), "w: expected to begin at byte 8, .*got 9"),
        (raw_file(b'{"w":1,"w":1}'), "expected each name once, got 'w' again"),
        (raw_file(b'{"__metadata__":{"a":"1","a":"2"}}'), "expected each name once, got 'a' again"),
        (raw_file(b'{"' + b"w" * 500_000 + b'":3}'), "wwwwwww"),
    ],
)  # fmt: skip
def test_hostile_headers(path, data, message, function):
    refused(path, data, message, function)


def test_the_safetensors_package_refuses_them_as_well(path):
    """A sample: what overlaps, leaves holes or is too long for the file is no valid file for its reader either."""
    for header, size in [
        ({"v": W, "w": W}, 8),
        ({"v": W, "w": W | {"data_offsets": [9, 17]}}, 17),
        ({"w": W}, 7),
        ({"w": W}, 9),
        ({"w": W | {"shape": [3]}}, 8),
    ]:
        path.write_bytes(file_of(header, b"8" * size))
        with pytest.raises(safetensors.SafetensorError):
            safetensors.numpy.load_file(path)


def gru_file(tmp_path, config=None, metadata=None, drop=(), **options):
    """The bytes of a file of a GRU, with entries of its configuration or metadata replaced."""
    layer = cgru.GRU(H, **{"input_size": D, "seed": 0, **options})
    header, tensors = parts_of(saved(layer, tmp_path / "original"))
    texts = header["__metadata__"]
    texts["config"] = json.dumps({**{k: v for k, v in layer.get_config().items() if k not in drop}, **(config or {})})
    texts.update(metadata or {})
    return file_of(header, tensors)


HUGE = 10**9


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"units": HUGE}, r"kernel: expected shape \(2, 3000000000\) of F32, .* got \(2, 21\) of F32"),
        ({"num_layers": HUGE}, r"expected a tensor 'l0.forward.kernel' of shape \(2, 21\)"),
        ({"num_layers": HUGE, "bidirectional": True}, "expected a tensor 'l0.forward.kernel'"),
        ({"units": 10**100}, "kernel: expected shape"),
        ({"input_size": HUGE}, "expected no 'input_size'"),
        ({"learn_initial_state": True}, "expected a tensor 'initial_state'"),
        ({"use_bias": False}, "and no others, got 'bias' as well"),
        ({"reset_after": True}, r"bias: expected shape \(2, 21\) of F32"),
        ({"dtype": "float64"}, "kernel: expected shape .* of F64"),
        ({"dtype": "object"}, "dtype: expected 'float32' or 'float64'"),
        ({"dtype": "(1000000000,1000)f4"}, "dtype"),
        ({"dtype": ",,f4"}, "dtype"),
        ({"dtype": {"names": ["a"], "formats": ["O"]}}, "dtype: expected"),
        ({"dtype": None}, "dtype: expected"),
        ({"activation": "eval"}, "activation: expected one of"),
        ({"activation": ["tanh"]}, "activation: expected one of"),
        ({"kernel_initializer": "os.system"}, "kernel_initializer: expected one of"),
        ({"kernel_initializer": {}}, "kernel_initializer: expected a dict of 'class'"),
        ({"units": 7.0}, "units: expected an integer, got 7.0"),
        ({"units": True}, "units: expected an integer, got True"),
        ({"units": "7"}, "units: expected an integer, got '7'"),
        ({"units": None}, "units: expected an integer"),
        ({"units": -7}, "units: expected at least 1, got -7"),
        ({"use_bias": 1}, "use_bias: expected True or False, got 1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"attention": True}, "unexpected keyword argument 'attention'"),
        ({"self": 1}, "self"),
    ],
    ids=str,
)
def test_hostile_configurations(tmp_path, path, config, message):
    refused(path, gru_file(tmp_path, config), message)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"class": "Popen"}, "class: expected one of .* got 'Popen'"),
        ({"class": "__import__"}, "class: expected one of"),
        ({"class": "Dense"}, "unexpected keyword argument"),
        ({"class": "Sequential"}, "expected a dict of 'layers' and 'seed'"),
        ({"config": ""}, "config: no valid JSON"),
        ({"config": "[]"}, "config: expected a dict"),
        ({"config": "{}"}, "missing 1 required positional argument: 'units'"),
        ({"config": '{"units":7,"units":7}'}, "expected each name once, got 'units' again"),
        ({"config": '{"units":NaN}'}, "finite numbers, got NaN"),
        ({"config": "[" * DEEP}, "nested too deeply"),
        ({"config": '{"units":' + "[" * 700 + "]" * 700 + "}"}, "units: expected|nested too deeply"),
        ({"input_size": "null"}, "kernel: expected shape"),
        ({"input_size": "1000000000"}, r"kernel: expected shape \(1000000000, 21\)"),
        ({"input_size": "[2]"}, "input_size: expected an integer"),
        ({"input_size": "2.0"}, "input_size: expected an integer"),
        ({"input_size": "true"}, "input_size: expected an integer"),
        ({"input_size": "0"}, "input_size: expected at least 1"),
        ({"input_size": "x"}, "input_size: no valid JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_metadata(tmp_path, path, metadata, message):
    refused(path, gru_file(tmp_path, metadata=metadata), message)


DROPOUT = {"class": "Dropout", "config": {"rate": 0.5}}


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        ({"layers": [], "seed": 0}, [], "layers: expected at least one layer"),
        ({"layers": 3, "seed": 0}, [], "config: expected a list of layers, got 3"),
        ({"layers": "ab", "seed": 0}, [], "config: expected a list of layers"),
        ({"layers": [3], "seed": 0}, [None], "config: expected each layer to be a dict"),
        ({"layers": [{"class": ["GRU"], "config": {}}], "seed": 0}, [None], "config: expected a class among"),
        ({"layers": [{"class": "Sequential", "config": {}}], "seed": 0}, [None], "config: expected a class among"),
        ({"layers": [DROPOUT], "seed": 0, "more": 0}, [None], "config: expected a dict of 'layers' and 'seed'"),
        ({"layers": [DROPOUT], "seed": "a"}, [None], "seed: expected an integer"),
        ({"layers": [DROPOUT], "seed": 0}, [None, 3], "input_size: expected one for each of 1 layers"),
        ({"layers": [DROPOUT], "seed": 0}, 3, "input_size: expected one for each of 1 layers"),
        ({"layers": [{"class": "Dropout", "config": {"rate": 1}}], "seed": 0}, [None], "rate: expected"),
        ({"layers": [{"class": "Dropout", "config": {"rate": 10**400}}], "seed": 0}, [None], "rate: expected"),
        ({"layers": [{"class": "Embedding", "config": {"input_dim": HUGE, "output_dim": HUGE}}], "seed": 0}, [1],
         r"expected a tensor '0.embeddings' of shape \(1000000000, 1000000000\)"),
        ({"layers": [{"class": "Dense", "config": {"units": HUGE}}], "seed": 0}, [HUGE], "a tensor '0.kernel'"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_hostile_models(path, config, sizes, message):
    model = cgru.Sequential([cgru.Dropout(0.5)], seed=0)
    header, tensors = parts_of(saved(model, path))
    header["__metadata__"].update(config=json.dumps(config), input_size=json.dumps(sizes))
    refused(path, file_of(header, tensors), message)


def test_as_many_layers_as_a_header_holds(path):
    """The smallest layers there are: memory and time grow with the file, not with its square."""
    model = cgru.Sequential([cgru.Dropout(0.5)], seed=0)
    header, _ = parts_of(saved(model, path))
    count = 19_000
    config = {"layers": [{"class": "Dropout", "config": {"rate": 0}}] * count + [DROPOUT | {"class": "X"}], "seed": 0}
    header["__metadata__"].update(config=json.dumps(config, separators=(",", ":")))
    data = file_of(header)
    assert 900_000 < len(data) < 1 << 20
    refused(path, data, "config: expected a class among")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of some spellings
@checks.examples(500)
@given(dtype=st.text("Oofc<>=|,(){}[]:'123456789 ", max_size=8) | st.text(max_size=4))
def test_the_dtype_of_a_configuration(dtype):
    """np.dtype takes all kinds of texts: whatever it makes of one, out comes a ValueError or one of the two types."""
    try:
        layer = cgru.Dense.from_config({"units": 3, "dtype": dtype})
    except ValueError as error:
        assert str(error).startswith("dtype: expected 'float32' or 'float64', got")
    else:
        assert layer.dtype in (np.float32, np.float64)
