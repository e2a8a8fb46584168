"""Keras' arrays and files, on plain arrays and on HDF5 written here; tests/parity/test_keras.py has the real thing."""

import io
import json
import sys
import zipfile

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import to_keras

ROLES = ("kernel", "recurrent_kernel", "bias")
N, T, D, H = checks.N, checks.T, checks.D, checks.H


def weights(rng, inputs=D, units=H, bias=True, reset_after=True, dtype="float64"):
    """What get_weights() of a GRU returns."""
    arrays = [rng.standard_normal((inputs, 3 * units)) / 3, rng.standard_normal((units, 3 * units)) / 3]
    if bias:
        arrays.append(rng.standard_normal((2, 3 * units) if reset_after else 3 * units))
    return [array.astype(dtype) for array in arrays]


def run(arrays, x, h0, reset_after):
    """One GRU by the equations of keras/src/layers/rnn/gru.py."""
    kernel, recurrent_kernel, *bias = arrays
    units = len(recurrent_kernel)
    rows = np.zeros((2, 3 * units))
    if bias:
        rows[: len(np.atleast_2d(bias[0]))] = bias[0]
    blocks = [
        dict(zip("zrn", np.split(array, 3, axis=-1), strict=True)) for array in (kernel, recurrent_kernel, *rows)
    ]
    return checks.foreign_gru(x, h0, *blocks, reset_after=reset_after, z_weighs="old")


def problem(rng):
    return rng.standard_normal((N, T, D)), rng.uniform(-1, 1, (N, H))


# -- plain arrays


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_outputs_are_those_of_the_formula(rng, reset_after, bias):
    arrays, (x, h0) = weights(rng, bias=bias, reset_after=reset_after), problem(rng)
    layer = cgru.from_keras(arrays, reset_after=reset_after)
    y, h = layer(x, initial_state=h0)
    expected = run(arrays, x, h0, reset_after)
    checks.assert_close(y, expected, 1e-14)
    checks.assert_close(h, expected[:, -1], 1e-14)
    back = cgru.from_keras(arrays, reset_after=reset_after, go_backwards=True)
    checks.assert_close(back(x, initial_state=h0)[0], run(arrays, x[:, ::-1], h0, reset_after), 1e-14)


def test_both_directions(rng):
    arrays, (x, h0) = weights(rng) + weights(rng), problem(rng)
    layer = cgru.from_keras(arrays, merge_mode="sum")  # D and H differ: these are no stack
    y, _ = layer(x, initial_state=np.stack([h0, -h0]))
    expected = run(arrays[:3], x, h0, True) + run(arrays[3:], x[:, ::-1], -h0, True)[:, ::-1]
    checks.assert_close(y, expected, 1e-14)
    assert layer.bidirectional and layer.zero_output_for_mask


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_round_trip_to_the_bit(rng, reset_after, bias, dtype):
    kind = {"bias": bias, "reset_after": reset_after, "dtype": dtype}
    one, same, wide = weights(rng, D, H, **kind), weights(rng, H, H, **kind), weights(rng, 2 * H, H, **kind)
    other = weights(rng, H, 5, **kind)
    for arrays, options, is_gru in (
        (one, {}, True),
        (one + same, {"bidirectional": False}, True),
        (one + other, {}, False),
        ([one, other], {}, False),
        (one + one, {"bidirectional": True}, True),
        ([one + one, wide + wide], {"bidirectional": True}, True),
    ):
        layer = cgru.from_keras(arrays, reset_after=None if bias else reset_after, **options)
        assert isinstance(layer, cgru.GRU if is_gru else cgru.Sequential)
        first = layer if is_gru else layer.layers[0]
        assert first.reset_after == reset_after and first.return_sequences and first.return_state
        assert first.dtype == dtype and first.zero_output_for_mask == first.bidirectional
        checks.assert_same_arrays(to_keras(layer), arrays)


