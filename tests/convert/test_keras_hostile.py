"""Files of Keras that somebody damaged, or made to do harm: a ValueError or OSError that names the file, soon and in
little memory."""

import io
import json
import os
import random
import threading
import time
import tracemalloc
import zipfile

import children
import numpy as np
import pytest

import cgru

h5py = pytest.importorskip("h5py")
H, D = 7, 2


def arrays(rng):
    return [rng.standard_normal(shape) for shape in ((D, 3 * H), (H, 3 * H), (2, 3 * H))]


GRU = {"class_name": "GRU", "config": {
    "name": "gru", "units": H, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True,
    "reset_after": True, "go_backwards": False}}  # fmt: skip


def model(*layers):
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers or [GRU])}}


def hdf5(write):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return buffer.getvalue()


def good(rng):
    def write(file):
        for i, array in enumerate(arrays(rng)):
            file[f"layers/gru/cell/vars/{i}"] = array

    return hdf5(write)


def archive(config, weights, metadata='{"keras_version": "3.9.0"}', compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        for name, data in (("metadata.json", metadata), ("config.json", config), ("model.weights.h5", weights)):
            if data is not None:
                out.writestr(name, data if isinstance(data, (str, bytes)) else json.dumps(data))
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.keras"


def refused(path, data, message=".", name=None):
    path.write_bytes(data)
    tracemalloc.start()
    began = time.thread_time()
    try:
        with pytest.raises((ValueError, OSError), match=message) as caught:
            cgru.from_keras(path, name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.thread_time() - began < 20
    assert peak < 60 * len(data) + (30 << 20), peak
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def test_the_good_file_is_good(rng, path):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(archive(model(), good(rng), compression=compression))
        assert cgru.from_keras(path).units == H


# -- archives


def test_archives_that_unpack_to_much(rng, path):
    weights = good(rng)
    large = bytes(300 << 20)
    for data in (
        archive(model(), large, compression=zipfile.ZIP_DEFLATED),
        archive(b" " * (300 << 20), weights, compression=zipfile.ZIP_DEFLATED),
        archive(model(), weights, b" " * (300 << 20), compression=zipfile.ZIP_DEFLATED),
    ):
        assert len(data) < 1 << 20
        assert str(path) in refused(path, data, "expected what an archive of this size can hold, got 314572800 bytes")


def test_archives_that_lie_about_sizes(path):
    """The directory says that little comes out."""
    data = archive(model(), bytes(100 << 20), compression=zipfile.ZIP_DEFLATED)
    size = (100 << 20).to_bytes(4, "little")
    assert data.count(size) == 2
    for lie in ((500).to_bytes(4, "little"), (0).to_bytes(4, "little"), b"\xff" * 4):
        assert str(path) in refused(path, data.replace(size, lie))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(rng, path, compression):
    refused(path, archive(model(), good(rng), compression=compression), "expected a member that is stored or deflated")


def test_encrypted_and_damaged_archives(rng, path):
    data = archive(model(), good(rng), compression=zipfile.ZIP_DEFLATED)
    encrypted = bytearray(data)
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = 0
        while (start := encrypted.find(signature, start)) >= 0:
            encrypted[start + flags] |= 1
            start += 4
    assert str(path) in refused(path, bytes(encrypted))
    for cut in range(0, len(data), 97):
        assert str(path) in refused(path, data[:cut])
    for position in range(30, len(data), 53):
        damaged = data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]
        path.write_bytes(damaged)
        try:
            cgru.from_keras(path)
        except (ValueError, OSError) as error:
            assert str(path) in str(error)


# -- configs


DEEP = 100_000
OUTER = b'{"class_name":"Sequential","config":{"name":"inner","layers":['
NESTED = OUTER * 100 + json.dumps(GRU).encode() + b"]}}" * 100


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"", "config.json: no valid JSON"),
        (b"\xff\xfe", "config.json: no valid JSON"),
        (b"{", "config.json: no valid JSON"),
        (b'{"class_name": "Sequential", "class_name": "Sequential"}', "expected each name once"),
        (b"[" * DEEP, "nested too deeply"),
        (b'{"config":' * DEEP, "nested too deeply"),
        (b'{"class_name":NaN}', "expected finite numbers"),
        (b"9" * 5000, "integers of at most 1000 digits"),
        ([], "config: expected an object with class_name and config, got"),
        (3, "config: expected an object"),
        ("text", "config: expected an object|no valid JSON"),
        ({}, "config: expected an object"),
        ({"class_name": "Sequential"}, "config: expected an object"),
        ({"class_name": ["Sequential"], "config": {}}, "config: expected an object"),
        ({"class_name": "Sequential", "config": 3}, "config: expected an object"),
        (NESTED, "layers at most 64 deep|nested too deeply"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_configs_that_are_none(rng, path, config, message):
    assert str(path) in refused(path, archive(config, good(rng)), message)


WRONG = [None, True, 3, -1, 10**30, 1.5, "text", "", [], [3], {}, {"a": 1}, [[]], "x" * 10_000]


@pytest.mark.parametrize("key", [*GRU["config"], "use_bias", "stateful", "time_major", "zero_output_for_mask"])
def test_wrong_types_in_the_config_of_a_layer(rng, path, key):
    """A layer, or an error; nothing else comes out, whatever stands where."""
    for wrong in WRONG:
        config = model({"class_name": "GRU", "config": GRU["config"] | {key: wrong}})
        path.write_bytes(archive(config, good(rng)))
        try:
            cgru.from_keras(path)
        except ValueError as error:
            assert len(str(error)) < 1500


@pytest.mark.parametrize("class_name", ["Bidirectional", "RNN", "TimeDistributed", "CuDNNGRU", "GRU", "Sequential"])
def test_wrong_types_in_the_objects_of_a_config(rng, path, class_name):
    """Objects in place of objects, texts and lists in place of both, one in another."""

    def write(file):
        for group in ("gru/cell", "rnn/cell", "rnn/cell/cells/gru_cell", "bidirectional/forward_layer/cell",
                      "bidirectional/backward_layer/cell", "time_distributed/layer/cell"):  # fmt: skip
            for i, array in enumerate(arrays(rng)):
                file[f"layers/{group}/vars/{i}"] = array

    weights, inner = hdf5(write), {"class_name": "GRU", "config": {}}
    stack = {"class_name": "StackedRNNCells", "config": {"cells": [GRU, 3]}}
    for wrong in [*WRONG, GRU, inner, [GRU], stack, {"class_name": "Bidirectional", "config": {"layer": GRU}}]:
        for key in ("layer", "backward_layer", "cell", "cells", "layers", "merge_mode", "name"):
            config = {"name": "one", "layer": GRU, "cell": GRU, "merge_mode": "concat"} | {key: wrong}
            path.write_bytes(archive(model({"class_name": class_name, "config": config}), weights))
            try:
                cgru.from_keras(path)
            except ValueError as error:
                assert len(str(error)) < 1500


def test_directions_of_directions_of_directions(rng, path):
    """Each of two directions would be looked into twice."""
    layer = GRU
    for i in range(60):
        layer = {"class_name": "Bidirectional", "config": {"name": f"b{i}", "layer": layer, "merge_mode": "sum"}}

    def write(file):
        for way in ("forward", "backward"):
            for i, array in enumerate(arrays(rng)):
                file[f"layers/bidirectional/{way}_layer/cell/vars/{i}"] = array

    refused(path, archive(model(layer), hdf5(write)), "expected a GRU or GRUCells, got Bidirectional of something else")


@pytest.mark.parametrize("version", [3, None, "", "x", "3x", "x.y", [3], "9" * 10_000, "²", "٣.0"])
def test_versions_that_are_none(rng, path, version):
    config = model({"class_name": "GRU", "config": GRU["config"] | {"recurrent_activation": "hard_sigmoid"}})
    data = archive(config, good(rng), {"keras_version": version})
    refused(path, data, "expected the version of Keras")
    for metadata in ("[]", "3", "null"):
        refused(path, archive(config, good(rng), metadata), "expected the version of Keras")
    assert str(path) in refused(path, archive(config, good(rng), "{"), "metadata.json: no valid JSON")


# -- HDF5


def external(file, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(8 * D * 3 * H))
    file.create_dataset("layers/gru/cell/vars/0", (D, 3 * H), "f8", external=[(str(secret), 0, 8 * D * 3 * H)])


def virtual(file, tmp_path):
    layout = h5py.VirtualLayout((D, 3 * H), "f8")
    layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (D, 3 * H))
    file.create_virtual_dataset("layers/gru/cell/vars/0", layout)


