"""What to_onnx writes, from_onnx reads: the same layer, and the same bits."""

import itertools

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import PartialConversionWarning, to_onnx

onnx = pytest.importorskip("onnx")

N, T, D, H = 4, 6, 3, 5

DIRECTIONS = [
    {},
    {"reverse": True},
    {"go_backwards": True},
    *({"bidirectional": True, "merge_mode": mode} for mode in ("concat", "sum", "mul", "ave")),
]


@pytest.mark.parametrize("more", [
    {"num_layers": 1}, {"num_layers": 3}, {"learn_initial_state": True}, {"num_layers": 2, "learn_initial_state": True},
    {"num_layers": 2, "time_major": True}, {"time_major": True}, {"use_bias": False, "activation": "relu"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("directions", DIRECTIONS, ids=str)
@pytest.mark.parametrize("returns", [True, False], ids=["sequences", "last"])
def test_there_and_back(rng, returns, directions, more):
    """Every option that a model can say; what comes back is called the same way, and computes the same."""
    options = directions | more | {"return_sequences": returns, "return_state": True}
    for reset_after, dtype in itertools.product((True, False), ("float32", "float64")):
        layer = cgru.GRU(H, input_size=D, reset_after=reset_after, dtype=dtype, **options)
        layer.set_weights([rng.standard_normal(array.shape) / 2 for array in layer.get_weights()])
        for arguments in ({}, {"initial_state": True}, {"lengths": True}):
            if "lengths" in arguments and layer.go_backwards:
                with pytest.raises(ValueError, match=r"^ONNX: cannot convert go_backwards=True with lengths exactly"):
                    to_onnx(layer, **arguments)
                continue
            back = cgru.from_onnx(to_onnx(layer, **arguments), return_sequences=returns)
            assert isinstance(back, cgru.GRU)
            # With the state as an input of the model, a learned one is not part of it.
            given = "initial_state" in arguments
            expected = layer.get_config() | ({"learn_initial_state": False} if given else {})
            assert back.get_config() == expected | {"seed": None}
            kept = {name: a for name, a in layer.parameters.items() if not (given and name.endswith("initial_state"))}
            checks.assert_same_arrays(back.parameters, kept)
            x = rng.standard_normal((T, N, D) if layer.time_major else (N, T, D))
            state = rng.standard_normal(layer._state_shape(N)) if given else None
            lengths = [T, 0, 2, 1] if "lengths" in arguments else None
            given = {"initial_state": state, "lengths": lengths}
            for ours, theirs in zip(back(x, **given), layer(x, **given), strict=True):
                assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("upper", DIRECTIONS, ids=str)
@pytest.mark.parametrize("lower", DIRECTIONS, ids=str)
def test_rows_of_unequal_layers(rng, lower, upper):
    common = {"return_sequences": True, "dtype": "float64"}
    model = cgru.Sequential([cgru.GRU(H, **common, **lower), cgru.GRU(4, **common, **upper)])
    model.build(D)
    back = cgru.from_onnx(to_onnx(model))
    x = rng.standard_normal((N, T, D))
    assert back.predict(x).tobytes() == model.predict(x).tobytes()
    last = cgru.from_onnx(to_onnx(model), return_sequences=False)
    assert last.predict(x).shape == (N, model.layers[1].output_size(None))


def test_what_is_merged_and_used_apart_as_well(rng):
    """A node whose outputs are summed for one purpose and used for another gives what the node gives."""
    layer = cgru.GRU(H, bidirectional=True, merge_mode="sum", return_sequences=True, dtype="float64", input_size=D)
    model = to_onnx(layer)
    (node,) = [node for node in model.graph.node if node.op_type == "GRU"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.DOUBLE, None))
    assert cgru.from_onnx(model).merge_mode == "concat"
    x = rng.standard_normal((N, T, D))
    y, _ = cgru.from_onnx(model)(x)
    checks.assert_close(y[:, :, :H] + y[:, :, H:], layer(x), 1e-14)


def test_a_slice_that_cuts_is_no_reversal():
    layer = cgru.GRU(H, go_backwards=True, return_sequences=True, input_size=D)
    model = to_onnx(layer)
    (node,) = [node for node in model.graph.node if node.op_type == "Slice"]
    for tensor in model.graph.initializer:
        if tensor.name == node.input[2]:  # ends: the step at 0 is left out
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([0], np.int64), tensor.name))
    assert not cgru.from_onnx(model).go_backwards


def test_what_is_left_out_is_told():
    model = cgru.Sequential([cgru.Embedding(9, D), cgru.GRU(H), cgru.Dense(2)], seed=0)
    model.build()
    exported = to_onnx(model)
    with pytest.warns(PartialConversionWarning, match=r"only the GRU nodes \['gru_0'\] were converted") as caught:
        layer = cgru.from_onnx(exported)
    assert caught[0].filename == __file__ and str(caught[0].message).count("constant_") == 3
    checks.assert_same_arrays(layer.get_weights(), cgru.from_onnx(exported, "gru_0").get_weights())


@pytest.mark.parametrize(
    "between",
    [
        [("Squeeze", [3])],
        [("ReduceSum", [3])],
        [("Squeeze", [0])],
        [("Transpose", None), ("Squeeze", [0])],
    ],
    ids=str,
)
def test_axes_that_an_input_has_besides(between):
    """Of an input with four axes the order is not known; the layer takes what the node takes."""
    layer = cgru.GRU(H, time_major=True, input_size=D)
    model = to_onnx(layer)
    (node,) = [node for node in model.graph.node if node.op_type == "GRU"]
    name, nodes = "x", []
    for i, (operator, axes) in enumerate(between):
        inputs, attributes = [name], {"perm": [3, 1, 0, 2]} if operator == "Transpose" else {}
        if axes is not None:
            inputs.append(f"axes_{i}")
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), f"axes_{i}"))
        attributes |= {"keepdims": 0} if operator == "ReduceSum" else {}
        name = f"between_{i}"
        nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
    for i, made in enumerate(nodes):
        model.graph.node.insert(i, made)
    node.input[0] = name
    assert cgru.from_onnx(model).time_major