def test_arrays_under_their_names(rng):
    arrays = dict(zip(ROLES, weights(rng), strict=True))
    plain = cgru.from_keras(arrays)
    checks.assert_same_arrays(to_keras(plain), arrays)
    assert not cgru.from_keras(arrays | {"bias": None}, reset_after=True).use_bias
    long = {f"bi/{way}_gru/gru_cell/{name}:0": a for way in ("forward", "backward") for name, a in arrays.items()}
    assert cgru.from_keras(long).bidirectional
    with pytest.raises(ValueError, match=r"^bidirectional: expected True, as bi/forward_gru/gru_cell is, got False"):
        cgru.from_keras(long, bidirectional=False)
    two = {f"{way}/gru_cell/{name}": array for way in ("encoder", "decoder") for name, array in arrays.items()}
    two["dense/kernel"] = np.ones((3, 3))
    with pytest.raises(ValueError, match=r"^name: expected a part of one of \['encoder/gru_cell', 'decoder/gru_c"):
        cgru.from_keras(two)
    checks.assert_same_arrays(to_keras(cgru.from_keras(two, "decoder")), arrays)
    with pytest.raises(ValueError, match=r"^name: expected a part of one of .*, got 'gru'"):
        cgru.from_keras(two, "gru")
    with pytest.raises(ValueError, match=r"^weights: expected kernel, recurrent_kernel and bias, got dense/kernel"):
        cgru.from_keras({"dense/kernel": np.ones((3, 3))})


def test_half_precision_widens(rng):
    arrays = weights(rng, dtype="float16")
    layer = cgru.from_keras(arrays)
    assert layer.dtype == "float32"
    checks.assert_same_arrays(to_keras(layer), [array.astype("float32") for array in arrays])


def test_what_shapes_do_not_tell_is_asked_for(rng):
    square = weights(rng, H, H)
    with pytest.raises(ValueError, match=r"^bidirectional: expected True or False, because .* 2 cells allow both"):
        cgru.from_keras(square + square)
    assert cgru.from_keras(square + square, bidirectional=False).num_layers == 2
    with pytest.raises(ValueError, match=r"^reset_after: expected True or False, because arrays without a bias"):
        cgru.from_keras(weights(rng, bias=False))
    tiny = [np.ones((2, 6))] * 6  # two cells with biases, or three without
    with pytest.raises(ValueError, match=r"^weights: expected a list for each cell, because the shapes do not tell"):
        cgru.from_keras(tiny, bidirectional=False)
    assert cgru.from_keras([tiny[:3], tiny[3:]], bidirectional=False).num_layers == 2


def test_a_learned_initial_state(rng):
    arrays, (x, _) = weights(rng), problem(rng)
    h0 = rng.uniform(-1, 1, H)
    layer = cgru.from_keras(arrays, initial_state=h0)
    checks.assert_close(layer(x)[0], run(arrays, x, np.tile(h0, (N, 1)), True), 1e-14)
    with pytest.raises(ValueError, match=r"^Keras: cannot convert a learned initial .*without_initial_state=True"):
        to_keras(layer)
    checks.assert_same_arrays(to_keras(layer, without_initial_state=True), arrays)
    stack = cgru.from_keras([arrays, weights(rng, H, 5)], initial_state=[h0, rng.uniform(-1, 1, 5)])
    assert [part.learn_initial_state for part in stack.layers] == [True, True]
    with pytest.raises(ValueError, match=r"^initial_state: expected one for each of 1 cells, got 2"):
        cgru.from_keras(arrays, initial_state=np.ones((2, H)))
    with pytest.raises(ValueError, match=r"^initial_state: expected shape \(H,\) = \(7,\), got \(8,\)"):
        cgru.from_keras(arrays, initial_state=np.ones(8))


def test_options_are_carried(rng):
    options = {"activation": "relu", "recurrent_activation": "hard_sigmoid_keras2", "go_backwards": True,
               "stateful": True, "time_major": True, "zero_output_for_mask": True}  # fmt: skip
    config = cgru.from_keras(weights(rng), **options).get_config()
    assert {name: config[name] for name in options} == options