def sparse(file, tmp_path):
    file.create_dataset("layers/gru/cell/vars/0", (10**12, 3 * H), "f4", chunks=(1000, 21))


def soft_link(file, tmp_path):
    file["elsewhere"] = np.ones((D, 3 * H))
    file["layers/gru/cell/vars/0"] = h5py.SoftLink("/elsewhere")


def external_link(file, tmp_path):
    file["layers/gru/cell/vars/0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "a")


def a_group(file, tmp_path):
    file.create_group("layers/gru/cell/vars/0")


def texts(file, tmp_path):
    file["layers/gru/cell/vars/0"] = np.array([[b"a"] * 3 * H] * D)


def integers(file, tmp_path):
    file["layers/gru/cell/vars/0"] = np.ones((D, 3 * H), int)


def one_dimension(file, tmp_path):
    file["layers/gru/cell/vars/0"] = np.ones(3 * H)


def nothing(file, tmp_path):
    pass


HOSTILE = [external, virtual, sparse, soft_link, external_link, a_group, texts, integers, one_dimension, nothing]


@pytest.mark.parametrize("kind", ["archive", "weights"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_arrays_may_not_be(rng, tmp_path, path, hostile, kind):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.zeros((D, 3 * H))

    def write(file):
        hostile(file, tmp_path)
        for i, array in list(enumerate(arrays(rng)))[1:]:
            file[f"layers/gru/cell/vars/{i}"] = array

    weights = hdf5(write)
    assert str(path) in refused(path, archive(model(), weights) if kind == "archive" else weights)


def test_links_in_circles(rng, path):
    def write(file):
        file.create_group("layers/a/b")
        file["layers/a/b/root"] = file["/"]
        file["layers/a/b/self"] = file["layers/a/b"]
        file["layers/gru/more"] = file["layers"]
        for i, array in enumerate(arrays(rng)):
            file[f"layers/gru/cell/vars/{i}"] = array

    weights = hdf5(write)
    path.write_bytes(weights)
    assert cgru.from_keras(path).units == H
    path.write_bytes(archive(model(), weights))
    assert cgru.from_keras(path).units == H


def test_many_ways_to_every_group(path):
    """2^30 paths lead to the last one."""

    def write(file):
        group = file.create_group("layers")
        for _ in range(30):
            group["b"] = group.create_group("a")
            group = group["a"]

    refused(path, hdf5(write), "expected a GRU, got none")


def test_every_group_in_every_group(path):
    def write(file):
        groups = [file.create_group(f"g{i}") for i in range(120)]
        for group in groups:
            for i, other in enumerate(groups):
                group[f"l{i}"] = other

    refused(path, hdf5(write), "expected a GRU, got none|expected groups at most 64 deep")


def test_groups_in_groups(path):
    def write(file):
        group = file
        for _ in range(3000):
            group = group.create_group("g")

    assert str(path) in refused(path, hdf5(write), "expected groups at most 64 deep")


def legacy(rng, **changes):
    """A file of Keras 2 with some of its attributes and objects replaced."""

    def write(file):
        file.attrs["keras_version"] = changes.get("version", "2.2.4")
        if "config" in changes:
            file.attrs["model_config"] = changes["config"]
        group = file.create_group("model_weights") if "config" in changes else file
        group.attrs["layer_names"] = changes.get("layer_names", [b"gru"])
        own = group.create_group("gru")
        own.attrs["weight_names"] = changes.get("weight_names", [f"gru/{n}:0".encode() for n in ROLES])
        for role, array in zip(ROLES, changes.get("arrays", arrays(rng)), strict=True):
            own[f"gru/{role}:0"] = array

    return hdf5(write)


ROLES = ("kernel", "recurrent_kernel", "bias")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_names": [b"nowhere"]}, "expected 'nowhere' in the HDF5 file"),
        ({"layer_names": [3, 4]}, "expected a list of texts"),
        ({"layer_names": np.ones((2, 2))}, "expected a list of texts"),
        ({"layer_names": [b"gru/gru/kernel:0"]}, "expected a group, got a dataset"),
        ({"layer_names": [b""]}, "expected a GRU, got none"),
        ({"layer_names": [b"../gru", b".."]}, r"expected '\.\.' in the HDF5 file"),
        ({"layer_names": [b"\xff"]}, "can't decode"),
        ({"weight_names": [b"gru/kernel:0"]}, "expected a GRU, got none"),
        ({"weight_names": [b"gru/bias:0", b"gru/recurrent_kernel:0"]}, "expected a GRU, got none"),
        ({"weight_names": [b"x/recurrent_kernel:0"]}, "expected 'x' in the HDF5 file"),
        ({"weight_names": 3}, "expected a list of texts"),
        ({"arrays": ["a", "b", "c"]}, "expected a GRU, got none"),
        ({"config": "{"}, "model_config: no valid JSON"),
        ({"config": "[" * 50_000}, "nested too deeply"),
        ({"config": 3}, "expected a list of texts"),
        ({"config": np.array([b"{}", b"{}"])}, "expected a text as the attribute 'model_config', got 2"),
        ({"config": '{"class_name": "Sequential", "config": 3}'}, "expected an object with class_name and config"),
        ({"version": 3}, "expected a list of texts"),
    ],
    ids=str,
)
def test_files_of_keras_2(rng, tmp_path, changes, message):
    path = tmp_path / "model.h5"
    assert str(path) in refused(path, legacy(rng, **changes), message)


def test_texts_that_are_all_the_same_long_one(tmp_path):
    """Ten thousand references of 16 bytes to one text of a megabyte."""
    path = tmp_path / "model.h5"

    def write(file):
        file.attrs["long"] = "x" * (1 << 20)
        file.attrs["layer_names"] = [f"n{i}" for i in range(4000)]

    data = bytearray(hdf5(write))
    marker = (1 << 20).to_bytes(4, "little")
    reference = next(
        data[i : i + 16]
        for i in range(len(data) - 16)
        if data[i : i + 4] == marker and data[int.from_bytes(data[i + 4 : i + 12], "little") :][:4] == b"GCOL"
    )
    for i in range(len(data) - 16):
        length, address = int.from_bytes(data[i : i + 4], "little"), int.from_bytes(data[i + 4 : i + 12], "little")
        if 1 < length < 6 and data[address : address + 4] == b"GCOL":
            data[i : i + 16] = reference
    assert str(path) in refused(path, bytes(data), "data that a file of .* can hold")


@pytest.mark.parametrize("kind", ["archive", "weights", "legacy"])
def test_damaged_files(rng, tmp_path, kind):
    """Bytes changed at random, also where the archive's checksum does not see it."""
    path, chance = tmp_path / "model.h5", random.Random(0)
    original = {
        "archive": lambda: archive(model(), good(rng)),
        "weights": lambda: good(rng),
        "legacy": lambda: legacy(rng, config=json.dumps(model())),
    }[kind]()
    for _ in range(300):
        data = bytearray(original)
        for _ in range(chance.choice([1, 1, 2, 5])):
            position, size = chance.randrange(len(data)), chance.choice([1, 2, 4, 8])
            data[position : position + size] = chance.choice([bytes(size), b"\xff" * size, chance.randbytes(size)])
        path.write_bytes(data)
        began = time.thread_time()
        try:
            cgru.from_keras(path)
        except (ValueError, OSError) as error:
            assert str(path) in str(error) and len(str(error)) < 2000
        assert time.thread_time() - began < 20


# -- what is no file


def test_paths(tmp_path):
    with pytest.raises(ValueError, match="weights: expected the name of a file, got an empty one"):
        cgru.from_keras("")
    with pytest.raises(FileNotFoundError):
        cgru.from_keras(tmp_path / "nowhere.keras")
    with pytest.raises(OSError, match="is no regular file but a folder"):
        cgru.from_keras(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"\x80\x04" + bytes(300))
    with pytest.raises(ValueError, match=r"expected a .keras, .weights.h5 or .h5 file, got another format: a pickle"):
        cgru.from_keras(tmp_path / "model.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_a_fifo_is_not_waited_for(tmp_path):
    path, errors = tmp_path / "fifo", []
    os.mkfifo(path)

    def call():
        try:
            cgru.from_keras(path)
        except OSError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(children.PATIENCE)
    assert len(errors) == 1 and "exists and is no regular file" in errors[0]
