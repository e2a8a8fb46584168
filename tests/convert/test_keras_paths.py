"""Names reach every GRU of a model, in files and in mappings, also where several share one."""

import io
import json
import zipfile

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import PartialConversionWarning, to_keras
from cgru.convert.keras_graph import chain_of

h5py = pytest.importorskip("h5py")
H, D = checks.H, checks.D
ROLES = ("kernel", "recurrent_kernel", "bias")


def weights(rng, inputs=D):
    shapes = ((inputs, 3 * H), (H, 3 * H), (2, 3 * H))
    return [rng.standard_normal(shape) / 3 for shape in shapes]


def gru(name="gru", **changes):
    own = {"name": name, "units": H, "activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
    return {"class_name": "GRU", "config": own | changes}


def layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def hdf5(stored, names=None):
    """The bytes of weights: arrays by groups, and names of the layers by groups."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for group, arrays in stored.items():
            for i, array in enumerate(arrays):
                file[f"{group}/vars/{i}"] = array
        for group, name in (names or {}).items():
            file.require_group(f"{group}/vars").attrs["name"] = name
    return buffer.getvalue()


def archive(path, config, stored, names=None):
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        out.writestr("config.json", json.dumps(config))
        out.writestr("model.weights.h5", hdf5(stored, names))
    return path


def assert_reached(path, reached, listed):
    """Each name gives its arrays, without a name and with a wrong one all are listed."""
    for name, arrays in reached.items():
        checks.assert_same_arrays(to_keras(cgru.from_keras(path, name)), arrays, name)
    for name in (None, "nobody"):
        with pytest.raises(ValueError, match=r"^name: expected one of ") as caught:
            cgru.from_keras(path, name)
        assert f"expected one of {listed}, for the GRUs of {path}, got {name!r}" in str(caught.value)
    for name in listed:
        cgru.from_keras(path, name)


def test_sub_models_whose_layers_share_a_name(rng, tmp_path):
    one, two, top = weights(rng), weights(rng), weights(rng)
    encoder = layer("Sequential", "encoder", layers=[gru()])
    decoder = layer("Functional", "decoder", layers=[gru(activation="relu")])
    config = layer("Functional", "model", layers=[encoder, decoder, gru()])
    stored = {f"layers/{kind}/layers/gru/cell": own for kind, own in (("sequential", one), ("functional", two))}
    stored["layers/gru/cell"] = top
    path = archive(tmp_path / "model.keras", config, stored)
    reached = {"encoder/gru": one, "decoder/gru": two, "gru": top, "layers/gru": top, "encoder": one}
    assert_reached(path, reached, ["encoder/gru", "decoder/gru", "gru"])
    assert cgru.from_keras(path, "decoder/gru").activation == "relu"


def test_wrapped_layers(rng, tmp_path):
    one, top = weights(rng), weights(rng)
    wrapped = layer("TimeDistributed", "every", layer=gru("inner", activation="relu"))
    config = layer("Sequential", "model", layers=[wrapped, gru("top")])
    stored = {"layers/time_distributed/layer/cell": one, "layers/gru/cell": top}
    path = archive(tmp_path / "model.keras", config, stored)
    assert_reached(path, {"every/inner": one, "inner": one, "every": one, "top": top}, ["every/inner", "top"])
    assert cgru.from_keras(path, "inner").activation == "relu"


def test_layers_of_a_custom_layer(rng, tmp_path):
    """Their config is in nobody's file, but for one that the layer itself gives."""
    one, two, three, top = (weights(rng) for _ in range(4))
    custom = layer("MyEncoder2D", "custom", units=3, said=gru("told", activation="relu"))
    config = layer("Sequential", "model", layers=[custom, gru("top")])
    stored = {
        "layers/my_encoder2d/gru/cell": one,
        "layers/my_encoder2d/more/gru_1/cell": two,
        "layers/my_encoder2d/said/cell": three,
        "layers/gru/cell": top,
    }
    path = archive(tmp_path / "model.keras", config, stored)
    reached = {"custom/gru": one, "custom/more/gru_1": two, "custom/told": three, "told": three, "top": top}
    assert_reached(path, reached, ["custom/told", "top", "custom/gru", "custom/more/gru_1"])
    assert cgru.from_keras(path, "told").activation == "relu"
    names = {"": "custom", "/gru": "gru_7", "/more/gru_1": "gru_1"}
    names = {f"layers/my_encoder2d{group}": name for group, name in names.items()}
    path = archive(tmp_path / "named.keras", config, stored, names)
    assert_reached(path, reached | {"custom/gru_7": one}, ["custom/told", "top", "custom/gru", "custom/more/gru_1"])


def test_what_the_config_calls_otherwise_is_not_lost(rng, tmp_path):
    one, top = weights(rng), weights(rng)
    config = layer("Sequential", "model", layers=[layer("Mine", "custom"), gru("top")])
    path = archive(tmp_path / "model.keras", config, {"layers/yours/gru/cell": one, "layers/gru/cell": top})
    assert_reached(path, {"top": top, "yours": one}, ["top", "layers/yours/gru"])


def test_subclassed_models(rng, tmp_path):
    """The config says nothing of what is in them; groups are called after attributes."""
    one, two, other = weights(rng), weights(rng), weights(rng)
    stored = {"encoder/gru/cell": one, "decoder/gru/cell": two}
    config = {"class_name": "Translator", "config": {}, "registered_name": "Custom>Translator"}
    path = archive(tmp_path / "model.keras", config, stored)
    assert_reached(path, {"encoder/gru": one, "decoder/gru": two, "decoder": two}, ["decoder/gru", "encoder/gru"])
    names = {"encoder": "enc", "encoder/gru": "gru_3", "decoder": "dec", "decoder/gru": "gru_4"}
    path = archive(tmp_path / "named.keras", config, stored, names)
    assert_reached(path, {"encoder/gru": one, "enc/gru_3": one, "gru_4": two}, ["decoder/gru", "encoder/gru"])
    path = archive(tmp_path / "one.keras", config, {"encoder/gru/cell": one, "dense": [other[0]]})
    with pytest.warns(PartialConversionWarning, match=r"only 'encoder/gru' was converted; left out: dense\."):
        checks.assert_same_arrays(to_keras(cgru.from_keras(path)), one)


def test_a_model_with_layers_and_attributes(rng, tmp_path):
    """A class that somebody derived from Functional."""
    one, two = weights(rng), weights(rng)
    config = layer("MyModel", "model", layers=[gru("seen")])
    path = archive(tmp_path / "model.keras", config, {"layers/gru/cell": one, "hidden/cell": two})
    assert_reached(path, {"seen": one, "hidden": two}, ["seen", "hidden"])


def test_weights_alone(rng, tmp_path):
    one, two, dense = weights(rng), weights(rng, H), [np.ones((H, H)), np.ones(H)]
    stored = {"layers/gru/cell": one, "layers/dense": dense, "layers/gru_1/cell": two}
    path = tmp_path / "model.weights.h5"
    path.write_bytes(hdf5(stored))
    assert_reached(path, {"layers/gru": one, "layers/gru_1": two}, ["layers/gru", "layers/gru_1"])
    path.write_bytes(hdf5(stored, {"layers/gru": "low", "layers/gru_1": "high"}))
    assert_reached(path, {"low": one, "high": two, "layers/gru": one}, ["low", "high"])


def named(path, arrays):
    return {f"{path}/{role}:0": array for role, array in zip(ROLES, arrays, strict=True)}


def legacy(path, layers, config=None):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.15.0"
        group = file
        if config:
            file.attrs["model_config"] = json.dumps(config)
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group.create_group(name).attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                group[name][key] = array
    return path


def test_a_sub_model_in_a_file_of_keras_2(rng, tmp_path):
    """All of its weights stand in one group: GRU, Dense, GRU of one size are no stack of two."""
    one, two, dense = weights(rng, H), weights(rng, H), {"dense/kernel:0": np.ones((H, H)), "dense/bias:0": np.ones(H)}
    layers = {"sub": named("gru/gru_cell", one) | dense | named("gru_1/gru_cell_1", two)}
    path = legacy(tmp_path / "weights.h5", layers)
    reached = {"sub/gru": one, "gru_1": two, "gru": one}
    assert_reached(path, reached, ["sub/gru", "sub/gru_1"])
    inner = layer("Sequential", "sub", layers=[gru("gru", activation="relu"), layer("Dense", "dense"), gru("gru_1")])
    path = legacy(tmp_path / "model.h5", layers, layer("Functional", "model", layers=[inner]))
    assert_reached(path, reached, ["sub/gru", "sub/gru_1"])
    assert cgru.from_keras(path, "gru").activation == "relu" and cgru.from_keras(path, "gru_1").activation == "tanh"


def test_custom_and_wrapped_layers_in_a_file_of_keras_2(rng, tmp_path):
    one, two, three, forward, backward, top = (weights(rng) for _ in range(6))
    layers = {
        "custom": named("model/custom/gru/gru_cell", one) | named("model/custom/gru_1/gru_cell", two),
        "every": named("every/inner/gru_cell", three),
        "both": named("both/forward_gru/gru_cell", forward) | named("both/backward_gru/gru_cell", backward),
        "top": named("top/gru_cell", top),
    }
    config = layer("Functional", "model", layers=[
        layer("MyLayer", "custom"),
        layer("TimeDistributed", "every", layer=gru("inner", activation="relu")),
        layer("Bidirectional", "both", layer=gru(), merge_mode="sum"),
        gru("top"),
    ])  # fmt: skip
    reached = {"custom/gru": one, "custom/gru_1": two, "every": three, "top": top, "both": forward + backward}
    listed = ["custom/gru", "custom/gru_1", "every/inner", "both", "top"]
    path = legacy(tmp_path / "weights.h5", layers)
    assert_reached(path, reached, listed)
    path = legacy(tmp_path / "model.h5", layers, config)
    assert_reached(path, reached, listed)
    assert cgru.from_keras(path, "inner").activation == "relu" and cgru.from_keras(path, "both").merge_mode == "sum"


def test_cells_of_a_stack_in_a_file_of_keras_2(rng, tmp_path):
    cells = [weights(rng), weights(rng, H)]
    stack = {"stack": {key: array for i, own in enumerate(cells) for key, array in named(
        f"stack/stacked_rnn_cells/gru_cell_{i}", own).items()}}  # fmt: skip
    path = legacy(tmp_path / "weights.h5", stack)
    checks.assert_same_arrays(to_keras(cgru.from_keras(path)), cells)
    loose = {"mine": named("mine/gru_cell", cells[0]) | named("mine/gru_cell_1", cells[1])}
    path = legacy(tmp_path / "loose.h5", loose)
    assert_reached(path, {"gru_cell": cells[0], "mine/gru_cell_1": cells[1]}, ["mine/gru_cell", "mine/gru_cell_1"])


def test_names_that_are_parts_of_others(rng):
    one, two = weights(rng), weights(rng)
    both = named("encoder/gru/gru_cell", one) | named("encoder/gru_1/gru_cell", two)
    checks.assert_same_arrays(to_keras(cgru.from_keras(both, "gru")), one)
    checks.assert_same_arrays(to_keras(cgru.from_keras(both, "encoder/gru_1")), two)
    with pytest.raises(ValueError, match=r"^name: expected a part of one of .*, for there is more than one GRU"):
        cgru.from_keras(both, "encoder")


def call(*sources, **options):
    """What Keras 3 writes of a call with the first outputs of other layers."""
    args = [{"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}} for name in sources]
    return {"args": args, "kwargs": {"training": False, "mask": None, **options}}


def graph(calls, outputs=("c", 0, 0), inputs=("a", 0, 0)):
    layers = [{"name": name, "inbound_nodes": own} for name, own in calls.items()]
    return {"layers": layers, "input_layers": inputs, "output_layers": outputs}


def test_only_a_graph_that_is_a_chain_is_one():
    """What the layers of any other graph compute one after the other is not what the model does."""
    tensor = call("a")["args"][0]
    assert chain_of(graph({"a": [], "b": [call("a")], "c": [call("b")]})) == [0, 1, 2]
    assert chain_of(graph({"c": [[["b", 0, 0, {}]]], "b": [[["a", 0, 0, {"mask": None}]]], "a": []})) == [2, 1, 0]
    assert chain_of(graph({"a": [], "c": [call("a")]}, [["c", 0, 0], ["c", 0, 1]])) == [0, 1]
    masked = graph({"a": [], "not_equal": [call("a")], "c": [call("a", mask=call("not_equal")["args"][0])]})
    others = [
        masked,
        graph({"a": [], "b": [call("a")], "c": [call("a", "b")]}),
        graph({"a": [], "b": [call("a")], "c": [call("a")]}),
        graph({"a": [], "b": [call("a"), call("c")], "c": [call("b")]}),
        graph({"a": [], "b": [call("c")], "c": [call("b")]}),
        graph({"a": [], "b": [call("a", training=True)], "c": [call("b")]}),
        graph({"a": [], "b": [call("a", initial_state=tensor)], "c": [call("b")]}),
        graph({"a": [], "b": [call("a")], "c": [call("b")]}, [["c", 0, 0], ["b", 0, 0]]),
        graph({"a": [], "b": [call("a")], "c": [call("b")]}, ["c", 0, 1]),
        graph({"a": [], "x": [], "c": [call("a")]}),
        graph({"a": [], "c": [call("a")]}, inputs=[["a", 0, 0], ["x", 0, 0]]),
        graph({"a": [], "c": [{"args": [tensor, 2.0], "kwargs": {}}]}),
    ]
    for wrong in (None, 3, "c", {}, [], [[]], [None], [["a"]], [{"args": 3}], [{"args": [{}]}], [[["a", 0, 0, 7]]]):
        others += [graph({"a": [], "c": wrong}), graph({"a": [], "c": [call("a")]}, wrong)]
        others += [{"layers": wrong}, {"layers": [wrong], "input_layers": wrong, "output_layers": wrong}]
    for other in others:
        assert chain_of(other) is None, other
    masked["layers"][0]["config"] = {"mask_zero": True}
    assert chain_of(masked) == [0, 2]