def test_the_cudnn_layout(rng):
    """Each gate's (D, H) holds, row by row, the (H, D) that cuDNN multiplies from the left."""
    arrays, (x, h0) = weights(rng), problem(rng)
    gates = [np.split(array, 3, axis=1) for array in arrays[:2]]
    cudnn = [
        np.concatenate([np.ascontiguousarray(gate.T).reshape(D, H) for gate in gates[0]], axis=1),
        np.concatenate([gate.T for gate in gates[1]], axis=1),
        np.concatenate(arrays[2]),
    ]
    layer = cgru.from_keras(cudnn)
    assert layer.reset_after
    checks.assert_same_arrays(to_keras(layer), arrays)
    checks.assert_same_arrays(to_keras(layer, cudnn=True), cudnn)
    checks.assert_close(layer(x, initial_state=h0)[0], run(arrays, x, h0, True), 1e-14)
    with pytest.raises(ValueError, match=r"^CuDNNGRU: cannot convert reset_after=False exactly"):
        to_keras(cgru.GRU(H, input_size=D), cudnn=True)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([], "weights: expected kernel, recurrent_kernel and bias, or the first two, for each cell, got 0 arrays"),
        ([np.ones((2, 6))], "weights: expected kernel, .* got 1 arrays of shapes \\(2, 6\\)"),
        ([np.ones((5, 6)), np.ones((2, 9)), np.ones(6)], r"weights\[1\] \(recurrent_kernel\): expected shape"),
        ([np.ones((5, 6)), np.ones((2, 6)), np.ones(7)], r"weights\[2\] \(bias\): expected shape \(3H,\) = \(6,\)"),
        ([np.ones((5, 6)), np.ones((3, 6))], r"weights\[1\] \(recurrent_kernel\): expected shape \(H, 3H\) = \(3, 9\)"),
        ({"kernel": np.ones((5, 6)), "recurrent_kernel": np.ones((2, 6)), "bias": np.ones(7)},
         r"bias: expected shape \(3H,\) = \(6,\), got \(7,\)"),
        ({"kernel": np.ones((5, 9)), "recurrent_kernel": np.ones((2, 6))},
         r"kernel: expected shape \(D, 3H\) = \(5, 6\), got \(5, 9\)"),
        ({"recurrent_kernel": np.ones((2, 6))}, "weights: expected an array 'kernel', got recurrent_kernel"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_named(arrays, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        cgru.from_keras(arrays, reset_after=False)


def test_a_bias_that_contradicts_reset_after(rng):
    with pytest.raises(ValueError, match=r"^weights\[2\] \(bias\): expected shape \(2, 3H\) = \(2, 21\), got \(21,\)"):
        cgru.from_keras(weights(rng, reset_after=False), reset_after=True)
    with pytest.raises(ValueError, match=r"^weights\[2\] \(bias\): expected shape \(3H,\) = \(21,\), got \(2, 21\)"):
        cgru.from_keras(weights(rng), reset_after=False)
    both = weights(rng) + weights(rng, reset_after=False)
    with pytest.raises(ValueError, match=r"^weights: expected two directions of one form"):
        cgru.from_keras(both, bidirectional=True)


def test_other_objects():
    for wrong in (None, 3, cgru.GRU(2, input_size=3)):
        with pytest.raises(TypeError, match=r"^weights: expected a .*layer or model of Keras.*, got \w+"):
            cgru.from_keras(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recurrent_activation": "tanh"}, "recurrent_activation='tanh' exactly: .*sigmoid, hard_sigmoid"),
        ({"reverse": True}, "reverse=True exactly: .*go_backwards"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    layer = cgru.GRU(H, input_size=D, **options)
    with pytest.raises(ValueError, match=rf"^Keras: cannot convert {message}"):
        to_keras(layer)
    if "recurrent_activation" in options:
        with pytest.raises(ValueError, match=rf"^Keras: cannot convert {message}"):
            cgru.from_keras(weights(rng), **options)


# -- files, written as Keras writes them


def gru_config(name="gru", **changes):
    return {
        "class_name": "GRU",
        "config": {"name": name, "units": H, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True,
                   "reset_after": True, "return_sequences": False, "go_backwards": False} | changes,
    }  # fmt: skip


def model_config(*layers, name="model", class_name="Sequential"):
    return {"class_name": class_name, "config": {"name": name, "layers": [
        {"class_name": "InputLayer", "config": {"name": "input"}}, *layers
    ]}}  # fmt: skip



def store(file, path, arrays):
    for i, array in enumerate(arrays):
        file[f"{path}/vars/{i}"] = array


def archive(path, config, stored, version="3.9.0"):
    """A .keras file: `stored` has the group of each cell and its arrays."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for group, arrays in stored.items():
            store(file, group, arrays)
    with zipfile.ZipFile(path, "w") as out:
        if version:
            out.writestr("metadata.json", json.dumps({"keras_version": version}))
        out.writestr("config.json", json.dumps(config))
        out.writestr("model.weights.h5", buffer.getvalue())
    return path


def legacy(path, layers, config=None, version="2.2.4"):
    """A .h5 file of Keras 2: `layers` has for each layer its weights by name."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        group = file
        if config:
            file.attrs["model_config"] = json.dumps(config).encode()
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group.create_group(name).attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                group[name][key] = array
    return path


def named(prefix, arrays):
    return {f"{prefix}/{role}:0": array for role, array in zip(ROLES, arrays, strict=True)}


def test_a_keras_archive(rng, tmp_path):
    first, forward, backward, deep = (weights(rng) for _ in range(4))
    second = weights(rng)
    inner = gru_config("inner")
    config = model_config(
        gru_config("first", recurrent_activation="hard_sigmoid", zero_output_for_mask=True),
        {"class_name": "Bidirectional", "config": {"name": "both", "merge_mode": "sum", "layer": inner}},
        model_config(gru_config("deep", go_backwards=True), name="sub", class_name="Functional"),
        stack_config(12),
        gru_config("second"),
    )
    # Twelve equal cells: gru_cell_10 comes before gru_cell_2 in the file.
    stack = [weights(rng, D if i == 0 else H) for i in range(12)]
    stored = {
        "layers/gru/cell": first,
        "layers/gru_1/cell": second,
        "layers/bidirectional/forward_layer/cell": forward,
        "layers/bidirectional/backward_layer/cell": backward,
        "layers/functional/layers/gru/cell": deep,
    } | {f"layers/rnn/cell/cells/gru_cell{f'_{i}' if i else ''}": cell for i, cell in enumerate(stack)}
    path = archive(tmp_path / "model.keras", config, stored)

    layer = cgru.from_keras(path, "first")
    checks.assert_same_arrays(to_keras(layer), first)
    assert layer.recurrent_activation == "hard_sigmoid" and layer.zero_output_for_mask
    layer = cgru.from_keras(str(path), "both")
    checks.assert_same_arrays(to_keras(layer), forward + backward)
    assert layer.bidirectional and layer.merge_mode == "sum"
    layer = cgru.from_keras(path, "deep")
    checks.assert_same_arrays(to_keras(layer), deep)
    assert layer.go_backwards and layer.return_sequences
    layer = cgru.from_keras(path, "stack")
    checks.assert_same_arrays(to_keras(layer), stack)
    assert layer.num_layers == 12
    checks.assert_same_arrays(to_keras(cgru.from_keras(path, "second")), second)
    message = r"^name: expected one of \['first', 'both', 'sub/deep', 'stack', 'second'\], for .*, got (None|'third')$"
    for name in (None, "third"):
        with pytest.raises(ValueError, match=message):
            cgru.from_keras(path, name)


@pytest.mark.parametrize(("version", "name"), [("2.15.0", "hard_sigmoid_keras2"), ("3.0.5", "hard_sigmoid")])
def test_hard_sigmoid_is_that_of_the_version(rng, tmp_path, version, name):
    config = model_config(gru_config(recurrent_activation="hard_sigmoid"))
    path = archive(tmp_path / "model.keras", config, {"layers/gru/cell": weights(rng)}, version)
    assert cgru.from_keras(path).recurrent_activation == name
    unknown = archive(tmp_path / "old.keras", config, {"layers/gru/cell": weights(rng)}, version=None)
    with pytest.raises(ValueError, match=r"^gru: expected the version of Keras beside recurrent_activation='hard_sig"):
        cgru.from_keras(unknown)
    assert cgru.from_keras(unknown, recurrent_activation=name).recurrent_activation == name


def test_the_groups_of_keras_2_13(rng, tmp_path):
    arrays = weights(rng)
    path = tmp_path / "model.keras"
    archive(path, model_config(gru_config()), {"_layer_checkpoint_dependencies/gru/cell": arrays}, "2.13.1")
    checks.assert_same_arrays(to_keras(cgru.from_keras(path)), arrays)


def test_weights_alone(rng, tmp_path):
    """No config: layers are found by what they hold, and called by their names or their groups."""
    h5py = pytest.importorskip("h5py")
    one, forward, backward = weights(rng, reset_after=False), weights(rng), weights(rng)
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        store(file, "layers/gru/cell", one)
        file.create_group("layers/gru/vars").attrs["name"] = "encoder"
        store(file, "layers/bidirectional/forward_layer/cell", forward)
        store(file, "layers/bidirectional/backward_layer/cell", backward)
        store(file, "layers/dense", [np.ones((3, 3)), np.ones(3)])
        store(file, "layers/lstm/cell", [np.ones((D, 4 * H)), np.ones((H, 4 * H)), np.ones(4 * H)])
    path = tmp_path / "model.weights.h5"
    checks.assert_same_arrays(to_keras(cgru.from_keras(path, "encoder")), one)
    both = cgru.from_keras(path, "layers/bidirectional")
    checks.assert_same_arrays(to_keras(both), forward + backward)
    assert both.bidirectional
    with pytest.raises(ValueError, match=r"^name: expected one of \['layers/bidirectional', 'encoder'\]"):
        cgru.from_keras(path)


def test_bfloat16_widens(rng, tmp_path):
    h5py = pytest.importorskip("h5py")
    arrays = [(a.astype("float32").view("uint32") >> 16 << 16).view("float32") for a in weights(rng, dtype="float32")]
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for i, array in enumerate(arrays):
            file[f"layers/gru/cell/vars/{i}"] = (array.view("uint32") >> 16).astype("uint16").view("V2")
            file[f"layers/gru/cell/vars/{i}"].attrs["dtype"] = "bfloat16"
    checks.assert_same_arrays(to_keras(cgru.from_keras(tmp_path / "model.weights.h5")), arrays)


def test_legacy_files(rng, tmp_path):
    one, forward, backward, deep = weights(rng, reset_after=False), weights(rng), weights(rng), weights(rng)
    bidirectional = named("bidirectional_1/forward_gru_2", forward) | named("bidirectional_1/backward_gru_2", backward)
    layers = {
        "gru_1": named("gru_1", one),
        "bidirectional_1": bidirectional,
        "dense_1": {"dense_1/kernel:0": np.ones((3, 3)), "dense_1/bias:0": np.ones(3)},
    }
    path = legacy(tmp_path / "weights.h5", layers)
    checks.assert_same_arrays(to_keras(cgru.from_keras(path, "gru_1")), one)
    assert cgru.from_keras(path, "bidirectional_1").bidirectional
    checks.assert_same_arrays(to_keras(cgru.from_keras(path, "bidirectional_1")), forward + backward)

    # model.save(): its config is read; a Sequential's was a bare list once
    inner = gru_config("gru_2", reset_after=True, activation="relu")
    config = model_config(
        gru_config("gru_1", reset_after=False, recurrent_activation="hard_sigmoid"),
        {"class_name": "Bidirectional", "config": {"name": "bidirectional_1", "merge_mode": "ave", "layer": inner}},
        model_config(gru_config("deep"), name="model_1", class_name="Model"),
    )
    layers["model_1"] = named("deep/gru_cell", deep) | named("other/gru_cell", weights(rng))
    for form in (config, {"class_name": "Sequential", "config": config["config"]["layers"]}):
        path = legacy(tmp_path / "model.h5", layers, form)
        layer = cgru.from_keras(path, "gru_1")
        assert layer.recurrent_activation == "hard_sigmoid_keras2" and not layer.reset_after
        layer = cgru.from_keras(path, "bidirectional_1")
        assert (layer.merge_mode, layer.activation, layer.bidirectional) == ("ave", "relu", True)
        checks.assert_same_arrays(to_keras(layer), forward + backward)
        checks.assert_same_arrays(to_keras(cgru.from_keras(path, "deep")), deep)


def test_a_legacy_cudnn_gru(rng, tmp_path):
    arrays = weights(rng)
    cudnn = to_keras(cgru.from_keras(arrays), cudnn=True)
    config = model_config({"class_name": "CuDNNGRU", "config": {"name": "cu", "units": H, "return_sequences": True}})
    path = legacy(tmp_path / "model.h5", {"cu": named("cu", cudnn)}, config)
    checks.assert_same_arrays(to_keras(cgru.from_keras(path)), arrays)


def test_names_of_weights_in_pieces(rng, tmp_path):
    h5py = pytest.importorskip("h5py")
    arrays = weights(rng)
    path = legacy(tmp_path / "weights.h5", {"gru": named("gru/gru_cell", arrays)})
    with h5py.File(path, "r+") as file:
        names = list(file["gru"].attrs["weight_names"])
        del file["gru"].attrs["weight_names"]
        file["gru"].attrs["weight_names0"], file["gru"].attrs["weight_names1"] = names[:2], names[2:]
    checks.assert_same_arrays(to_keras(cgru.from_keras(path)), arrays)


def stack_config(count, name="stack"):
    cells = [{"class_name": "GRUCell", "config": gru_config(f"cell{i}")["config"]} for i in range(count)]
    stacked = {"class_name": "StackedRNNCells", "config": {"cells": cells}}
    return {"class_name": "RNN", "config": {"name": name, "cell": stacked}}


def bidirectional_config(**changes):
    forward, backward = gru_config("f"), gru_config("b", go_backwards=True)
    return {"class_name": "Bidirectional", "config": {
        "name": "both", "merge_mode": "concat", "layer": forward, "backward_layer": backward} | changes}  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (bidirectional_config(layer=stack_config(2), backward_layer=None),
         r"both: cannot convert two directions of stacked cells exactly"),
        (gru_config(activation="swish"), r"gru: cannot convert activation='swish' exactly"),
        (gru_config(recurrent_activation={"class_name": "f"}), r"gru: cannot convert recurrent_activation=\{"),
        (gru_config(recurrent_activation="relu"), r"Keras: cannot convert recurrent_activation='relu' exactly"),
        (gru_config(reset_after=False), r"/layers/gru/cell/bias: expected shape \(3H,\) = \(21,\), got \(2, 21\)"),
        (bidirectional_config(merge_mode=None), r'both: cannot convert merge_mode=None exactly: .*"concat"'),
        (bidirectional_config(backward_layer=gru_config()), r"both: cannot convert directions that differ"),
        (bidirectional_config(layer=gru_config(activation="relu")), r"both: cannot convert directions that differ"),
        (bidirectional_config(layer=gru_config(go_backwards=True)), r"both: cannot convert directions that differ"),
        ({"class_name": "RNN", "config": {"name": "rnn", "cell": {"class_name": "MyCell", "config": {}}}},
         r"rnn: expected a GRU or GRUCells, got RNN of something else"),
    ],
)  # fmt: skip
def test_what_a_config_says_is_refused(rng, tmp_path, layer, message):
    stored = {f"layers/{way}": weights(rng) for way in (
        "gru/cell", "rnn/cell", "bidirectional/forward_layer/cell", "bidirectional/backward_layer/cell")}  # fmt: skip
    path = archive(tmp_path / "model.keras", model_config(layer), stored)
    with pytest.raises(ValueError, match=rf"^{message}"):
        cgru.from_keras(path)


def test_files_that_are_none(tmp_path):
    pytest.importorskip("h5py")
    text = tmp_path / "text.keras"
    text.write_text("no archive")
    with pytest.raises(ValueError, match=r"text.keras: expected a .keras, .weights.h5 or .h5 file"):
        cgru.from_keras(text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as out:
        out.writestr("config.json", "{}")
    with pytest.raises(ValueError, match=r"other.zip: expected model.weights.h5 in the archive, got config.json"):
        cgru.from_keras(tmp_path / "other.zip")
    path = archive(tmp_path / "empty.keras", model_config({"class_name": "Conv2D", "config": {"name": "c"}}), {})
    with pytest.raises(ValueError, match=r"empty.keras: expected a GRU, got none"):
        cgru.from_keras(path)
    path = archive(tmp_path / "lost.keras", model_config(gru_config()), {"layers/dense": [np.ones((3, 3))]})
    with pytest.raises(ValueError, match=r"^model.weights.h5: expected a group 'layers/gru', got layers"):
        cgru.from_keras(path)
    with pytest.raises(FileNotFoundError):
        cgru.from_keras(tmp_path / "none.keras")


def test_files_need_no_other_package(rng, tmp_path, monkeypatch):
    path = archive(tmp_path / "model.keras", model_config(gru_config()), {"layers/gru/cell": weights(rng)})
    for module in ("h5py", "keras", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)
    assert cgru.from_keras(path).units == H
