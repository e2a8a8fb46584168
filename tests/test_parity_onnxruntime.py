"""ONNX Runtime's GRU operator, float32 only, with the same weights: rows z, r, h, and z weighs the old state."""

import warnings

import checks
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

N, T, D, H = checks.N, 11, checks.D, checks.H
DIRECTIONS = {"forward": {}, "reverse": {"reverse": True}, "bidirectional": {"bidirectional": True}}


def rows_of(columns):
    """cgru's columns r, z, n (..., 3H) as ONNX' rows z, r, h."""
    r, z, n = np.split(columns, 3, axis=-1)
    return np.concatenate([-z, r, n], axis=-1).T


def run_onnx(layer, direction, x, h0, lengths, activations):
    """(Y (T, dirs, N, H), Y_h (dirs, N, H)) of the operator with the layer's weights."""
    p = layer.parameters
    prefixes = ["l0.forward.", "l0.backward."] if layer.bidirectional else [""]
    W = np.stack([rows_of(p[prefix + "kernel"]) for prefix in prefixes])
    R = np.stack([rows_of(p[prefix + "recurrent_kernel"]) for prefix in prefixes])
    biases = [p[prefix + "bias"].reshape(-1, 3 * H) for prefix in prefixes]  # one row or two
    B = np.stack(
        [np.concatenate([rows_of(b[0]), rows_of(b[1]) if len(b) == 2 else np.zeros(3 * H, "float32")]) for b in biases]
    )

    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    names = ["X", "W", "R", "B", "" if lengths is None else "lens", "h0"]
    node = helper.make_node(
        "GRU", names, ["Y", "Y_h"], hidden_size=H, direction=direction, linear_before_reset=int(layer.reset_after),
        activations=activations * len(prefixes),
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info("X", FLOAT, None), helper.make_tensor_value_info("h0", FLOAT, None)]
    feed = {"X": x.swapaxes(0, 1), "h0": h0}
    if lengths is not None:
        inputs.append(helper.make_tensor_value_info("lens", onnx.TensorProto.INT32, None))
        feed["lens"] = lengths.astype("int32")
    outputs = [helper.make_tensor_value_info(name, FLOAT, None) for name in ("Y", "Y_h")]
    weights = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in (("W", W), ("R", R), ("B", B))
    ]
    graph = helper.make_graph([node], "gru", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.ascontiguousarray(v) for name, v in feed.items()})


@pytest.mark.parametrize("lengths", [None, np.array([4, 11, 1])], ids=["whole", "lengths"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reset_after", [False, True], ids=["linear_before_reset=0", "linear_before_reset=1"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(("tanh", "sigmoid"), ["Sigmoid", "Tanh"]), (("tanh", "hard_sigmoid_keras2"), ["HardSigmoid", "Tanh"]),
     (("relu", "sigmoid"), ["Sigmoid", "Relu"])],
    ids=["sigmoid-tanh", "hard_sigmoid-tanh", "sigmoid-relu"],
)  # fmt: skip
def test_outputs(rng, ours, theirs, reset_after, direction, lengths):
    layer = checks.random_layer(
        rng, H, activation=ours[0], recurrent_activation=ours[1], reset_after=reset_after, return_sequences=True,
        dtype="float32", input_size=D, **DIRECTIONS[direction],
    )  # fmt: skip
    x = rng.standard_normal((N, T, D)).astype("float32")
    h0 = rng.standard_normal(layer._state_shape(N)).astype("float32")
    y, h, _ = layer.forward(x, h0, lengths=lengths)
    Y, Y_h = run_onnx(layer, direction, x, h0.reshape(-1, N, H), lengths, theirs)
    checks.assert_close(y, Y.transpose(2, 0, 1, 3).reshape(N, T, -1), 2e-6, "Y")
    checks.assert_close(h, Y_h.reshape(h.shape), 2e-6, "Y_h")
