"""ONNX Runtime, float32 only: the models that to_onnx writes, what from_onnx makes of nodes, and PyTorch's exports."""

import io
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import to_onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

N, T, D, H = checks.N, 11, checks.D, checks.H
TOLERANCE = 5e-6
DIRECTIONS = {"forward": {}, "reverse": {"reverse": True}, "bidirectional": {"bidirectional": True}}


def session_of(model):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def run(session, **feed):
    return session.run(None, {name: np.ascontiguousarray(array) for name, array in feed.items()})


# -- the way out


def random_options(rng):
    """Options of a GRU that the operator has; lists of units are a Sequential."""
    options = {name: bool(rng.integers(2)) for name in (
        "reset_after", "use_bias", "learn_initial_state", "return_sequences", "time_major"
    )}  # fmt: skip
    options["activation"] = str(rng.choice(["tanh", "relu", "linear", "sigmoid", "hard_sigmoid"]))
    options["recurrent_activation"] = str(rng.choice(["sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"]))
    options["num_layers"] = int(rng.integers(1, 4))
    options |= [{}, {"reverse": True}, {"go_backwards": True}, {"bidirectional": True}][rng.integers(4)]
    options["merge_mode"] = str(rng.choice(["concat", "sum", "mul", "ave"]))
    return options


@pytest.mark.parametrize("example", range(24))
def test_random_layers(rng, example):
    rng = np.random.default_rng([example, *rng.integers(2**32, size=2)])
    options = random_options(rng)
    features, units, n, t = rng.integers(1, 14, 4).tolist()
    layer = checks.random_layer(rng, units, input_size=features, **options)
    x = rng.uniform(-1, 1, (t, n, features) if layer.time_major else (n, t, features)).astype("float32")

    y, h, _ = layer.forward(x)
    y_o, h_o = run(session_of(to_onnx(layer)), x=x)
    checks.assert_close(y_o, y, TOLERANCE, f"y of {options}")
    checks.assert_close(h_o, h, TOLERANCE, f"h of {options}")

    if layer.go_backwards:
        return
    session = session_of(to_onnx(layer, lengths=True, initial_state=True))
    h0 = rng.uniform(-1, 1, layer._state_shape(n)).astype("float32")
    lengths = rng.integers(1, t + 1, n)
    y, h, _ = layer.forward(x, h0, lengths=lengths)
    y_o, h_o = run(session, x=x, sequence_lens=lengths.astype("int32"), initial_h=h0)
    checks.assert_close(y_o, y, TOLERANCE, f"y of {options}")
    checks.assert_close(h_o, h, TOLERANCE, f"h of {options}")


def test_one_model_for_all_sizes(rng):
    layer = checks.random_layer(rng, H, input_size=D, learn_initial_state=True, return_sequences=True)
    session = session_of(to_onnx(layer))
    for n, t in ((1, 1), (4, 9), (3, 2)):
        x = rng.standard_normal((n, t, D)).astype("float32")
        checks.assert_close(run(session, x=x)[0], layer(x), TOLERANCE)


def test_a_sequential(rng):
    layers = [
        checks.random_layer(rng, 5, input_size=D, bidirectional=True, return_sequences=True, reset_after=True),
        checks.random_layer(rng, 3, input_size=10, return_sequences=True, activation="relu"),
        checks.random_layer(rng, H, input_size=3, learn_initial_state=True),
    ]
    model = cgru.Sequential(layers)
    x = rng.uniform(-1, 1, (N, T, D)).astype("float32")
    (y,) = run(session_of(to_onnx(model)), x=x)
    checks.assert_close(y, model.predict(x), TOLERANCE)
    lengths = np.array([4, 11, 1])
    (y,) = run(session_of(to_onnx(model, lengths=True)), x=x, sequence_lens=lengths.astype("int32"))
    checks.assert_close(y, model.predict(x, lengths), TOLERANCE)


def test_float64_is_rounded_on_request(rng):
    layer = checks.random_layer(rng, H, input_size=D, dtype="float64", return_sequences=True)
    x = rng.standard_normal((N, T, D))
    y, _ = run(session_of(to_onnx(layer, dtype="float32")), x=x.astype("float32"))
    checks.assert_close(y, layer(x), TOLERANCE)
    onnx.checker.check_model(to_onnx(layer))


# -- the way in


@pytest.mark.parametrize("lengths", [None, np.array([4, 11, 1])], ids=["whole", "lengths"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reset_after", [False, True], ids=["linear_before_reset=0", "linear_before_reset=1"])
@pytest.mark.parametrize(
    "activations",
    [{}, {"activations": ["HardSigmoid", "Tanh"]}, {"activations": ["Sigmoid", "Relu"]},
     {"activations": ["HardSigmoid", "HardSigmoid"], "activation_alpha": [0.2, 1 / 6], "activation_beta": [0.5, 0.5]}],
    ids=str,
)  # fmt: skip
def test_a_node(rng, activations, reset_after, direction, lengths):
    """Arrays as the operator wants them, with two biases that are not zero."""
    directions = 2 if direction == "bidirectional" else 1
    names = ["x", "W", "R", "B", "" if lengths is None else "lens", "h0"]
    attributes = {key: values * directions for key, values in activations.items()}
    attributes |= {"hidden_size": H, "direction": direction, "linear_before_reset": int(reset_after)}
    node = onnx.helper.make_node("GRU", names, ["Y", "Y_h"], **attributes)
    weights = checks.onnx_arrays(rng, directions, dtype="float32")
    FLOAT = onnx.TensorProto.FLOAT
    inputs = [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in ("x", "h0")]
    if lengths is not None:
        inputs.append(onnx.helper.make_tensor_value_info("lens", onnx.TensorProto.INT32, None))
    outputs = [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in ("Y", "Y_h")]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph([node], "gru", inputs, outputs, stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)

    layer = cgru.from_onnx(model)
    x = rng.uniform(-1, 1, (T, N, D)).astype("float32")
    h0 = rng.uniform(-1, 1, (directions, N, H)).astype("float32")
    feed = {"x": x, "h0": h0} | ({} if lengths is None else {"lens": lengths.astype("int32")})
    Y, Y_h = run(session_of(model), **feed)
    y, h = layer(x, initial_state=h0.reshape(layer._state_shape(N)), lengths=lengths)
    checks.assert_close(y, Y.transpose(0, 2, 1, 3).reshape(T, N, -1), TOLERANCE, "Y")
    checks.assert_close(h, Y_h.reshape(h.shape), TOLERANCE, "Y_h")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "bias": False},
        {"num_layers": 2},
        {"num_layers": 3, "bidirectional": True, "batch_first": True},
    ],
    ids=str,
)
def test_what_pytorch_exports(rng, options):
    """Its exporter puts transpositions, reshapes and computed zero states around the nodes."""
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(D, H, **options).eval()
    buffer = io.BytesIO()
    x = torch.from_numpy(rng.standard_normal((N, T, D) if module.batch_first else (T, N, D)).astype("float32"))
    axes = {"x": {0: "first", 1: "second"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it prefers its newer exporter, which needs another package
        torch.onnx.export(module, (x,), buffer, dynamo=False, input_names=["x"], dynamic_axes=axes)
    with torch.no_grad():
        expected = module(x)[0].numpy()
    layer = cgru.from_onnx(buffer.getvalue())
    if isinstance(layer, cgru.Sequential):
        y = layer.predict(x.numpy() if module.batch_first else x.numpy().swapaxes(0, 1))
        y = y if module.batch_first else y.swapaxes(0, 1)
    else:
        y, _ = layer(x.numpy())
    checks.assert_close(y, expected, TOLERANCE)
